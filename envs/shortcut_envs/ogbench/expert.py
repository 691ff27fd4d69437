"""Demonstrations of OGBench's tasks by the oracles that it ships."""

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args

import numpy as np

from shortcut_envs.checks import check_cameras, check_deviation
from shortcut_envs.ogbench.env import ACTION, CAMERAS, OGBenchEnv
from shortcut_envs.ogbench.goals import next_subgoal
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole

#: Starts of demonstrations have seeds from here on, those of evaluations lie below.
FIRST_SEED = 2**32
_VERSION = 1  # of the demonstrations: change it with anything that changes them
Oracles = Literal["both", "markov", "plan"]


class OGBenchExpert:
    """Does what a task asks for one thing after the other, with OGBench's oracles.

    There are two for each thing: one decides by the state, the other follows a plan that is drawn and
    disturbed. Which of them plays is drawn for each demonstration. Demonstrations without success are left
    out.

    Args:
        scene: See `OGBenchEnv`.
        task_id: As well.
        oracles: ``both`` or one of them.
        noise: Standard deviation of what is added to the actions of ``markov``, whose limit is 1; plans have
            noise of their own.
        cameras: As well; what they see is recorded beside the states, whose demonstrations do not change.
        image_size: As well.

    Attributes:
        attributes: What a store of its demonstrations says about them.

    Raises:
        InputError: There is no such scene, an argument cannot be used, or OGBench is not installed.
    """

    def __init__(
        self,
        scene: str,
        task_id: int | None = None,
        oracles: Oracles = "both",
        noise: float = 0.1,
        cameras: Sequence[str] = (),
        image_size: int = 64,
    ) -> None:
        if oracles not in get_args(Oracles):
            raise InputError(f"expert.oracles={oracles} must be {', '.join(get_args(Oracles))}")
        check_deviation("expert.noise", noise)
        check_cameras(cameras, CAMERAS)
        check_whole("image_size", image_size, 1)
        self._oracles, self._noise = oracles, noise
        self._made = (scene, task_id, tuple(cameras), image_size)
        _env(*self._made)
        self._index: int | None = None
        self.attributes: Mapping[str, Any] = {
            "expert": "ogbench",
            "version": _VERSION,
            "task": scene,
            "task_id": task_id,
            "oracles": oracles,
            "noise": float(noise),
            **({"cameras": list(cameras), "image_size": image_size} if cameras else {}),
        }

    def of_episode(self, index: int) -> "OGBenchExpert":
        """The expert that makes demonstration ``index``: each of the tasks has its turn."""
        scene, task_id, cameras, image_size = self._made
        one = OGBenchExpert(scene, task_id, self._oracles, self._noise, cameras, image_size)
        one._index = index
        return one

    def episode(self, random: np.random.Generator) -> dict[str, np.ndarray] | None:
        """A demonstration from a random start, or None if it failed.

        Row t is what is seen before action t: ``state`` (T, S), ``goal`` (T, G), as `OGBenchEnv` observes
        them, and ``action`` (T, 5), as it is executed; all float32. With cameras also ``arm`` and pictures.
        """
        env = _env(*self._made)
        seed = FIRST_SEED + int(random.integers(2**32))
        tasks = env.simulation.num_tasks
        options = {}
        if env.task_id is None and self._index is not None:
            options = {"task_id": self._index % tasks + 1}
        kinds = ["markov", "plan"] if self._oracles == "both" else [self._oracles]
        kind = kinds[int(random.integers(len(kinds)))]
        # The oracles draw from numpy's global generator, which is left as it was.
        before = np.random.get_state()
        np.random.seed(int(random.integers(2**32)))
        try:
            return self._play(env, seed, options, kind, random)
        finally:
            np.random.set_state(before)

    def _play(
        self,
        env: OGBenchEnv,
        seed: int,
        options: Mapping[str, Any],
        kind: str,
        random: np.random.Generator,
    ) -> dict[str, np.ndarray] | None:
        observation, _ = env.reset(seed=seed, options=options)
        simulation = env.simulation
        rows: list[dict[str, np.ndarray]] = []
        while (subgoal := next_subgoal(simulation, random)) is not None:
            oracle = _oracle(env.scene, kind, subgoal.kind, env)
            told = {f"privileged/{key}": value for key, value in subgoal.told.items()}
            oracle.reset(None, {**simulation.compute_ob_info(), **told})
            while not oracle.done:
                action = np.array(oracle.select_action(None, {**simulation.compute_ob_info(), **told}))
                if kind == "markov":
                    action += self._noise * random.standard_normal(ACTION)
                action = np.clip(action, -1, 1).astype(np.float32)
                rows.append({**observation, "action": action})
                observation, _, solved, truncated, _ = env.step(action)
                if solved:
                    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
                if truncated:
                    return None
        return None


@cache
def _env(scene: str, task_id: int | None, cameras: tuple[str, ...], image_size: int) -> OGBenchEnv:
    """One for all episodes of a process: making it takes longer than an episode."""
    return OGBenchEnv(scene, task_id, cameras=cameras, image_size=image_size)


def _oracle(scene: str, kind: str, thing: str, env: OGBenchEnv) -> Any:
    module = importlib.import_module(f"ogbench.manipspace.oracles.{kind}.{thing}_{kind}")
    made = getattr(module, f"{thing.title()}{kind.title()}Oracle")
    # Open fingers would press the buttons beside the one that is meant.
    fingers = {"gripper_always_closed": True} if scene.startswith("puzzle") else {}
    return made(env=env.simulation, **fingers)
