"""Shows a demonstration store: a table of what is in it, a picture and a video of chosen episodes.

`view_page` and `view_rerun` show more of it, in a browser and in Rerun.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from shortcut_policy.data.conversion import Conversion
from shortcut_policy.data.env_args import ENV_ARGS, EnvArgs
from shortcut_policy.data.robomimic_source import RobomimicSource
from shortcut_policy.data.source import EpisodeSource, Field, episode_rows, pieces, row_bytes
from shortcut_policy.data.zarr_recording import ORIGINS
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError
from shortcut_policy.paths import atomic_path, check_film
from shortcut_policy.settings import is_list

#: Values of a key with more elements than this per step are not drawn as curves.
MOST_CURVES = 20
MOST_LABELS = 6
#: Episodes of a page or a file of Rerun, if none are chosen.
MOST_EPISODES = 20
#: Rows and columns of frames of an episode in the picture.
FRAMES = 2, 5
VIDEO_SIDE = 256
#: Grey, colours, and colours with a transparency, which is left out.
CHANNELS = (1, 3, 4)
#: What all files that are written hold, at their beginning or end, and those of others do not.
MARK = b"shortcut_policy"
MARKED_BYTES = 2**16

#: Bytes of a key that are read at a time: stores of images are larger than memory.
PIECE_BYTES = 2**24
#: A picture is hundreds of pixels wide: of longer episodes the extremes of so many parts are drawn.
CURVE_PARTS = 2000

#: Rows of a store -> (N, H, W, 3) uint8.
Frames = Callable[[int, int], np.ndarray]
#: Draws states (N, 5) of Push-T, given the attributes of their store: (N, H, W, 3) uint8.
DrawStates = Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]


def check_replaces(path: Path) -> None:
    """Raise `InputError` if a file is there that nothing here has written."""
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            ends = file.read(MARKED_BYTES)
            file.seek(max(0, path.stat().st_size - MARKED_BYTES))
            ends += file.read()
        if MARK in ends:
            return
    raise InputError(
        f"{path} is there, and was not written by this command: move it, or choose another output= folder"
    )


def chosen_episodes(source: EpisodeSource, episodes: Any) -> list[int]:
    """The numbers of episodes as a list; one number may stand for a list of one.

    Raises:
        InputError: There is no such episode.
    """
    chosen, count = list(episodes) if is_list(episodes) else [episodes], len(source.episode_ends)
    for episode in chosen:
        if not isinstance(episode, int) or not 0 <= episode < count:
            raise InputError(f"episodes: {episode} is not one of 0 to {count - 1} of {source.path}")
    return chosen


def some_episodes(source: EpisodeSource) -> list[int]:
    """At most `MOST_EPISODES`, evenly spread over the store."""
    count = len(source.episode_ends)
    return np.unique(np.linspace(0, count - 1, min(count, MOST_EPISODES)).round().astype(int)).tolist()


def spread(steps: int, most: int) -> int:
    """Every how many-th step is shown so that it is ``most`` at the most; 0 for none."""
    return -(-steps // most) if most else 0


def summary(source: EpisodeSource) -> Table:
    """Keys, types, shapes and ranges; episodes and their lengths; attributes."""
    lengths = np.diff(source.episode_ends, prepend=0)
    table = Table("key", "type", "shape of a step", "smallest", "largest", title=Text(source.path))
    broken: list[str] = []
    for key in source.keys:
        shape = " x ".join(map(str, source.shapes[key])) or "a number"
        limits: list[str] = []
        if is_numeric(source, key) and np.prod(source.shapes[key]):
            lowest, highest, others = _range(source, key)
            limits = [f"{value:.6g}" for value in (lowest, highest)] if lowest <= highest else []
            broken += [f"{key}: {others} values are NaN or Inf"] if others else []
        table.add_row(Text(key), str(source.dtypes[key]), shape, *limits)
    episodes = f"{len(lengths)} episodes of {lengths.min()} to {lengths.max()} steps"
    attributes = [f"{name}: {value}" for name, value in sorted(store_attributes(source).items())]
    lines = [
        f"{episodes}, {source.episode_ends[-1]} in all",
        *broken,
        *getattr(source, "lacking", {}).values(),
        *attributes,
    ]
    table.caption = Text("\n".join(lines))
    return table


def frames_of(source: EpisodeSource, draw_states: DrawStates | None = None) -> dict[str, Frames]:
    """How to see the rows of a store: each of its cameras (0..255), or drawn states of Push-T; {} without.

    Args:
        source: The store.
        draw_states: What draws them, if anything does.
    """
    cameras = {key: seen for key in source.keys if (seen := _camera(source, key)) is not None}
    if cameras:
        return cameras
    pusht = source.shapes.get("state") == (5,) and source.shapes.get("action") == (2,)
    if pusht and isinstance(source, ZarrSource) and draw_states is not None:
        attributes = source.attributes
        return {"state": lambda *rows: draw_states(source.read("state", *rows), attributes)}
    return {}


def small_keys(source: EpisodeSource) -> list[str]:
    """Numeric keys with so few numbers a step that each can have a curve."""
    small = [key for key in source.keys if 0 < int(np.prod(source.shapes[key])) <= MOST_CURVES]
    return [key for key in small if is_numeric(source, key)]


def draw(source: EpisodeSource, episodes: Sequence[int], frames: Frames | None, path: Path) -> None:
    """Write a picture with a column per episode: frames, then every small key over time."""
    keys = small_keys(source)
    rows = (frames is not None) + len(keys)
    if rows == 0:
        raise InputError(f"{source.path} has neither images nor keys of up to {MOST_CURVES} numbers to draw")
    figure = Figure(figsize=(1 + 6 * len(episodes), 0.5 + 2 * rows), layout="constrained")
    axes = figure.subplots(rows, len(episodes), squeeze=False)
    for column, episode in zip(axes.T, episodes, strict=True):
        start, stop = episode_rows(source, episode)
        column[0].set_title(f"episode {episode}, {stop - start} steps")
        if frames is not None:
            _draw_frames(column[0], frames, start, stop)
        for axis, key in zip(column[rows - len(keys) :], keys, strict=True):
            curves = axis.plot(*outline(source, key, start, stop), linewidth=1)
            if 1 < len(curves) <= MOST_LABELS:
                labels = range(len(curves))
                axis.legend(curves, labels, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
            axis.set_ylabel(key)
            axis.grid(alpha=0.3)
        column[-1].set_xlabel("step")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": MARK.decode()})


def film(source: EpisodeSource, episodes: Sequence[int], frames: Frames, path: Path, fps: float) -> None:
    """Write the episodes one after the other as an MP4."""
    video: Any  # the plug-in's class, which has more than the declared one
    marked = ["-metadata", f"comment={MARK.decode()}"]
    with (
        atomic_path(path, ".tmp.mp4") as part,  # the ending tells the writer what to write
        imageio.get_writer(
            part, fps=fps, codec="libx264", quality=7, macro_block_size=2, output_params=marked
        ) as video,
    ):
        for episode in tqdm(episodes, desc="episodes of the video"):
            for image in one_by_one(frames, *episode_rows(source, episode)):
                zoom = max(1, VIDEO_SIDE // max(image.shape[:2]))
                large = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
                height, width, _ = large.shape
                video.append_data(np.pad(large, ((0, height % 2), (0, width % 2), (0, 0))))
        video.close()
        check_film(part)


def store_attributes(source: EpisodeSource) -> dict[str, Any]:
    """What else a store says of itself, in a line each."""
    if isinstance(source, RobomimicSource):
        masks = [f"{name} ({len(demos)})" for name, demos in sorted(source.masks().items())]
        return {"environment": _named(source.env_args), "filter keys": ", ".join(masks) or "none"}
    short = dict.fromkeys(ORIGINS, "converted from a file of it")
    attributes: dict[str, Any] = getattr(source, "attributes", {})
    if ENV_ARGS in attributes:
        short[ENV_ARGS] = _named(EnvArgs.parse(attributes[ENV_ARGS], source.path))
    return {name: short.get(name, value) for name, value in attributes.items()}


def _named(env_args: EnvArgs) -> str:
    version = f", robosuite {env_args.version}" if env_args.version else ""
    return f"{env_args.name}{version}" or "not said"


def is_numeric(source: EpisodeSource, key: str) -> bool:
    """Whether the values of a key are numbers."""
    return source.dtypes[key].kind in "biuf"


def _range(source: EpisodeSource, key: str) -> tuple[float, float, int]:
    """Smallest and largest value of a key, and how many are no finite numbers, read piece by piece."""
    lowest, highest, broken = np.inf, -np.inf, 0
    for rows in pieces(0, int(source.episode_ends[-1]), row_bytes(source, key), PIECE_BYTES):
        values = source.read(key, rows.start, rows.stop)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low + high):
            finite = np.isfinite(values)
            broken += values.size - int(finite.sum())
            low, high = (
                float(f(values, initial=start, where=finite))
                for f, start in ((np.min, np.inf), (np.max, -np.inf))
            )
        lowest, highest = min(lowest, low), max(highest, high)
    return lowest, highest, broken


def outline(
    source: EpisodeSource, key: str, start: int, stop: int, parts: int = CURVE_PARTS
) -> tuple[np.ndarray, np.ndarray]:
    """Curves of an episode: steps (N,) and values (N, numbers of the key), N at most twice ``parts``."""
    length = stop - start
    if length <= 2 * parts:
        return np.arange(length), source.read(key, start, stop).reshape(length, -1)
    part = -(-length // parts)
    extremes = []
    for rows in pieces(start, stop, row_bytes(source, key), PIECE_BYTES, multiple=part):
        values = source.read(key, rows.start, rows.stop).reshape(len(rows), -1)
        firsts = np.arange(0, len(rows), part)
        extremes += [np.stack([f.reduceat(values, firsts) for f in (np.minimum, np.maximum)], axis=1)]
    curves = np.concatenate(extremes)
    return np.repeat(np.arange(len(curves)) * part, 2), curves.reshape(2 * len(curves), -1)


def one_by_one(frames: Frames, start: int, stop: int) -> Iterator[np.ndarray]:
    """The images of the rows ``start`` to ``stop``, of which `PIECE_BYTES` are in memory."""
    for rows in pieces(start, stop, frames(start, start + 1).nbytes, PIECE_BYTES):
        yield from frames(rows.start, rows.stop)


def _camera(source: EpisodeSource, key: str) -> Frames | None:
    """How to see a key that holds images, as training does; None of one that holds other things.

    Channels may come last or first; a frame of some episodes tells pixels from other numbers.
    """
    shape = source.shapes[key]
    if len(shape) != 3 or not np.prod(shape) or not is_numeric(source, key):
        return None
    if shape[-1] in CHANNELS:
        order = (0, 1, 2)
    elif shape[0] in CHANNELS:
        order = (1, 2, 0)
    else:
        return None
    if source.dtypes[key] == np.uint8:
        return partial(_images, source, key, order, 255)
    for episode in some_episodes(source):
        middle = sum(episode_rows(source, episode)) // 2
        frame = source.read(key, middle, middle + 1)
        finite = frame[np.isfinite(frame)]
        if finite.size and not (finite.min() >= 0 and finite.max() <= 255):
            return None
    if source.dtypes[key].kind == "b":
        top = 1
    else:
        as_seen = (shape[order[0]], shape[order[1]], shape[order[2]])
        top = Conversion(source, Field(key, as_seen, normalize="image")).top
    return partial(_images, source, key, order, top)


def _images(
    source: EpisodeSource, key: str, order: tuple[int, int, int], top: int, start: int, stop: int
) -> np.ndarray:
    """Rows as (N, H, W, 3) uint8; ``top`` is the largest value of a pixel as it is stored."""
    values = source.read(key, start, stop).transpose(0, *(axis + 1 for axis in order))[..., :3]
    if values.dtype != np.uint8:
        values = np.nan_to_num(values * (255 // top), nan=0.0).clip(0, 255).round().astype(np.uint8)
    return np.broadcast_to(values, (*values.shape[:-1], 3))


def _draw_frames(axis: Axes, frames: Frames, start: int, stop: int) -> None:
    shown = np.linspace(start, stop - 1, FRAMES[0] * FRAMES[1]).round().astype(int)
    images = np.concatenate([frames(row, row + 1) for row in shown])
    axis.imshow(rearrange(images, "(row column) h w c -> (row h) (column w) c", row=FRAMES[0]))
    axis.axis("off")
