"""Demonstrations in a zarr store: ``data/<key>`` arrays of equal length and ``meta/episode_ends``.

Reads format 2 and 3, a directory or a ``.zip``; a missing or damaged chunk is an error (see `chunk_files`).
"""

import os
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import numcodecs.errors  # type: ignore[import-untyped]
import numpy as np
import zarr
import zarr.errors

from shortcut_policy.data.chunk_files import check_chunk_files, refuse_corrupt_chunk
from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.data.source import check_key, expand, file_stamps, source_setting, too_large
from shortcut_policy.data.zarr_files import ARRAY_2, ENDS, LAYOUT, NODE_3, list_nodes, open_store
from shortcut_policy.errors import InputError, first_line, reading

#: Root attribute that `EpisodeWriter` sets while it writes: rows after the last whole episode do not count.
RECORDING = "recording"
#: Attribute and folder of a store that was a robomimic file: what arrays of steps cannot hold.
ROBOMIMIC = "robomimic"
#: Where stores of others say where episodes end, or how long they are.
OTHER_ENDS = (
    "episode_ends",
    "data/episode_ends",
    "meta/episode_end",
    "meta/ends",
    "meta/episode_lengths",
    "meta/episode_length",
    "episode_lengths",
)
#: Attribute with the names of an array's axes in stores of format 2, as xarray writes it.
DIMENSIONS = "_ARRAY_DIMENSIONS"
#: What a chunk file that is not there stands for: rows that were lost, or rows that all hold the fill value,
#: which zarr leaves out when it writes.
AbsentChunks = Literal["error", "fill"]
ABSENT_CHUNKS = "absent_chunks"
UNKNOWN_CODEC = (numcodecs.errors.UnknownCodecError, zarr.errors.UnknownCodecError)


class ZarrSource:
    """Episodes of a zarr store (an `EpisodeSource`); only ``meta/episode_ends`` is read at once.

    Can be pickled and used in forked workers: each process opens the files for itself. Arrays in groups are
    keys with slashes. What cannot be used is not among the ``keys``, and ``lacking`` says why: arrays without
    a row for each step, or with a codec that is not installed, such as JPEG XL; the extra ``images`` brings
    the codecs of imagecodecs.

    Args:
        path: Directory or ``.zip`` file; ``~`` and environment variables are expanded. A zip may hold the
            store in a folder of its own.
        episode_ends: The array that says at which row each episode ends, such as ``meta/episode_ends``, or
            how long each is if it has "length" in its name; one of the usual names if None.
        absent_chunks: What a chunk file that is not there is: ``error``, or rows of the fill value, ``fill``.
            If None, what the store's attribute ``absent_chunks`` says, or else ``error``.

    Raises:
        InputError: No such path, not a zarr store, no ``meta/episode_ends``, no array with a row for each
            step, ``episode_ends`` that do not increase or do not match the arrays.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        episode_ends: str | None = None,
        absent_chunks: AbsentChunks | None = None,
    ) -> None:
        self.path = str(expand(path))
        with reading(self.path):
            self._opened: tuple[int, zarr.Group] | None = None
            self._complete: set[str] = set()
            #: Key -> why it cannot be read, of arrays that are there.
            self.lacking: dict[str, str] = {}
            self.attributes: dict[str, Any] = dict(self._group().attrs)
            absent = (
                absent_chunks if absent_chunks is not None else self.attributes.get(ABSENT_CHUNKS, "error")
            )
            if absent not in get_args(AbsentChunks):
                raise InputError(f"{ABSENT_CHUNKS}={absent} of {self.path} must be error or fill")
            self.fills_absent_chunks = absent == "fill"
            there = list_nodes(self.path)[0]
            #: The array with the episodes' ends, and what stands before the keys in the arrays' paths.
            self.ends_name = self._find_ends(there, episode_ends)
            self.prefix = "data/" if any(self._is_data(name, "data/") for name in there) else ""
            arrays = self._readable([name for name in there if self._is_data(name, self.prefix)])
            self.episode_ends = self._read_ends()
            arrays = self._with_all_rows(arrays)
            self.keys = tuple(sorted(arrays))
            #: The same of what only some demonstrations of the file had as rows that the store was made of.
            self.left_out = self._left_out()
            self.lacking |= {key: why for key, why in self.left_out.items() if key not in self.keys}
            self.shapes = {key: tuple(array.shape[1:]) for key, array in arrays.items()}
            self.dtypes: dict[str, np.dtype] = {key: np.dtype(array.dtype) for key, array in arrays.items()}
            self.chunk_rows = {key: array.chunks[0] for key, array in arrays.items()}

    def stamp(self, key: str) -> list[Any]:
        """The files that hold a key, see `SourceOfFiles`."""
        return file_stamps(self.path, f"{self.prefix}{key}")

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a key as stored, (stop - start, *shape).

        Raises:
            InputError: The key is not there, or a chunk file is missing or cannot be decoded (it is named).
        """
        check_key(self, key, self.lacking)
        rows = int(self.episode_ends[-1])
        return self._read(f"{self.prefix}{key}", start, min(stop, rows), rows)

    def read_whole(self, name: str) -> np.ndarray:
        """An array that is no key, by its path in the store.

        Raises:
            InputError: A chunk file is missing or cannot be decoded.
        """
        array = self._array(name)
        if not array.ndim:
            return np.asarray(array[()])
        if not array.size:
            return np.empty(array.shape, array.dtype)
        check_chunk_files(self.path, array, array.shape[0], self.fills_absent_chunks)
        try:
            return np.asarray(array[:])
        except Exception as error:
            refuse_corrupt_chunk(self.path, array, 0, array.shape[0], error)

    def others(self) -> tuple[list[str], dict[str, dict[str, Any]], list[str]]:
        """What the store holds besides the rows of its keys.

        Returns:
            Paths of the arrays that are neither keys nor the episodes' ends; path -> attributes of whatever
            array or group has some; and a sentence for each array or group that cannot be read.
        """
        names, groups = list_nodes(self.path)
        nodes, refused = self._open([*groups, *names])
        known = {f"{self.prefix}{key}" for key in self.keys} | {self.ends_name}
        arrays = [name for name, node in nodes.items() if isinstance(node, zarr.Array) and name not in known]
        attributes = {name: _attributes(node) for name, node in nodes.items() if _attributes(node)}
        return arrays, attributes, list(refused.values())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _left_out(self) -> dict[str, str]:
        about: Any = self.attributes.get(ROBOMIMIC)
        if not is_origin(about):
            return {}
        holders: dict[str, set[str]] = {}
        for place in [*about.get("rest", ()), *about.get("large", ())]:
            found = re.fullmatch(r"data/([^/]*)/(?:obs/)?([^@]*)", place)
            if found and found[2]:
                holders.setdefault(found[2], set()).add(found[1])
        sentences = {}
        for key, having in holders.items():
            demos = [name for name in about["names"] if name not in having]
            more = f" and {len(demos) - 8} more" if len(demos) > 8 else ""
            missing = f"is missing in {', '.join(demos[:8])}{more} of"
            lacks = missing if demos else "has no row for each step in"
            sentences[key] = (
                f"key '{key}' of {self.path} {lacks} the {len(about['names'])} demonstrations that it was "
                f"made of, so it is in the folder {ROBOMIMIC} and not in data: record it there too, or "
                "convert a file without these"
            )
        return sentences

    def _group(self) -> zarr.Group:
        # A forked worker must not share the parent's file offsets (zip), so it opens the store again.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_store(self.path)
        return self._opened[1]

    def _find_ends(self, there: list[str], name: str | None) -> str:
        if name is not None:
            if name.strip("/") not in there:
                raise InputError(
                    f"{self.path} has no array '{name}', given as episode_ends; it holds {_listed(there)}"
                )
            return name.strip("/")
        if not there:
            raise InputError(
                f"{self.path} lacks data/ and {ENDS}, and holds no array: it is a recording without an "
                "episode, of which at least one is needed, or its arrays were not copied with it"
            )
        found = [usual for usual in (ENDS, *OTHER_ENDS) if usual in there]
        if not found:
            raise InputError(
                f"{self.path} lacks data/ or {ENDS} (it holds {_listed(there)}); {LAYOUT}: name another "
                f"array of ends with {source_setting('episode_ends=<its path>')}"
            )
        if found[0] != ENDS:
            print(f"{self.path}: episodes end where {found[0]} says", file=sys.stderr)
        return found[0]

    def _is_data(self, name: str, prefix: str) -> bool:
        return name.startswith(prefix) and name != self.ends_name and not name.startswith("meta/")

    def _readable(self, names: list[str]) -> dict[str, zarr.Array]:
        """Key -> array, of those that can be opened; fills ``lacking`` with the others."""
        nodes, refused = self._open(names)
        self.lacking |= {name.removeprefix(self.prefix): why for name, why in refused.items()}
        if not nodes and self.lacking:
            raise InputError(next(iter(self.lacking.values())))
        if not nodes:
            raise InputError(f"{self.path} holds no arrays in data/; {LAYOUT}")
        arrays = {name.removeprefix(self.prefix): self._array(name) for name in nodes}
        for key, array in list(arrays.items()):
            if (large := too_large(array.shape[1:], np.dtype(array.dtype))) is not None:
                self.lacking[key] = f"key '{key}' of {self.path} {large}"
                del arrays[key]
        return arrays

    def _open(self, names: list[str]) -> tuple[dict[str, zarr.Array | zarr.Group], dict[str, str]]:
        """Path -> array or group, and path -> why it cannot be opened."""
        nodes: dict[str, zarr.Array | zarr.Group] = {}
        refused = {}
        for name in names:
            key = name.removeprefix(self.prefix)
            try:
                nodes[name] = self._node(name)
            except UNKNOWN_CODEC as error:
                refused[name] = _codec_sentence(key, self.path, error)
            except Exception as error:  # zarr raises many kinds
                refused[name] = self._pointer(name) or (
                    f"the metadata of key '{key}' of {self.path} cannot be read ({first_line(error)}); "
                    "restore them from a copy of the data, or write the array again"
                )
        return nodes, refused

    def _pointer(self, name: str) -> str | None:
        """What to do about metadata that are a pointer of git LFS."""
        try:
            for file in (ARRAY_2, NODE_3):
                refuse_pointer(Path(self.path, name, file))
        except InputError as error:
            return str(error)
        return None

    def _node(self, name: str) -> zarr.Array | zarr.Group:
        group = self._group()
        try:
            return group[name]
        except KeyError:  # of the other format than the groups around it
            path = f"{group.path}/{name}".lstrip("/")
            return zarr.open(group.store, path=path, mode="r")

    def _array(self, name: str) -> zarr.Array:
        array = self._node(name)
        assert isinstance(array, zarr.Array)
        return array

    def _read_ends(self) -> np.ndarray:
        name = self.ends_name
        try:
            array = self._array(name)
        except Exception as error:
            why = f"{name} of {self.path} cannot be read ({first_line(error)})"
            raise InputError(self._pointer(name) or why) from error
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: {name} must be a list of whole numbers, not {array.dtype} of shape "
                f"{list(array.shape)}"
            )
        ends = self._read(name, 0, array.shape[0], array.shape[0]).astype(np.int64)
        if "length" in name.rpartition("/")[2]:
            ends = np.cumsum(ends)
        if self.attributes.get(RECORDING) is True:
            # A writer that was stopped between making room for an end and writing it leaves a zero.
            ends = np.trim_zeros(ends, "b")
        if len(ends) == 0:
            raise InputError(f"{self.path} holds no whole episode yet; record at least one")
        wrong = np.flatnonzero(np.diff(ends, prepend=0) <= 0)
        if len(wrong):
            e = int(wrong[0])
            raise InputError(
                f"{self.path}: {name} must increase, but entry {e} is {ends[e]} after "
                f"{ends[e - 1] if e else 0}; write the last row + 1 of each episode, in order"
            )
        return ends

    def _with_all_rows(self, arrays: dict[str, zarr.Array]) -> dict[str, zarr.Array]:
        """The arrays that have a row for each step; fills ``lacking`` with the others."""
        rows, recording = int(self.episode_ends[-1]), self.attributes.get(RECORDING) is True
        lengths = {key: array.shape[0] if array.ndim else None for key, array in arrays.items()}
        fit = {
            key: arrays[key]
            for key, n in lengths.items()
            if n is not None and (n == rows or (recording and n > rows))
        }
        if not fit:
            listed = ", ".join(f"{key} {n}" for key, n in lengths.items())
            raise InputError(
                f"{self.path}: {self.ends_name} ends at {rows}, but the arrays in data/ have other lengths "
                f"({listed}); the last entry must be the number of rows"
            )
        for key in arrays.keys() - fit.keys():
            has = "is a single value" if lengths[key] is None else f"has {lengths[key]} rows"
            self.lacking[key] = (
                f"key '{key}' of {self.path} {has}, but {self.ends_name} ends at {rows}: an array that a "
                "task uses needs one row for each step"
            )
        return fit

    def _read(self, name: str, start: int, stop: int, rows: int) -> np.ndarray:
        array = self._array(name)
        if not array.size:  # of steps that hold nothing; chunks of no size may stand for them
            return np.empty((max(0, stop - start), *array.shape[1:]), array.dtype)
        if name not in self._complete:
            fills = self.fills_absent_chunks and name != self.ends_name
            with reading(
                f"{name} of {self.path}"
            ):  # files that cannot be looked at, such as links to nothing
                check_chunk_files(self.path, array, rows, fills)
            self._complete.add(name)
        try:
            return np.asarray(array[start:stop])
        except Exception as error:
            refuse_corrupt_chunk(self.path, array, start, stop, error)


def _attributes(node: zarr.Array | zarr.Group) -> dict[str, Any]:
    """Attributes, with the names of an array's axes, which format 3 has beside them, as format 2 has them."""
    axes = getattr(node.metadata, "dimension_names", None)
    return ({DIMENSIONS: list(axes)} if axes and any(axes) else {}) | dict(node.attrs)


def is_origin(about: Any) -> bool:
    """Whether an attribute that is called as a format is what a conversion left; others use the names too."""
    return isinstance(about, dict) and any(
        isinstance(about.get(part), dict) for part in ("rest", "attributes")
    )


def _codec_sentence(key: str, path: str, error: ValueError) -> str:
    # Versions say it in other words, and all of them put the name first in quotes.
    text = first_line(error)
    quoted = re.search(r"['\"]+(.+?)['\"]", text)
    codec = quoted[1] if quoted else text.rpartition(":")[2].strip()
    advice = "install the package that brings it, or store the key with another codec"
    if codec.startswith("imagecodecs"):
        advice = "pip install 'shortcut-policy[images]' brings it (imagecodecs and imagecodecs-numcodecs)"
    return f"key '{key}' of {path} is stored with the codec {codec}, which is not installed: {advice}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "nothing"
