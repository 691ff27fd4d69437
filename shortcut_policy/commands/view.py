"""The command that shows a demonstration store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt
from omegaconf import DictConfig
from rich.console import Console

from shortcut_policy.commands.configuration import read
from shortcut_policy.data.formats import open_demonstrations
from shortcut_policy.data.source import EpisodeSource
from shortcut_policy.data.view import (
    VIDEO_SIDE,
    Frames,
    check_replaces,
    chosen_episodes,
    draw,
    film,
    frames_of,
    some_episodes,
    summary,
)
from shortcut_policy.data.zarr_source import AbsentChunks
from shortcut_policy.paths import written_out
from shortcut_policy.settings import Index, Words


@dataclass(frozen=True)
class ViewSettings:
    """``configs/view.yaml``.

    Attributes:
        store: The demonstrations.
        episode_ends: Of a zarr store, see `ZarrSource`,
        absent_chunks: as well.
        format: ``picture`` for one, and a video; ``html`` for a page; ``rerun`` for a file of the viewer
            Rerun.
        episodes: Number of the episode to show, or a list of them; [] for the table alone. None for the first
            in a picture, and for some of all in the others.
        frames: Steps with pictures in a page or a file of Rerun, over all its episodes.
        output: Folder of what is written.
        fps: Frames a second of the video.
    """

    store: str
    episode_ends: str | None = None
    absent_chunks: AbsentChunks | None = None
    format: Literal["picture", "html", "rerun"] = "picture"
    episodes: Any = None
    frames: Index = 1000
    output: str = "outputs/view"
    fps: Annotated[float, Gt(0), Words("a number above 0, of frames a second")] = 10.0


def run(config: DictConfig) -> None:
    """Print the table, and write the picture and video, or the page, or the file of Rerun.

    Raises:
        InputError: The store cannot be read or has no such episodes, the rate is no number above 0, or Rerun
            is not installed.
    """
    settings = read(config, ViewSettings)
    source = open_demonstrations(settings.store, settings.episode_ends, settings.absent_chunks)
    if settings.episodes is not None:
        episodes = chosen_episodes(source, settings.episodes)
    else:
        episodes = [0] if settings.format == "picture" else some_episodes(source)
    console = Console()
    console.print(summary(source))
    if not episodes:
        return
    target = Path(written_out(settings.output), Path(source.path).name.split(".")[0])
    for path in _write(settings, source, episodes, frames_of(source, draw_pusht), target):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def _write(
    settings: ViewSettings,
    source: EpisodeSource,
    episodes: list[int],
    frames: Mapping[str, Frames],
    target: Path,
) -> list[Path]:
    """Write what was asked for, beside each other under one name; returns the files."""
    pictures = [".png", ".mp4"] if frames else [".png"]
    for ending in {"html": [".html"], "rerun": [".rrd"]}.get(settings.format, pictures):
        check_replaces(target.with_suffix(ending))
    if settings.format == "html":
        from shortcut_policy.data.view_page import write_page

        write_page(source, episodes, frames, settings.frames, target.with_suffix(".html"))
        return [target.with_suffix(".html")]
    if settings.format == "rerun":
        from shortcut_policy.data.view_rerun import write_recording

        write_recording(source, episodes, frames, settings.frames, target.with_suffix(".rrd"))
        return [target.with_suffix(".rrd")]
    first = next(iter(frames.values()), None)
    draw(source, episodes, first, target.with_suffix(".png"))
    if first is None:
        return [target.with_suffix(".png")]
    film(source, episodes, first, target.with_suffix(".mp4"), settings.fps)
    return [target.with_suffix(".png"), target.with_suffix(".mp4")]


def draw_pusht(states: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """States of Push-T (N, 5) as pictures (N, VIDEO_SIDE, VIDEO_SIDE, 3) uint8."""
    from shortcut_envs.pusht.physics import GOAL_POSE
    from shortcut_envs.pusht.render import smooth_image

    goal = attributes.get("goal_pose", GOAL_POSE)
    return np.stack([smooth_image(state[:2], state[2:], goal, VIDEO_SIDE) for state in states.astype(float)])
