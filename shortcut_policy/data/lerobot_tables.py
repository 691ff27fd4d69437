"""The Parquet files of LeRobot's folders: which rows are which episode, numbers, and pictures."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from shortcut_policy.data.frame_file import PATIENCE
from shortcut_policy.data.in_order import in_order
from shortcut_policy.data.lerobot_meta import (
    FINALIZE,
    INFO,
    Episode,
    Meta,
    explained,
    of_one_file,
    open_table,
    read_table,
)
from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.data.video import find_frames
from shortcut_policy.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

#: A step may be off the grid of ``fps`` by this part of the time between two steps, in tables and in videos.
TOLERANCE = 0.1
NUMBERS = ("episode_index", "frame_index", "timestamp")
TASK = "task_index"
#: Pictures that are decoded at a time, and how Pillow calls them by their number of channels.
PICTURES, MODES = 64, {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Steps:
    """The rows of all tables, end to end.

    Attributes:
        tables: The files in the order of their rows.
        table_ends: (T,) int64, the row after the last one of each file.
        episodes: In the order of their rows.
        ends: (E,) int64, the row after the last one of each episode.
        task_index: (N,) int64, empty if the tables have none.
    """

    tables: tuple[Path, ...]
    table_ends: np.ndarray
    episodes: tuple[Episode, ...]
    ends: np.ndarray
    task_index: np.ndarray

    def where(self, row: int) -> str:
        """Which step a row is, for messages."""
        e = int(np.searchsorted(self.ends, row, side="right"))
        return f"step {row - (int(self.ends[e - 1]) if e else 0)} of episode {self.episodes[e].number}"


def read_steps(meta: Meta) -> Steps:
    """Find the episodes in the tables, and check them against ``meta/`` and the time.

    Raises:
        InputError: A table is missing or damaged, or the episodes are not those that ``meta/`` lists, have
            another length, other numbers of frames, or steps at other times than ``fps`` says.
    """
    tables = _tables(meta)
    parts, tasks = [], []
    for path in tqdm(tables, desc="reading", unit=" tables", delay=PATIENCE, mininterval=1):
        table = read_table(path, [*NUMBERS, TASK])
        missing = [name for name in NUMBERS if name not in table.column_names]
        if missing:
            raise InputError(f"{path} has no column '{missing[0]}'; restore it from a copy")
        parts.append(np.stack([_numbers(table[name], (), path, name) for name in NUMBERS]).astype(np.float64))
        tasks.append(_numbers(table[TASK], (), path, TASK) if TASK in table.column_names else np.empty(0))
    numbers, frames, times = np.concatenate(parts, axis=1)
    if len(numbers) == 0:
        raise InputError(f"{meta.root} holds no step; record at least one episode")
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 1))
    ends = np.append(starts[1:], len(numbers)).astype(np.int64)
    table_ends = np.cumsum([part.shape[1] for part in parts], dtype=np.int64)
    found = {int(number): int(length) for number, length in zip(numbers[starts], ends - starts, strict=True)}
    if len(found) < len(starts):
        raise InputError(f"{meta.root}: the rows of an episode are not together; convert the dataset again")
    empty = [one.number for one in meta.episodes or () if one.length == 0 and one.number not in found]
    _check_totals(meta, len(found), len(empty), len(numbers))
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        print(f"{meta.root}: episode {empty[0]}{more} has no steps, and is left out", file=sys.stderr)
    places = [tables[int(np.searchsorted(table_ends, start, side="right"))] for start in starts]
    if meta.episodes is None:
        episodes = _rebuilt(meta, found, places)
    else:
        episodes = _checked(meta, meta.episodes, found)
    steps = Steps(tuple(tables), table_ends, tuple(episodes), ends, np.concatenate(tasks).astype(np.int64))
    _check_times(meta, steps, frames, times)
    return steps


def read_numbers(meta: Meta, steps: Steps, key: str) -> np.ndarray:
    """All rows of a key that holds numbers, (N, *shape).

    Raises:
        InputError: A table lacks the column, or a row of it is empty or has another shape or type.
    """
    parts: list[np.ndarray] = []
    for path in steps.tables:
        table = read_table(path, [key])
        _check_column(key, table.column_names, path)
        parts.append(_numbers(table[key], meta.features[key].shape, path, key))
        if parts[-1].dtype != parts[0].dtype:
            raise InputError(
                f"{path} holds '{key}' as {parts[-1].dtype} and {steps.tables[0]} as {parts[0].dtype}; "
                "convert the dataset again"
            )
    return np.concatenate(parts)


def stored_dtype(meta: Meta, steps: Steps, key: str) -> np.dtype:
    """Type of the values of a column, by the first table; uint8 of pictures.

    Raises:
        InputError: There is no such column, or it holds no numbers.
    """
    where = f"key '{key}' of {meta.root}"
    with open_table(steps.tables[0]) as file:
        schema = file.schema_arrow
    if key not in schema.names:
        raise InputError(
            f"{where} is in {INFO}, but the tables have no such column; convert the dataset again"
        )
    if meta.features[key].kind == "image":
        return np.dtype(np.uint8)
    kind = schema.field(key).type
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    try:
        return np.dtype(kind.to_pandas_dtype())
    except NotImplementedError as error:
        raise InputError(f"{where} is {kind} in the tables, and numbers by {INFO}; leave it out") from error


def read_pictures(meta: Meta, steps: Steps, key: str, done: int) -> Iterator[np.ndarray]:
    """The rows of a key that holds pictures from row ``done`` on, decoded on all cores.

    Yields:
        (n, H, W, C) uint8.

    Raises:
        InputError: A picture is missing, damaged or of another size.
    """
    shape = meta.features[key].shape

    def decode(part: tuple[int, list[Any]]) -> np.ndarray:
        first, stored = part
        return np.stack([_picture(meta, steps, key, shape, first + i, one) for i, one in enumerate(stored)])

    return in_order(decode, _stored_pictures(steps, key, done))


def _tables(meta: Meta) -> list[Path]:
    if meta.episodes is not None:
        # One without steps needs no table; if it has one, its rows are to be found.
        listed = (one.table for one in meta.episodes if one.length or one.table.is_file())
        tables = list(dict.fromkeys(listed))
    else:
        tables = sorted(meta.root.glob("data/*/*.parquet"))
        print(
            f"{meta.root} does not list its episodes in meta/: they are told apart by the column "
            f"episode_index ({FINALIZE} to list them)",
            file=sys.stderr,
        )
    if not tables:
        raise InputError(
            f"{meta.root} holds no tables in data/; {FINALIZE}, or fetch the whole dataset again"
        )
    return tables


def _numbers(column: "pa.ChunkedArray", shape: tuple[int, ...], path: Path, key: str) -> np.ndarray:
    """Values of a column, (N, *shape): plain numbers, or lists of them, in each other as often as needed."""
    import pyarrow as pa
    import pyarrow.compute as compute

    rows, array = len(column), column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    sizes: list[int] = []
    while hasattr(array.type, "value_type"):
        lengths = compute.unique(compute.list_value_length(array)).to_pylist()
        if array.null_count or len(lengths) > 1:
            found = ", ".join("nothing" if length is None else str(length) for length in lengths)
            raise InputError(
                f"{path}: the rows of '{key}' hold different numbers of values ({found}), and meta/info.json "
                f"says {list(shape)}; drop those episodes or convert the dataset again"
            )
        sizes += lengths
        array = array.flatten()
    if array.null_count:
        raise InputError(f"{path}: a row of '{key}' is empty; drop that episode or convert the dataset again")
    if rows and np.prod(sizes or [1]) != np.prod(shape or (1,)):
        raise InputError(
            f"{path}: '{key}' has shape {sizes} per step, and meta/info.json says {list(shape)}; correct "
            "that file or convert the dataset again"
        )
    # Not with `to_numpy`, which imports pandas: more than a second.
    is_bool = pa.types.is_boolean(array.type)
    values = np.from_dlpack(array.cast(pa.uint8()) if is_bool else array).reshape(rows, *shape)
    return values.astype(bool) if is_bool else values


def _check_totals(meta: Meta, episodes: int, empty: int, rows: int) -> None:
    """Refuse other totals than those of the tables; episodes without steps may be counted or not."""
    for name, count, more in (("total_episodes", episodes, empty), ("total_frames", rows, 0)):
        said = meta.info.get(name, count)
        if said not in (count, count + more):
            raise InputError(
                f"{meta.root / INFO} says {name}={said}, but the tables hold {count}; {FINALIZE}, or restore "
                "the folder from a copy"
            )


def _checked(meta: Meta, listed: tuple[Episode, ...], found: dict[int, int]) -> list[Episode]:
    """The episodes as listed, in the order of their rows."""
    by_number = {episode.number: episode for episode in listed}
    for number in dict.fromkeys([*by_number, *found]):
        said = by_number[number].length if number in by_number else 0
        rows = found.get(number, 0)
        if said != rows:
            raise InputError(
                f"{meta.root}: episode {number} has {said} steps by meta/ and {rows} rows in the tables; "
                f"{FINALIZE}, or restore the folder from a copy"
            )
    return [by_number[number] for number in found]


def _rebuilt(meta: Meta, found: dict[int, int], places: list[Path]) -> list[Episode]:
    """The episodes of a folder that does not list them."""
    if meta.one_file_each:
        return [of_one_file(meta, number, length) for number, length in found.items()]
    clips: dict[str, list[tuple[Path, float]]] = {}
    for key in meta.cameras:
        clips[key] = _clips(meta, key, list(found.values()))
    return [
        Episode(number, length, place, {key: clips[key][e] for key in meta.cameras})
        for e, ((number, length), place) in enumerate(zip(found.items(), places, strict=True))
    ]


def _clips(meta: Meta, key: str, lengths: list[int]) -> list[tuple[Path, float]]:
    """Which frames of the videos of a camera are which episode: they lie end to end."""
    clips: list[tuple[Path, float]] = []
    for path in sorted((meta.root / "videos" / key).glob("*/*.mp4")):
        frames = begun = len(find_frames(path).ticks)
        while len(clips) < len(lengths) and lengths[len(clips)] <= frames:
            clips.append((path, (begun - frames) / meta.fps))
            frames -= lengths[len(clips) - 1]
        if frames:
            break
    if len(clips) < len(lengths):
        meta.lacking[key] = (
            f"key '{key}' of {meta.root} cannot be read: meta/episodes is missing, and its videos do not "
            f"hold the frames of {len(lengths)} episodes; {FINALIZE}"
        )
        meta.features.pop(key)
    return clips


def _check_times(meta: Meta, steps: Steps, frames: np.ndarray, times: np.ndarray) -> None:
    lengths = np.diff(steps.ends, prepend=0)
    grid = np.arange(len(frames)) - np.repeat(steps.ends - lengths, lengths)
    if (frames != grid).any():
        row = int(np.argmax(frames != grid))
        raise InputError(
            f"{meta.root}: {steps.where(row)} has frame_index={frames[row]:g}; steps are missing or not in "
            "order: drop that episode or convert the dataset again"
        )
    off = ~(abs(times * meta.fps - grid) <= TOLERANCE)
    if off.any():
        row = int(np.argmax(off))
        raise InputError(
            f"{meta.root}: {steps.where(row)} is at {times[row]:.4f} s, and {grid[row] / meta.fps:.4f} s is "
            f"its time at fps={meta.fps:g} (within {TOLERANCE:g} of a step); correct fps in {INFO}, or drop "
            "that episode"
        )


def _stored_pictures(steps: Steps, key: str, done: int) -> Iterator[tuple[int, list[Any]]]:
    """Row numbers and what is stored of so many pictures."""
    begin = 0
    for path, end in zip(steps.tables, steps.table_ends.tolist(), strict=True):
        if end > done:
            yield from ((begin + at, part) for at, part in _batches(path, key, max(done - begin, 0)))
        begin = end


def _batches(path: Path, key: str, start: int) -> Iterator[tuple[int, list[Any]]]:
    """The same of one table, from its row ``start`` on."""
    at = 0
    with open_table(path) as file:
        _check_column(key, file.schema_arrow.names, path)
        with explained(path):
            for batch in file.iter_batches(PICTURES, columns=[key], use_threads=False):
                skipped = min(max(start - at, 0), len(batch))
                if skipped < len(batch):
                    yield at + skipped, batch.column(0)[skipped:].to_pylist()
                at += len(batch)


def _check_column(key: str, names: list[str], path: Path) -> None:
    if key not in names:
        raise InputError(f"{path} has no column '{key}', which other tables have; convert the dataset again")


def _picture(meta: Meta, steps: Steps, key: str, shape: tuple[int, ...], row: int, stored: Any) -> np.ndarray:
    where = f"key '{key}' of {meta.root}: the picture of {steps.where(row)}"
    data, path = (stored.get("bytes"), stored.get("path")) if isinstance(stored, dict) else (stored, None)
    if data is None and path is not None:
        file = (meta.root / path).resolve()
        if not file.is_relative_to(meta.root.resolve()) or not file.is_file():
            raise InputError(
                f"{where} should be in {file}, which is not there; fetch the whole dataset again"
            )
        refuse_pointer(file)
        data = file.read_bytes()
    if data is None:
        raise InputError(f"{where} is missing; drop that episode or convert the dataset again")
    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode[0] in "IF":
                raise InputError(
                    f"{where} has more than 8 bits a pixel, which is not read; leave the key out"
                )
            pixels = np.asarray(image.convert(MODES[shape[2]]))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where} cannot be decoded ({error}); drop or repair that episode") from error
    if pixels.shape[:2] != shape[:2]:
        raise InputError(
            f"{where} is {pixels.shape[0]} x {pixels.shape[1]}, and meta/info.json says {shape[0]} x "
            f"{shape[1]}; convert the dataset again, to one size"
        )
    return pixels.reshape(shape)
