"""A demonstration store as one page for a browser, which needs no network and no other file."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from PIL import Image
from tqdm import tqdm

from shortcut_policy.data.ranges import element_ranges
from shortcut_policy.data.source import EpisodeSource, episode_rows
from shortcut_policy.data.view import (
    Frames,
    is_numeric,
    outline,
    small_keys,
    spread,
    store_attributes,
)
from shortcut_policy.paths import write_atomic

#: A curve in the page has at most twice so many points; of longer episodes it shows the extremes.
CURVE_PARTS = 500
#: Longer side of a frame, in pixels; larger ones are made smaller.
FRAME_SIDE = 256
FRAME_QUALITY = 80
#: What robomimic's files hold beside the observations.
NEXT = "next_obs/"


def write_page(
    source: EpisodeSource,
    episodes: Sequence[int],
    frames: Mapping[str, Frames],
    most_frames: int,
    path: Path,
) -> None:
    """Write the page. The ranges are those of the whole store; memory holds what is in the page, and a piece.

    Args:
        source: The store.
        episodes: Numbers of those whose curves and frames are in the page.
        frames: Camera -> how to see the rows, see `frames_of`.
        most_frames: Steps that are shown with their pictures, over all these episodes; evenly spread.
        path: HTML file.
    """
    # The next observation is the next row's: it would show all curves twice.
    keys = [key for key in small_keys(source) if not key.startswith(NEXT)]
    rows = [episode_rows(source, episode) for episode in episodes]
    every = spread(sum(stop - start for start, stop in rows), most_frames) if frames else 0
    lengths = np.diff(source.episode_ends, prepend=0)
    content: dict[str, Any] = {
        "store": Path(source.path).name,
        "count": len(lengths),
        "steps": int(source.episode_ends[-1]),
        "lengths": [int(lengths.min()), int(np.median(lengths)), int(lengths.max())],
        "attributes": {name: str(value) for name, value in sorted(store_attributes(source).items())},
        "keys": [_key(source, key, key in keys) for key in tqdm(source.keys, desc="ranges of keys")],
        "every": every,
        "episodes": [
            {"number": episode, "length": stop - start, "curves": _curves(source, keys, start, stop)}
            | {"frames": {name: _frames(see, start, stop, every) for name, see in frames.items() if every}}
            for episode, (start, stop) in zip(tqdm(episodes, desc="episodes of the page"), rows, strict=True)
        ],
    }
    environment = Environment(
        loader=PackageLoader("shortcut_policy.data"), autoescape=select_autoescape(["j2"])
    )
    # What is in a store must not end the element that it stands in.
    data = Markup(json.dumps(_finite(content), allow_nan=False).replace("<", "\\u003c"))
    write_atomic(path, environment.get_template("view.html.j2").render(store=content["store"], data=data))


def _key(source: EpisodeSource, key: str, small: bool) -> dict[str, Any]:
    """A key with the ranges of its elements, where they are few enough for a look at each."""
    ranges = [asdict(one) for one in element_ranges(source, key)] if small else []
    kind = str(source.dtypes[key]) if is_numeric(source, key) else "no numbers"
    return {"name": key, "type": kind, "shape": list(source.shapes[key]), "elements": ranges}


def _curves(source: EpisodeSource, keys: Sequence[str], start: int, stop: int) -> dict[str, Any]:
    """Key -> first steps of the points and their values as float32, base64 of little-endian bytes."""
    curves = {}
    for key in keys:
        steps, values = outline(source, key, start, stop, CURVE_PARTS)
        curves[key] = {"steps": _packed(steps, "<i4"), "values": _packed(values, "<f4")}
    return curves


def _frames(see: Frames, start: int, stop: int, every: int) -> list[str]:
    """Every so many-th row as WebP, base64; read one at a time."""
    return [_picture(see(row, row + 1)[0]) for row in range(start, stop, every)]


def _picture(frame: np.ndarray) -> str:
    image, buffer = Image.fromarray(frame), BytesIO()
    image.thumbnail((FRAME_SIDE, FRAME_SIDE))
    image.save(buffer, "WEBP", quality=FRAME_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _finite(value: Any) -> Any:
    """With null for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
