"""Writes demonstrations as a robomimic HDF5 file, one whole episode at a time."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from shortcut_policy.data.env_args import ENV_ARGS, EnvArgs
from shortcut_policy.data.hdf5_file import create_hdf5
from shortcut_policy.data.recording import SMALL, Large
from shortcut_policy.data.robomimic_files import (
    data_group,
    import_h5py,
    list_arrays,
    open_hdf5,
    parts_folder,
    plain_attributes,
)
from shortcut_policy.data.source import expand
from shortcut_policy.errors import InputError
from shortcut_policy.locks import writer_lock
from shortcut_policy.paths import atomic_path, write_atomic

#: One demonstration in so many is for validation.
VALID_EVERY = 10


class RobomimicWriter:
    """Append episodes to a robomimic file.

    HDF5 files do not survive a process that dies while it writes. Therefore each episode is a small file of
    its own in ``<path>.parts`` first, and `close` puts them together in one step; opening the writer again
    goes on after the last whole episode. The same episodes give the same data. There can be one writer at a
    time: until it is closed, ``.<name>.lock`` beside the file keeps others out.

    Args:
        path: ``.hdf5`` file; one that this writer made is continued.
        attributes: Of the group ``data``, JSON values; ``env_args`` must be among them.

    Attributes:
        n_episodes: Whole episodes so far.
        n_steps: Their steps.

    Raises:
        InputError: The path is something else, another writer is at work there, or ``env_args`` are missing.
    """

    def __init__(self, path: str | os.PathLike[str], attributes: Mapping[str, Any]) -> None:
        self._h5py = import_h5py()
        self.path, self.attributes = expand(path), dict(attributes)
        self._parts = parts_folder(self.path)
        if ENV_ARGS not in self.attributes:
            raise InputError(f"the attributes of {self.path} need env_args: what it was recorded in")
        if self.path.is_dir():
            raise InputError(f"{self.path} is a directory; choose a path for an HDF5 file")
        self._lock = writer_lock(self.path)
        try:
            lengths = self._begin()
        except BaseException:
            self._lock.release()
            raise
        self.n_episodes, self.n_steps = len(lengths), sum(lengths)

    def add_episode(self, episode: Mapping[str, Any]) -> None:
        """Append one episode: path -> (T, ...) array, and strings, which become attributes.

        Raises:
            InputError: No ``actions``, or different lengths. Nothing is written then.
        """
        arrays = {key: np.asarray(value) for key, value in episode.items() if not isinstance(value, str)}
        texts = {key: value for key, value in episode.items() if isinstance(value, str)}
        lengths = {key: len(value) for key, value in arrays.items()}
        if "actions" not in arrays or len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise InputError(
                f"episode {self.n_episodes} for {self.path}: actions are needed, and every key with the same "
                f"number of steps, at least 1; got {lengths}"
            )
        with atomic_path(self._part(self.n_episodes)) as temporary, create_hdf5(temporary) as (file, _):
            _fill(file, {"num_samples": lengths["actions"], **texts}, arrays)
        self.n_episodes, self.n_steps = self.n_episodes + 1, self.n_steps + lengths["actions"]

    def remove_last(self) -> None:
        """Take the last whole episode out again, in one step.

        Raises:
            InputError: There is none.
        """
        if self.n_episodes == 0:
            raise InputError(f"{self.path}: there is no episode to remove")
        # All episodes of a file that was finished before are parts by now. From it, the next writer would
        # take the removed one again.
        self.path.unlink(missing_ok=True)
        part = self._part(self.n_episodes - 1)
        with self._h5py.File(part, "r") as file:
            length = int(file.attrs["num_samples"])
        part.unlink()
        self.n_episodes, self.n_steps = self.n_episodes - 1, self.n_steps - length

    def close(self) -> None:
        """Put the episodes together, with ``mask/train`` and ``mask/valid``, nine to one."""
        with self._lock:
            if self.n_episodes:
                write_hdf5(self.path, self._episodes(), self._rest())
                shutil.rmtree(self._parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        self._lock.release()

    def _begin(self) -> list[int]:
        """Find or make the folder of parts; returns the lengths of the episodes in it."""
        if self.path.exists():
            self._take_apart()
        self._parts.mkdir(parents=True, exist_ok=True)
        write_atomic(self._parts / "attributes.json", json.dumps(self.attributes))
        lengths: list[int] = []
        while self._part(len(lengths)).exists():
            with self._h5py.File(self._part(len(lengths)), "r") as file:
                lengths.append(int(file.attrs["num_samples"]))
        return lengths

    def _episodes(self) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
        for number in range(self.n_episodes):
            with self._h5py.File(self._part(number), "r") as part:
                yield f"demo_{number}", {path: array[()] for path, array in list_arrays(part).items()}

    def _rest(self) -> dict[str, Any]:
        attributes = {**self.attributes, "total": self.n_steps}
        rest: dict[str, Any] = {f"data/@{name}": value for name, value in attributes.items()}
        for number in range(self.n_episodes):
            with self._h5py.File(self._part(number), "r") as part:
                rest |= {f"data/demo_{number}/@{name}": value for name, value in part.attrs.items()}
        masks = split_masks(self.n_episodes)
        return rest | {f"mask/{key}": np.array(names, dtype="S") for key, names in masks.items()}

    def _part(self, number: int) -> Path:
        return self._parts / f"demo_{number}.hdf5"

    def _take_apart(self) -> None:
        """Episodes of a finished file as parts again, to add to them."""
        with open_hdf5(str(self.path)) as file:
            data = data_group(file, str(self.path))
            if set(data) != {f"demo_{number}" for number in range(len(data))}:
                raise InputError(
                    f"{self.path} cannot be continued: its demonstrations must be demo_0, demo_1, ... "
                    f"without a gap, but they are {', '.join(data)}; choose another path"
                )
            self._parts.mkdir(exist_ok=True)
            for name, demo in data.items():
                path = self._part(int(name.removeprefix("demo_")))
                if path.exists():
                    continue
                with atomic_path(path) as temporary, create_hdf5(temporary) as (part, _):
                    part.attrs.update(demo.attrs)
                    for key in demo:
                        demo.copy(key, part)


def write_hdf5(
    path: Path, episodes: Iterable[tuple[str, Mapping[str, np.ndarray]]], rest: Mapping[str, Any]
) -> None:
    """Write a robomimic file in one step.

    Args:
        episodes: Name and arrays of each demonstration.
        rest: All else: place -> value, as a `Recording` has it.
    """
    # The file format of HDF5 1.10 takes half the room of the usual one for arrays as short as these. "latest"
    # would be that of HDF5 2.0 where it is installed (h5py 3.16), which an h5py beside robomimic cannot read.
    with atomic_path(path) as temporary, create_hdf5(temporary, libver=("v110", "v110")) as (file, check):
        file.create_group("data")
        for name, arrays in episodes:
            demo = file["data"].create_group(name)
            _fill(demo, {}, arrays)
            demo.require_group("obs")  # without it, readers take the file for a recording of states alone
            file.flush()
            check()
        # Attributes of arrays come after the arrays.
        for place in sorted(rest, key=lambda place: "/@" in place):
            put(file, place, rest[place])
            check()


def put(file: Any, place: str, value: Any) -> None:
    """Write one thing of the rest of a `Recording` into an open file or group."""
    string = import_h5py().string_dtype()
    path, is_attribute, attribute = place.partition("/@")
    value = value.read() if isinstance(value, Large) else value
    dtype = string if np.asarray(value).dtype.kind == "O" else None
    if is_attribute:
        path = path or "/"
        item = file[path] if path in file else file.require_group(path)
        item.attrs.create(attribute, value, dtype=dtype)
    elif place.endswith("/"):
        file.require_group(place)
    else:
        packed = {"compression": "gzip", "shuffle": True} if np.size(value) > SMALL else {}
        file.create_dataset(place, data=value, dtype=dtype, track_times=False, **packed)


def _fill(group: Any, attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    group.attrs.update(attributes)
    for path in sorted(arrays):
        # Neighbouring steps are alike: shuffled bytes compress to a fraction.
        group.create_dataset(path, data=arrays[path], compression="gzip", shuffle=True, track_times=False)


def attributes_of(args: EnvArgs) -> dict[str, Any]:
    """``env_args`` as robomimic stores them."""
    stored = {"env_name": args.name, "env_version": args.version, "type": 1, "env_kwargs": args.kwargs}
    return {ENV_ARGS: json.dumps(stored, indent=4)}


def recorded_attributes(path: Path) -> dict[str, Any] | None:
    """Attributes of a file of `RobomimicWriter`, finished or not; None if no episode is there.

    Raises:
        InputError: The path is something else.
    """
    parts = parts_folder(path)
    unfinished = parts / "attributes.json"
    if unfinished.is_file() and any(parts.glob("demo_*.hdf5")):
        return dict(json.loads(unfinished.read_text(encoding="utf-8")))
    if not path.is_file():
        return None
    with open_hdf5(str(path)) as file:
        data = data_group(file, str(path))
        return plain_attributes(data) if len(data) else None


def recorded_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]] | None:
    """Array -> shape and type of a step in the first episode of a file of `RobomimicWriter`, finished or not.

    None if no episode is there.

    Raises:
        InputError: The path is something else.
    """
    first = parts_folder(path) / "demo_0.hdf5"
    if not first.is_file() and not path.is_file():
        return None
    with open_hdf5(str(first if first.is_file() else path)) as file:
        demo = file if first.is_file() else next(iter(data_group(file, str(path)).values()), {})
        return {name: (array.shape[1:], array.dtype) for name, array in list_arrays(demo).items()} or None


def split_masks(episodes: int) -> dict[str, list[str]]:
    """Names of the demonstrations for training and for validation, every tenth."""
    names = [f"demo_{number}" for number in range(episodes)]
    valid = names[VALID_EVERY - 1 :: VALID_EVERY]
    return {"train": [name for name in names if name not in valid], "valid": valid}
