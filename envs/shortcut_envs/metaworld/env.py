"""Meta-World's tasks as gymnasium environments, one by one or many in one."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_envs.checks import checked_action, known_options
from shortcut_envs.metaworld.simulation import ACTION, GOAL, HAND, LONGEST, OBJECTS, Simulation
from shortcut_envs.metaworld.tasks import tasks_of
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole


class MetaWorldEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A task of Meta-World 3 (Yu et al. 2019), or a set of them whose goals are seen.

    Action: (4,) in [-1, 1], displacement of the hand, where 1 is a centimetre, and closing of the fingers.
    What lies outside is clipped.
    Observation, float32: ``hand`` (4,), position in metres and opening in 0..1; ``objects`` (14,), position
    and quaternion of up to two objects, zeros where there are none; ``goal`` (3,) in metres; for a set
    ``task`` (K,), 1 for the task that is played and 0 for the others.
    Reward: Meta-World's, in 0..10.
    Episode: terminated ``after_success`` steps after the task was solved first, truncated after
    ``max_steps``.

    ``info`` at every reset and step: ``is_success``, whether the task was solved at some step so far, which
    is what tables of Meta-World count; ``success_now``, whether it is at this one, because success is lost
    again in many tasks; ``score``, 1 or 0, as ``is_success``; ``task``, its name.

    Reset: ``reset(seed=s)`` decides all: of a set task ``s % K`` is played, so that consecutive seeds meet
    every task equally often, and start and goal are drawn from Meta-World's space of them with ``s``. Without
    a seed it is drawn from ``np_random``. ``options={"task": name}`` plays that task of the set.

    Args:
        task: One of `TASKS`, or of `SETS`: ``mt10``, ``mt50``.
        after_success: Steps that an episode goes on after its first success; None for all.
        render_mode: ``rgb_array`` or None.
        render_size: Side in pixels of what `render` returns.
        render_camera: ``corner`` to ``corner4``, ``topview``, ``behindGripper`` or ``gripperPOV``.
        max_steps: Length at which an episode is truncated, up to Meta-World's 500.

    Raises:
        InputError: An argument or action that cannot be used, or Meta-World is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        after_success: int | None = 0,
        render_mode: str | None = None,
        render_size: int = 256,
        render_camera: str = "corner4",
        max_steps: int = LONGEST,
    ) -> None:
        self.tasks = tasks_of(task)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode={render_mode!r} must be 'rgb_array' or None")
        if after_success is not None:
            check_whole("after_success", after_success, 0)
        check_whole("render_size", render_size, 1)
        check_whole("max_steps", max_steps, 1, LONGEST)
        self.after_success, self.max_steps = after_success, max_steps
        self.render_mode, self.render_size, self.render_camera = render_mode, render_size, render_camera
        sizes = {"hand": HAND, "objects": OBJECTS, "goal": GOAL}
        if len(self.tasks) > 1:
            sizes["task"] = len(self.tasks)
        # Meta-World's own bounds leave out what its observations hold.
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in sizes.items()}
        )
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
        self._task = 0
        # One at a time: fifty scenes in each of fifty environments would not fit into memory.
        self.simulation = Simulation(self.tasks[0])
        self._steps = 0
        self._solved_at: int | None = None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for what ``seed`` and ``options={"task": name}`` mean."""
        super().reset(seed=seed)
        options = known_options(options, "task")
        seed = int(self.np_random.integers(2**32)) if seed is None else seed
        task = options.get("task", self.tasks[seed % len(self.tasks)])
        if task not in self.tasks:
            raise InputError(f"reset option task={task!r} is none of {', '.join(self.tasks)}")
        self._task = self.tasks.index(task)
        if self.simulation.task != task:
            self.simulation.close()
            self.simulation = Simulation(task)
        self.simulation.start(seed)
        self._steps, self._solved_at = 0, None
        return self._observe(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Play ``action`` (4,) for 0.0125 s."""
        action = checked_action(action, ACTION, self.simulation.task, np.float32)
        reward, solved = self.simulation.step(np.clip(action, -1, 1))
        self._steps += 1
        if solved and self._solved_at is None:
            self._solved_at = self._steps
        over = (
            self._solved_at is not None
            and self.after_success is not None
            and self._steps >= self._solved_at + self.after_success
        )
        return self._observe(), reward, over, self._steps >= self.max_steps, self._info(solved)

    def render(self) -> np.ndarray | None:
        """The scene now, (render_size, render_size, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        return self.simulation.draw(self.render_camera, self.render_size)

    def close(self) -> None:
        """Free the simulator."""
        self.simulation.close()

    def _observe(self) -> dict[str, np.ndarray]:
        observation = self.simulation.observation()
        if len(self.tasks) > 1:
            observation["task"] = np.eye(len(self.tasks), dtype=np.float32)[self._task]
        return observation

    def _info(self, solved: bool) -> dict[str, Any]:
        latched = self._solved_at is not None
        return {
            "is_success": latched,
            "success_now": solved,
            "score": float(latched),
            "task": self.simulation.task,
        }
