"""OGBench's manipulation tasks as gymnasium environments whose starts are functions of a seed."""

import importlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_envs.checks import check_cameras, checked_action, known_options
from shortcut_envs.ogbench.scenes import SCENES, check_scene
from shortcut_envs.opengl import (
    check_installed,
    choose_opengl,
    close_renderer,
    closed_at_exit,
    drawn,
    open_renderer,
)
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole

ACTION = 5
#: Numbers of the arm, with which each state begins.
ARM = 19
CAMERAS = ("front_pixels", "front")


class OGBenchEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A manipulation scene of OGBench 1.2 (Park et al. 2025) with its five tasks, from states or pictures.

    Action: (5,) in [-1, 1], steps of the gripper in position, yaw and opening. What lies outside is clipped.
    Observation, float32: ``state``, OGBench's own, scaled as there; ``goal``, where the objects shall be,
    which OGBench calls the oracle representation of the goal. With cameras also ``arm`` (19,), the numbers
    of ``state`` that are of the arm, and for each camera ``<camera>_image``, (image_size, image_size, 3)
    uint8.
    Reward: 1 when the task is solved and 0 else.
    Episode: terminated when the task is solved, as OGBench says it is, truncated after ``max_steps``.

    ``info`` at every reset and step: ``is_success``; ``score``, 1 or 0; ``task``, the name of the task.

    Reset: ``reset(seed=s)`` decides all: the task is number ``s % 5 + 1``, if ``task_id`` is not given, so
    that consecutive seeds meet every task equally often, and places are drawn with ``s`` around those of the
    task. Without a seed it is drawn from ``np_random``. ``options={"task_id": k}`` plays that task.

    Args:
        scene: One of `SCENES`.
        task_id: 1 to 5; None for all of them in turn.
        render_mode: ``rgb_array`` or None.
        render_size: Side in pixels of what `render` returns.
        max_steps: Length at which an episode is truncated; OGBench's if None.
        cameras: Some of `CAMERAS`. With them the scene looks as in OGBench's tasks of pixels: the arm lets
            things behind it be seen, and nothing is shown of goal and success. OGBench's own camera is
            ``front_pixels``.
        image_size: Side in pixels of their pictures; OGBench's are 64.

    Raises:
        InputError: An argument or action that cannot be used, or OGBench is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        scene: str,
        task_id: int | None = None,
        render_mode: str | None = None,
        render_size: int = 256,
        max_steps: int | None = None,
        cameras: Sequence[str] = (),
        image_size: int = 64,
    ) -> None:
        check_scene(scene)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode={render_mode!r} must be 'rgb_array' or None")
        check_whole("render_size", render_size, 1)
        check_cameras(cameras, CAMERAS)
        check_whole("image_size", image_size, 1)
        length, module, name, kind = SCENES[scene]
        self.max_steps = length if max_steps is None else max_steps
        check_whole("max_steps", self.max_steps, 1)
        import_ogbench()
        made = getattr(importlib.import_module(f"ogbench.manipspace.envs.{module}"), name)
        size = {"width": render_size, "height": render_size}
        self.scene, self.render_mode = scene, render_mode
        self.cameras, self.image_size = tuple(cameras), image_size
        looks = {"ob_type": "pixels", "visualize_info": False} if self.cameras else {}
        self.simulation = _seeded(made)(env_type=kind, use_oracle_rep=True, **size, **looks)
        self._n_tasks = int(self.simulation.num_tasks)
        if task_id is not None:
            check_whole("task_id", task_id, 1, self._n_tasks)
        self.task_id = task_id
        self._renderer: Any = None
        #: Whether cameras are drawn; while not, their observations stay as they were (`ActionChunkEpisode`).
        self.draws = True
        self._eye: Any = None
        self._pictures: dict[str, np.ndarray] = {}
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
        observation, _ = self.reset(seed=0)
        pictures = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        numbers = {key: value.shape for key, value in observation.items() if value.dtype == np.float32}
        self.observation_space = spaces.Dict(
            {
                **{key: spaces.Box(-np.inf, np.inf, shape, np.float32) for key, shape in numbers.items()},
                **{f"{camera}_image": pictures for camera in self.cameras},
            }
        )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for what ``seed`` and ``options={"task_id": k}`` mean."""
        super().reset(seed=seed)
        options = known_options(options, "task_id")
        seed = int(self.np_random.integers(2**32)) if seed is None else seed
        task_id = options.get("task_id", self.task_id)
        if task_id is None:
            task_id = seed % self._n_tasks + 1
        check_whole("reset option 'task_id'", task_id, 1, self._n_tasks)
        # Beside its own generator it draws from that of its action space, to shake the scene of the goal.
        self.simulation.action_space.seed(seed)
        self._state, info = self.simulation.reset(options={"task_id": task_id}, seed=seed)
        self._goal = np.array(info["goal"])
        self._steps = 0
        return self._observe(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Play ``action`` (5,) for one control period, 0.05 s."""
        action = checked_action(action, ACTION, self.scene)
        self._state, reward, _, _, info = self.simulation.step(np.clip(action, -1, 1))
        self._steps += 1
        solved = bool(info["success"])
        return self._observe(), float(reward), solved, self._steps >= self.max_steps, self._info(solved)

    def render(self) -> np.ndarray | None:
        """The scene now, (render_size, render_size, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        picture = drawn(partial(self.simulation.render, camera="front"))
        if self._renderer is None:
            self._renderer = closed_at_exit(self.simulation._renderer)
        return picture

    def close(self) -> None:
        """Free the simulator."""
        if self._renderer is not None:
            close_renderer(self._renderer)
            self._renderer = self.simulation._renderer = None
        if self._eye is not None:
            close_renderer(self._eye)
            self._eye = None
        self.simulation.close()

    def _observe(self) -> dict[str, np.ndarray]:
        seen = {"state": self._state.astype(np.float32), "goal": self._goal.astype(np.float32)}
        if not self.cameras:
            return seen
        if self.draws or not self._pictures:
            self._pictures = {f"{camera}_image": self._see(camera) for camera in self.cameras}
        pictures = {name: picture.copy() for name, picture in self._pictures.items()}
        return {**seen, "arm": seen["state"][:ARM].copy(), **pictures}

    def _see(self, camera: str) -> np.ndarray:
        model, data = self.simulation._model, self.simulation._data
        if self._eye is not None and self._eye.model is not model:  # it was compiled anew
            close_renderer(self._eye)
            self._eye = None
        if self._eye is None:
            self._eye = open_renderer(model, self.image_size)
        self._eye.update_scene(data, camera, self.simulation._scene_option)
        return drawn(self._eye.render)

    def _info(self, solved: bool) -> dict[str, Any]:
        name = self.simulation.cur_task_info["task_name"]
        return {"is_success": solved, "score": float(solved), "task": name}


def import_ogbench() -> Any:
    """The module; `InputError` where it is missing."""
    check_installed(
        "ogbench",
        "ogbench is not installed, which OGBench's tasks need: pip install 'shortcut-policy[metaworld]'",
    )
    choose_opengl()
    return importlib.import_module("ogbench.manipspace")


def _seeded(made: type[Any]) -> type[Any]:
    """OGBench's environment with one action space: it makes another one, not seeded, at each look.

    What it observes are states, whatever the scene looks like.
    """

    class Seeded(made):
        _space: Any = None
        _ob_type: str

        @property
        def action_space(self) -> Any:
            if self._space is None:
                self._space = super().action_space
            return self._space

        def compute_observation(self) -> Any:
            looks, self._ob_type = self._ob_type, "states"
            try:
                return super().compute_observation()
            finally:
                self._ob_type = looks

    return Seeded
