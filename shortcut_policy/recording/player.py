"""A policy that plays until a person takes over, and goes on when they let go."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from shortcut_policy.adaptive import Steps
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.policy_planner import PolicyPlanner


class PolicyPlayer:
    """Plays chunks as `Policy.select_action` does; what it sees goes on while somebody else acts.

    Args:
        policy: The policy.
        steps: Sampling steps.
        seed: Of the noise.

    Raises:
        InputError: The objective cannot take so many steps.
    """

    def __init__(self, policy: Policy, steps: Steps = 1, seed: int = 0) -> None:
        self._policy, self._planner = policy, PolicyPlanner(policy, steps, seed)
        self._seen: deque[dict[str, np.ndarray]] = deque(maxlen=policy.n_obs_steps)
        self._left: list[np.ndarray] = []

    def reset(self, episode: int) -> None:
        """Begin an episode: no history, and the noise of that number."""
        self._planner.reset(episode)
        self._seen.clear()
        self._left = []

    def observe(self, obs: Mapping[str, Any]) -> None:
        """Add the observation of a step, whoever acts on it; the first one fills the history."""
        seen = {name: np.array(obs[name]) for name in self._policy.obs_shapes}
        self._seen.extend([seen] * (1 if self._seen else self._policy.n_obs_steps))

    def action(self) -> np.ndarray:
        """The action (A,) float32 for the step that was observed last."""
        if not self._left:
            history = {name: np.stack([seen[name] for seen in self._seen]) for name in self._seen[0]}
            self._left = list(self._planner.plan(history, None)[: self._policy.n_action_steps])
        return np.array(self._left.pop(0), np.float32)

    def interrupt(self) -> None:
        """Somebody else acts: what is left of the chunk is for a course that is not taken."""
        self._left = []
