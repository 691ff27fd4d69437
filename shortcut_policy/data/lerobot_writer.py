"""Writes demonstrations as a LeRobot dataset of the format 3.0, without LeRobot.

Numbers are columns of Parquet, images PNG in the same tables or videos of H.264, one file for each episode
and camera. Statistics are those of all frames, in float64.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.agreement import SAME_RATE, rate_of, recorded_rate
from shortcut_policy.data.env_args import ENV_ARGS, EnvArgs
from shortcut_policy.data.lerobot_columns import CHUNK, DATA_PATH, FILE_BYTES, StepTables, file_numbers
from shortcut_policy.data.lerobot_meta import import_parquet
from shortcut_policy.data.lerobot_recording import (
    FORMAT,
    NOTE,
    OBSERVATION,
    PATHS,
    TASK,
    TIMESTAMP,
    path_of,
    times,
)
from shortcut_policy.data.lerobot_statistics import image_statistics, levels, statistics
from shortcut_policy.data.recording import OBS, STORE, Recording, foreign, is_root
from shortcut_policy.data.video_writer import VideoErrors, check_size, write_video
from shortcut_policy.errors import InputError
from shortcut_policy.paths import write_atomic

VERSION = "v3.0"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
#: Names that LeRobot gives to what other formats call otherwise.
NAMES = {path: feature for feature, path in PATHS.items()}
IMAGES = "images."
#: Before the names of arrays of other formats that LeRobot gives to columns of its own.
RECORDED = "recorded."
RGB = 3
#: LeRobot's tables have no more axes.
MOST_AXES = 4
DEFAULTS = {
    TIMESTAMP: "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    TASK: "int64",
}


@dataclass(frozen=True)
class LeRobotSettings:
    """What a LeRobot dataset says that other formats do not.

    Attributes:
        fps: Steps a second; as the input says if None.
        task: What was to be done, in words; as the input says if None, or else the name of its file.
        videos: Whether images become videos, which changes them a little, or stay as they are in the tables.
        crf: How much the videos are compressed, 0 to 51; H.264's constant rate factor.
    """

    fps: float | None = None
    task: str | None = None
    videos: bool = False
    crf: int = 18

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < 1e4:
            raise InputError(f"fps={self.fps} must be a number above 0 and below 10000, of steps a second")
        if not 0 <= self.crf <= 51:
            raise InputError(f"crf={self.crf} must be between 0 (best) and 51 (smallest)")


@dataclass(frozen=True)
class _Feature:
    """A column or a video.

    Attributes:
        shape: As LeRobot has it: (1,) of a number, images with their channels last.
    """

    name: str
    path: str
    kind: Literal["video", "image", "numbers"]
    shape: tuple[int, ...]
    dtype: np.dtype
    channels_first: bool = False

    def rows(self, values: np.ndarray) -> np.ndarray:
        """(T, *stored shape) -> (T, *shape)."""
        values = np.moveaxis(values, 1, -1) if self.channels_first else values
        return np.ascontiguousarray(values.reshape(len(values), *self.shape))

    def described(self, fps: float) -> dict[str, Any]:
        """The feature in ``meta/info.json``."""
        if self.kind == "numbers":
            return {"dtype": self.dtype.name, "shape": list(self.shape), "names": None}
        about: dict[str, Any] = {
            "dtype": self.kind,
            "shape": list(self.shape),
            "names": ["height", "width", "channels"],
        }
        if self.kind == "video":
            height, width, channels = self.shape
            about["info"] = {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.fps": fps,
                "video.channels": channels,
                "is_depth_map": False,
                "has_audio": False,
            }
        return about


@dataclass
class _Told:
    """What the writer has to know besides the rows."""

    fps: float
    robot: str | None
    tasks: dict[int, str]
    made: list[str] = field(default_factory=list)


def lost_in_lerobot(recording: Recording, settings: LeRobotSettings) -> list[str]:
    """What a dataset cannot hold, in words."""
    features = _features(recording, settings)
    names = [feature.name for feature in features]
    twice = sorted({name for name in names if names.count(name) > 1})
    deep = [f.path for f in features if f.kind == "numbers" and len(f.shape) > MOST_AXES]
    empty = [f.path for f in features if 0 in f.shape]
    return [
        *foreign(recording, FORMAT),
        *(f"two arrays with the name {name}" for name in twice),
        *(f"array {path}, which has more than {MOST_AXES} axes a step" for path in deep),
        *(f"array {path}, which has no numbers" for path in empty),
    ]


def write_lerobot(recording: Recording, output: Path, settings: LeRobotSettings) -> None:
    """Write a dataset that LeRobot loads.

    Raises:
        InputError: The rate is not known, or images do not fit a video.
    """
    features = [f for f in _features(recording, settings) if 0 not in f.shape]
    features = [f for f in features if len(f.shape) <= MOST_AXES or f.kind != "numbers"]
    features = list({f.name: f for f in reversed(features)}.values())[::-1]
    told = _told(recording, settings)
    for feature in features:
        if feature.kind == "video":
            check_size(feature.name, feature.shape)
    errors = {f.name: VideoErrors() for f in features if f.kind == "video"}
    pictures = {f.name for f in features if f.kind == "image"}
    counts: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    with StepTables(output) as tables:
        for number, (_, arrays) in enumerate(recording.episodes()):
            values = {f.name: f.rows(arrays[f.path]) for f in features}
            steps = _counters(arrays, number, tables.rows, told)
            row = tables.add({n: v for n, v in values.items() if n not in errors} | steps, pictures)
            found = {name: statistics(column) for name, column in steps.items()}
            for feature in features:
                of_images = feature.kind != "numbers"
                if of_images:
                    seen = levels(values[feature.name])
                    counts[feature.name] = counts.get(feature.name, 0) + seen
                    found[feature.name] = image_statistics(seen, len(values[feature.name]))
                else:
                    found[feature.name] = statistics(values[feature.name])
                if feature.kind == "video":
                    row |= _video(
                        output, feature, values[feature.name], number, told.fps, settings.crf, errors
                    )
            names = [told.tasks[index] for index in dict.fromkeys(steps[TASK].reshape(-1).tolist())]
            rows.append({"episode_index": number, "tasks": names, **row, **_flat(found)})
    for name, error in errors.items():
        print(f"{name}: {error.sentence()}")
    _write_meta(recording, output, features, told, rows, counts)


def _features(recording: Recording, settings: LeRobotSettings) -> list[_Feature]:
    features = []
    for path in recording.columns:
        shape, dtype = recording.shape(path), recording.dtype(path)
        last = len(shape) == 3 and shape[2] == RGB
        is_image = (
            dtype == np.uint8 and len(shape) == 3 and path.startswith(OBS) and (last or shape[0] == RGB)
        )
        if path in _own_columns(recording):
            continue  # columns that every dataset has
        if is_image:
            size = shape if last else (*shape[1:], RGB)
            kind: Literal["video", "image"] = "video" if settings.videos else "image"
            features.append(_Feature(_name(path, True), path, kind, size, dtype, not last))
        else:
            features.append(_Feature(_name(path, False), path, "numbers", shape or (1,), dtype))
    return features


def _own_columns(recording: Recording) -> set[str]:
    """Arrays that are columns of every dataset, and mean there what they meant before: of another dataset."""
    return {TASK, TIMESTAMP} & recording.columns.keys() if recording.rest.get(FORMAT) else set()


def _name(path: str, is_image: bool) -> str:
    """LeRobot's name of an array; slashes are not allowed in it."""
    if not path.startswith(OBS):
        name = NAMES.get(path, path.replace("/", "."))
        # A dataset has columns of these names itself, with times and tasks of its own.
        return f"{RECORDED}{name}" if name in DEFAULTS else name
    bare = path.removeprefix(OBS).replace("/", ".")
    return OBSERVATION + (IMAGES if is_image and not bare.startswith(IMAGES) else "") + bare


def _told(recording: Recording, settings: LeRobotSettings) -> _Told:
    own, robomimic = (recording.rest.get(name, {}) for name in (FORMAT, "robomimic"))
    rate = own.get("/@fps") or _stored_rate(recording)
    name = Path(getattr(recording.source, "paths", [recording.source.path])[0]).stem
    if f"data/@{ENV_ARGS}" in robomimic:
        args = EnvArgs.parse(robomimic[f"data/@{ENV_ARGS}"], recording.source.path)
        name, rate = args.name, rate or args.kwargs.get("control_freq")
    fps = settings.fps or rate
    if not fps:
        about = recorded_rate(recording.source)
        by_times = "" if about is None else f" (by the times of its steps about {about:g})"
        raise InputError(
            f"{recording.source.path} does not say how many steps a second it has, which a LeRobot dataset "
            f"needs: give fps=<number>{by_times}"
        )
    if rate and abs(fps / rate - 1) > SAME_RATE:
        print(
            f"fps={fps:g} is given, and {recording.source.path} says {rate:g} steps a second: the dataset "
            f"says {fps:g}, at which what was recorded is {fps / rate:.3g} times as fast; leave fps out if "
            f"{rate:g} is right",
            file=sys.stderr,
        )
    made = [one for one in (TASK, TIMESTAMP) if one not in _own_columns(recording)]
    tasks = {int(number): task for number, task in own.get("/@tasks", {}).items()}
    if TASK in made or not tasks:
        tasks = {0: settings.task or name}
    return _Told(fps, own.get("/@robot_type"), tasks, made)


def _stored_rate(recording: Recording) -> float | None:
    """Steps a second by the attributes of the store that the rows are of, or once were."""
    places = recording.rest.get(STORE, {})
    return rate_of({place[2:]: value for place, value in places.items() if is_root(place)})


def _counters(
    arrays: Mapping[str, np.ndarray], episode: int, first: int, told: _Told
) -> dict[str, np.ndarray]:
    """The columns that every dataset has, (T, 1)."""
    length = len(arrays[ACTIONS])
    steps = np.arange(length)
    columns = {
        TIMESTAMP: times(length, told.fps) if TIMESTAMP in told.made else arrays[TIMESTAMP],
        "frame_index": steps,
        "episode_index": np.full(length, episode),
        "index": first + steps,
        TASK: np.zeros(length) if TASK in told.made else arrays[TASK],
    }
    return {name: values.astype(DEFAULTS[name]).reshape(length, 1) for name, values in columns.items()}


def _video(
    output: Path,
    feature: _Feature,
    frames: np.ndarray,
    number: int,
    fps: float,
    crf: int,
    errors: Mapping[str, VideoErrors],
) -> dict[str, Any]:
    """Write a video; returns where the episode is in it."""
    place = file_numbers(number)
    path = output / VIDEO_PATH.format(video_key=feature.name, **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    errors[feature.name].add(write_video(path, frames, fps, crf))
    spans = {**place, "from_timestamp": 0.0, "to_timestamp": len(frames) / fps}
    return {f"videos/{feature.name}/{name}": value for name, value in spans.items()}


def _flat(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    return {
        f"stats/{key}/{name}": value.tolist()
        for key, all_of in found.items()
        for name, value in all_of.items()
    }


def _write_meta(
    recording: Recording,
    output: Path,
    features: list[_Feature],
    told: _Told,
    rows: list[dict[str, Any]],
    counts: Mapping[str, np.ndarray],
) -> None:
    import pyarrow as pa

    steps = int(recording.source.episode_ends[-1])
    described = {feature.name: feature.described(told.fps) for feature in features}
    described |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in DEFAULTS.items()}
    whole = float(told.fps).is_integer()
    info = {
        "codebase_version": VERSION,
        "robot_type": told.robot,
        "total_episodes": len(rows),
        "total_frames": steps,
        "total_tasks": len(told.tasks),
        "chunks_size": CHUNK,
        "data_files_size_in_mb": FILE_BYTES // 2**20,
        "video_files_size_in_mb": 200,
        "fps": int(told.fps) if whole else told.fps,
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(f.kind == "video" for f in features) else None,
        "features": described,
    }
    write_atomic(output / "meta/info.json", json.dumps(info, indent=4))
    tasks = pd.DataFrame({TASK: list(told.tasks)}, index=pd.Index(list(told.tasks.values()), name="task"))
    tasks.to_parquet(output / "meta/tasks.parquet")
    path = output / EPISODES_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    import_parquet().write_table(pa.Table.from_pylist([row | place for row in rows]), path)
    write_atomic(
        output / "meta/stats.json", json.dumps(_all_statistics(recording, features, counts), indent=4)
    )
    note = {
        **recording.note(),
        "paths": {f.name: f.path for f in features if path_of(f.name) != f.path},
        "shapes": {
            f.path: list(recording.shape(f.path)) for f in features if f.shape != recording.shape(f.path)
        },
        "channels_first": [f.path for f in features if f.channels_first],
        "made": told.made,
    }
    write_atomic(output / NOTE, json.dumps(note))


def _all_statistics(
    recording: Recording, features: list[_Feature], counts: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Of all frames, one key at a time."""
    steps = int(recording.source.episode_ends[-1])
    found = {}
    for feature in features:
        if feature.name in counts:
            found[feature.name] = image_statistics(counts[feature.name], steps)
        else:
            rows = recording.source.read(recording.columns[feature.path], 0, steps)
            found[feature.name] = statistics(feature.rows(rows))
    return {key: {name: value.tolist() for name, value in one.items()} for key, one in found.items()}
