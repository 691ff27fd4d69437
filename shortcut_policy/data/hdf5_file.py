"""Creates HDF5 files so that a full disk is an error, and not the end of the process.

HDF5 writes what is left when a file is closed. Where that fails, the library is in no state to go on, and
ends the process with a segmentation fault. Here it never learns that a write has failed: from then on its
writes are kept in memory, the file is closed in order, and the error is raised.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shortcut_policy.data.robomimic_files import import_h5py


@contextmanager
def create_hdf5(path: Path, **options: Any) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A new file, and what raises the error if a write has failed: call it now and then.

    Args:
        path: Where.
        options: Of ``h5py.File``.

    Raises:
        OSError: A write has failed; the file is of no use.
    """
    with path.open("w+b", buffering=0) as disk:
        sink = _Sink(disk)
        with import_h5py().File(sink, "w", **options) as file:
            yield file, sink.check
        sink.check()


class _Sink:
    """What h5py needs of a Python file, over one that may fail."""

    def __init__(self, disk: Any) -> None:
        self._disk = disk
        self._at = 0
        self._error: OSError | None = None
        self._late: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first error."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        start, size = self._at, len(data)
        self._at += size
        if self._error is None:
            try:
                self._disk.seek(start)
                view = memoryview(data)
                while len(view):  # an unbuffered file may take less
                    view = view[self._disk.write(view) :]
                return size
            except OSError as error:
                self._error = error
        self._late.append((start, bytes(data)))
        return size

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        start, size = self._at, len(buffer)
        self._disk.seek(start)
        read = bytearray(size)
        found = self._disk.read(size) or b""
        read[: len(found)] = found
        for offset, data in self._late:
            low, high = max(offset, start), min(offset + len(data), start + size)
            if low < high:
                read[low - start : high - start] = data[low - offset : high - offset]
        memoryview(buffer)[:] = bytes(read)
        self._at += size
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        late = max((start + len(data) for start, data in self._late), default=0)
        end = max(self._disk.seek(0, 2), late) if whence == 2 else 0
        self._at = offset + {0: 0, 1: self._at, 2: end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int) -> int:
        if self._error is None:
            try:
                self._disk.truncate(size)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        pass
