"""The chunk files of a zarr array: which there should be, and which of them are missing or damaged.

Zarr reads a chunk file that is not there as the array's fill value, a blosc chunk that was cut short as
whatever lies in memory, and a JPEG that was cut short as grey, all in silence. Here these are errors that
name the file.
"""

import itertools
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NoReturn

import zarr
from numcodecs import Blosc  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec

from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.data.source import source_setting
from shortcut_policy.errors import InputError, first_line

BLOSC_HEADER = struct.Struct("<12xI")  # version, flags, sizes; then the number of bytes of the whole chunk

JPEG_END = b"\xff\xd9"


def check_chunk_files(path: str, array: zarr.Array, rows: int, fills: bool = False) -> None:
    """Raise `InputError` unless all files with the first ``rows`` rows are there and as long as they say.

    Args:
        path: The store, a directory or a zip.
        array: Of the store.
        rows: See above.
        fills: Whether files may be absent, because their rows hold the fill value, if the array has one.
    """
    with _Directory(path) if Path(path).is_dir() else _Zip(path) as files:
        sizes = files.sizes(array.path)
        for chunk in _chunk_names(array, 0, rows):
            if chunk not in sizes:
                if fills and array.fill_value is not None:
                    continue
                _refuse_absent(path, array, chunk)
            if _is_jpeg(array) and not files.ends(array.path, chunk, JPEG_END):
                _refuse(path, array, chunk, "it was cut short")
            if not _is_blosc(array):
                continue
            head = files.head(array.path, chunk)
            if len(head) < BLOSC_HEADER.size or BLOSC_HEADER.unpack(head)[0] != sizes[chunk]:
                _refuse(path, array, chunk, f"its {sizes[chunk]} bytes are not what its header says")


def refuse_corrupt_chunk(path: str, array: zarr.Array, start: int, stop: int, error: Exception) -> NoReturn:
    """Find the chunk that made ``array[start:stop]`` fail with ``error``, and raise an `InputError`."""
    for chunk, block in zip(_chunk_names(array, start, stop), _blocks(array, start, stop), strict=True):
        try:
            array[block]
        except Exception as reason:
            _refuse(path, array, chunk, first_line(reason))
    raise InputError(f"{array.path} of {path} cannot be read ({first_line(error)})") from error


class _Directory:
    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> "_Directory":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def sizes(self, array: str) -> dict[str, int]:
        """Every file of an array by its name relative to it, and its bytes."""
        root = Path(self.path, array)
        files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
        return {file.relative_to(root).as_posix(): file.stat().st_size for file in files}

    def head(self, array: str, chunk: str) -> bytes:
        with open(Path(self.path, array, chunk), "rb") as file:
            return file.read(BLOSC_HEADER.size)

    def ends(self, array: str, chunk: str, end: bytes) -> bool:
        with open(Path(self.path, array, chunk), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(end)))
            return file.read() == end


class _Zip:
    def __init__(self, path: str) -> None:
        self.file = zipfile.ZipFile(path)

    def __enter__(self) -> "_Zip":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def sizes(self, array: str) -> dict[str, int]:
        """Every file of an array by its name relative to it, and its bytes."""
        inside = (info for info in self.file.infolist() if info.filename.startswith(f"{array}/"))
        return {info.filename.removeprefix(f"{array}/"): info.file_size for info in inside}

    def head(self, array: str, chunk: str) -> bytes:
        try:
            with self.file.open(f"{array}/{chunk}") as file:
                return file.read(BLOSC_HEADER.size)
        except zipfile.BadZipFile:  # the zip's own checksum
            return b""

    def ends(self, array: str, chunk: str, end: bytes) -> bool:
        return True  # a member that was cut short fails the zip's own checksum


def _grid(array: zarr.Array, start: int, stop: int) -> Iterator[tuple[int, ...]]:
    """Coordinates of the chunk files that hold rows ``start`` to ``stop``."""
    grid = [range(-(-n // size)) for n, size in zip(array.shape, _file_shape(array), strict=True)]
    grid[0] = range(start // _file_shape(array)[0], -(-stop // _file_shape(array)[0]))
    return itertools.product(*grid)


def _chunk_names(array: zarr.Array, start: int, stop: int) -> Iterator[str]:
    return map(array.metadata.encode_chunk_key, _grid(array, start, stop))


def _blocks(array: zarr.Array, start: int, stop: int) -> Iterator[tuple[slice, ...]]:
    shape = _file_shape(array)
    for coordinates in _grid(array, start, stop):
        yield tuple(slice(c * size, (c + 1) * size) for c, size in zip(coordinates, shape, strict=True))


def _file_shape(array: zarr.Array) -> tuple[int, ...]:
    # A sharded array keeps many chunks in one file: the shard.
    return array.shards or array.chunks


def _is_blosc(array: zarr.Array) -> bool:
    outermost = array.compressors[-1:]
    return array.shards is None and any(isinstance(codec, Blosc | BloscCodec) for codec in outermost)


def _is_jpeg(array: zarr.Array) -> bool:
    outermost = array.compressors[-1:]
    return any(getattr(codec, "codec_id", "") == "imagecodecs_jpeg" for codec in outermost)


def _refuse_absent(path: str, array: zarr.Array, chunk: str) -> NoReturn:
    meant = ""
    if array.fill_value is not None:
        meant = (
            f"; or, if its rows hold {array.fill_value} alone, which zarr leaves out when it writes, say so "
            f"with {source_setting('absent_chunks=fill')} or the store's attribute absent_chunks"
        )
    raise InputError(
        f"chunk file {_full_name(path, array, chunk)} is missing: restore it from a copy of the data{meant}"
    )


def _refuse(path: str, array: zarr.Array, chunk: str, reason: str) -> NoReturn:
    refuse_pointer(_full_name(path, array, chunk))
    raise InputError(
        f"chunk file {_full_name(path, array, chunk)} cannot be decoded ({reason}); restore it from a copy "
        "of the data"
    )


def _full_name(path: str, array: zarr.Array, chunk: str) -> str:
    return str(PurePosixPath(path) / array.path / chunk)
