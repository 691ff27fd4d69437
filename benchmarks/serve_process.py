"""A policy server in a process of its own, for the benchmarks of serving."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Server(NamedTuple):
    """Where it is, and the number of its process."""

    url: str
    pid: int

    def memory_mb(self) -> int:
        """What is resident now, MiB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmRSS"))
        return round(int(line.split()[1]) / 1024)


@contextmanager
def served(checkpoint: str | Path, *settings: str) -> Iterator[Server]:
    """``scripts/serve.py`` with one thread of computation, while the block lasts."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), f"checkpoint={checkpoint}", "port=0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *settings], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if " is served at " not in line:
                raise SystemExit("the server did not start, see above")
            yield Server(line.split()[-1], process.pid)
        finally:
            process.terminate()
            process.wait()
