"""Writes demonstrations as a zarr store, one whole episode at a time.

How an episode is atomic: each file is replaced in one step, rows of whole episodes are rewritten with the
values they had, and ``meta/episode_ends`` grows last. While a writer is open the root attribute ``recording``
is set, and readers then ignore what lies after the last entry of ``episode_ends``.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import zarr
from numcodecs import Zstd  # type: ignore[import-untyped]
from numpy.typing import ArrayLike
from zarr.codecs import ZstdCodec
from zarr.errors import GroupNotFoundError
from zarr.storage import LocalStore

from shortcut_policy.data.source import expand
from shortcut_policy.data.zarr_files import ENDS, LAYOUT
from shortcut_policy.data.zarr_source import RECORDING, ZarrSource
from shortcut_policy.errors import InputError
from shortcut_policy.locks import writer_lock
from shortcut_policy.paths import named

#: Most bytes of a chunk before compression: a small store is a file per key, a window of images a quick read.
CHUNK_BYTES = 2**20
#: The same of images, a dozen of 84 x 84: training that reads them from disk takes two neighbours at random.
IMAGE_CHUNK_BYTES = 2**18
GROUPS = ("data", "meta")
#: Readers take a chunk that is not there for a lost one, so chunks of zeros are written too.
WRITE_ALL_CHUNKS = {"array.write_empty_chunks": True}


class EpisodeWriter:
    """Append episodes to a demonstration store, which is created if it is not there.

    A process that dies while an episode is written leaves the episodes before it intact and readable; opening
    the writer again drops the unfinished one and continues. The same episodes give the same bytes. There can
    be one writer at a time: until it is closed, ``.<name>.lock`` beside the store keeps others out. ::

        with EpisodeWriter("demos.zarr") as writer:
            writer.add_episode({"state": states, "action": actions})

    Args:
        path: Directory of the store; ``~`` and environment variables are expanded.
        zarr_format: 2 or 3, of a new store.
        overwrite: Delete the store that is there instead of appending to it.
        attributes: Anything that JSON can hold, kept as the store's attributes.
        groups: Whether keys may have slashes: the arrays lie in groups then.
        finite: Whether NaN and Inf are refused, with which no key can be trained; in attributes as well.

    Attributes:
        n_episodes: Whole episodes in the store.
        n_steps: Their steps.

    Raises:
        InputError: The path is something other than a demonstration store, another writer is at work there,
            or the attributes are not JSON.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        zarr_format: Literal[2, 3] = 2,
        overwrite: bool = False,
        attributes: Mapping[str, Any] | None = None,
        groups: bool = False,
        finite: bool = True,
    ) -> None:
        self.path, self._groups, self._finite = expand(path), groups, finite
        if zarr_format not in (2, 3):
            raise InputError(f"zarr_format={zarr_format} is not a zarr format; use 2 or 3")
        attributes = _plain(attributes or {}, finite)
        self._check_path()
        self.n_episodes, self.n_steps, self._torn = 0, 0, False
        self._lock = writer_lock(self.path)
        try:
            with named(self.path), zarr.config.set(WRITE_ALL_CHUNKS):
                self._begin(zarr_format, overwrite, attributes)
        except BaseException:
            self._lock.release()
            raise

    def add_episode(self, episode: Mapping[str, ArrayLike]) -> None:
        """Append one episode: key -> (T, ...) array, T >= 1 the same for all keys.

        Raises:
            InputError: Other keys, shapes or types than in the episodes before; different lengths; no step;
                NaN or Inf, see ``finite``, or something that is not a number. Nothing is written then.
        """
        with self._in_place(), zarr.config.set(WRITE_ALL_CHUNKS):
            arrays = self._checked(episode)
            length = len(next(iter(arrays.values())))
            if self.n_episodes == 0:
                self._create(arrays)
            for key, values in arrays.items():
                self._put(f"data/{key}", self.n_steps, values)
            self._put(ENDS, self.n_episodes, np.array([self.n_steps + length], np.int64))
        self.n_episodes, self.n_steps, self._torn = self.n_episodes + 1, self.n_steps + length, False

    def remove_last(self) -> None:
        """Take the last whole episode out again. A process that dies meanwhile leaves it in, or out.

        Raises:
            InputError: There is none, or the writer is closed.
        """
        if self.n_episodes == 0 or RECORDING not in self._group.attrs:
            what = "there is no episode" if self.n_episodes == 0 else "the writer is closed: there is nothing"
            raise InputError(f"{self.path}: {what} to remove")
        with self._in_place(), zarr.config.set(WRITE_ALL_CHUNKS):
            ends = np.asarray(self._array(ENDS)[:])
            self.n_episodes -= 1
            self.n_steps = int(ends[self.n_episodes - 1]) if self.n_episodes else 0
            self._drop_unfinished()

    def close(self) -> None:
        """Mark the store as complete; further episodes need a new writer."""
        try:
            if RECORDING in self._group.attrs:
                with self._in_place(), zarr.config.set(WRITE_ALL_CHUNKS):
                    self._drop_unfinished()
                # After an error zarr's threads write on for a while: what they leave is for the next writer.
                if not self._torn:
                    with named(self.path):
                        self._set_attributes({k: v for k, v in self._group.attrs.items() if k != RECORDING})
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What made the store vanish has been said, if it was noticed before.
        with nullcontext() if error is None or self._is_there() else suppress(InputError):
            self.close()

    def _is_there(self) -> bool:
        """Whether the store is where it was: zarr would begin another one in its place, without arrays."""
        return any((self.path / name).is_file() for name in (".zgroup", "zarr.json"))

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Say it in a sentence if the store has vanished, before or while the block writes to it."""
        gone = (
            f"{self.path} has gone while it was written to: put it back, and record on from its last episode"
        )
        if not self._is_there():
            raise InputError(gone)
        try:
            with named(self.path):
                yield
        except (KeyError, OSError) as error:
            self._torn = True
            if self._is_there():
                raise
            raise InputError(gone) from error

    def _begin(self, zarr_format: Literal[2, 3], overwrite: bool, attributes: dict[str, Any]) -> None:
        """Open or create the store, behind its last whole episode."""
        self._group = self._open(zarr_format, attributes)
        self.n_episodes, self.n_steps = self._whole_episodes()
        # From here on it is known to be a store of demonstrations.
        if overwrite:
            self._remove()
            self._group = self._open(zarr_format, attributes)
            self.n_episodes, self.n_steps = 0, 0
        # A copy of the metadata that other tools leave for quick opening would go stale.
        (self.path / ".zmetadata").unlink(missing_ok=True)
        self._set_attributes({**self._group.attrs, **attributes, RECORDING: True})
        self._drop_unfinished()

    def _check_path(self) -> None:
        """Never append to, let alone delete, anything but a store of demonstrations."""
        if self.path.suffix == ".zip":
            raise InputError(f"{self.path}: a zip cannot grow; write to a directory and zip it afterwards")
        if self.path.is_dir():
            names = {file.name for file in self.path.iterdir() if file.suffix != ".partial"}
            # A writer that died at its very first file leaves the attributes alone or nothing.
            if names - {".zattrs"} and not names & {".zgroup", "zarr.json"}:
                raise InputError(f"{self.path} is a directory but not a zarr store; choose another path")
        elif self.path.exists():
            raise InputError(f"{self.path} is a file; choose a path for a zarr directory")

    def _remove(self) -> None:
        # Gone in one step: half a store must not be taken for another kind of directory later.
        old = self.path.with_name(f".{self.path.name}.{os.getpid()}.old")
        os.replace(self.path, old)
        shutil.rmtree(old)

    def _open(self, zarr_format: Literal[2, 3], attributes: dict[str, Any]) -> zarr.Group:
        store = LocalStore(self.path)
        try:
            return zarr.open_group(store, mode="r+", use_consolidated=False)
        except GroupNotFoundError:
            return zarr.create_group(
                store, zarr_format=zarr_format, attributes={**attributes, RECORDING: True}
            )
        except ValueError as error:
            raise InputError(f"{self.path} is no zarr group that can be read ({error}); {LAYOUT}") from error

    def _whole_episodes(self) -> tuple[int, int]:
        if RECORDING in self._group.attrs:
            self._remove_leftovers()
            ends = self._group.get(ENDS)
            if not isinstance(ends, zarr.Array) or not np.any(ends[:]):
                return 0, 0
        elif not list(self._group.keys()):
            if any((self.path / name).exists() for name in GROUPS):
                raise InputError(f"{self.path} holds folders that are no zarr groups; choose another path")
            self._remove_leftovers()  # of a writer that died before it had set its first attribute
            return 0, 0
        source = ZarrSource(self.path)
        missing = [why for key, why in sorted(source.lacking.items()) if key not in source.left_out]
        if missing:
            raise InputError(f"nothing can be appended: {missing[0]}")
        in_groups = not self._groups and any("/" in key for key in source.keys)
        if source.ends_name != ENDS or not source.prefix or in_groups:
            raise InputError(
                f"nothing can be appended to {self.path}: it holds {', '.join(source.keys)} and "
                f"{source.ends_name}, and a writer makes data/<key> and {ENDS} alone; choose another path"
            )
        return len(source.episode_ends), int(source.episode_ends[-1])

    def _remove_leftovers(self) -> None:
        """What zarr has not renamed yet where a writer died."""
        for leftover in self.path.rglob("*.partial"):
            leftover.unlink()

    def _set_attributes(self, attributes: Mapping[str, Any]) -> None:
        if dict(self._group.attrs) != attributes:
            self._group.attrs.put(dict(attributes))

    def _drop_unfinished(self) -> None:
        if self.n_episodes == 0:
            # As folders: an array is written before the group above it, which zarr cannot list until then.
            # The ends go first: rows without ends are no episode, ends without rows would be a damaged store.
            for name in reversed(GROUPS):
                shutil.rmtree(self.path / name, ignore_errors=True)
            return
        for name in [ENDS, *(f"data/{key}" for key in self._keys())]:
            array, rows = self._array(name), self.n_episodes if name == ENDS else self.n_steps
            if array.shape[0] > rows:
                # What is cut off stays in the last chunk, where it would make the bytes depend on the crash.
                array[rows:] = array.fill_value or 0
                array.resize((rows, *array.shape[1:]))

    def _create(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._drop_unfinished()
        for key, values in arrays.items():
            most = IMAGE_CHUNK_BYTES if values.ndim == 4 and values.dtype == np.uint8 else CHUNK_BYTES
            rows = max(1, most // max(1, values[0].nbytes))
            self._create_array(f"data/{key}", values.dtype, values.shape[1:], rows)
        self._create_array(ENDS, np.dtype(np.int64), (), 2**12)

    def _create_array(self, name: str, dtype: np.dtype, shape: tuple[int, ...], rows: int) -> None:
        # One thread and no state, so the same values give the same bytes; the checksum finds flipped bits.
        zstd = Zstd(level=9, checksum=True), ZstdCodec(level=9, checksum=True)
        self._group.create_array(
            name,
            shape=(0, *shape),
            chunks=(rows, *(max(1, n) for n in shape)),  # zarr divides by them
            dtype=dtype,
            compressors=[zstd[self._group.metadata.zarr_format - 2]],
            fill_value=0,
        )

    def _put(self, name: str, start: int, values: np.ndarray) -> None:
        array = self._array(name)
        array.resize((start + len(values), *array.shape[1:]))
        array[start:] = values

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array

    def _keys(self) -> list[str]:
        data = self._group["data"]
        assert isinstance(data, zarr.Group)
        members = data.members(max_depth=None)
        return sorted(name for name, node in members if isinstance(node, zarr.Array))

    def _checked(self, episode: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        where = f"episode {self.n_episodes} for {self.path}"
        if RECORDING not in self._group.attrs:
            raise InputError(f"{where}: the writer is closed; open a new one to append")
        if not isinstance(episode, Mapping):
            raise InputError(f"{where}: give a mapping of keys to arrays, not {type(episode).__name__}")
        for key in episode:
            _check_key(where, key, self._groups)
        arrays = {key: _numbers(where, key, values, self._finite) for key, values in episode.items()}
        lengths = {key: len(values) for key, values in arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            listed = ", ".join(f"{key} {n}" for key, n in lengths.items()) or "no keys"
            raise InputError(f"{where}: every key needs the same number of steps, at least 1; got {listed}")
        if self.n_episodes == 0:
            return arrays
        if sorted(arrays) != self._keys():
            raise InputError(
                f"{where} has the keys {', '.join(sorted(arrays))}, but the store holds "
                f"{', '.join(self._keys())}; every episode needs the same keys"
            )
        for key, values in arrays.items():
            stored = self._array(f"data/{key}")
            if values.shape[1:] != stored.shape[1:] or values.dtype != stored.dtype:
                raise InputError(
                    f"{where}: '{key}' is {values.dtype} of shape {list(values.shape[1:])} per step, but the "
                    f"store holds {stored.dtype} of shape {list(stored.shape[1:])}; convert it"
                )
        return arrays


def _check_key(where: str, key: str, groups: bool) -> None:
    parts = key.split("/") if isinstance(key, str) else [""]
    if not all(part.strip("._ ") for part in parts) or (len(parts) > 1 and not groups):
        raise InputError(f"{where}: '{key}' cannot be a key; use letters, digits and underscores")


def _numbers(where: str, key: str, values: ArrayLike, only_finite: bool) -> np.ndarray:
    if np.ma.is_masked(values):
        raise InputError(
            f"{where}: '{key}' has numbers that are masked, for which nothing can stand: fill them in"
        )
    try:
        array = np.ascontiguousarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # tensors raise the last two
        raise InputError(f"{where}: '{key}' is not an array ({error})") from error
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise InputError(f"{where}: '{key}' is {array.dtype}, which no store holds; give float64")
    if array.dtype.kind not in "biuf" or np.ndim(values) == 0:
        if isinstance(values, Mapping):
            named = ", ".join(f"{key}_{name}" for name in list(values)[:3])
            raise InputError(
                f"{where}: '{key}' is a mapping: give what is in it by keys of their own, {named}"
            )
        given = " ".join(f"{values!r:.200}".split())
        raise InputError(
            f"{where}: '{key}' must be an array of numbers with one row per step, not {given:.60}"
        )
    finite = np.isfinite(array)
    if only_finite and not finite.all():
        step = int(np.argwhere(~finite)[0][0])
        raise InputError(
            f"{where}: '{key}' holds NaN or Inf at step {step} of {len(array)}; repair or drop the episode"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _plain(attributes: Mapping[str, Any], only_finite: bool) -> dict[str, Any]:
    if RECORDING in attributes:
        raise InputError(f"the attribute '{RECORDING}' is the writer's own; call it something else")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(attributes), allow_nan=not only_finite))
    except (TypeError, ValueError) as error:
        raise InputError(f"the attributes of a store must be JSON values: {error}") from error
    return plain
