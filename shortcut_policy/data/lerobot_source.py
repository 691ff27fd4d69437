"""Demonstrations in the folders of LeRobot, of the formats 3.0 and 2.1, read as they are and without LeRobot.

A folder holds tables (Parquet) with the numbers and perhaps pictures of each step, videos, and ``meta/``.
Images are decoded once, on all cores, into a file (see `frame_file`), from which they are read at random from
then on.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy import hub
from shortcut_policy.data.agreement import SAME_RATE
from shortcut_policy.data.frame_file import FRAMES, FrameFile, Rows, frame_file
from shortcut_policy.data.in_order import in_order
from shortcut_policy.data.lerobot_meta import FINALIZE, INFO, Feature, Meta, read_meta
from shortcut_policy.data.lerobot_tables import (
    TOLERANCE,
    Steps,
    read_numbers,
    read_pictures,
    read_steps,
    stored_dtype,
)
from shortcut_policy.data.source import check_key, episode_rows, expand, stamps_of
from shortcut_policy.data.video import FORMATS, Video, find_frames, import_av, read_frames
from shortcut_policy.errors import InputError, reading
from shortcut_policy.paths import cache_folder

#: Bytes of decoded frames of a part of a video: from the next frame at which decoding can begin, or at once.
PART_BYTES, MOST_BYTES = 2**24, 2**26
#: Steps by which an episode may begin further away from where ``meta/`` says than the one before it.
MOST_DRIFT = 0.5
#: End of the name of the folder, beside the data set, with its decoded images.
BESIDE = ".frames"
#: Why images are decoded, by the kind of their feature.
STORED = {"video": "stored in videos", "image": "stored in tables"}
#: Where there is no room for them, or no right to write.
INSTEAD = "choose another folder (environment variable SHORTCUT_POLICY_CACHE)"


class LeRobotSource:
    """Episodes of a LeRobot dataset (an `EpisodeSource`).

    Keys are the features of ``meta/info.json``: ``observation.state``, ``action``, ``task_index`` and so on.
    A feature of shape (1,) is a column of numbers. Images are bytes, (height, width, channels), whether they
    are in videos or in the tables. Statistics in ``meta/`` are not used. Can be pickled and used in forked
    workers.

    Decoded images are kept in ``SHORTCUT_POLICY_CACHE`` if that is set, or else in the folder
    ``<path>.frames`` beside the dataset, or else, where that cannot be written and for a dataset of the hub,
    in ``~/.cache/shortcut_policy``. They may be deleted, and are made anew when a file of the dataset has
    changed.

    Args:
        path: The folder; ``~`` and environment variables are expanded. Or ``hf://user/name[@revision]``,
            which is fetched from the hub, or taken from its cache on this machine.

    Attributes:
        fps: Steps a second.
        tasks: ``task_index`` -> what was to be done.
        attributes: Format, rate and robot as ``meta/info.json`` names them.
        lacking: Key -> sentence, of what cannot be read.

    Raises:
        InputError: No such folder, another format, a table is missing or cut short, episodes that do not fit
            what ``meta/`` lists, or steps that are off the grid of ``fps`` by more than a tenth of a step.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._remote = hub.is_remote(str(path))
        root = hub.download_dataset(str(path)) if self._remote else expand(path)
        self.path = str(path if self._remote else root)
        with reading(self.path):
            self._meta: Meta = read_meta(root)
            self._steps: Steps = read_steps(self._meta)
            self.fps, self.tasks = self._meta.fps, self._meta.tasks
            self.episode_ends = self._steps.ends
            names = ("codebase_version", "fps", "robot_type")
            self.attributes: dict[str, Any] = {name: self._meta.info.get(name) for name in names}
            self.lacking = dict(self._meta.lacking)
            self.dtypes: dict[str, np.dtype] = {}
            for key, feature in self._meta.features.items():
                self._find(key, feature)
            self.keys = tuple(sorted(self.dtypes))
            self.shapes = {key: self._meta.features[key].shape for key in self.keys}
            self._numbers: dict[str, np.ndarray] = {}
            self._decoded: dict[str, FrameFile] = {}
            self._opened = {file: _status(file) for key in self.keys for file in self._files(key)}

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a key, (stop - start, *shape); all images of it are decoded first.

        Raises:
            InputError: The key is not there, a file is damaged or has changed since it was opened, or a video
                is shorter than its tables or has another rate or size.
        """
        self._check(key)
        stop = min(stop, int(self.episode_ends[-1]))
        file = self.decoded(key)
        if file is not None:
            return file.read(start, stop)
        if key not in self._numbers:
            with reading(f"key '{key}' of {self.path}"):
                self._numbers[key] = read_numbers(self._meta, self._steps, key)
            self._check_unchanged(key)
        return self._numbers[key][start:stop].copy()

    def decoded(self, key: str) -> FrameFile | None:
        """The file that holds the images of a key, made if it is not there; None of numbers.

        Raises:
            InputError: See `read`.
        """
        self._check(key)
        feature = self._meta.features[key]
        if feature.kind == "numbers":
            return None
        if key not in self._decoded:
            self._check_unchanged(key)
            what = STORED[feature.kind]
            name = f"images of key '{key}' of {self.path}"
            rows = Rows(name, int(self.episode_ends[-1]), feature.shape, self.dtypes[key], what, INSTEAD)
            made_of = [key, self._how(feature)]
            self._decoded[key] = frame_file(
                rows, self, made_of, lambda n: self._blocks(key, n), self._folder()
            )
        return self._decoded[key]

    def stamp(self, key: str) -> list[Any]:
        """The files that decide the rows of a key, see `SourceOfFiles`."""
        return stamps_of(self._files(key), self._meta.root)

    def tasks_of(self, episode: int) -> tuple[str, ...]:
        """What was to be done in an episode, in the order in which it came up."""
        rows = slice(*episode_rows(self, episode))
        indices = dict.fromkeys(self._steps.task_index[rows].tolist())
        return tuple(self.tasks[index] for index in indices if index in self.tasks)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_numbers": {}}

    def _find(self, key: str, feature: Feature) -> None:
        """Note the type of a key, or why it cannot be read."""
        try:
            if feature.kind == "video":
                self._check_camera(key, feature)
                self.dtypes[key] = np.dtype(np.uint8)
            else:
                self.dtypes[key] = stored_dtype(self._meta, self._steps, key)
        except InputError as error:
            self.lacking[key] = str(error)

    def _check_camera(self, key: str, feature: Feature) -> None:
        where = f"key '{key}' of {self.path}"
        if feature.shape[-1] not in FORMATS:
            raise InputError(f"{where} is a video with {feature.shape[-1]} channels; 1 and 3 can be read")
        for file in self._videos(key):
            if not file.is_file():
                raise InputError(f"{where}: {file} does not exist; copy or fetch the whole dataset again")

    def _files(self, key: str) -> list[Path]:
        """All files that decide the rows of a key."""
        return [*self._meta.files, *self._steps.tables, *self._videos(key)]

    def _videos(self, key: str) -> list[Path]:
        """The files of a camera, each once; none of another key."""
        episodes = self._steps.episodes
        return list(dict.fromkeys(episode.clips[key][0] for episode in episodes if key in episode.clips))

    def _check(self, key: str) -> None:
        check_key(self, key, self.lacking)

    def _check_unchanged(self, key: str) -> None:
        for file in self._files(key):
            if _status(file) != self._opened[file]:
                raise InputError(
                    f"{file} has changed while {self.path} was read: is it still being recorded? Wait until "
                    f"that has ended ({FINALIZE}), and start again"
                )

    def _folder(self) -> Path:
        """Where decoded images go."""
        if os.environ.get("SHORTCUT_POLICY_CACHE") or self._remote:
            return cache_folder() / FRAMES
        root = self._meta.root.resolve()
        beside = root.with_name(root.name + BESIDE)
        writable = os.access(beside if beside.exists() else root.parent, os.W_OK | os.X_OK)
        return beside if writable else cache_folder() / FRAMES

    @staticmethod
    def _how(feature: Feature) -> str:
        """What decides the pixels apart from the files."""
        if feature.kind == "image":
            return "Pillow"
        return f"PyAV {import_av().__version__.split('.')[0]}"

    def _blocks(self, key: str, done: int) -> Iterator[np.ndarray]:
        with reading(f"images of key '{key}' of {self.path}"):
            feature = self._meta.features[key]
            if feature.kind == "image":
                yield from read_pictures(self._meta, self._steps, key, done)
            else:
                parts = [part for clip in self._clips(key) for part in _parts(clip, done, feature.shape)]
                yield from in_order(
                    lambda part: read_frames(part.video, part.start, part.stop, feature.shape[2]), parts
                )
            self._check_unchanged(key)

    def _clips(self, key: str) -> "list[_Clip]":
        """Where the frames of all episodes are, after a look at all videos of a camera."""
        files = self._videos(key)
        videos = dict(zip(files, in_order(find_frames, files), strict=True))
        for video in videos.values():
            self._check_video(key, video)
        clips, row = [], 0
        used = dict.fromkeys(files, 0)
        counted = {number: at for file in files for number, at in self._counted(key, videos[file]).items()}
        for episode in self._steps.episodes:
            file, second = episode.clips[key]
            second = counted.get(episode.number, second)
            start = self._first_frame(videos[file], episode.number, episode.length, row, second)
            clips.append(_Clip(videos[file], start, start + episode.length, row))
            row += episode.length
            used[file] += episode.length
        for file, count in used.items():
            if count < len(videos[file].ticks):
                more = len(videos[file].ticks) - count
                print(
                    f"{file}: {more} frames more than its episodes have steps; they are left out",
                    file=sys.stderr,
                )
        return clips

    def _check_video(self, key: str, video: Video) -> None:
        shape = self._meta.features[key].shape
        if video.size != shape[:2]:
            raise InputError(
                f"{video.path} is {video.size[0]} x {video.size[1]}, and {INFO} says {shape[0]} x {shape[1]} "
                f"for '{key}': all episodes need one size; convert the dataset again"
            )
        if video.fps is not None and abs(video.fps / self.fps - 1) > SAME_RATE:
            raise InputError(
                f"{video.path} has {video.fps:.4g} frames a second, and {INFO} says fps={self.fps:g}; "
                "correct that file or convert the dataset again"
            )

    def _counted(self, key: str, video: Video) -> dict[int, float]:
        """Episode -> second of its first frame, where their frames fill a video one after the other.

        LeRobot adds up lengths that are rounded to milliseconds, so that the seconds in ``meta/`` are further
        and further off. Empty if these agree, or if a frame may be missing: then they jump.
        """
        here = [episode for episode in self._steps.episodes if episode.clips[key][0] == video.path]
        here.sort(key=lambda episode: episode.clips[key][1])
        ends = np.cumsum([episode.length for episode in here])
        if ends[-1] != len(video.ticks):
            return {}
        firsts = video.times[np.append(0, ends[:-1])]
        off = (firsts - [episode.clips[key][1] for episode in here]) * self.fps
        if abs(off).max() <= TOLERANCE or abs(np.diff(off, prepend=0)).max() >= MOST_DRIFT:
            return {}
        print(
            f"{video.path}: its episodes begin up to {abs(off).max():.2g} steps away from where meta/ says; "
            "frames are counted instead, as there is one for each step",
            file=sys.stderr,
        )
        return {episode.number: float(first) for episode, first in zip(here, firsts, strict=True)}

    def _first_frame(self, video: Video, number: int, length: int, row: int, second: float) -> int:
        """Number of the frame at which an episode begins, if all of its frames are there."""
        times = video.times
        wanted = second + np.arange(length) / self.fps
        start = int(np.argmin(abs(times - second)))
        found = times[start : start + length]
        if len(found) < length:
            raise InputError(
                f"{video.path} ends {length - len(found)} frames before episode {number} does, which has "
                f"{length} steps from {second:.3f} s on; drop that episode, or record or convert it again"
            )
        off = abs(found - wanted) * self.fps > TOLERANCE
        if off.any():
            step = int(np.argmax(off))
            raise InputError(
                f"{video.path} has no frame at {wanted[step]:.4f} s (within {TOLERANCE:g} of a step) for "
                f"{self._steps.where(row + step)}; the nearest is at {found[step]:.4f} s: drop that episode, "
                "or record or convert it again"
            )
        return start


def _status(file: Path) -> tuple[int, int] | None:
    """Size and time of change; None if it is not there."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class _Clip:
    """Frames ``start`` to ``stop`` of a video, which are the rows from ``row`` on."""

    video: Video
    start: int
    stop: int
    row: int


def _parts(clip: _Clip, done: int, shape: tuple[int, ...]) -> Iterator[_Clip]:
    """A clip from row ``done`` on, in parts that can be decoded apart at little cost."""
    least, most = (max(1, size // int(np.prod(shape))) for size in (PART_BYTES, MOST_BYTES))
    start = clip.start + max(done - clip.row, 0)
    while start < clip.stop:
        after = clip.video.keys[np.searchsorted(clip.video.keys, start + least) :]
        stop = min([*after[:1].tolist(), start + most, clip.stop])
        yield _Clip(clip.video, start, stop, clip.row + start - clip.start)
        start = stop
