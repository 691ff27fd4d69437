"""What LeRobot's folders say of themselves in ``meta/``: features, tasks, and where each episode is."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.errors import InputError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

INFO = "meta/info.json"
LAYOUT = "a LeRobot dataset is a folder with meta/info.json, data/ and, if it has any, videos/"
#: In the format 2 every episode is a file; 2.0 differs from 2.1 in statistics alone, which are not read.
OF_EPISODES, SHARED = ("v2.0", "v2.1"), ("v3.0",)
#: The advice for what a run that was not ended in order leaves behind.
FINALIZE = "the recording has to end with finalize() of its LeRobotDataset"
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Feature:
    """What one step of a key is.

    Attributes:
        kind: Where it is: in a video, a picture or numbers in the tables.
        shape: Of a step; of images (height, width, channels), whatever ``info.json`` says.
    """

    kind: Literal["video", "image", "numbers"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Episode:
    """Where an episode is.

    Attributes:
        number: Its ``episode_index``.
        length: Number of its steps.
        table: The Parquet file that holds them.
        clips: Key of a camera -> the video, and the second of it at which the episode begins.
    """

    number: int
    length: int
    table: Path
    clips: Mapping[str, tuple[Path, float]]


@dataclass(frozen=True)
class Meta:
    """A folder as it describes itself.

    Attributes:
        root: The folder.
        info: ``meta/info.json``.
        fps: Steps a second.
        features: What can be read.
        lacking: Key -> why it cannot be read.
        tasks: ``task_index`` -> what was to be done.
        episodes: In their order; None if the folder does not list them.
        files: Those of ``meta/`` that were read.
    """

    root: Path
    info: dict[str, Any]
    fps: float
    features: dict[str, Feature]
    lacking: dict[str, str]
    tasks: dict[int, str]
    episodes: tuple[Episode, ...] | None
    files: tuple[Path, ...]

    @property
    def one_file_each(self) -> bool:
        """Whether every episode has files of its own."""
        return self.info["codebase_version"] in OF_EPISODES

    @property
    def cameras(self) -> list[str]:
        """Keys of the videos."""
        return [key for key, feature in self.features.items() if feature.kind == "video"]

    def place(self, kind: Literal["data", "video"], **numbers: Any) -> Path:
        """A file, by the pattern of ``info.json``.

        Raises:
            InputError: The pattern is no such, or leads out of the folder.
        """
        pattern = self.info.get(f"{kind}_path")
        try:
            name = PurePosixPath(str(pattern).format(**numbers))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"{self.root / INFO}: {kind}_path={pattern} is no pattern for the names of files ({error}); "
                "take it from another dataset of the same format"
            ) from error
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{self.root / INFO}: {kind}_path={pattern} leads out of the folder; correct it")
        return self.root / name

    def place_of_episode(self, kind: Literal["data", "video"], number: int, key: str = "") -> Path:
        """A file of the format 2."""
        chunk = number // self.info.get("chunks_size", 1000)
        return self.place(kind, episode_chunk=chunk, episode_index=number, video_key=key)


def import_parquet() -> Any:
    """The module ``pyarrow.parquet``; `InputError` where the extra is not installed."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(
            "LeRobot datasets need pyarrow, which is not installed: pip install 'shortcut-policy[lerobot]'"
        ) from error
    return parquet


def open_table(path: Path) -> Any:
    """A Parquet file, ``pyarrow.parquet.ParquetFile``.

    Raises:
        InputError: It is not there, or cut short.
    """
    parquet = import_parquet()
    if not path.is_file():
        raise InputError(f"{path} does not exist; copy or fetch the whole dataset again")
    refuse_pointer(path)
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no whole Parquet file, it lacks its footer: {FINALIZE}; wait for it, or record again"
        ) from error


def read_table(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """A Parquet file, or some of its columns.

    Raises:
        InputError: It is not there, cut short or damaged.
    """
    with open_table(path) as file, explained(path):
        # Without the threads of pyarrow, which a forked worker would not have.
        return file.read(columns=columns, use_threads=False)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into an `InputError`."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); restore it from a copy") from error


def read_meta(root: Path) -> Meta:
    """Read what a folder says of itself.

    Raises:
        InputError: There is no such folder, it is of another format, or one of its files is damaged.
    """
    info = _read_info(root)
    features, lacking = {}, {}
    for key, described in info["features"].items():
        reason = _objection(described)
        if reason:
            lacking[key] = f"key '{key}' of {root} {reason}"
        else:
            features[key] = _feature(described)
    meta = Meta(root, info, float(info["fps"]), features, lacking, {}, None, (root / INFO,))
    one_each = meta.one_file_each
    tasks = _tasks_of_lines(root) if one_each else _tasks_of_table(root)
    listed = [root / "meta/episodes.jsonl"] if one_each else sorted(root.glob("meta/episodes/*/*.parquet"))
    listed = [path for path in listed if path.is_file()]
    episodes = _episodes_of_lines(meta, listed) if one_each else _episodes_of_tables(meta, listed)
    found = tuple(episodes) if listed else None
    return Meta(root, info, meta.fps, features, lacking, tasks, found, (root / INFO, *listed))


def _read_info(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise InputError(f"{root} does not exist; give the folder of a LeRobot dataset, or hf://user/name")
    if not (root / INFO).is_file():
        inside = sorted(path.parents[1] for path in root.glob(f"*/{INFO}"))
        hint = f"did you mean {inside[0]}?" if inside else LAYOUT
        raise InputError(f"{root} has no {INFO}; {hint}")
    info = _parsed(root / INFO, (root / INFO).read_text("utf-8"))
    for key in ("codebase_version", "fps", "features"):
        if key not in info:
            raise InputError(f"{root / INFO} has no '{key}'; {LAYOUT}")
    version, known = info["codebase_version"], (*OF_EPISODES, *SHARED)
    if version not in known:
        raise InputError(
            f"{root} is of the format {version}, and {', '.join(known)} are read; convert it with LeRobot's "
            "own scripts"
        )
    size = info.get("chunks_size", 1)
    if not isinstance(size, int) or size < 1:
        raise InputError(f"{root / INFO}: chunks_size={size} must be the number of episodes in a folder")
    fps = info["fps"]
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        raise InputError(
            f"{root / INFO}: fps={fps} must be a number above 0 and below 1000000, of steps a second"
        )
    if not isinstance(info["features"], dict) or not info["features"]:
        raise InputError(f"{root / INFO}: features must say what the columns are; {LAYOUT}")
    return info


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); restore it from a copy") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold JSON objects, not {str(value)[:40]}; restore it from a copy")
    return value


def _objection(described: Any) -> str | None:
    """Why a feature cannot be read, for after its name; None if it can be."""
    if not isinstance(described, Mapping) or "dtype" not in described or "shape" not in described:
        return "has no dtype and shape in meta/info.json; restore that file from a copy"
    shape, kind = described["shape"], str(described["dtype"])
    if not isinstance(shape, list) or not all(isinstance(size, int) and size > 0 for size in shape):
        return f"has the shape {shape} in meta/info.json, which must be a list of whole numbers"
    if kind in ("video", "image"):
        about = {**(described.get("video_info") or {}), **(described.get("info") or {})}
        if about.get("is_depth_map") or about.get("video.is_depth_map"):
            return "holds depth, which is not read: leave it out of the task"
        if _image_shape(shape) is None:
            return f"has the shape {shape}, which must be height, width and 1, 3 or 4 channels"
        return None
    if not re.fullmatch(r"u?int(8|16|32|64)|float(16|32|64)|bool", kind):
        return (
            f"holds {kind}, which is no number that a policy can learn from; tasks are in the source's "
            "`tasks`"
        )
    return None


def _feature(described: Mapping[str, Any]) -> Feature:
    kind, shape = described["dtype"], described["shape"]
    if kind in ("video", "image"):
        return Feature(kind, _image_shape(shape) or ())
    return Feature("numbers", tuple(shape))


def _image_shape(shape: list[int]) -> tuple[int, ...] | None:
    """Height, width and channels; folders have the channels first or last."""
    if len(shape) != 3:
        return None
    if shape[2] in CHANNELS:
        return tuple(shape)
    return (shape[1], shape[2], shape[0]) if shape[0] in CHANNELS else None


def _tasks_of_lines(root: Path) -> dict[int, str]:
    path = root / "meta/tasks.jsonl"
    lines = _lines(path) if path.is_file() else []
    return {
        int(line["task_index"]): str(line["task"]) for line in lines if {"task_index", "task"} <= set(line)
    }


def _tasks_of_table(root: Path) -> dict[int, str]:
    path = root / "meta/tasks.parquet"
    if not path.is_file():
        return {}
    table = read_table(path)
    # The strings are the index of a data frame, which has a name in some versions.
    (name,) = [name for name in table.column_names if name != "task_index"][-1:] or ["task_index"]
    return dict(zip(table["task_index"].to_pylist(), map(str, table[name].to_pylist()), strict=True))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [_parsed(path, line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def _episodes_of_lines(meta: Meta, listed: list[Path]) -> list[Episode]:
    episodes = []
    for line in (line for path in listed for line in _lines(path)):
        if not all(isinstance(line.get(name), int) for name in ("episode_index", "length")):
            raise InputError(f"{listed[0]}: a line has no episode_index and length; restore it from a copy")
        episodes.append(of_one_file(meta, line["episode_index"], line["length"]))
    return sorted(episodes, key=lambda episode: episode.number)


def of_one_file(meta: Meta, number: int, length: int) -> Episode:
    """An episode of the format 2."""
    clips = {key: (meta.place_of_episode("video", number, key), 0.0) for key in meta.cameras}
    return Episode(number, length, meta.place_of_episode("data", number), clips)


def _episodes_of_tables(meta: Meta, listed: list[Path]) -> list[Episode]:
    episodes = []
    for path in listed:
        names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for key in meta.cameras:
            names += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        table = read_table(path, names)
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise InputError(f"{path} has no column '{missing[0]}'; restore it from a copy")
        for row in table.to_pylist():
            if any(value is None or not np.isfinite(value) for value in row.values()):
                raise InputError(
                    f"{path}: a row of episode {row['episode_index']} lacks a number; {FINALIZE}"
                )
            episodes.append(_of_row(meta, row))
    return sorted(episodes, key=lambda episode: episode.number)


def _of_row(meta: Meta, row: Mapping[str, Any]) -> Episode:
    def place(kind: Literal["data", "video"], group: str, key: str = "") -> Path:
        chunk, file = row[f"{group}/chunk_index"], row[f"{group}/file_index"]
        return meta.place(kind, chunk_index=chunk, file_index=file, video_key=key)

    clips = {
        key: (place("video", f"videos/{key}", key), float(row[f"videos/{key}/from_timestamp"]))
        for key in meta.cameras
    }
    return Episode(row["episode_index"], row["length"], place("data", "data"), clips)
