"""Franka Kitchen of Gymnasium-Robotics as a gymnasium environment of states."""

import importlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_envs.checks import checked_action, known_options
from shortcut_envs.opengl import check_installed, choose_opengl, drawn
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole

ACTION, STATE = 9, 59
#: What can be done in the kitchen.
TASKS = (
    "bottom burner",
    "top burner",
    "light switch",
    "slide cabinet",
    "hinge cabinet",
    "microwave",
    "kettle",
)
#: The four of D4RL's ``complete`` and ``partial``; ``mixed`` has the bottom burner in place of the cabinet.
COMPLETE = ("microwave", "kettle", "light switch", "slide cabinet")
_INSTALL = "pip install gymnasium-robotics 'mujoco<3.12'"


class KitchenEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A robot arm in a kitchen (Gupta et al. 2019), with several things to do in any order.

    Action: (9,) in [-1, 1], speeds of seven joints and two fingers, where 1 is 2 rad/s or m/s before the
    limits of the joints. What lies outside is clipped.
    Observation, float32: ``state`` (59,), positions and speeds of the robot and of what is in the kitchen,
    with Gymnasium-Robotics' noise.
    Reward: the number of tasks that this step has done.
    Episode: terminated when ``wanted`` tasks are done, truncated after ``max_steps``.

    ``info`` at every reset and step: ``done``, the tasks done so far, in their order, a list of its own each
    time, which Gymnasium-Robotics' is not; ``score``, their number over ``wanted``; ``is_success``.

    Reset: every episode begins with the same pose; ``reset(seed=s)`` decides the noise. Without a seed it is
    drawn from ``np_random``.

    Args:
        tasks: Some of `TASKS`.
        wanted: Of these have to be done; all if None.
        render_mode: ``rgb_array`` or None.
        render_size: Side in pixels of what `render` returns.
        max_steps: Length at which an episode is truncated.

    Raises:
        InputError: An argument or action that cannot be used, or Gymnasium-Robotics is not installed, or with
            a mujoco that it fails with.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(
        self,
        tasks: Sequence[str] = COMPLETE,
        wanted: int | None = None,
        render_mode: str | None = None,
        render_size: int = 256,
        max_steps: int = 280,
    ) -> None:
        unknown = [task for task in tasks if task not in TASKS]
        if isinstance(tasks, str) or unknown or not tasks or len(set(tasks)) < len(tasks):
            raise InputError(f"tasks={tasks} must be a list of some of {', '.join(TASKS)}, each once")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode={render_mode!r} must be 'rgb_array' or None")
        wanted = len(tasks) if wanted is None else wanted
        check_whole("wanted", wanted, 1, len(tasks))
        check_whole("render_size", render_size, 1)
        check_whole("max_steps", max_steps, 1)
        made = import_kitchen().KitchenEnv
        size = {"width": render_size, "height": render_size, "render_mode": render_mode}
        self.simulation = made(tasks_to_complete=list(tasks), terminate_on_tasks_completed=False, **size)
        self.wanted, self.max_steps, self.render_mode = wanted, max_steps, render_mode
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
        self.observation_space = spaces.Dict({"state": spaces.Box(-np.inf, np.inf, (STATE,), np.float32)})
        self._done: tuple[str, ...] = ()
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for what ``seed`` means."""
        super().reset(seed=seed)
        known_options(options)
        seed = int(self.np_random.integers(2**32)) if seed is None else seed
        seen, _ = self.simulation.reset(seed=seed)
        self._done, self._steps = (), 0
        return self._observe(seen), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Play ``action`` (9,) for 0.08 s."""
        action = checked_action(action, ACTION, "the kitchen")
        seen, reward, _, _, info = self.simulation.step(np.clip(action, -1, 1))
        self._steps += 1
        # Its list of an episode's tasks is one for all episodes, and emptied by the next reset.
        self._done += tuple(task for task in info["step_task_completions"] if task not in self._done)
        over = len(self._done) >= self.wanted
        return self._observe(seen), float(reward), over, self._steps >= self.max_steps, self._info()

    def render(self) -> np.ndarray | None:
        """The scene now, (render_size, render_size, 3) uint8; None without a render mode."""
        return None if self.render_mode is None else drawn(self.simulation.render)

    def close(self) -> None:
        """Free the simulator."""
        self.simulation.close()

    def _observe(self, seen: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"state": np.asarray(seen["observation"], np.float32)}

    def _info(self) -> dict[str, Any]:
        count = len(self._done)
        score = min(1.0, count / self.wanted)
        return {"done": list(self._done), "score": score, "is_success": count >= self.wanted}


def import_kitchen() -> Any:
    """The module of the environment.

    Raises:
        InputError: It is not installed, or mujoco is one of those whose comparison of a joint's kind it
            cannot read.
    """
    check_installed(
        "gymnasium-robotics",
        f"gymnasium-robotics is not installed, which the task kitchen needs: {_INSTALL}",
    )
    found = importlib.metadata.version("mujoco")
    if [int(number) for number in re.findall(r"\d+", found)[:2]] >= [3, 12]:
        raise InputError(
            f"mujoco {found} is too new for gymnasium-robotics, whose kitchen fails from mujoco 3.12 on: "
            f"{_INSTALL}"
        )
    choose_opengl()
    return importlib.import_module("gymnasium_robotics.envs.franka_kitchen")
