"""Demonstrations in Minari's HDF5 files, read as they are and without Minari.

``<name>/data/main_data.hdf5`` holds ``episode_<i>`` with T ``actions``, ``rewards``, ``terminations`` and
``truncations``, and T + 1 ``observations``: the last one, after the last action, is left out. ``infos`` have
either number of rows. ``metadata.json`` lies beside the file.
"""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.hdf5_filters import unreadable
from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.data.robomimic_files import import_h5py, is_group, list_arrays
from shortcut_policy.data.source import (
    check_key,
    episode_rows,
    expand,
    file_stamps,
    find_row,
)
from shortcut_policy.errors import InputError, reading

if TYPE_CHECKING:
    import h5py

MAIN, METADATA = "main_data.hdf5", "metadata.json"
EPISODE = "episode_"
OBSERVATIONS = "observations"
LAYOUT = f"a Minari dataset is a folder with data/{MAIN} and data/{METADATA}"
#: How a JPEG begins: Minari stores images so, if it is not told otherwise.
JPEG = b"\xff\xd8\xff"


class MinariSource:
    """Episodes of a Minari dataset (an `EpisodeSource`).

    Observations of a dictionary are read by their bare names (``achieved_goal``), those of a tuple as
    ``_index_0`` and so on, a single array as ``observations``; everything else by its path in an episode
    (``actions``, ``rewards``, ``infos/success``). Row t holds the observation before action t; the
    observation after the last action is no row. Only what all episodes hold is there. Can be pickled and used
    in forked workers: each process opens the file for itself.

    Args:
        path: The folder of the dataset, or its ``data``; ``~`` and environment variables are expanded.

    Attributes:
        episodes: Names of the episodes, by number.
        metadata: What ``metadata.json`` says.
        lacking: Key -> sentence, of what only some of the episodes hold.

    Raises:
        InputError: No such folder, no file of HDF5 in it, it is cut short, arrays of other lengths, or
            actions that are no list of numbers or not finite.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(expand(path))
        with reading(self.path):
            self._folder = data_folder(Path(self.path))
            self.metadata = _metadata(self._folder)
            self._opened: tuple[int, h5py.File] | None = None
            self.episodes = self._names()
            lengths = [self._length(name) for name in self.episodes]
            self.episode_ends = np.cumsum(lengths, dtype=np.int64)
            self.lacking: dict[str, str] = {}
            self._paths = self._common_arrays(lengths)
            self.keys = tuple(sorted(self._paths))
            first = {key: self._rows(0, key, 0, 1) for key in self.keys}
            self.shapes = {key: tuple(rows.shape[1:]) for key, rows in first.items()}
            self.dtypes: dict[str, np.dtype] = {key: rows.dtype for key, rows in first.items()}
            self._check_actions()

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a key, (stop - start, *shape).

        Raises:
            InputError: The key is not there, or the file is damaged.
        """
        check_key(self, key, self.lacking)
        stop = min(stop, int(self.episode_ends[-1]))
        parts = [np.empty((0, *self.shapes[key]), self.dtypes[key])]
        for e in range(find_row(self, start)[0], len(self.episodes)):
            begin = episode_rows(self, e)[0]
            end = min(stop, int(self.episode_ends[e]))
            if begin >= stop:
                break
            parts.append(self._rows(e, key, max(start - begin, 0), end - begin))
        return np.concatenate(parts)

    def last(self, key: str) -> np.ndarray | None:
        """What follows the last action of each episode, (E, *shape); None of what has no such row."""
        after = [
            self._rows(e, key, length, length + 1)
            for e, length in enumerate(np.diff(self.episode_ends, prepend=0).tolist())
        ]
        return np.concatenate(after) if all(len(rows) for rows in after) else None

    @property
    def uneven(self) -> list[str]:
        """Keys that have a row after the last action in some of the episodes only."""
        return [key for key, path in self._paths.items() if path in self._uneven]

    def stamp(self, key: str) -> list[Any]:
        """The file, see `SourceOfFiles`."""
        return file_stamps(str(self._folder / MAIN))

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the store that it was converted from, if it was."""
        note = self.metadata.get("converted")
        said = note.get("attributes") if isinstance(note, dict) else None
        return dict(said) if isinstance(said, dict) else {}

    def dataset_of(self, key: str) -> str:
        """Path of a key in the group of an episode."""
        return self._paths[key]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def file(self) -> "h5py.File":
        """The open file of this process."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _open(self._folder / MAIN)
        return self._opened[1]

    def _names(self) -> list[str]:
        file = self.file()
        wrong = [name for name in file if not name.removeprefix(EPISODE).isdecimal()]
        if wrong or not len(file):
            found = f"'{wrong[0]}' is not called so" if wrong else "there is none"
            raise InputError(f"{self._folder / MAIN} must hold {EPISODE}<number>, but {found}; {LAYOUT}")
        listed = self.metadata.get("total_episodes", len(file))
        if listed != len(file):
            raise InputError(
                f"{self._folder / METADATA} counts {listed} episodes, and {MAIN} holds {len(file)}: it is "
                "being written, or writing it was stopped; wait for it, or create the dataset again"
            )
        return sorted(file, key=lambda name: int(name.removeprefix(EPISODE)))

    def _length(self, name: str) -> int:
        episode = self.file()[name]
        if not is_group(episode):
            raise InputError(f"{name} of {self.path} is an array, and not a group of them; {LAYOUT}")
        missing = [part for part in (OBSERVATIONS, ACTIONS) if part not in episode]
        if missing:
            raise InputError(
                f"{name} of {self.path} has no {missing[0]} (it holds {', '.join(episode) or 'nothing'}); "
                "drop it"
            )
        if not hasattr(episode[ACTIONS], "shape"):
            raise InputError(
                f"the actions of {self.path} are a dictionary or a tuple, but this library learns one list "
                "of numbers a step: flatten them when the dataset is created"
            )
        length = len(episode[ACTIONS])
        if length < 1:
            raise InputError(f"{name} of {self.path} holds no action; drop it")
        return length

    def _common_arrays(self, lengths: list[int]) -> dict[str, str]:
        """Key -> dataset for all that every episode holds; fills ``lacking``."""
        holders: dict[str, list[str]] = {}
        kinds: dict[str, tuple[Any, ...]] = {}
        more: dict[str, set[int]] = {}
        #: Path -> why nobody can read it; other arrays are none the worse for it.
        unusable: dict[str, str] = {}
        for name, length in zip(self.episodes, lengths, strict=True):
            for path, array in list_arrays(self.file()[name]).items():
                if (why := unreadable(array)) is not None:
                    unusable.setdefault(path, f"{path} in {name} of {self.path} {why}")
                elif self._rows_fit(name, path, len(array), length, unusable):
                    more.setdefault(path, set()).add(len(array) - length)
                    holders.setdefault(path, []).append(name)
                    kind = ("image",) if _is_jpeg(array) else (array.dtype, array.shape[1:])
                    if kinds.setdefault(path, kind) != kind:
                        unusable.setdefault(
                            path,
                            f"{path} in {name} of {self.path} is {_described(kind)}, and in "
                            f"{holders[path][0]} {_described(kinds[path])}: is it of another robot? Drop one "
                            "of them",
                        )
        if ACTIONS in unusable:
            raise InputError(unusable[ACTIONS])
        self.lacking |= {bare(path): why for path, why in unusable.items()}
        common = {path for path, names in holders.items() if len(names) == len(self.episodes)} - set(unusable)
        for path in set(holders) - common - set(unusable):
            lost = [name for name in self.episodes if name not in holders[path]]
            others = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
            self.lacking[bare(path)] = (
                f"{path} is missing in {', '.join(lost[:8])}{others} of the {len(self.episodes)} episodes of "
                f"{self.path}: record it there too, or create a dataset without these"
            )
        self._uneven = {path for path, counts in more.items() if len(counts) > 1}
        names = {path: bare(path) for path in sorted(common)}
        return {path if name in common else name: path for path, name in names.items()}

    def _rows_fit(self, name: str, path: str, rows: int, length: int, unusable: dict[str, str]) -> bool:
        """Whether an array has a row for each step; `InputError` or ``unusable`` if it has to and has not."""
        if path.split("/")[0] == OBSERVATIONS and rows != length + 1:
            same = "as many as" if rows == length else f"{rows} of them, and"
            why = (
                f"{path} in {name} of {self.path} must be one more than its {length} actions, the last one "
                f"after the last action, but there are {same} actions: create the dataset again with "
                "Minari's own tools"
            )
            if rows == length:  # as all of its observations may be, each a step late
                raise InputError(why)
            unusable.setdefault(path, why)
        if path in ("rewards", "terminations", "truncations") and rows != length:
            raise InputError(
                f"{path} in {name} of {self.path} must be as many as its {length} actions, not {rows}; drop "
                "or repair that episode"
            )
        return rows in (length, length + 1)

    def _check_actions(self) -> None:
        kind, shape = self.dtypes[ACTIONS].kind, self.shapes[ACTIONS]
        if kind not in "iuf" or len(shape) != 1:
            raise InputError(
                f"the actions of {self.path} are {self.dtypes[ACTIONS]} of shape {list(shape)} per step, but "
                "a robot's actions are a list of numbers: choices out of a set cannot be learned here"
            )
        bad = ~np.isfinite(self.read(ACTIONS, 0, int(self.episode_ends[-1])))
        if bad.any():
            e, step = find_row(self, int(np.argwhere(bad)[0][0]))
            raise InputError(
                f"action {step} of {self.episodes[e]} of {self.path} is not a finite number; drop or repair "
                "that episode"
            )

    def _rows(self, episode: int, key: str, start: int, stop: int) -> np.ndarray:
        name, path = self.episodes[episode], self._paths[key]
        try:
            array = self.file()[name][path]
            rows = array[start:stop]
        except Exception as error:  # h5py raises many kinds
            raise InputError(
                f"{path} in {name} of {self.path} cannot be read ({error}); the file is damaged: restore it "
                "from a copy"
            ) from error
        if not _is_jpeg(array):
            return np.asarray(rows)
        return np.stack(list(self._pictures(rows, f"{path} in {name}"))) if len(rows) else rows

    def _pictures(self, rows: Any, where: str) -> Iterator[np.ndarray]:
        for row in rows:
            try:
                yield np.asarray(Image.open(io.BytesIO(np.asarray(row, np.uint8).tobytes())))
            except (UnidentifiedImageError, OSError) as error:
                raise InputError(
                    f"{where} of {self.path} holds a JPEG that cannot be read ({error}); restore it from a "
                    "copy"
                ) from error


def is_minari(path: Path) -> bool:
    """Whether a path is a Minari dataset, or looks like one."""
    return any((folder / METADATA).is_file() or (folder / MAIN).is_file() for folder in (path, path / "data"))


def data_folder(path: Path) -> Path:
    """Where the file is.

    Raises:
        InputError: There is none, or not of HDF5.
    """
    folder = next((one for one in (path / "data", path) if (one / METADATA).is_file()), path / "data")
    if (folder / MAIN).is_file():
        return folder
    if (folder / METADATA).is_file() and _metadata(folder).get("data_format") == "arrow":
        raise InputError(
            f"{path} is stored as Arrow, and {MAIN} of HDF5 is read: create the dataset again with "
            'data_format="hdf5"'
        )
    raise InputError(f"{path} has no data/{MAIN}; {LAYOUT}")


def bare(path: str) -> str:
    """Key of an array: observations by their own names."""
    return path.removeprefix(f"{OBSERVATIONS}/")


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is no JSON ({error}); restore it from a copy") from error


def _open(path: Path) -> "h5py.File":
    h5py = import_h5py()
    refuse_pointer(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error}); it was cut short or is being written: copy it again"
        ) from error


def _is_jpeg(array: Any) -> bool:
    """Whether the rows are the bytes of JPEG files."""
    vlen = import_h5py().check_vlen_dtype(array.dtype)
    if (array.dtype if vlen is None else vlen) != np.uint8 or array.ndim != (2 if vlen is None else 1):
        return False
    return len(array) > 0 and np.asarray(array[0], np.uint8).tobytes().startswith(JPEG)


def _described(kind: tuple[Any, ...]) -> str:
    return "an image" if len(kind) == 1 else f"{kind[0]} of shape {list(kind[1])} per step"
