"""What is stored of each step that a person, or a policy beside them, played."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_policy.arrays import copied
from shortcut_policy.data.fields import ACTION
from shortcut_policy.data.robomimic_writer import attributes_of
from shortcut_policy.errors import InputError
from shortcut_policy.rollout.recorder import frames_a_second

#: Key of the marks of corrected steps, 1 where the person acted.
INTERVENTION = "intervention"
#: What every store of a person's demonstrations says of them.
HUMAN = {"expert": "human"}
#: Spaces of observations that are numbers; others hold text, or further observations.
NUMBERS = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


class Rows(Protocol):
    """The form of a store: row t holds what was seen before action t, and the action."""

    def before(self, obs: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
        """What is seen, copied: environments may use their arrays again."""
        ...

    def after(self, action: np.ndarray, reward: float, success: bool) -> dict[str, Any]:
        """What was done, and what came of it."""
        ...

    def whole(self) -> dict[str, str]:
        """Texts that belong to the whole episode."""
        ...

    def attributes(self, task: str, info: Mapping[str, Any]) -> dict[str, Any]:
        """What the store says of all of them."""
        ...


class PlainRows:
    """Rows of a zarr store: observations under their names, ``action``, and ``state`` where ``info`` has it
    and no observation is called so; float32.

    Pictures are left out: they are drawn again from the states (``scripts/render.py``). So is what is no
    array of numbers.

    Args:
        env: The environment.

    Raises:
        InputError: It has no dictionary of observations, or one of them is called as the action is.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        self._rate = frames_a_second(env)
        if not isinstance(env.observation_space, spaces.Dict):
            raise InputError(
                f"{env.unwrapped} must have a dictionary of observations, whose names the store takes, not "
                f"{env.observation_space}"
            )
        numbers = {name: space for name, space in env.observation_space.items() if isinstance(space, NUMBERS)}
        self._names = [name for name, space in numbers.items() if len(space.shape or ()) < 3]
        check_free(env, ACTION, self._names)

    def before(self, obs: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
        """See `Rows`."""
        seen = {name: obs[name] for name in self._names}
        if "state" in info:
            seen.setdefault("state", info["state"])
        return {name: copied(f"'{name}'", value).astype(np.float32) for name, value in seen.items()}

    def after(self, action: np.ndarray, reward: float, success: bool) -> dict[str, Any]:
        """See `Rows`."""
        return {ACTION: np.array(action, np.float32)}

    def whole(self) -> dict[str, str]:
        """See `Rows`."""
        return {}

    def attributes(self, task: str, info: Mapping[str, Any]) -> dict[str, Any]:
        """See `Rows`; with the goal, which pictures are drawn with."""
        goal = {"goal_pose": np.asarray(info["goal_pose"]).tolist()} if "goal_pose" in info else {}
        return {**HUMAN, "task": task, "control_hz": self._rate, **goal}


class RobomimicRows:
    """Rows of a robomimic file, as `shortcut_envs.robosuite.experts` write them.

    Args:
        env: An environment of robosuite's.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        self._env: Any = env.unwrapped

    def before(self, obs: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
        """See `Rows`."""
        stored = {f"obs/{key}": value for key, value in self._env.stored_observation().items()}
        return {"states": np.array(info["states"]), **stored}

    def after(self, action: np.ndarray, reward: float, success: bool) -> dict[str, Any]:
        """See `Rows`."""
        return {"actions": np.array(action, np.float64), "rewards": float(reward), "dones": int(success)}

    def whole(self) -> dict[str, str]:
        """The model of the scene, so that pictures show what was seen."""
        return {"model_file": self._env.simulation.sim.model.get_xml()}

    def attributes(self, task: str, info: Mapping[str, Any]) -> dict[str, Any]:
        """See `Rows`."""
        return {**attributes_of(self._env.args), **HUMAN}


def check_free(env: gymnasium.Env, key: str, taken: Collection[str]) -> None:
    """Raise `InputError` if an observation has the ``key`` of something else that is stored."""
    if key in taken:
        raise InputError(
            f"{env.unwrapped} has an observation called '{key}', and in the store the {key}s of whoever "
            "plays have that key: let the environment give it another name"
        )


def is_robomimic(env: gymnasium.Env) -> bool:
    """Whether an environment's demonstrations are robomimic files."""
    return hasattr(env.unwrapped, "stored_observation")
