"""Other versions of this library, in checkouts of their own, which benchmarks measure beside this one."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def commit_of(checkout: Path, letters: int = 7) -> str:
    """The first letters of a checkout's commit."""
    return text_of(["git", "rev-parse", f"--short={letters}", "HEAD"], checkout)


def environment_of(checkout: Path, first: Sequence[str] = (), last: Sequence[str] = ()) -> dict[str, str]:
    """The environment's variables, with a checkout's own packages and one thread.

    Args:
        checkout: Of the version.
        first: Its folders whose modules come before those of its packages.
        last: Those that come after them.
    """
    folders = [str(checkout.resolve() / part) for part in (*first, "", "envs", *last)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}


def text_of(command: Sequence[str], checkout: Path) -> str:
    """What a command prints, run in a checkout with its packages; what it says of errors goes to ours.

    Raises:
        subprocess.CalledProcessError: it did not end well.
    """
    done = subprocess.run(
        command, cwd=checkout, env=environment_of(checkout), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()
