"""Simulated delays of a rollout, in whole control steps: what is played between two observations."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.chunk_joins import Joining, Plan, join
from shortcut_policy.settings import Count, Index, check_fields

#: Keeps the jitter's random numbers apart from those of the sampling noise, which have three keys.
JITTER = 1


@dataclass(frozen=True)
class Execution:
    """How the chunks of an episode follow each other in time.

    An episode begins when its first chunk is there. From then on a chunk is asked for early enough to be
    there, without jitter, when ``every`` actions of the one before have been played, but not while another
    one may be on its way. Until it is there the old chunk goes on, and at its end the last action is held.

    Args:
        joining: How a new chunk takes over.
        delay: Steps from the request of a chunk to the chunk.
        sensor_delay: Age of the observation that it is asked for with, in steps.
        jitter: A chunk takes up to so many steps more, drawn for each from the seed of its start.
        every: Actions between two requests; ``n_action_steps`` of the policy if None.
    """

    joining: Joining = field(default_factory=Joining)
    delay: Index = 0
    sensor_delay: Index = 0
    jitter: Index = 0
    every: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def lateness(self) -> int:
        """Steps from the observation to the chunk, without jitter."""
        return self.delay + self.sensor_delay

    @property
    def committed(self) -> int:
        """Actions from the observed step on that are played whatever comes: those that a prefix holds."""
        return self.lateness + self.jitter

    @property
    def words(self) -> str:
        """What of it is not the usual, for titles and names of folders; nothing if nothing is."""
        usual, told = Execution().setting, []
        for name, value in self.setting.items():
            if name != "executor" and value != usual[name]:
                told.append(f"{name.replace('_', ' ')} {value:g}")
        return "" if self == Execution() else ", ".join([self.joining.executor, *told])

    @property
    def setting(self) -> dict[str, Any]:
        """The settings of ``configs/rollout.yaml`` that it stands for."""
        settings = asdict(self)
        return settings.pop("joining") | settings

    def check(self, policy: Policy) -> None:
        """Raise `InputError` unless chunks of this policy can be played so."""
        ahead = policy.horizon - policy.n_obs_steps + 1
        if self.every is not None and self.every > ahead:
            raise InputError(
                f"every={self.every} actions of a chunk cannot be played: it holds {ahead} from the last "
                "observed step on"
            )
        if self.committed >= ahead:
            raise InputError(
                f"delay={self.delay}, sensor_delay={self.sensor_delay} and jitter={self.jitter} make chunks "
                f"late by up to {self.committed} steps, and a chunk of this policy ends after {ahead}: give "
                "less in all"
            )
        if self.joining.executor == "prefix" and self.committed > policy.prefix_steps:
            if self.committed <= policy.prefix.steps:
                raise InputError(
                    "executor=prefix: exports take no prefix; play the checkpoint itself, or give "
                    "executor=switch"
                )
            raise InputError(
                f"executor=prefix needs a policy of prefix_steps={self.committed} or more, and this one was "
                f"trained with {policy.prefix.steps}: train another, or give executor=switch"
            )


class DelayedPlay:
    """The actions of a group of episodes, from one observation to the next.

    Args:
        execution: The delays.
        policy: Whose chunks are played.
        episode_seeds: Of the N episodes of the group.
        seed: Of the sampling noise and of the jitter.
    """

    def __init__(self, execution: Execution, policy: Policy, episode_seeds: Sequence[int], seed: int) -> None:
        self._execution, self._episode_seeds, self._seed = execution, episode_seeds, seed
        every = execution.every or policy.n_action_steps
        self._first = max(every - execution.lateness, 1)
        self._interval = max(every, execution.committed)
        ahead = policy.horizon - policy.n_obs_steps + 1
        length = ahead + (0 if execution.joining.aligned else execution.committed)
        shape = (len(episode_seeds), length)
        self._plan = Plan(np.zeros((*shape, policy.action_dim), np.float32), np.zeros(shape, int))
        self._played = 0

    def prefix(self, episodes: np.ndarray) -> np.ndarray | None:
        """What ``episodes`` (M,) will play until the next chunk is there, (M, k, A); None if not needed."""
        if self._execution.joining.executor != "prefix" or not self._played:
            return None
        old = Plan(*(part[episodes] for part in self._plan))
        return old.window(self._played, self._execution.committed).actions

    def next(self, episodes: np.ndarray, chunks: np.ndarray, number: int) -> tuple[Plan, np.ndarray]:
        """What ``episodes`` (M,) play from the observation on up to the next one.

        Args:
            episodes: Places in the group.
            chunks: (M, n, A), the chunks that this observation led to, from its step on.
            number: Of the chunks in their episodes.

        Returns:
            The plan of these steps, and at which of them each episode's new chunk begins, (M,).
        """
        late = np.zeros(len(episodes), int)
        if number:
            late = np.array([self._lateness(self._episode_seeds[one], number) for one in episodes])
        old = Plan(*(part[episodes] for part in self._plan)).window(self._played, self._plan.votes.shape[1])
        plan = join(old, chunks, late, self._execution.joining).window(0, self._plan.votes.shape[1])
        for kept, new in zip(self._plan, plan, strict=True):
            kept[episodes] = new
        self._played = self._interval if number else self._first
        return plan.window(0, self._played), late

    def _lateness(self, episode_seed: int, number: int) -> int:
        if not self._execution.jitter:
            return self._execution.lateness
        random = np.random.default_rng([self._seed, episode_seed, number, JITTER])
        return self._execution.lateness + int(random.integers(self._execution.jitter + 1))
