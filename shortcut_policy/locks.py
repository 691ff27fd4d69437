"""Locks against a second process that would write to the same place."""

import fcntl
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from shortcut_policy.errors import InputError


class FileLock:
    """An exclusive lock, held until `release` or, however it ends, until the end of the process.

    The file is there while the lock is held. One that a killed process left behind is no lock: the system's
    lock on the file is (``flock``), which ends with the process. Where there are no locks, as on some network
    file systems, a line on stderr says so, and nobody is kept out.

    Args:
        path: File to lock, in a folder that is there.
        busy: Sentence for whoever comes second.
        otherwise: What not to do where there are no locks.

    Raises:
        InputError: ``busy``: another process, or another `FileLock` of this one, holds it.
    """

    def __init__(self, path: Path, busy: str, otherwise: str) -> None:
        self.path = path
        self._file: IO[str] | None = None
        try:
            self._file = _lock(path)
        except BlockingIOError as error:
            raise InputError(busy) from error
        except OSError as error:
            print(f"{path} cannot be locked ({error}): {otherwise}", file=sys.stderr)

    @property
    def held(self) -> bool:
        """Whether others are kept out."""
        return self._file is not None

    def release(self) -> None:
        """Let others in; nothing happens the second time."""
        if self._file is not None:
            with suppress(OSError):  # a file without a lock on it is in nobody's way
                self.path.unlink()
            # Said explicitly, because a forked worker that lives on still has the file open.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def wait_for_lock(path: Path, waiting: str, otherwise: str) -> FileLock:
    """The lock, as soon as nobody else has it.

    Args:
        path: See `FileLock`.
        waiting: Sentence for stderr if somebody has it.
        otherwise: See there.
    """
    said = False
    while True:
        try:
            return FileLock(path, waiting, otherwise)
        except InputError as busy:
            if not said:
                print(busy, file=sys.stderr)
            said = True
            time.sleep(0.2)


def writer_lock(path: Path) -> FileLock:
    """The lock of a file or folder that one program writes at a time, on a hidden file beside it.

    Args:
        path: What is written; the folder that it is in is made if it is not there.

    Raises:
        InputError: It is being written to.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(
        path.with_name(f".{path.name}.lock"),
        f"another program is writing to {path}: wait for it, end it, or choose another path",
        f"let no second program write to {path}",
    )


def remove_left(path: Path) -> None:
    """Remove the file of a lock that nobody holds: whoever held it was killed, or could not remove it.

    For those who find their work done before and take no lock. Nothing happens if there is none, if somebody
    holds it, and where it cannot be removed.
    """
    if not path.exists():
        return
    with suppress(OSError), _lock(path):
        path.unlink()


def _lock(path: Path) -> IO[str]:
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed the file between the two lines: then this is a lock on nothing.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        file.close()
