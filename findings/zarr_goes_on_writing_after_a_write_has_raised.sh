#!/usr/bin/env bash
# A write of zarr that has raised goes on in the background.
#
# zarr writes the chunks of an assignment side by side, in a thread of its own. If one of them fails, the assignment
# raises at once, and the others are neither waited for nor called off: they reach the store after the error. Code that
# tidies up when a disk is full (removes the new rows, takes a mark off, renames a folder) then has chunks come into what
# it has just put in order. A good engineer concludes that a statement that has raised is over.
# What works: leave the store marked as unfinished after an error, and put it in order when it is opened next.
#
# The store here fails for one chunk, as a disk without room does, and takes its time for the others, as any disk does.
#
# Seen:
#   zarr 3.1.6: OSError: No space left on device, with 0 of 8 chunks written
#   a moment later, with nothing called: 7 of 8 chunks written
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check zarr==3.1.6 numpy==2.4.6
cat > look.py <<'PY'
import asyncio
import errno
import os
import sys
import time

import numpy as np
import zarr
from zarr.storage import LocalStore

CHUNKS = 8


class Disk(LocalStore):
    async def set(self, key, value):
        if key == "c/0":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if key.startswith("c/"):
            await asyncio.sleep(0.5)
        await super().set(key, value)


def written():
    return sum(name.isdigit() for name in os.listdir("a.zarr/c")) if os.path.isdir("a.zarr/c") else 0


array = zarr.create_array(Disk("a.zarr"), shape=(CHUNKS,), chunks=(1,), dtype="f4")
try:
    array[:] = np.arange(1, CHUNKS + 1)
    raised = "no error"
except OSError as error:
    raised = f"OSError: {error.strerror}"
at_once = written()
print(f"zarr {zarr.__version__}: {raised}, with {at_once} of {CHUNKS} chunks written")
time.sleep(2)
later = written()
print(f"a moment later, with nothing called: {later} of {CHUNKS} chunks written")
sys.exit(not (raised.startswith("OSError") and at_once == 0 and later == CHUNKS - 1))
PY
venv/bin/python look.py
