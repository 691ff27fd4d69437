"""The part of an environment that a policy meets, whatever else the environment gives and takes."""

from collections.abc import Collection, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_policy.arrays import copied
from shortcut_policy.errors import InputError

#: What the two methods of an environment return.
GIVEN = {"reset": ("obs", "info"), "step": ("obs", "reward", "terminated", "truncated", "info")}


def check_kind(env: Any) -> None:
    """Raise `InputError` unless an environment is one of Gymnasium's, and one alone."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise InputError(
            f"{env} is {env.num_envs} environments side by side: name one environment, such as by "
            "gymnasium.make; rollouts put num_envs of them side by side themselves"
        )
    if not isinstance(env, gymnasium.Env):
        raise InputError(
            f"the environment is a {type(env).__name__} ({env!r:.60}), and must be a gymnasium.Env: let its "
            "maker return one, and wrap one of the old Gym, as the package shimmy does"
        )


class Observed(gymnasium.Wrapper):
    """The part of an environment that a policy meets: copies of its observations, actions of its shape.

    An environment may write each observation into the same arrays, as robots do, and its further
    observations may be of any kind: text, numbers of one of several, dictionaries.

    Args:
        env: With a dictionary of observations, or none of it is used.
        names: Of the observations that the policy looks at; all of them if None, or if it lacks one.
    """

    def __init__(self, env: gymnasium.Env, names: Collection[str] | None = None) -> None:
        super().__init__(env)
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            known = names is not None and set(names) <= set(space)
            kept = [name for name in space if not known or name in (names or ())]
            self.observation_space = spaces.Dict({name: space[name] for name in kept})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """``options`` are for those that know some."""
        obs, info = self._values(
            "reset", self.env.reset(seed=seed, **({"options": options} if options else {}))
        )
        return self._copied(obs), info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """With an action (A,) in the shape that the environment declares; whole numbers, if it is of such."""
        space = self.env.action_space
        if space.dtype is not None and space.dtype.kind in "iu":
            # Of the type of the space, which `contains` asks for: the nearest that it holds.
            limits = np.iinfo(space.dtype)
            action = np.rint(action).clip(limits.min, limits.max).astype(space.dtype)
        obs, *rest = self._values("step", self.env.step(action.reshape(space.shape or action.shape)))
        return self._copied(obs), *rest

    def _values(self, of: str, found: Any) -> tuple[Any, ...]:
        """What a reset or a step gives, if it is as many things as Gymnasium's."""
        names = GIVEN[of]
        if isinstance(found, tuple) and len(found) == len(names):
            return found
        given = f"{len(found)} values" if isinstance(found, tuple) else f"a {type(found).__name__}"
        raise InputError(
            f"{of}() of {self.env.unwrapped} gives {given} in place of ({', '.join(names)}): if it is an "
            "environment of the old Gym, wrap it, as the package shimmy does"
        )

    def _copied(self, obs: Any) -> Any:
        if not isinstance(self.observation_space, spaces.Dict):
            return obs
        return {name: self._held(name, obs[name]) for name in self.observation_space}

    def _held(self, name: str, value: Any) -> np.ndarray:
        """A copy of an observation, if the type that its space declares, in which it is stacked, holds it."""
        assert isinstance(self.observation_space, spaces.Dict)
        space = self.observation_space[name]
        found, declared = copied(f"observation '{name}'", value), space.dtype
        if space.shape is not None and found.shape != space.shape:
            raise ValueError(
                f"observation '{name}' has shape {list(found.shape)}, and its space {list(space.shape)}: "
                "correct one of them, such as an axis of one environment of many"
            )
        whole = declared is not None and declared.kind in "iub"
        if found.dtype.kind == "f" and whole:
            raise InputError(
                f"observation '{name}' of {self.env.unwrapped} holds {found.dtype}, and its space is of "
                f"{declared}, whole numbers, that would cut off the rest: correct the space"
            )
        if found.dtype.kind in "iu" and declared is not None and declared.kind in "iu":
            limits = np.iinfo(declared)
            if found.size and (int(found.min()) < limits.min or int(found.max()) > limits.max):
                raise InputError(
                    f"observation '{name}' of {self.env.unwrapped} holds {found.min()} to {found.max()}, and "
                    f"its space is of {declared}, from {limits.min} to {limits.max}: correct the space"
                )
            found = found.astype(declared)  # lists are of int64, which is not stacked in smaller numbers
        if found.dtype.kind == "f" and declared == np.float16 and found.dtype != declared:
            with np.errstate(over="ignore"):
                rounded = found.astype(declared)
            if not np.array_equal(rounded, found, equal_nan=True):
                raise InputError(
                    f"observation '{name}' of {self.env.unwrapped} holds {found.dtype}, and its space is of "
                    "float16, which would round it: correct the space"
                )
        return found


def check_finite(obs: Any, names: Collection[str] | None = None) -> None:
    """Raise `ValueError` if an observation, or one of those ``names``, holds NaN: a simulator diverged."""
    seen = obs.items() if isinstance(obs, Mapping) else [("observation", obs)]
    for name, value in seen:
        is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        if is_float and (names is None or name in names) and not np.isfinite(value).all():
            raise ValueError(f"observation '{name}' holds NaN or infinity")
