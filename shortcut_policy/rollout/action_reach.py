"""Whether a policy's actions lie in the action space of the environment that they are played in."""

import sys

import numpy as np
from gymnasium import spaces

#: Part of the width of the space by which actions may leave it without a word: a network overshoots.
OVERSHOOT = 0.1
#: And part of all actions that may do so: policies of Meta-World's MT10 had 0.7%, other units have many.
FEW = 0.01


class ActionReach:
    """The smallest and largest value of each element of all actions that are played.

    Environments clip what lies outside of their action space, mostly in silence, or refuse it.

    Args:
        space: Of the actions of a chunk, (n, *shape).
    """

    def __init__(self, space: spaces.Space) -> None:
        assert isinstance(space, spaces.Box)
        self._bounds = [bound[0].reshape(-1).astype(np.float64) for bound in (space.low, space.high)]
        low, high = self._bounds
        width = np.where(np.isfinite(high - low), high - low, 1.0)
        self._width = width.clip(np.finfo(np.float32).tiny)
        self._allowed = low - OVERSHOOT * self._width, high + OVERSHOOT * self._width
        self._low, self._high = (np.full(len(low), end) for end in (np.inf, -np.inf))
        self._played = self._outside = 0

    def see(self, actions: np.ndarray) -> None:
        """Add actions, (..., A)."""
        rows = actions.reshape(-1, len(self._low)).astype(np.float64)
        if not len(rows):
            return
        self._low, self._high = np.minimum(self._low, rows.min(0)), np.maximum(self._high, rows.max(0))
        self._played += len(rows)
        low, high = self._allowed
        self._outside += int(((rows < low) | (rows > high)).any(axis=1).sum())

    def say(self) -> None:
        """On stderr, which element left the space furthest, if more than a few actions did."""
        if self._outside <= FEW * self._played:
            return
        low, high = self._bounds
        beyond = np.maximum(low - self._low, self._high - high) / self._width
        at = int(beyond.argmax())
        print(
            f"actions of the policy reach from {self._low[at]:.4g} to {self._high[at]:.4g} in element {at}, "
            f"and the action space of the environment from {low[at]:.4g} to {high[at]:.4g}, to which it may "
            f"clip them: {100 * self._outside / self._played:.2g}% of them lie outside. Does it take what "
            "the demonstrations hold, in their units?",
            file=sys.stderr,
        )
