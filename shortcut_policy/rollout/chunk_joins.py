"""What is played while a chunk is inferred and when it is there: the arithmetic of joining two chunks.

Nothing here knows a clock or a thread. `ChunkExecutor` uses it for one robot and measured times, and rollouts
with simulated delays for many episodes at a time. Leading axes (...) are robots; time is in control steps.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from shortcut_policy.settings import Index, NotNegative, check_fields

Executor = Literal["switch", "crossfade", "prefix", "ensemble", "naive"]


@dataclass(frozen=True)
class Joining:
    """How a new chunk takes over from the old one.

    Args:
        executor: ``switch`` drops the actions of the new chunk whose time has passed, and plays the others.
            ``prefix`` does the same with a chunk that continues what is played until then: the policy was
            trained with ``prefix_steps``. ``crossfade`` goes from the old chunk to the new one over
            ``fade`` steps. ``ensemble`` averages what all chunks say of a step (Zhao et al. 2023, ACT).
            ``naive`` plays the new chunk from its first action, however late it is: what happens where
            nobody looks at the time.
        fade: Steps of a crossfade, on which both chunks count.
        decay: Of the ensemble: the i-th oldest of the chunks weighs ``exp(-decay i)``.
    """

    executor: Executor = "switch"
    fade: Index = 1
    decay: NotNegative = 0.01

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def aligned(self) -> bool:
        """Whether an action is played at the time that it was chosen for."""
        return self.executor != "naive"


class Plan(NamedTuple):
    """What is to be played from some step on.

    Attributes:
        actions: (..., n, A). Behind the last one that a chunk holds, it is repeated.
        votes: (..., n), how many chunks an action comes from; 0 where the last one is repeated.
    """

    actions: np.ndarray
    votes: np.ndarray

    @classmethod
    def of(cls, chunk: np.ndarray) -> "Plan":
        """The plan of a chunk (..., n, A) alone."""
        return cls(chunk, np.ones(chunk.shape[:-1], int))

    def window(self, first: int | np.ndarray, length: int) -> "Plan":
        """So much of it from its step ``first`` on, a whole number or (...) of them.

        Steps before its beginning hold its first action, steps behind its end its last, both with no vote.
        """
        steps = np.asarray(first)[..., None] + np.arange(length)
        inside = (steps >= 0) & (steps < self.votes.shape[-1])
        place = np.broadcast_to(steps.clip(0, self.votes.shape[-1] - 1), (*self.votes.shape[:-1], length))
        votes = np.where(inside, np.take_along_axis(self.votes, place, -1), 0)
        return Plan(np.take_along_axis(self.actions, place[..., None], -2), votes)


def join(old: Plan, chunk: np.ndarray, late: int | np.ndarray, joining: Joining) -> Plan:
    """The plan from the observed step of a chunk on: the old one until the chunk is there, then as joined.

    A chunk that comes when all its actions have passed changes nothing, unless it is played naively.

    Args:
        old: From that same step on.
        chunk: (..., n, A), the actions that were chosen from the observed step on.
        late: Steps after the observed one at which it is there, a whole number or (...) of them.
        joining: How it takes over.

    Returns:
        A plan of n steps, and of the lateness of the latest more if it is played naively.
    """
    late = np.asarray(late)
    length = chunk.shape[-2] + (0 if joining.aligned else int(late.max()))
    before = old.window(0, length)
    new = Plan.of(chunk).window(0 if joining.aligned else -late, length)
    steps = np.arange(length)
    there = (steps >= late[..., None]) & ((late[..., None] < chunk.shape[-2]) | (not joining.aligned))
    weight = np.where(there, _weight(before.votes, steps - late[..., None], joining), 0.0)[..., None]
    mixed = before.actions + weight.astype(chunk.dtype) * (new.actions - before.actions)
    actions = np.where(weight == 1, new.actions, np.where(weight == 0, before.actions, mixed))
    summed = before.votes + new.votes if joining.executor == "ensemble" else new.votes
    return Plan(actions, np.where(there, summed, before.votes))


def _weight(votes: np.ndarray, since: np.ndarray, joining: Joining) -> np.ndarray:
    """Share of the new chunk where ``votes`` (..., n) chunks were there before, ``since`` steps it came."""
    if joining.executor == "crossfade":
        rising = (since + 1) / (joining.fade + 1)
        return np.where(votes > 0, rising.clip(0, 1), 1.0)
    if joining.executor == "ensemble":
        # exp(-decay v) over the sum of exp(-decay i) for i = 0 ... v, the newest being the v-th.
        older = np.arange(1, votes.max(initial=0) + 1)
        totals = np.concatenate([[1.0], 1 + np.cumsum(np.exp(joining.decay * older))])
        return 1 / totals[votes]
    return np.ones(since.shape)
