"""ALOHA's tasks of gym-aloha as gymnasium environments: two arms, joint angles as actions, cameras."""

import atexit
import importlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_envs.checks import check_cameras, checked_action, known_options
from shortcut_envs.opengl import check_installed, choose_opengl, drawn
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole

ARM, ACTION = 7, 14
TASKS = ("transfer_cube", "insertion")
CAMERAS = ("top", "angle", "front_close", "left_pillar", "right_pillar", "left_wrist", "right_wrist")
#: gym-aloha's highest reward, which is success.
_SOLVED = 4
_LARGEST_SEED = 2**32 - 1


class AlohaEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A task of ALOHA in simulation (Zhao et al. 2023): hand a cube over, or plug two parts together.

    Action: (14,), for the left and then the right arm six joint angles to go to, in radians, and how far the
    fingers shall be open, in 0..1. The action space has the limits of the joints: gym-aloha's own says
    [-1, 1], in which not even the start pose lies, so that what clips to it moves an arm that is to stay.
    Observation: ``state`` (14,) float32, the same numbers as they are; for each camera ``<camera>_image``,
    (*image_size, 3) uint8.
    Reward: gym-aloha's, 0 to 4 by how much of the task is done at this step.
    Episode: terminated when the task is solved, truncated after ``max_steps``.

    ``info`` at every reset and step: ``score``, the highest reward so far over 4; ``is_success``, whether
    that is 1.

    Reset: ``reset(seed=s)`` decides where the things lie, as gym-aloha draws it, with s below 2³². Without a
    seed it is drawn from ``np_random``.

    Args:
        task: One of `TASKS`.
        cameras: Some of `CAMERAS`; those that are not named are not drawn, which gym-aloha does with three.
        image_size: Rows and columns of their pictures.
        render_mode: ``rgb_array`` or None.
        render_size: Side in pixels of what `render` returns.
        max_steps: Length at which an episode is truncated.

    Raises:
        InputError: An argument or action that cannot be used, or gym-aloha is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] = ("top",),
        image_size: Sequence[int] = (480, 640),
        render_mode: str | None = None,
        render_size: int = 256,
        max_steps: int = 300,
    ) -> None:
        if task not in TASKS:
            raise InputError(f"gym-aloha has no task '{task}'; there are {', '.join(TASKS)}")
        check_cameras(cameras, CAMERAS)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode={render_mode!r} must be 'rgb_array' or None")
        if isinstance(image_size, str) or len(image_size) != 2:
            raise InputError(f"image_size={image_size} must be two numbers, rows and columns")
        for side in image_size:
            check_whole("image_size", side, 1)
        check_whole("render_size", render_size, 1)
        check_whole("max_steps", max_steps, 1)
        self.task, self.cameras, self.max_steps = task, tuple(cameras), max_steps
        self.render_mode, self._render_size = render_mode, (render_size, render_size)
        self._image_size = (int(image_size[0]), int(image_size[1]))
        self.simulation = import_aloha().AlohaEnv(task, obs_type="pixels_agent_pos")
        self._made = self.simulation._env
        self._made.task.get_observation = self._seen
        atexit.register(self.close)  # freed after dm_control is, it would print errors
        low, high = _limits(self._made.physics.model.actuator_ctrlrange)
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        pictures = spaces.Box(0, 255, (*self._image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                "state": spaces.Box(-np.inf, np.inf, (ACTION,), np.float32),
                **{f"{camera}_image": pictures for camera in self.cameras},
            }
        )
        self._steps, self._best = 0, 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for what ``seed`` means."""
        super().reset(seed=seed)
        known_options(options)
        seed = int(self.np_random.integers(2**32)) if seed is None else seed
        check_whole("seed", seed, 0, _LARGEST_SEED)
        self._steps, self._best = 0, 0
        self.simulation.reset(seed=seed)
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Play ``action`` (14,) for 0.02 s."""
        _, reward, _, _, _ = self.simulation.step(checked_action(action, ACTION, self.task))
        self._steps += 1
        self._best = max(self._best, int(reward))
        solved = self._best == _SOLVED
        return self._observe(), float(reward), solved, self._steps >= self.max_steps, self._info()

    def render(self) -> np.ndarray | None:
        """The scene now from above, (render_size, render_size, 3) uint8; None without a render mode."""
        return None if self.render_mode is None else self._draw("top", self._render_size)

    def close(self) -> None:
        """Free the simulator."""
        atexit.unregister(self.close)
        self._made.physics.free()

    def _seen(self, physics: Any) -> dict[str, Any]:
        """What gym-aloha asks its task for, without the three pictures that it would draw."""
        return {"qpos": self._made.task.get_qpos(physics), "images": {"top": np.zeros(0)}}

    def _observe(self) -> dict[str, np.ndarray]:
        state = self._made.task.get_qpos(self._made.physics).astype(np.float32)
        pictures = {f"{camera}_image": self._draw(camera, self._image_size) for camera in self.cameras}
        return {"state": state, **pictures}

    def _draw(self, camera: str, size: tuple[int, int]) -> np.ndarray:
        return drawn(lambda: self._made.physics.render(*size, camera_id=camera)).copy()

    def _info(self) -> dict[str, Any]:
        return {"score": self._best / _SOLVED, "is_success": self._best == _SOLVED}


def import_aloha() -> Any:
    """The module of the environments; `InputError` where it is missing."""
    check_installed(
        "gym-aloha",
        "gym-aloha is not installed, which the tasks of ALOHA need, in an environment of its own because it "
        "takes no mujoco from 3.9 on: pip install gym-aloha",
    )
    choose_opengl()
    return importlib.import_module("gym_aloha.env")


def _limits(ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high (14,) of an action, from (16, 2) of two arms of six joints and two fingers each."""
    arms = np.asarray(ranges, np.float32).reshape(2, ARM + 1, 2)[:, : ARM - 1]
    fingers = np.tile(np.array([0.0, 1.0], np.float32), (2, 1, 1))
    low, high = np.concatenate([arms, fingers], axis=1).reshape(ACTION, 2).T
    return low.copy(), high.copy()
