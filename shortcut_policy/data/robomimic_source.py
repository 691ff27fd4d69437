"""Demonstrations in robomimic's HDF5 files, read as they are.

``/data/demo_<i>`` is an episode, with ``actions``, ``obs/<key>`` and usually ``states``, ``rewards``,
``dones`` and ``next_obs/<key>``; ``/data`` has the attribute ``env_args``, and ``/mask/<filter key>`` lists
names of episodes.
"""

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shortcut_policy.data.action_kind import ACTIONS, ActionKind, kind_of_actions
from shortcut_policy.data.env_args import ENV_ARGS, EnvArgs
from shortcut_policy.data.hdf5_filters import missing_filter
from shortcut_policy.data.object_state import EEF, OBJECT, ObjectState
from shortcut_policy.data.robomimic_files import (
    HDF5_SUFFIXES,
    LAYOUT,
    data_group,
    datasets,
    is_group,
    listed,
    noted_origins,
    open_hdf5,
    plain_attributes,
)
from shortcut_policy.data.source import (
    check_key,
    episode_rows,
    expand,
    file_stamps,
    find_row,
    too_large,
)
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError, reading

if TYPE_CHECKING:
    import h5py

LISTED = 8  # demonstrations that an error names, at most


class RobomimicSource:
    """Episodes of a robomimic HDF5 file (an `EpisodeSource`).

    Observations are read by their bare names (``object``, ``robot0_eef_pos``, ...), everything else by its
    path in a demonstration (``actions``, ``states``, ``rewards``, ``next_obs/object``, ...), and so is an
    observation that is called like one of these (``obs/actions``). Only what all demonstrations hold, with
    a row for each step, is there; of the rest, ``lacking`` says why not. The files of MimicGen and Isaac Lab
    are such files. Can be pickled and used in forked workers: each process opens the file for itself.

    Args:
        path: ``~`` and environment variables are expanded.
        filter_key: Only the demonstrations that ``mask/<filter_key>`` lists, such as ``train``; all if None.
        objects: ``repaired`` gives the observation ``object`` as `ObjectState` makes it, which is what the
            environments of this library give too, and leaves it out where it cannot be; ``stored`` leaves
            it as it is.
        poses: Read files of robomimic's tasks, too, whose actions are poses, as they are.

    Attributes:
        env_args: What the file was recorded in, without a name if it does not say that.
        demos: Names of the demonstrations, by number.
        action_kind: What ``actions`` holds, see `shortcut_policy.data.action_kind`.
        lacking: Key -> sentence, of what cannot be read or only some of the demonstrations hold.

    Raises:
        InputError: No such file, not HDF5 or cut short, no demonstrations or ``num_samples``, an unknown
            filter key, actions of other lengths, actions that are not finite or, in robomimic's tasks,
            outside [-1, 1] or poses that were not asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        filter_key: str | None = None,
        objects: Literal["repaired", "stored"] = "repaired",
        poses: bool = False,
    ) -> None:
        if objects not in ("repaired", "stored"):
            raise InputError(f"objects={objects} must be repaired or stored")
        self.path = str(expand(path))
        self._opened: tuple[int, h5py.File] | None = None
        with reading(self.path):
            data = self._data()
            self.env_args = _env_args(data, self.path) if ENV_ARGS in data.attrs else EnvArgs("", "", {})
            self.demos = self._names(filter_key)
            lengths = [self._length(name) for name in self.demos]
            self.episode_ends = np.cumsum(lengths, dtype=np.int64)
            self._paths = self._common_arrays(lengths)
            self.keys = tuple(sorted(self._paths))
            first = {key: data[self.demos[0]][path] for key, path in self._paths.items()}
            self.shapes = {key: tuple(array.shape[1:]) for key, array in first.items()}
            self.dtypes: dict[str, np.dtype] = {key: self._types[path] for key, path in self._paths.items()}
            self._object_state: ObjectState | None = None
            if objects == "repaired" and OBJECT in self.keys:
                try:
                    self._object_state = self._repair()
                except InputError as error:
                    self._leave_out_objects(str(error))
            self.action_kind = self._check_actions(poses)

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a key, (stop - start, *shape).

        Raises:
            InputError: The key is not there, or the file is damaged.
        """
        check_key(self, key, self.lacking)
        rows = self._stored(key, start, stop)
        if key.rpartition("/")[2] != OBJECT or self._object_state is None:
            return rows
        eef = [key.replace(OBJECT, name) for name in EEF] if self._object_state.needs_gripper else []
        return self._object_state(rows, *(self._stored(name, start, stop) for name in eef))

    def stamp(self, key: str) -> list[Any]:
        """The file, and which of its demonstrations are read how, see `SourceOfFiles`."""
        return [*file_stamps(self.path), self.demos, self._object_state is not None]

    def masks(self, needed: str | None = None) -> dict[str, list[str]]:
        """Filter key -> names of demonstrations; what holds no texts is left out, unless it is ``needed``."""
        with reading(f"mask of {self.path}"):
            masks = self._file().get("mask", {})
            keys = list(masks) if is_group(masks) else []
            # Others keep numbers there, too.
            kept = [
                key
                for key in keys
                if key == needed or getattr(masks[key], "dtype", np.dtype(int)).kind in "SO"
            ]
            return {key: [name.decode() for name in masks[key][()]] for key in kept}

    def attributes(self, demo: str | None = None) -> dict[str, Any]:
        """Attributes of ``data``, or of one demonstration, as Python values."""
        return plain_attributes(self._data() if demo is None else self._data()[demo])

    def origins(self) -> dict[str, Any]:
        """Format -> what the file says of the data that it was made of, if a conversion has made it."""
        return noted_origins(self._file())

    def scene(self, episode: int) -> str | None:
        """The model of a demonstration's scene, mujoco's XML; None if the file has none for robosuite 1.5."""
        model = self._data()[self.demos[episode]].attrs.get("model_file")
        return model if self.env_args.version.startswith("1.5") else None

    def dataset_of(self, key: str) -> str:
        """Path of a key in the group of a demonstration."""
        return self._paths[key]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _file(self) -> "h5py.File":
        # A forked worker must not share the parent's file offsets, so it opens the file again.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_hdf5(self.path)
        return self._opened[1]

    def _data(self) -> Any:
        return data_group(self._file(), self.path)

    def _names(self, filter_key: str | None) -> list[str]:
        there = list(self._data())
        wrong = [name for name in there if not name.removeprefix("demo_").isdecimal()]
        if wrong or not there:
            found = f"'{wrong[0]}' is not called so" if wrong else "there is none"
            raise InputError(
                f"{self.path} must hold demonstrations demo_<number> in data, but {found}; {LAYOUT}"
            )
        if filter_key is not None:
            masks = self.masks(needed=filter_key)
            if filter_key not in masks:
                raise InputError(
                    f"{self.path} has no filter key '{filter_key}'; it has "
                    f"{', '.join(sorted(masks)) or 'none'}"
                )
            lost = sorted(set(masks[filter_key]) - set(there))
            twice = sorted({name for name in masks[filter_key] if masks[filter_key].count(name) > 1})
            if lost or twice or not masks[filter_key]:
                what = "lists no demonstration"
                if lost or twice:
                    what = f"lists {lost[0]}, which is not there" if lost else f"lists {twice[0]} twice"
                raise InputError(f"the filter key '{filter_key}' of {self.path} {what}; choose another one")
            there = masks[filter_key]
        return sorted(there, key=lambda name: int(name.removeprefix("demo_")))

    def _length(self, name: str) -> int:
        demo = self._data()[name]
        if not is_group(demo):
            raise InputError(f"{name} of {self.path} is an array, and not a group of them; {LAYOUT}")
        if "obs" not in demo and ENV_ARGS not in self._data().attrs:
            raise InputError(
                f"{self.path} is a recording of robosuite without observations: convert it with robomimic's "
                "scripts/conversion/convert_robosuite.py, then scripts/dataset_states_to_obs.py"
            )
        if ACTIONS not in demo or "obs" not in demo:
            missing = "obs" if ACTIONS in demo else ACTIONS
            raise InputError(
                f"{name} of {self.path} has no {missing} (it holds {listed(demo)}); files of states alone "
                "need robomimic's dataset_states_to_obs first"
            )
        if "num_samples" not in demo.attrs:
            raise InputError(
                f"{name} of {self.path} has no attribute num_samples, the number of its steps; the recording "
                f"was cut off, or set it to the {len(demo[ACTIONS])} actions that are there"
            )
        length = int(demo.attrs["num_samples"])
        if length < 1:
            raise InputError(f"{name} of {self.path} has num_samples={length}; drop the demonstration")
        return length

    def _common_arrays(self, lengths: list[int]) -> dict[str, str]:
        """Key -> dataset for all that every demonstration holds; fills ``lacking``."""
        shapes: dict[str, tuple[int, ...]] = {}
        #: Path -> type that holds the values of all demonstrations.
        self._types: dict[str, np.dtype] = {}
        holders: dict[str, set[str]] = {}
        unusable: dict[str, str] = {}
        for name, length in zip(self.demos, lengths, strict=True):
            for path, array in datasets(self._data()[name]).items():
                holders.setdefault(path, set()).add(name)
                wanted = (length, *shapes.setdefault(path, (array.shape or ())[1:]))
                known = self._types.setdefault(path, array.dtype.newbyteorder("="))
                if path not in unusable and (reason := self._objection(array, wanted, known)):
                    unusable[path] = f"{path} in {name} of {self.path} {reason}"
                elif array.dtype != known and path not in unusable:
                    self._types[path] = np.result_type(known, array.dtype)
        if ACTIONS in unusable:
            raise InputError(unusable[ACTIONS])
        missing = {
            path: self._missing_in(path, [d for d in self.demos if d not in names])
            for path, names in holders.items()
            if len(names) < len(self.demos)
        }
        self.lacking = {path.removeprefix("obs/"): why for path, why in (missing | unusable).items()}
        common = [path for path in holders if path not in missing and path not in unusable]
        bare = {path: path.removeprefix("obs/") for path in common}
        return {path if name in common else name: path for path, name in bare.items()}

    def _objection(self, array: Any, wanted: tuple[int, ...], known: np.dtype) -> str | None:
        """What speaks against a dataset, or nothing; ``known`` is the type that others have."""
        if array.shape != wanted:
            shape = list(array.shape or ())
            return (
                f"has shape {shape}, but num_samples={wanted[0]} and {self.demos[0]} ask for "
                f"{list(wanted)}; drop or repair that demonstration if a task uses this"
            )
        if (large := too_large(wanted[1:], array.dtype)) is not None:
            return large
        kinds = {array.dtype.kind, known.kind}
        # Of signed and unsigned numbers of 64 bits NumPy makes floats, which hold 53 of them.
        rounded = kinds <= set("iu") and np.result_type(known, array.dtype).kind == "f"
        # Of pictures the type says in which range they are: bytes in 0..255, floats mostly in 0..1.
        one = kinds <= set("biuf") and len(wanted) < 4 if len(kinds) > 1 else kinds <= set("biufSU")
        if array.dtype != known and (rounded or not one):
            return (
                f"is {array.dtype}, and {known} in demonstrations before; convert that demonstration if a "
                "task uses this"
            )
        lost = missing_filter(array)
        if lost is not None:
            return (
                f"is compressed with the HDF5 filter {lost}, which is not installed: pip install hdf5plugin"
            )
        return None

    def _leave_out_objects(self, why: str) -> None:
        for key in [key for key in self.keys if key.rpartition("/")[2] == OBJECT]:
            self.lacking[key] = (
                f"{why}; or train on it as the file holds it, with +task.source.objects=stored"
            )
            del self._paths[key], self.shapes[key], self.dtypes[key]
        self.keys = tuple(sorted(self._paths))

    def _missing_in(self, path: str, demos: list[str]) -> str:
        listed = ", ".join(demos[:LISTED]) + (
            f" and {len(demos) - LISTED} more" if len(demos) > LISTED else ""
        )
        return (
            f"{path} is missing in {listed} of the {len(self.demos)} demonstrations of {self.path}: extract "
            "it there too, or leave these out with a filter_key"
        )

    def _repair(self) -> ObjectState:
        repair = ObjectState(self.env_args.name, self.env_args.version, self.path)
        groups = [key.removesuffix(OBJECT) for key in self.keys if key.rpartition("/")[2] == OBJECT]
        needed = [group + name for group in groups for name in EEF] if repair.needs_gripper else []
        missing = [name for name in needed if name not in self.keys]
        if missing:
            raise InputError(
                f"{self.path} has no {' and '.join(missing)}, which the poses in 'object' are relative to; "
                "extract them too"
            )
        if repair.size is not None and self.shapes[OBJECT] != (repair.size,):
            raise InputError(
                f"{self.path}: 'object' has shape {list(self.shapes[OBJECT])} per step, but the "
                f"{self.env_args.name} of its env_args has {[repair.size]}; is env_args that of another "
                "task?"
            )
        return repair

    def _check_actions(self, poses: bool) -> ActionKind:
        actions = self._stored(ACTIONS, 0, int(self.episode_ends[-1]))
        bad = ~np.isfinite(actions)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            e, step = find_row(self, row)
            raise InputError(
                f"action {step} of {self.demos[e]} of {self.path} is not a finite number; drop or repair "
                "that demonstration"
            )
        kind = kind_of_actions(self, self.env_args)
        if kind != "displacement" and not poses:
            raise InputError(
                f"the actions of {self.path} are poses, which this task would take for displacements: use "
                "the *_absolute task (source shortcut_envs.robosuite.actions.AbsoluteActions)"
            )
        return kind

    def _stored(self, key: str, start: int, stop: int) -> np.ndarray:
        stop = min(stop, int(self.episode_ends[-1]))
        pieces = []
        for e in range(find_row(self, start)[0], len(self.demos)):
            begin = episode_rows(self, e)[0]
            if begin >= stop:
                break
            rows = slice(max(start - begin, 0), stop - begin)
            try:
                stored = self._data()[self.demos[e]][self._paths[key]][rows]
                pieces.append(stored.astype(self._types[self._paths[key]], copy=False))
            except Exception as error:  # h5py raises many kinds
                raise InputError(
                    f"{key} in {self.demos[e]} of {self.path} cannot be read ({error}); the file is damaged: "
                    "restore it from a copy"
                ) from error
        if not pieces:
            return np.empty((0, *self.shapes[key]), self.dtypes[key])
        return np.concatenate(pieces)


class RobomimicStore(ZarrSource):
    """A zarr store that was made of a robomimic file, with the names of its keys, by ``scripts/render.py``.

    Args:
        path: See `ZarrSource`.

    Attributes:
        env_args: What the file was recorded in.
        action_kind: What ``actions`` holds, see `shortcut_policy.data.action_kind`.
        demos: Names of the demonstrations, by number.

    Raises:
        InputError: See `ZarrSource`; or the store does not say what it was recorded in, or has no actions.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        if ENV_ARGS not in self.attributes or len(self.shapes.get(ACTIONS, ())) != 1:
            raise InputError(
                f"{self.path} does not say what it was recorded in (attribute {ENV_ARGS}), or has no "
                "actions: use a robomimic file (.hdf5), or a store that scripts/render.py made of one"
            )
        self.env_args = EnvArgs.parse(self.attributes[ENV_ARGS], self.path)
        self.action_kind = kind_of_actions(self, self.env_args)
        self.demos = [f"episode {number}" for number in range(len(self.episode_ends))]


def read_env_args(path: str | os.PathLike[str]) -> EnvArgs:
    """What a file, or a store that was made of one, was recorded in, without a look at its demonstrations.

    Raises:
        InputError: No such file, not one of robomimic, or no readable ``env_args``.
    """
    name = str(expand(path))
    if not name.endswith(HDF5_SUFFIXES):
        return RobomimicStore(name).env_args
    with open_hdf5(name) as file:
        return _env_args(data_group(file, name), name)


def _env_args(data: Any, path: str) -> EnvArgs:
    if ENV_ARGS not in data.attrs:
        raise InputError(
            f"the group 'data' of {path} has no attribute env_args, which names the task; copy it from the "
            "file that this one was made of"
        )
    return EnvArgs.parse(data.attrs[ENV_ARGS], path)
