"""A policy as what a `ChunkExecutor` asks for chunks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shortcut_policy.adaptive import Steps, check_steps
from shortcut_policy.control import agreed_rate, chunk_generator
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.chunk_executor import ChunkExecutor


class PolicyPlanner:
    """Infers the chunks of one robot with a policy.

    The noise of chunk k is a function of (``seed``, ``episode``, k), as that of `Policy.select_action` is.

    Args:
        policy: The policy, on the device that infers.
        steps: Sampling steps, see `Policy.act`.
        seed: Of the noise, from 0 on.
        episode: Number of the first episode, from 0 on.
        guidance: See `Policy.act`.

    Raises:
        InputError: The objective cannot take so many steps.
    """

    def __init__(
        self,
        policy: Policy,
        steps: Steps = 1,
        seed: int = 0,
        episode: int = 0,
        guidance: float | None = None,
    ) -> None:
        self._policy, self._steps = policy, check_steps(policy.objective, steps)
        self._seed, self._episode, self._guidance, self._chunks = seed, episode, guidance, 0

    def reset(self, episode: int) -> None:
        """Begin the noise of an episode, while no inference runs."""
        self._episode, self._chunks = episode, 0

    def plan(self, history: Mapping[str, np.ndarray], prefix: np.ndarray | None) -> np.ndarray:
        """See `ChunkPlanner.plan`."""
        obs = {name: value[None] for name, value in history.items()}
        noise = [chunk_generator(self._seed, self._episode, self._chunks)]
        given = None if prefix is None else prefix[None]
        chunk = self._policy.predict(obs, self._steps, noise, self._guidance, given)[0]
        self._chunks += 1
        found: np.ndarray = chunk[self._policy.n_obs_steps - 1 :].cpu().numpy()
        return found


def executor_of(
    policy: Policy, rate_hz: float, steps: Steps = 1, seed: int = 0, **options: Any
) -> ChunkExecutor:
    """A `ChunkExecutor` for a policy.

    Args:
        policy: The policy.
        rate_hz: Control steps in a second: the rate of the training data. If these said another one, that is
            told on stderr.
        steps: Sampling steps.
        seed: Of the noise.
        options: Of `ChunkExecutor`: ``joining``, ``background``, ``on_miss`` and so on.

    Raises:
        InputError: See `ChunkExecutor`; or it is to join chunks by a prefix, which the policy does not take.
    """
    joining = options.get("joining")
    if joining is not None and joining.executor == "prefix" and not policy.prefix_steps:
        why = "exports take none" if policy.prefix.steps else "this one was trained with prefix_steps=0"
        raise InputError(f"executor=prefix needs a policy that takes a prefix, and {why}: join otherwise")
    planner = PolicyPlanner(policy, steps, seed)
    known: dict[str, Any] = {"prefix_steps": policy.prefix_steps, "n_action_steps": policy.n_action_steps}
    known["names"] = tuple(policy.obs_shapes)
    agreed_rate(policy.metadata, rate_hz)
    return ChunkExecutor(planner, rate_hz, policy.n_obs_steps, **{**known, **options})
