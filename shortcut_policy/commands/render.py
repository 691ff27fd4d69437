"""The command that draws images: ``scripts/render.py task=lift cameras=[agentview] output=...``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from shortcut_policy.build import build
from shortcut_policy.commands.configuration import read
from shortcut_policy.data.render import render
from shortcut_policy.data.source import EpisodeSource
from shortcut_policy.errors import InputError
from shortcut_policy.settings import Count, Spec


@dataclass(frozen=True)
class RenderSettings:
    """``configs/render.yaml``.

    Attributes:
        task: Its ``source`` is drawn.
        output: See `render`,
        workers: as well.
        cameras: Of robosuite.
        size: Side of the images in pixels; the tasks' own if None.
        renderer: Specification of a `shortcut_policy.data.render.Renderer`; that of the simulator that the
            source is of if None.
    """

    task: Mapping[str, Any]
    output: str
    cameras: Sequence[str] = ()
    size: Count | None = None
    workers: Count = 1
    renderer: Spec | None = None


def run(config: DictConfig) -> None:
    """Write the task's demonstrations with images to ``output``; continues a store that is there.

    Raises:
        InputError: A setting is wrong; or see `render`.
    """
    settings = read(config, RenderSettings)
    source = build(settings.task["source"])
    render(source, settings.renderer or renderer_of(source, settings), settings.output, settings.workers)


def renderer_of(source: EpisodeSource, settings: RenderSettings) -> dict[str, Any]:
    """Specification of the renderer of the simulator that ``source`` was recorded in."""
    size = {} if settings.size is None else {"size": settings.size}
    if hasattr(source, "env_args"):
        cameras = list(settings.cameras)
        return {"_target_": "shortcut_envs.robosuite.rendering.RobosuiteRenderer", "cameras": cameras, **size}
    if source.shapes.get("state") == (5,):
        if settings.cameras:
            raise InputError(f"cameras={list(settings.cameras)}: Push-T has one view only; leave them out")
        return {"_target_": "shortcut_envs.pusht.demonstrations.PushTRenderer", **size}
    raise InputError(
        f"{source.path} is neither of Push-T (a key 'state' of 5 numbers) nor a robomimic file: give "
        "renderer={_target_: package.Class}, see shortcut_policy.data.render.Renderer"
    )
