"""Writes small folders in LeRobot's formats 3.0 and 2.1, as documented, without LeRobot."""

import json
import math
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

FPS = 10
TASKS = ("push", "pull")
LENGTHS = (8, 6, 7)
#: Key of the video and of the pictures in tables.
VIDEO, PICTURES = "observation.images.top", "observation.image"
STORED_PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
AXES = ["height", "width", "channel"]


def pictures(length: int, seed: int, side: int = 32) -> np.ndarray:
    """A block that moves over grey, every step elsewhere, (length, side, side, 3) uint8."""
    images = np.full((length, side, side, 3), 60 + 20 * seed, np.uint8)
    for step in range(length):
        at = (3 * step) % (side - 8)
        images[step, at : at + 8, 4 : side - 4] = (220, 40 + 15 * (step % 10), 60)
    return images


def episode(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Key -> (length, ...) of one episode."""
    random = np.random.default_rng(seed)
    return {
        "observation.state": random.normal(size=(length, 3)).astype(np.float32),
        "action": random.normal(size=(length, 2)).astype(np.float32),
        "gripper": random.normal(size=(length, 1)).astype(np.float32),
        VIDEO: pictures(length, seed),
        PICTURES: pictures(length, seed, 16)[:, :12],
    }


def write_video(
    path: Path, frames: np.ndarray, codec: str = "libx264", fps: int = FPS, **options: str
) -> None:
    """Frames (T, H, W, 3) as a video; keyword ``matrix`` tags and converts it by that standard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = options.pop("matrix", None)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "12", **options})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        if matrix == "ITU709":
            stream.codec_context.colorspace = 1
            stream.codec_context.color_range = 1
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if matrix:
                frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def features(episodes: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """What ``info.json`` says of the keys."""
    found: dict[str, Any] = {}
    for key, values in episodes[0].items():
        kind = {VIDEO: "video", PICTURES: "image"}.get(key, str(values.dtype))
        found[key] = {
            "dtype": kind,
            "shape": list(values.shape[1:]),
            "names": AXES if values.ndim == 4 else None,
        }
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        found[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    return found


def columns(episode: dict[str, np.ndarray], number: int, first: int, task: int) -> dict[str, pa.Array]:
    """The table of an episode."""
    length = len(episode["action"])
    made: dict[str, pa.Array] = {}
    for key, values in episode.items():
        if key == PICTURES:
            made[key] = pa.array([{"bytes": _png(image), "path": None} for image in values], STORED_PICTURE)
        elif key != VIDEO:
            flat = pa.array(values.reshape(-1))
            size = math.prod(values.shape[1:])
            made[key] = flat if values.shape[1:] == (1,) else pa.FixedSizeListArray.from_arrays(flat, size)
    steps = np.arange(length)
    made["timestamp"] = pa.array((steps / FPS).astype(np.float32))
    made["frame_index"], made["index"] = pa.array(steps), pa.array(steps + first)
    made["episode_index"], made["task_index"] = pa.array(steps * 0 + number), pa.array(steps * 0 + task)
    return made


def _png(image: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_folder(
    root: Path, episodes: list[dict[str, np.ndarray]], version: str = "v3.0", **video: str
) -> Path:
    """A dataset whose episodes do the two tasks by turns; ``video`` is for `write_video`."""
    old = version < "v3"
    info = {
        "codebase_version": version,
        "robot_type": "square",
        "fps": FPS,
        "total_episodes": len(episodes),
        "total_frames": sum(len(one["action"]) for one in episodes),
        "chunks_size": 1000,
        "features": features(episodes),
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        if old
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        if old
        else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tables, rows, first = [], [], 0
    for number, one in enumerate(episodes):
        tables.append(pa.table(columns(one, number, first, number % 2)))
        rows.append({"episode_index": number, "length": len(one["action"]), "tasks": [TASKS[number % 2]]})
        first += len(one["action"])
    (_write_old if old else _write_new)(root, episodes, tables, rows, video)
    return root


def _write_old(root: Path, episodes: list, tables: list, rows: list, video: dict) -> None:
    (root / "data/chunk-000").mkdir(parents=True)
    for number, (one, table) in enumerate(zip(episodes, tables, strict=True)):
        parquet.write_table(table, root / f"data/chunk-000/episode_{number:06d}.parquet")
        if VIDEO in one:
            write_video(root / f"videos/chunk-000/{VIDEO}/episode_{number:06d}.mp4", one[VIDEO], **video)
    tasks = [{"task_index": index, "task": task} for index, task in enumerate(TASKS)]
    for name, lines in (("episodes", rows), ("tasks", tasks)):
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_new(root: Path, episodes: list, tables: list, rows: list, video: dict) -> None:
    """Two episodes share a table, and all of them one video."""
    (root / "data/chunk-000").mkdir(parents=True)
    for file, number in enumerate(range(0, len(tables), 2)):
        table = pa.concat_tables(tables[number : number + 2])
        parquet.write_table(table, root / f"data/chunk-000/file-{file:03d}.parquet")
    if VIDEO in episodes[0]:
        frames = np.concatenate([one[VIDEO] for one in episodes])
        write_video(root / f"videos/{VIDEO}/chunk-000/file-000.mp4", frames, **video)
    first = 0
    for number, row in enumerate(rows):
        row |= {"data/chunk_index": 0, "data/file_index": number // 2}
        if VIDEO in episodes[0]:
            row |= {f"videos/{VIDEO}/chunk_index": 0, f"videos/{VIDEO}/file_index": 0}
            row[f"videos/{VIDEO}/from_timestamp"] = first / FPS
        first += row["length"]
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": pa.array(range(len(TASKS))), "__index_level_0__": pa.array(TASKS)})
    parquet.write_table(tasks, root / "meta/tasks.parquet")


def episodes() -> list[dict[str, np.ndarray]]:
    return [episode(length, seed) for seed, length in enumerate(LENGTHS)]


def all_of(key: str) -> np.ndarray:
    return np.concatenate([one[key] for one in episodes()])


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change_info(root: Path, **values: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def table_of(root: Path) -> Path:
    """The table that holds episode 2 of either format."""
    return sorted(root.glob("data/*/*.parquet"))[-1]


def change_column(
    root: Path, key: str, change: Callable[[list], list], kind: pa.DataType | None = None
) -> None:
    path = table_of(root)
    table = parquet.read_table(path)
    number = table.column_names.index(key)
    values = pa.array(change(table[key].to_pylist()), kind or table[key].type)
    parquet.write_table(table.set_column(number, key, values), path)


def replace_video(root: Path, frames: np.ndarray, fps: int = FPS) -> None:
    write_video(sorted(root.glob("videos/**/*.mp4"))[-1], frames, fps=fps)
