"""One task of Meta-World 3 with starts that are functions of a seed."""

import importlib
import importlib.metadata
from typing import Any

import numpy as np

from shortcut_envs.opengl import check_installed, choose_opengl, close_renderer, open_renderer
from shortcut_policy.errors import InputError

HAND, OBJECTS, GOAL, ACTION = 4, 14, 3, 4
#: Steps after which Meta-World refuses to go on.
LONGEST = 500
#: Cameras that hang upside down.
_TURNED = ("corner", "corner2", "corner3", "corner4")


class Simulation:
    """A task of Meta-World.

    Meta-World's ``reset(seed=)`` leaves the start as it was. Here it is drawn from Meta-World's own space of
    starts and goals: `start` with the same seed is the same to the bit, whatever was played before. A start
    is set up as Meta-World sets up one of the tasks of its lists: with what was drawn fixed before the reset.
    A reset that draws does so twice, and in some tasks the first draw leaves its mark: with the same second
    one, objects of box-close lie 19 cm elsewhere, and those of disassemble 34 cm.

    Args:
        task: One of `TASKS`.

    Raises:
        InputError: Meta-World is not installed.
    """

    def __init__(self, task: str) -> None:
        classes = import_metaworld().env_dict.ALL_V3_ENVIRONMENTS
        self.task = task
        self.env = classes[task]()
        self.env._set_task_called = True
        self.env.seeded_rand_vec = True
        self.env._partially_observable = False
        # Computed for hidden goals by now; it clips the goal out of observations.
        self.env.__dict__.pop("sawyer_observation_space", None)
        self._renderer: Any = None
        self._now = self._before = np.zeros(HAND + OBJECTS)

    def start(self, seed: int) -> None:
        """Begin an episode."""
        env = self.env
        env.np_random = np.random.default_rng(seed)
        env._freeze_rand_vec = False
        env.reset()
        env._freeze_rand_vec = True
        env.reset()
        # What reset() returns was computed before the object was put into its place.
        self._forward()
        self._now = self._before = env._get_curr_obs_combined_no_goal()

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Play an action (4,) in [-1, 1] for 0.0125 s; reward in 0..10, and whether it is solved now."""
        seen, reward, _, _, info = self.env.step(action)
        self._before, self._now = self._now, seen[: HAND + OBJECTS]
        return float(reward), bool(info["success"])

    @property
    def goal(self) -> np.ndarray:
        """(3,) metres."""
        return np.array(self.env._target_pos)

    def observation(self) -> dict[str, np.ndarray]:
        """``hand`` (4,), ``objects`` (14,), ``goal`` (3,), float32; see `MetaWorldEnv`."""
        return {
            "hand": self._now[:HAND].astype(np.float32),
            "objects": self._now[HAND:].astype(np.float32),
            "goal": self.goal.astype(np.float32),
        }

    def observation_of_experts(self) -> np.ndarray:
        """(39,) float64, in Meta-World's order: now, one step before, goal."""
        return np.concatenate([self._now, self._before, self.goal])

    def draw(self, camera: str, size: int) -> np.ndarray:
        """The scene now, (size, size, 3) uint8, the right way up.

        Raises:
            InputError: There is no such camera, or no OpenGL to draw with.
        """
        model, data = self.env.model, self.env.data
        if self._renderer is None:
            names = [model.camera(number).name for number in range(model.ncam)]
            if camera not in names:
                raise InputError(f"render_camera={camera} is none of {self.task}'s: {', '.join(names)}")
            self._renderer = open_renderer(model, size)
        self._renderer.update_scene(data, camera)
        picture: np.ndarray = self._renderer.render()
        return np.rot90(picture, 2).copy() if camera in _TURNED else picture

    def close(self) -> None:
        """Free the simulator."""
        if self._renderer is not None:
            close_renderer(self._renderer)
            self._renderer = None
        self.env.close()

    def _forward(self) -> None:
        import mujoco  # type: ignore[import-untyped]

        mujoco.mj_forward(self.env.model, self.env.data)
        for site in self.env._target_site_config:
            self.env._set_pos_site(*site)


def import_metaworld() -> Any:
    """The module; `InputError` where it is missing."""
    check_installed(
        "metaworld",
        "metaworld is not installed, which Meta-World's tasks need: pip install 'shortcut-policy[metaworld]'",
    )
    choose_opengl()
    return importlib.import_module("metaworld")
