"""Demonstrations in the files that ACT's recording writes (Zhao et al. 2023), read as they are.

A folder holds ``episode_<i>.hdf5``, each an episode with ``action`` and, below ``observations``, ``qpos``,
``qvel`` and ``images/<camera>``, with a row for each step.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shortcut_policy.data.hdf5_filters import unreadable
from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.data.robomimic_files import import_h5py, list_arrays, listed
from shortcut_policy.data.source import check_key, episode_rows, expand, file_stamps, find_row
from shortcut_policy.errors import InputError, reading

if TYPE_CHECKING:
    import h5py

ACTION, OBSERVATIONS = "action", "observations/"
#: What ACT's recorders write for each step: if it has another length, the file is damaged.
STEPWISE = (ACTION, *(f"{OBSERVATIONS}{name}" for name in ("qpos", "qvel", "effort")))
IMAGES = f"{OBSERVATIONS}images/"
LAYOUT = "a dataset of ACT is a folder with files episode_<number>.hdf5"


class ActSource:
    """Episodes of a dataset of ACT (an `EpisodeSource`).

    Observations are read by their names below ``observations``: ``qpos``, ``images/top``; everything else by
    its path in the file: ``action``. Only what all episodes hold is there. Can be pickled and used in forked
    workers: each process opens the files for itself, one at a time.

    Args:
        path: The folder; ``~`` and environment variables are expanded.

    Attributes:
        files: The files, by number of the episode.
        lacking: Key -> sentence, of what only some of the episodes hold, or not for each step.

    Raises:
        InputError: No such folder, no file in it, one that is cut short or without actions, observations of
            other lengths or sizes than those of the first file, or pictures as JPEG.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(expand(path))
        with reading(self.path):
            self.files = _files(Path(self.path))
            self._opened: tuple[int, Path, h5py.File] | None = None
            self._paths: dict[str, str] = {}
            self.lacking: dict[str, str] = {}
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.dtypes: dict[str, np.dtype] = {}
            holders: dict[str, int] = {}
            lengths = []
            for file in self.files:
                arrays = self._arrays(file)
                lengths.append(len(arrays[ACTION]))
                for name in arrays:
                    holders[name] = holders.get(name, 0) + 1
            self.episode_ends = np.cumsum(lengths, dtype=np.int64)
            self.lacking |= {
                key: f"{self._paths[key]} is missing in {len(self.files) - count} of the {len(self.files)} "
                f"files of {self.path}: record it there too, or take these out"
                for key, count in holders.items()
                if count < len(self.files) and key not in self.lacking
            }
            self.keys = tuple(sorted(key for key in holders if key not in self.lacking))

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a key, (stop - start, *shape).

        Raises:
            InputError: The key is not there, or a file is damaged.
        """
        check_key(self, key, self.lacking)
        stop = min(stop, int(self.episode_ends[-1]))
        parts = [np.empty((0, *self.shapes[key]), self.dtypes[key])]
        for e in range(find_row(self, start)[0], len(self.files)):
            begin, end = episode_rows(self, e)
            if begin >= stop:
                break
            parts.append(self._rows(self.files[e], key, max(start, begin) - begin, min(stop, end) - begin))
        return np.concatenate(parts)

    def stamp(self, key: str) -> list[Any]:
        """The files, see `SourceOfFiles`."""
        return file_stamps(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _arrays(self, file: Path) -> dict[str, Any]:
        """Key -> dataset of a file; notes sizes of what is new, and compares those of what is not."""
        opened = self._file(file)
        found = {path.removeprefix(OBSERVATIONS): path for path in list_arrays(opened)}
        if ACTION in found and not len(opened[ACTION]):
            raise InputError(f"{file} holds no step, as its action is empty; leave the file out")
        if ACTION not in found:
            raise InputError(f"{file} has no actions (it holds {listed(opened)}); {LAYOUT}")
        if opened.attrs.get("compress", False):
            raise InputError(
                f"{file} holds its pictures as JPEG, whose order of colours depends on the version that "
                "recorded them: write them as arrays, as ACT's simulation does"
            )
        rows = len(opened[ACTION])
        for key, path in list(found.items()):  # of the whole episode, as a sentence or the sizes of its JPEGs
            is_stepwise = path in STEPWISE or path.startswith(IMAGES)
            if not is_stepwise and len(opened[path]) != rows:
                self.lacking[key] = (
                    f"{path} of {file} has {len(opened[path])} rows, and {rows} actions: a task needs a row "
                    "for each step"
                )
        arrays = {key: opened[path] for key, path in found.items() if key not in self.lacking}
        for key, array in list(arrays.items()):
            shape = tuple(array.shape[1:])
            if len(array) != rows:
                raise InputError(f"{found[key]} of {file} has {len(array)} rows, and {rows} actions; drop it")
            self._paths.setdefault(key, found[key])
            known = self.shapes.setdefault(key, shape), self.dtypes.setdefault(key, array.dtype)
            why = unreadable(array)
            if known != (shape, array.dtype):
                why = (
                    f"is {array.dtype} of shape {list(shape)} per step, and {known[1]} of shape "
                    f"{list(known[0])} in files before: is it of another robot?"
                )
            if why is not None and key == ACTION:
                raise InputError(f"{found[key]} of {file} {why}")
            if why is not None:  # of what nobody may need
                self.lacking[key] = f"{found[key]} of {file} {why}"
                del arrays[key]
        return arrays

    def _rows(self, file: Path, key: str, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(self._file(file)[self._paths[key]][start:stop])
        except InputError:
            raise
        except Exception as error:  # h5py raises many kinds
            raise InputError(
                f"{self._paths[key]} of {file} cannot be read ({error}); the file is damaged: restore it "
                "from a copy"
            ) from error

    def _file(self, file: Path) -> "h5py.File":
        """The open file of this process."""
        if self._opened is None or self._opened[:2] != (os.getpid(), file):
            if self._opened is not None and self._opened[0] == os.getpid():
                self._opened[2].close()
            self._opened = None
            refuse_pointer(file)
            try:
                self._opened = os.getpid(), file, import_h5py().File(file, "r")
            except OSError as error:
                raise InputError(
                    f"{file} cannot be opened ({error}); it was cut short or is being written: copy it again"
                ) from error
        return self._opened[2]


def is_act(path: Path) -> bool:
    """Whether it is a folder that holds an episode of ACT's."""
    return path.is_dir() and next(path.glob("episode_*.hdf5"), None) is not None


def _files(folder: Path) -> list[Path]:
    numbered = {
        int(file.stem.removeprefix("episode_")): file
        for file in folder.glob("episode_*.hdf5")
        if file.stem.removeprefix("episode_").isdecimal()
    }
    if not numbered:
        raise InputError(f"{folder} has no episode_<number>.hdf5; {LAYOUT}")
    return [numbered[number] for number in sorted(numbered)]
