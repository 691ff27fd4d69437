"""Images of robomimic's demonstrations of states."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shortcut_envs.robosuite.env import RobosuiteEnv
from shortcut_policy.data import EpisodeSource
from shortcut_policy.data.env_args import ENV_ARGS
from shortcut_policy.data.robomimic_writer import attributes_of
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError

STATES = "states"


class RobosuiteRenderer:
    """Draws ``<camera>_image`` from ``states``, as `RobosuiteEnv` observes it.

    Demonstrations are drawn in the scene that they were recorded in, where the file has it (``model_file``),
    else in the one that a reset makes. They differ in what a reset draws and states do not hold: the size of
    Lift's cube, within two millimetres, and the place of Transport's bins.

    Args:
        cameras: Names.
        size: Side of the images in pixels.
    """

    def __init__(self, cameras: Sequence[str], size: int = 84) -> None:
        if isinstance(cameras, str) or not cameras:
            raise InputError(f"cameras={cameras} must be a list, such as [agentview,robot0_eye_in_hand]")
        self.cameras, self.size = tuple(cameras), size
        self.keys = tuple(f"{camera}_image" for camera in self.cameras)

    def prepare(self, source: EpisodeSource) -> dict[str, Any]:
        """See `shortcut_policy.data.render.Renderer`."""
        if STATES not in source.keys:
            raise InputError(
                f"{source.path} has no {STATES}, which images are drawn from; use the file that the "
                "observations were extracted from"
            )
        env = _env(source.path, self.cameras, self.size)
        env.reset(seed=0, options={"states": source.read(STATES, 0, 1)[0]})
        return {ENV_ARGS: attributes_of(env.args)[ENV_ARGS]}

    def images(self, source: EpisodeSource, episode: int) -> dict[str, np.ndarray]:
        """See `shortcut_policy.data.render.Renderer`."""
        env = _env(source.path, self.cameras, self.size)
        states = source.read(STATES, *episode_rows(source, episode))
        model = source.scene(episode) if hasattr(source, "scene") else None
        env.reset(seed=0, options={"states": states[0]} | ({} if model is None else {"model": model}))
        return env.images_of(states)


@cache
def _env(path: str, cameras: tuple[str, ...], size: int) -> RobosuiteEnv:
    """One for all episodes of a process."""
    return RobosuiteEnv(dataset=path, cameras=cameras, image_size=size, keys=[])
