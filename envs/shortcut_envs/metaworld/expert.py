"""Meta-World's scripted experts, made to show more than one way."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from shortcut_envs.checks import check_deviation
from shortcut_envs.metaworld.env import MetaWorldEnv
from shortcut_envs.metaworld.simulation import ACTION, import_metaworld
from shortcut_envs.metaworld.tasks import tasks_of
from shortcut_policy.settings import check_whole

#: Starts of demonstrations have seeds from here on, those of evaluations lie below.
FIRST_SEED = 2**32
_VERSION = 1  # of the demonstrations: change it with anything that changes them
_NEAR, _PATIENCE, _GAIN = 0.02, 40, 10.0  # metres, control steps, and the experts' own factor
#: The class of the one expert that is not called as its task is.
_OTHER_NAMES = {"peg-insert-side-v3": "SawyerPegInsertionSideV3Policy"}


class MetaWorldExpert:
    """Plays Meta-World's scripted policies, which see the whole state, and keeps what is executed.

    The scripted policy of a task does one thing from each start. Noise on its actions shows how errors are
    corrected, and a way round by a drawn point makes demonstrations of more than one mode. Demonstrations
    without success are left out.

    Args:
        task: One of Meta-World's, or ``mt10`` or ``mt50``: then demonstration i is of task i modulo K.
        noise: Standard deviation of what is added to the position part of each action, whose limit is 1.
        waypoint: Metres: the hand first goes to a point that is drawn so far around where it starts, in a
            cube that lies to its sides and above it; 0 for none.
        after_success: Steps that are recorded after the first success, see `MetaWorldEnv`.

    Attributes:
        attributes: What a store of its demonstrations says about them.

    Raises:
        InputError: There is no such task, a number that cannot be used, or Meta-World is not installed.
    """

    def __init__(
        self, task: str, noise: float = 0.1, waypoint: float = 0.1, after_success: int = 10
    ) -> None:
        check_deviation("expert.noise", noise)
        check_deviation("expert.waypoint", waypoint)
        check_whole("expert.after_success", after_success, 0)
        self._tasks, self._set = tasks_of(task), task
        import_metaworld()
        self._noise, self._waypoint, self._after_success = noise, waypoint, after_success
        self._task: int | None = None
        self.attributes: Mapping[str, Any] = {
            "expert": "metaworld",
            "version": _VERSION,
            "task": task,
            "noise": float(noise),
            "waypoint": float(waypoint),
            "after_success": after_success,
        }

    def of_episode(self, index: int) -> "MetaWorldExpert":
        """The expert that makes demonstration ``index``: of a set each task has its turn."""
        task = self._tasks[index % len(self._tasks)]
        one = MetaWorldExpert(task, self._noise, self._waypoint, self._after_success)
        one._set, one._tasks = self._set, self._tasks
        one._task = index % len(self._tasks)
        return one

    def episode(self, random: np.random.Generator) -> dict[str, np.ndarray] | None:
        """A demonstration from a random start, or None if it failed.

        Row t is what is seen before action t: ``hand`` (T, 4), ``objects`` (T, 14), ``goal`` (T, 3), of a set
        ``task`` (T, K), as `MetaWorldEnv` observes them, and ``action`` (T, 4), clipped as it is executed;
        all float32.
        """
        number = int(random.integers(len(self._tasks))) if self._task is None else self._task
        env = _env(self._tasks[number], self._after_success)
        observation, _ = env.reset(seed=FIRST_SEED + int(random.integers(2**32)))
        act = self._script(env, random)
        rows: list[dict[str, np.ndarray]] = []
        over, info = False, {"is_success": False}
        while not over:
            action = act()
            rows.append({**observation, "action": action})
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        if not info["is_success"]:
            return None
        episode = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        if len(self._tasks) > 1:
            one_hot = np.eye(len(self._tasks), dtype=np.float32)[number]
            episode["task"] = np.tile(one_hot, (len(rows), 1))
        return episode

    def _script(self, env: MetaWorldEnv, random: np.random.Generator) -> Callable[[], np.ndarray]:
        """A function that says the next action, (4,) float32 in [-1, 1]."""
        simulation, policy = env.simulation, _policy(env.simulation.task)
        way = random.uniform([-1, -1, 0], [1, 1, 1]) * self._waypoint
        point, left = simulation.observation_of_experts()[:3] + way, _PATIENCE if self._waypoint else 0

        def act() -> np.ndarray:
            nonlocal left
            seen = simulation.observation_of_experts()
            with warnings.catch_warnings(action="ignore"):  # it says that actions will be clipped
                action = np.array(policy.get_action(seen), np.float64)
            if left and np.abs(point - seen[:3]).max() > _NEAR:
                left -= 1
                action[:3] = _GAIN * (point - seen[:3])
            else:
                left = 0
            action = np.clip(action, -1, 1)
            action[:3] += self._noise * random.standard_normal(ACTION - 1)
            return np.clip(action, -1, 1).astype(np.float32)

        return act


@cache
def _env(task: str, after_success: int) -> MetaWorldEnv:
    """One for all episodes of a process: making it takes longer than an episode."""
    return MetaWorldEnv(task, after_success)


@cache
def _policy(task: str) -> Any:
    import_metaworld()
    name = _OTHER_NAMES.get(task) or f"Sawyer{task.removesuffix('-v3').title().replace('-', '')}V3Policy"
    return getattr(importlib.import_module("metaworld.policies"), name)()
