"""Fields that do not fit into memory, decoded once into a flat file: row i lies at i times the size of a row.

Such a file is made in one pass over the source, which is also the check of every value, and kept in the cache
folder under a name that is a function of the source's files and of what was made of them. It is written under
another name, ``.partial``; a pass that was interrupted goes on behind the rows that are there.
"""

import os
import shutil
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from shortcut_policy.data.source import EpisodeSource, SourceOfFiles, speaks_for_read
from shortcut_policy.errors import InputError
from shortcut_policy.locks import wait_for_lock
from shortcut_policy.provenance import short_hash

#: Goes up when files of before can no longer be used.
FORMAT = 1
SUFFIX, PARTIAL = ".rows", ".partial"
#: Folder in the cache.
FRAMES = "frames"
#: Seconds after which a progress bar appears.
PATIENCE = 2.0
_numbers = count()

#: Given a row, all rows from there on, one block after the other.
Blocks = Callable[[int], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Attributes:
        name: For messages.
        count: Number of rows.
        shape: Of a row.
        dtype: Of its values.
        why: Why they are not in memory, for messages.
        instead: What to do where the file cannot be written; the dataset's settings if it says nothing.
        needed: Bytes of data.memory_limit_mb with which they would be in memory.
    """

    name: str
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype
    why: str = ""
    instead: str = ""
    needed: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Of all rows."""
        return self.count * self.row_bytes


class FrameFile:
    """A file of rows, read where they are needed and kept nowhere: not in this process's memory.

    It can be read from several threads, pickled, and used in forked workers.

    Args:
        path: The file.
        rows: What it holds.

    Raises:
        InputError: It cannot be opened or is not as long as it has to be.
    """

    def __init__(self, path: Path, rows: Rows) -> None:
        self.path, self.rows = path, rows
        self._open()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop``, (stop - start, *shape).

        Raises:
            InputError: The file cannot be read.
        """
        rows = np.empty((stop - start, *self.rows.shape), self.rows.dtype)
        self._read_into(rows, start)
        return rows

    def gather(self, steps: np.ndarray) -> np.ndarray:
        """Rows by number, each line of which increases by 0 or 1: (B, T) -> (B, T, *shape).

        Raises:
            InputError: The file cannot be read.
        """
        windows = np.empty((*steps.shape, *self.rows.shape), self.rows.dtype)
        for window, numbers in zip(windows, steps, strict=True):
            first, last = int(numbers[0]), int(numbers[-1])
            if last - first + 1 == len(numbers):
                self._read_into(window, first)
            else:
                np.take(self.read(first, last + 1), numbers - first, axis=0, out=window)
        return windows

    def remove_at_end(self) -> None:
        """Delete the file when this object or this process ends."""
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()

    def _open(self) -> None:
        # Without a place in the file that threads and forked processes would share: see `os.preadv`.
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error.strerror) from error
        if self.path.stat().st_size != self.rows.bytes:
            raise self._unreadable(f"it has not the {self.rows.bytes} bytes of its {self.rows.count} rows")

    def _read_into(self, rows: np.ndarray, start: int) -> None:
        """Fill a contiguous array with the rows from ``start`` on."""
        view, offset = _bytes_of(rows), start * self.rows.row_bytes
        while len(view):
            try:
                done = os.preadv(self._file.fileno(), [view], offset)
            except OSError as error:
                raise self._unreadable(error.strerror) from error
            if done == 0:
                raise self._unreadable("it is shorter than it was")
            view, offset = view[done:], offset + done

    def _unreadable(self, reason: str | None) -> InputError:
        return InputError(
            f"the decoded rows of {self.rows.name} in {self.path} cannot be read ({reason}); delete that "
            "file and start again: it is made anew"
        )


@runtime_checkable
class SourceOfFrames(Protocol):
    """A source that keeps some of its keys in such a file itself."""

    def decoded(self, key: str) -> FrameFile | None:
        """The file with all rows of a key as stored; None of a key that is in none."""
        ...


def frame_file(
    rows: Rows, source: EpisodeSource, made_of: list[Any], blocks: Blocks, folder: Path
) -> FrameFile:
    """The file with the rows, which is made if it is not there.

    That of a source without a stamp (`SourceOfFiles`) is removed at the end of the process.

    Args:
        rows: What it is to hold.
        source: Where they come from.
        made_of: The key, and what decides what is made of its rows, plain JSON.
        blocks: Its rows.
        folder: Where such files are kept, made if it is not there.

    Raises:
        InputError: There is no room, or no file can be written; what ``blocks`` raises.
    """
    with _explained(rows, folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_orphans(folder)
    stamp = _stamp(source, made_of[0])
    if stamp is None:
        return _temporary_file(rows, blocks, folder)
    path = folder / f"{short_hash(FORMAT, stamp, made_of, rows.count, rows.shape, rows.dtype.str)}{SUFFIX}"
    with _explained(rows, folder):
        lock = wait_for_lock(
            path.with_suffix(".lock"),
            f"{rows.name}: another process is decoding them into {path}; waiting for it",
            f"let no second program decode {rows.name}",
        )
    with lock:
        if path.is_file():
            _say(rows, f"read from {path}, where they were decoded before")
        else:
            _write(path, rows, blocks)
    return FrameFile(path, rows)


def _temporary_file(rows: Rows, blocks: Blocks, folder: Path) -> FrameFile:
    path = folder / f"{_temporary_prefix()}{os.getpid()}.{next(_numbers)}{SUFFIX}"
    try:
        _write(path, rows, blocks)
    finally:
        path.with_suffix(PARTIAL).unlink(missing_ok=True)
    file = FrameFile(path, rows)
    file.remove_at_end()
    return file


def _write(path: Path, rows: Rows, blocks: Blocks) -> None:
    """Make a file, or the rest of one that was begun."""
    partial = path.with_suffix(PARTIAL)
    with _explained(rows, path.parent), partial.open("ab") as file:
        done = file.tell() // rows.row_bytes
        file.truncate(done * rows.row_bytes)
        _check_space(path.parent, rows, done)
    _say(
        rows,
        f"decoded once into {path}" + (f", where {done} of {rows.count} rows are already" if done else ""),
    )
    with tqdm(
        total=rows.count, initial=done, desc="decoding", unit=" rows", delay=PATIENCE, mininterval=1
    ) as bar:
        for block in blocks(done):
            # Opened and closed each time: what goes wrong here is not mixed up with errors of a source.
            with _explained(rows, path.parent), partial.open("ab") as file:
                file.write(_bytes_of(block))
            bar.update(len(block))
    with _explained(rows, path.parent), partial.open("ab") as file:
        os.fsync(file.fileno())
        os.replace(partial, path)


@contextmanager
def _explained(rows: Rows, folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder that cannot be written into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{rows.name} cannot be decoded into {folder} ({error.strerror or error}); "
            + (
                rows.instead
                or "choose another folder (data.cache or SHORTCUT_POLICY_CACHE), or raise "
                "data.memory_limit_mb if they fit into memory"
            )
        ) from error


def _check_space(folder: Path, rows: Rows, done: int) -> None:
    needed, free = rows.bytes - done * rows.row_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{rows.name} need {_size(needed)} in {folder} when decoded, and {_size(free)} are free there; "
            + (
                rows.instead
                or "choose a folder with room (data.cache or SHORTCUT_POLICY_CACHE), or give "
                f"data.memory_limit_mb={-(-max(rows.needed, rows.bytes) // 2**20)} if they fit into memory"
            )
        )


def _bytes_of(rows: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return rows.reshape(-1).view(np.uint8).data


def _say(rows: Rows, what: str) -> None:
    print(f"{rows.name}: {_size(rows.bytes)}, {rows.why}: {what}", file=sys.stderr)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _stamp(source: EpisodeSource, key: str) -> list[Any] | None:
    """What a source says of itself, if it speaks for the method that reads: a subclass may read otherwise."""
    if not isinstance(source, SourceOfFiles) or not speaks_for_read(source, "stamp"):
        return None
    kind, stamp = type(source), source.stamp(key)
    return None if stamp is None else [f"{kind.__module__}.{kind.__qualname__}", *stamp]


def _temporary_prefix() -> str:
    return f"temporary.{socket.gethostname()}."


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not in a forked worker that ends earlier
        path.unlink(missing_ok=True)


def _remove_orphans(folder: Path) -> None:
    """Delete the temporary files of processes of this machine that were killed."""
    if not Path("/proc/self").exists():
        return  # a system that does not tell which processes there are
    prefix = _temporary_prefix()
    for path in folder.glob(f"{prefix}*"):
        process = path.name.removeprefix(prefix).partition(".")[0]
        if process.isdecimal() and not Path("/proc", process).exists():
            path.unlink(missing_ok=True)
