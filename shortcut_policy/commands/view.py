"""The command that shows a demonstration store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Gt
from omegaconf import DictConfig
from rich.console import Console

from shortcut_policy.commands.configuration import read
from shortcut_policy.data.view import (
    VIDEO_SIDE,
    chosen_episodes,
    draw,
    film,
    frames_of,
    open_store,
    summary,
)
from shortcut_policy.settings import Words


@dataclass(frozen=True)
class ViewSettings:
    """``configs/view.yaml``.

    Attributes:
        store: The demonstrations.
        episodes: Number of the episode to draw and film, or a list of them; [] for the table alone.
        output: Folder of the picture and the video.
        fps: Frames a second of the video.
    """

    store: str
    episodes: Any = 0
    output: str = "outputs/view"
    fps: Annotated[float, Gt(0), Words("a number above 0, of frames a second")] = 10.0


def run(config: DictConfig) -> None:
    """Print the table and write the picture and, for stores that can be seen, the video.

    Raises:
        InputError: The store cannot be read or has no such episodes, or the rate is no number above 0.
    """
    settings = read(config, ViewSettings)
    source = open_store(settings.store)
    episodes = chosen_episodes(source, settings.episodes)
    console = Console()
    console.print(summary(source))
    if not episodes:
        return
    target = Path(settings.output, Path(source.path).name.split(".")[0])
    frames = frames_of(source, draw_pusht)
    written = [target.with_suffix(".png")]
    draw(source, episodes, frames, written[0])
    if frames is not None:
        written.append(target.with_suffix(".mp4"))
        film(source, episodes, frames, written[1], settings.fps)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)


def draw_pusht(states: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """States of Push-T (N, 5) as pictures (N, VIDEO_SIDE, VIDEO_SIDE, 3) uint8."""
    from shortcut_envs.pusht.physics import GOAL_POSE
    from shortcut_envs.pusht.render import smooth_image

    goal = attributes.get("goal_pose", GOAL_POSE)
    return np.stack([smooth_image(state[:2], state[2:], goal, VIDEO_SIDE) for state in states.astype(float)])
