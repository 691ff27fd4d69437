"""Demonstrations in a zarr store: ``data/<key>`` arrays of equal length and ``meta/episode_ends``.

Reads format 2 and 3, a directory or a ``.zip``; a missing or damaged chunk is an error (see `chunk_files`).
"""

import os
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numcodecs.errors  # type: ignore[import-untyped]
import numpy as np
import zarr
import zarr.errors
from zarr.storage import LocalStore, ZipStore

from shortcut_policy.data.archive import check_members
from shortcut_policy.data.chunk_files import check_chunk_files, refuse_corrupt_chunk
from shortcut_policy.data.source import expand, file_stamps
from shortcut_policy.errors import InputError

#: Root attribute that `EpisodeWriter` sets while it writes: rows after the last whole episode do not count.
RECORDING = "recording"
ENDS = "meta/episode_ends"
#: Attribute and folder of a store that was a robomimic file: what arrays of steps cannot hold.
ROBOMIMIC = "robomimic"
UNKNOWN_CODEC = (numcodecs.errors.UnknownCodecError, zarr.errors.UnknownCodecError)
LAYOUT = "a demonstration store is a zarr group with data/<key> arrays and meta/episode_ends"


class ZarrSource:
    """Episodes of a zarr store (an `EpisodeSource`); only ``meta/episode_ends`` is read at once.

    Can be pickled and used in forked workers: each process opens the files for itself. A key whose codec is
    not installed, such as JPEG XL's, is not among the ``keys``, and ``lacking`` says why; the extra
    ``images`` brings the codecs of imagecodecs.

    Args:
        path: Directory or ``.zip`` file; ``~`` and environment variables are expanded. A zip may hold the
            store in a folder of its own.

    Raises:
        InputError: No such path, not a zarr store, no ``meta/episode_ends``, arrays of different length,
            ``episode_ends`` that do not increase or do not match the arrays.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(expand(path))
        self._opened: tuple[int, zarr.Group] | None = None
        self._complete: set[str] = set()
        #: Key -> why it cannot be read, of keys whose codec is not installed.
        self.lacking: dict[str, str] = {}
        self.keys = tuple(sorted(self._array_names()))
        self.attributes: dict[str, Any] = dict(self._group().attrs)
        #: The same of what only some demonstrations of the file had that the store was made of.
        self.left_out = self._left_out()
        self.lacking |= self.left_out
        arrays = {key: self._array(f"data/{key}") for key in self.keys}
        self.episode_ends = self._episode_ends()
        self._check_lengths({key: array.shape[0] if array.ndim else None for key, array in arrays.items()})
        self.shapes = {key: tuple(array.shape[1:]) for key, array in arrays.items()}
        self.dtypes: dict[str, np.dtype] = {key: np.dtype(array.dtype) for key, array in arrays.items()}
        self.chunk_rows = {key: array.chunks[0] for key, array in arrays.items()}

    def stamp(self, key: str) -> list[Any]:
        """The files that hold a key, see `SourceOfFiles`."""
        return file_stamps(self.path, f"data/{key}")

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a key as stored, (stop - start, *shape).

        Raises:
            InputError: The key is not there, or a chunk file is missing or cannot be decoded (it is named).
        """
        if key in self.lacking:
            raise InputError(self.lacking[key])
        if key not in self.keys:
            raise InputError(f"{self.path} has no key '{key}'; it holds {', '.join(self.keys)}")
        return self._read(f"data/{key}", start, min(stop, int(self.episode_ends[-1])))

    def read_whole(self, name: str) -> np.ndarray:
        """An array that is no key, by its path in the store.

        Raises:
            InputError: A chunk file is missing or cannot be decoded.
        """
        array = self._array(name)
        if not array.ndim:
            return np.asarray(array[()])
        check_chunk_files(self.path, array, array.shape[0])
        try:
            return np.asarray(array[:])
        except Exception as error:
            refuse_corrupt_chunk(self.path, array, 0, array.shape[0], error)

    def others(self) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """Arrays that are neither keys nor ``meta/episode_ends``, and path -> attributes of what has some."""
        known = {f"data/{key}" for key in self.keys} | {ENDS}
        members = sorted(self._group().members(max_depth=None), key=lambda member: member[0])
        arrays = [name for name, item in members if isinstance(item, zarr.Array) and name not in known]
        return arrays, {name: dict(item.attrs) for name, item in members if item.attrs}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _left_out(self) -> dict[str, str]:
        about = self.attributes.get(ROBOMIMIC, {})
        holders: dict[str, set[str]] = {}
        for place in [*about.get("rest", ()), *about.get("large", ())]:
            found = re.fullmatch(r"data/([^/]*)/(?:obs/)?([^@]*)", place)
            if found and found[2]:
                holders.setdefault(found[2], set()).add(found[1])
        sentences = {}
        for key, having in holders.items():
            demos = [name for name in about["names"] if name not in having]
            if demos:
                more = f" and {len(demos) - 8} more" if len(demos) > 8 else ""
                sentences[key] = (
                    f"key '{key}' of {self.path} is missing in {', '.join(demos[:8])}{more} of the "
                    f"{len(about['names'])} demonstrations that it was made of, so it is in the folder "
                    f"{ROBOMIMIC} and not in data: record it there too, or convert a file without these"
                )
        return sentences

    def _group(self) -> zarr.Group:
        # A forked worker must not share the parent's file offsets (zip), so it opens the store again.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_store(self.path)
        return self._opened[1]

    def _array_names(self) -> list[str]:
        group = self._group()
        try:
            names = self._known(group)
            ends = group[ENDS]
        except (KeyError, AttributeError):
            found = ", ".join(sorted(name for name, _ in group.members())) or "nothing"
            raise InputError(f"{self.path} lacks data/ or {ENDS} (it holds {found}); {LAYOUT}") from None
        except ValueError as error:
            raise InputError(f"the metadata of {self.path} cannot be read ({_first_line(error)})") from error
        if not names and self.lacking:
            raise InputError(next(iter(self.lacking.values())))
        if not names or not isinstance(ends, zarr.Array):
            raise InputError(f"{self.path} holds no arrays in data/; {LAYOUT}")
        return names

    def _known(self, group: zarr.Group) -> list[str]:
        """Names of the arrays in data/ but for those whose codec is not installed: they may not be needed."""
        try:
            return [name for name, _ in group["data"].arrays()]  # type: ignore[union-attr]
        except UNKNOWN_CODEC:
            names = []
        for name in _folders_in_data(self.path):
            try:
                names += [name] if isinstance(group[f"data/{name}"], zarr.Array) else []
            except KeyError:
                pass  # a folder of something else
            except UNKNOWN_CODEC as error:
                self.lacking[name] = _codec_sentence(name, self.path, error)
        return names

    def _array(self, name: str) -> zarr.Array:
        array = self._group()[name]
        assert isinstance(array, zarr.Array)
        return array

    def _episode_ends(self) -> np.ndarray:
        array = self._array(ENDS)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: {ENDS} must be a list of whole numbers, not {array.dtype} of shape "
                f"{list(array.shape)}"
            )
        ends = self._read(ENDS, 0, array.shape[0]).astype(np.int64)
        if self.attributes.get(RECORDING):
            # A writer that was stopped between making room for an end and writing it leaves a zero.
            ends = np.trim_zeros(ends, "b")
        if len(ends) == 0:
            raise InputError(f"{self.path} holds no whole episode yet; record at least one")
        wrong = np.flatnonzero(np.diff(ends, prepend=0) <= 0)
        if len(wrong):
            e = int(wrong[0])
            raise InputError(
                f"{self.path}: {ENDS} must increase, but entry {e} is {ends[e]} after "
                f"{ends[e - 1] if e else 0}; write the last row + 1 of each episode, in order"
            )
        return ends

    def _check_lengths(self, lengths: dict[str, int | None]) -> None:
        rows = int(self.episode_ends[-1])
        if self.attributes.get(RECORDING):
            wrong = {key: n for key, n in lengths.items() if n is None or n < rows}
        else:
            wrong = {key: n for key, n in lengths.items() if n != rows}
        if not wrong:
            return
        listed = ", ".join(f"{key} {n}" for key, n in lengths.items())
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"{self.path}: the arrays in data/ have different lengths ({listed}) and {ENDS} ends at "
                f"{rows}; every array needs one row per step"
            )
        raise InputError(
            f"{self.path}: {ENDS} ends at {rows}, but the arrays in data/ have other lengths ({listed}); "
            "the last entry must be the number of rows"
        )

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        array = self._array(name)
        if name not in self._complete:
            rows = array.shape[0] if name == ENDS else int(self.episode_ends[-1])
            check_chunk_files(self.path, array, rows)
            self._complete.add(name)
        try:
            return np.asarray(array[start:stop])
        except Exception as error:
            refuse_corrupt_chunk(self.path, array, start, stop, error)


def open_store(path: str) -> zarr.Group:
    """Open the root group for reading; `InputError` if there is no zarr store at ``path``."""
    try:
        if Path(path).is_dir():
            return zarr.open_group(LocalStore(path, read_only=True), mode="r", use_consolidated=False)
        if zipfile.is_zipfile(path):
            return zarr.open_group(
                ZipStore(path, mode="r"), mode="r", path=_root_in_zip(path), use_consolidated=False
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        inside = sorted(str(folder) for folder in Path(path).glob("*.zarr"))
        hint = f"did you mean {inside[0]}?" if inside else LAYOUT
        raise InputError(f"{path} is not a zarr store ({_first_line(error)}); {hint}") from error
    if not Path(path).exists():
        raise InputError(
            f"{path} does not exist; give the path of a zarr directory or .zip of demonstrations"
        )
    raise InputError(f"{path} is neither a zarr directory nor a zip of one; {LAYOUT}")


def _folders_in_data(path: str) -> list[str]:
    if Path(path).is_dir():
        return sorted(folder.name for folder in Path(path, "data").iterdir() if folder.is_dir())
    root = PurePosixPath(_root_in_zip(path), "data").parts
    with zipfile.ZipFile(path) as file:
        members = (PurePosixPath(name).parts for name in file.namelist())
        inside = (parts[len(root) :] for parts in members if parts[: len(root)] == root)
        return sorted({parts[0] for parts in inside if len(parts) > 1})


def _codec_sentence(key: str, path: str, error: ValueError) -> str:
    codec = _first_line(error).rpartition(":")[2].strip(" '\"")
    advice = "install the package that brings it, or store the key with another codec"
    if codec.startswith("imagecodecs"):
        advice = "pip install 'shortcut-policy[images]' brings it (imagecodecs and imagecodecs-numcodecs)"
    return f"key '{key}' of {path} is stored with the codec {codec}, which is not installed: {advice}"


def _root_in_zip(path: str) -> str:
    """Folder of the store inside a zip: people zip the folder as often as what is in it."""
    with zipfile.ZipFile(path) as file:
        for member in check_members(file, path):
            folder, found, rest = member.filename.partition(f"{ENDS}/")
            if found and rest in (".zarray", "zarr.json"):
                return folder.rstrip("/")
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
