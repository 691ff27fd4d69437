"""One evaluated episode: a gymnasium wrapper that plays action chunks, and the record of what happened."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import FrameStackObservation

from shortcut_policy.errors import InputError
from shortcut_policy.rollout.motion import Motion


@dataclass(frozen=True)
class EpisodeResult:
    """What one episode came to. Two results are equal when the episodes were; wall-clock does not count.

    Attributes:
        seed: The environment was reset with it.
        total_reward: Sum of the rewards of all steps (the "return").
        score: Largest reward of any step; for Push-T max over time of clip(coverage / 0.95, 0, 1).
        success: The environment reported success at some step; for Push-T coverage > 0.95.
        length: Environment steps played.
        chunks: Action chunks inferred, each with one call of the policy.
        network_evaluations: That each chunk took.
        gaps: Self-consistency gap of each chunk, see `shortcut_policy.adaptive`; none for fixed steps.
        latencies_ms: Wall-clock of each call of the policy, for the whole inference batch.
        motion: How smoothly it was told to move.
    """

    seed: int
    total_reward: float
    score: float
    success: bool
    length: int
    chunks: int
    network_evaluations: tuple[int, ...]
    gaps: tuple[float, ...]
    latencies_ms: tuple[float, ...] = field(compare=False, repr=False)
    motion: Motion = field(default_factory=Motion)

    def to_json(self) -> str:
        """One line of JSON, with the mean evaluations and gap of a chunk and the median latency."""
        return json.dumps(
            {
                "seed": self.seed,
                "return": self.total_reward,
                "score": self.score,
                "success": self.success,
                "length": self.length,
                "chunks": self.chunks,
                # Fixed steps give whole numbers: the mean of equal integers is one.
                "network_evaluations": round(mean(self.network_evaluations), 4),
                "gap": round(mean(self.gaps), 6) if self.gaps else None,
                "latency_ms": round(median(self.latencies_ms), 3),
                **asdict(self.motion),
            }
        )


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """The records of a file of `EpisodeResult.to_json` lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_success(env: gymnasium.Env, info: dict[str, Any]) -> bool:
    """Whether a step's ``info`` reports success.

    Raises:
        InputError: It does not say.
    """
    if "is_success" not in info:
        raise InputError(
            f"{env.unwrapped} reports no success: its info must hold is_success after every step, "
            f"and holds {', '.join(sorted(info)) or 'nothing'}"
        )
    return bool(info["is_success"])


class ActionChunkEpisode(gymnasium.Wrapper):
    """Plays whole action chunks and keeps score until its one episode is over.

    * Observations are stacks of the last ``n_obs_steps``; at the start the first one is repeated, as the
      windows of the training data are padded.
    * An action is a chunk (n_action_steps, A), or one of another length, played open loop. A chunk is cut
      where the episode ends.
    * Of a chunk the policy looks at the last ``n_obs_steps`` observations: an environment with an attribute
      ``draws`` is told to leave the pictures of the others out.
    * The best score, success and length are latched and returned in ``info``. ``step`` never reports
      termination: a finished episode ignores further actions until the next `reset`, so a vector
      environment without autoreset plays every episode exactly once, however long its neighbours take.

    Args:
        env: Its ``info`` must carry ``is_success`` after every step, and may carry a ``score``; without one
            it is the reward.
        n_obs_steps: Observations the policy sees.
        n_action_steps: Actions of a chunk.
    """

    def __init__(self, env: gymnasium.Env, n_obs_steps: int, n_action_steps: int) -> None:
        super().__init__(FrameStackObservation(env, n_obs_steps))
        self.action_space = batch_space(env.action_space, n_action_steps)
        self._n_obs_steps, self._filming = n_obs_steps, getattr(env, "filming", None)
        #: Length of the longest episode, None if the environment does not say.
        self.max_steps: int | None = getattr(env.unwrapped, "max_steps", None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode."""
        self._draw(True)
        self._observation, _ = self.env.reset(seed=seed, options=options)
        self._finished, self._success = False, False
        self._total_reward, self._score, self._length = 0.0, -np.inf, 0
        return self._observation, self._latched()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play a chunk (n, A), of any length; the reward is the sum over its steps."""
        before = self._total_reward
        for number, single in enumerate(action, start=1):
            if self._finished:
                break
            self._draw(number > len(action) - self._n_obs_steps)
            self._play(single)
        return self._observation, self._total_reward - before, False, False, self._latched()

    def _draw(self, looked_at: bool) -> None:
        """Spare an environment that says whether it ``draws`` the pictures that no policy looks at."""
        if hasattr(self.env.unwrapped, "draws"):
            self.env.unwrapped.draws = looked_at or bool(self._filming and self._filming())

    def _play(self, action: np.ndarray) -> None:
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        self._total_reward += float(reward)
        self._score = max(self._score, float(info.get("score", reward)))
        self._success |= read_success(self.env, info)
        self._length += 1
        self._finished = bool(terminated or truncated)

    def _latched(self) -> dict[str, Any]:
        return {
            "finished": self._finished,
            "total_reward": self._total_reward,
            "score": self._score,
            "success": self._success,
            "length": self._length,
        }
