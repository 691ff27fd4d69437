"""One evaluated episode: a gymnasium wrapper that plays action chunks, and the record of what happened."""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from statistics import mean, median
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import FrameStackObservation

from shortcut_policy.errors import InputError, exits_are_errors, first_line
from shortcut_policy.rollout.motion import Motion
from shortcut_policy.rollout.observed import Observed, check_finite, check_kind

#: Steps after which an episode is cut whose environment names no end: a minute at 50 steps a second.
MOST_STEPS = 3000
#: Whether the last step was a success, where the environment does not say it: neither 0 nor 1.
UNSAID = -1


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
        error: What the environment raised, which ended the episode, one without success; empty if nothing.
        task: Of an environment of several, the one that was played; empty where ``info`` names none.
        success_at_end: The last step was a success, too; None where ``info`` does not say ``success_now``.
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
    error: str = ""
    task: str = ""
    success_at_end: bool | None = None

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
                **({"error": self.error} if self.error else {}),
                **({"task": self.task} if self.task else {}),
                **({} if self.success_at_end is None else {"success_at_end": self.success_at_end}),
            }
        )


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """The records of a file of `EpisodeResult.to_json` lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_success(env: gymnasium.Env, info: Any, name: str = "is_success") -> bool:
    """Whether a step's ``info`` reports success.

    Args:
        env: Reported it.
        info: Of a step.
        name: Under which it is reported.

    Raises:
        InputError: It does not say.
    """
    if not isinstance(info, Mapping) or name not in info:
        holds = ", ".join(sorted(map(str, info))) if isinstance(info, Mapping) else f"no names: {info!r:.60}"
        raise InputError(
            f"{env.unwrapped} reports no success: its info must hold {name} after every step, "
            f"and holds {holds or 'nothing'}"
        )
    return _read_flag(env, info[name], f"{name}={info[name]!r:.60} in its info")


def read_end(env: gymnasium.Env, terminated: Any, truncated: Any) -> bool:
    """Whether an episode is over, by either of the two words that a step has on it; None says no.

    Raises:
        InputError: One is neither true nor false.
    """
    words = {"terminated": terminated, "truncated": truncated}
    return any(
        [_read_flag(env, word, f"{name}={word!r:.60}") for name, word in words.items() if word is not None]
    )


def _read_flag(env: gymnasium.Env, value: Any, said: str) -> bool:
    """True or false, as a number, or an array or tensor of one; texts would all be true."""
    try:
        found = np.asarray(value.item() if hasattr(value, "item") else value)
    except (ValueError, RuntimeError):  # an array or a tensor of several
        found = np.empty(0)
    if found.size != 1 or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise InputError(f"{env.unwrapped} reports {said}, which must be true or false")
    return bool(found.item())


def read_number(name: str, value: Any) -> float:
    """A reward or score; batched simulators give arrays or tensors of one number.

    Raises:
        ValueError: It is no finite number.
    """
    try:
        number = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError) as error:  # tensors raise the last
        raise ValueError(f"{name} {value!r:.60} must be a number") from error
    if not np.isfinite(number):
        raise ValueError(f"{name} {number} must be a finite number")
    return number


def close_environment(env: gymnasium.Env) -> None:
    """Close an environment; one that fails at that, as drawing contexts do, costs nobody what was played."""
    try:
        with exits_are_errors():
            env.close()
    except Exception as error:  # of whatever kind: it is the simulator's
        print(
            f"{env.unwrapped} failed to close: {type(error).__name__}: {first_line(error)}", file=sys.stderr
        )


def longest_episode(env: gymnasium.Env) -> int | None:
    """Steps after which an environment ends an episode by itself; None if it does not say.

    Args:
        env: It may have an attribute ``max_steps``, or be registered with ``max_episode_steps``, or both;
            what is no number of steps, such as infinity or a method, says nothing.
    """
    limits = (getattr(env.unwrapped, "max_steps", None), env.spec and env.spec.max_episode_steps)
    numbers = (float(limit) for limit in limits if isinstance(limit, Real | np.generic))
    return min((int(number) for number in numbers if 1 <= number < np.inf), default=None)


class CutAfter:
    """Says when an episode is cut that nothing else ends: after `MOST_STEPS`, never if a length is known.

    Args:
        env: See `longest_episode`.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        self._env: Any = env.unwrapped
        self._most = MOST_STEPS if longest_episode(env) is None else None

    def __call__(self, length: int) -> bool:
        """Whether an episode of so many steps, which goes on, is cut; that is said on stderr."""
        if length != self._most:
            return False
        print(
            f"an episode of {self._env} was cut after {length} steps, because nothing says when it ends: "
            "give the environment an attribute max_steps, or register it with max_episode_steps",
            file=sys.stderr,
        )
        return True


class ActionChunkEpisode(gymnasium.Wrapper):
    """Plays whole action chunks and keeps score until its one episode is over.

    * Observations are stacks of the last ``n_obs_steps``; at the start the first one is repeated, as the
      windows of the training data are padded.
    * An action is a chunk (n_action_steps, A), or one of another length, played open loop. A chunk is cut
      where the episode ends.
    * Of a chunk the policy looks at the last ``n_obs_steps`` observations: an environment with an attribute
      ``draws`` is told to leave the pictures of the others out.
    * An error of the environment ends the episode without success, and the others go on; a reward or score
      that is no finite number is one, too. An episode without a known end is cut after `MOST_STEPS`.
    * The best score, success and length are latched and returned in ``info``. ``step`` never reports
      termination: a finished episode ignores further actions until the next `reset`, so a vector
      environment without autoreset plays every episode exactly once, however long its neighbours take.

    Args:
        env: Its ``info`` must carry ``is_success`` after every step, and may carry a ``score``, without which
            it is the reward; ``task``, the name of the one of several that is played; and ``success_now``,
            where ``is_success`` is latched.
        n_obs_steps: Observations the policy sees.
        n_action_steps: Actions of a chunk.
        names: Of the observations that the policy looks at; all of them if None.

    Raises:
        InputError: It is none of Gymnasium's, or several, or takes other actions than numbers.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        n_obs_steps: int,
        n_action_steps: int,
        names: Collection[str] | None = None,
    ) -> None:
        check_kind(env)
        if not isinstance(env.action_space, spaces.Box):
            raise InputError(
                f"{env.unwrapped} takes actions {env.action_space}, and a policy gives numbers (a Box)"
            )
        super().__init__(FrameStackObservation(Observed(env, names), n_obs_steps))
        self.action_space = batch_space(env.action_space, n_action_steps)
        self._n_obs_steps, self._names = n_obs_steps, names
        self._filming = getattr(env, "filming", None)
        self._end_recording = getattr(env, "end_recording", None)
        #: Length of the longest episode, None if the environment does not say.
        self.max_steps: int | None = longest_episode(env)
        self._cut = CutAfter(env)
        self._observation: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next episode."""
        self._draw(True)
        self._finished, self._success, self._error = False, False, ""
        self._task, self._success_now = "", UNSAID
        self._total_reward, self._score, self._length = 0.0, -np.inf, 0
        try:
            with exits_are_errors():
                observation, info = self.env.reset(seed=seed, options=options)
            check_finite(observation, self._names)
            self._observation, self._task = observation, str((info or {}).get("task", ""))
        except InputError:
            raise
        except Exception as error:  # of whatever kind: it is the simulator's
            if self._observation is None:  # never began: there is nothing to go on with
                found = f"{type(error).__name__}: {error}"
                raise InputError(f"{self.env.unwrapped} cannot be reset with seed={seed}: {found}") from error
            self._fail(error)
        return self._observation, self._latched()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play a chunk (n, A), of any length; the reward is the sum over its steps."""
        before = self._total_reward
        for number, single in enumerate(action, start=1):
            if self._finished:
                break
            self._draw(number > len(action) - self._n_obs_steps)
            self._play(single)
        if not self._finished:  # the policy looks at what was seen last
            try:
                check_finite(self._observation, self._names)
            except ValueError as error:
                self._fail(error)
        return self._observation, self._total_reward - before, False, False, self._latched()

    def close(self) -> None:
        """See `close_environment`."""
        close_environment(self.env)

    def _draw(self, looked_at: bool) -> None:
        """Spare an environment that says whether it ``draws`` the pictures that no policy looks at."""
        if hasattr(self.env.unwrapped, "draws"):
            self.env.unwrapped.draws = looked_at or bool(self._filming and self._filming())

    def _play(self, action: np.ndarray) -> None:
        try:
            with exits_are_errors():
                self._observation, reward, terminated, truncated, info = self.env.step(action)
            success, over = read_success(self.env, info), read_end(self.env, terminated, truncated)
            now = int(read_success(self.env, info, "success_now")) if "success_now" in info else UNSAID
            reward = read_number("reward", reward)
            score = read_number("score", info.get("score", reward))
        except InputError:
            raise
        except Exception as error:  # of whatever kind: it is the simulator's
            self._fail(error)
            return
        self._total_reward += reward
        self._score, self._success = max(self._score, score), self._success or success
        self._success_now, self._finished = now, over
        self._length += 1
        if not self._finished and self._cut(self._length):
            self._finished = True
            self._recorded(failed=False)

    def _recorded(self, failed: bool) -> None:
        """Tell what films the episode, if something does, that it is over."""
        if self._end_recording is not None:
            self._end_recording(failed)

    def _fail(self, error: Exception) -> None:
        self._finished, self._success = True, False
        self._success_now = min(self._success_now, 0)
        self._error = f"{type(error).__name__}: {error}"
        self._recorded(failed=True)

    def _latched(self) -> dict[str, Any]:
        return {
            "finished": self._finished,
            "total_reward": self._total_reward,
            "score": self._score if self._length else 0.0,
            "success": self._success,
            "length": self._length,
            "error": self._error,
            "task": self._task,
            "success_now": self._success_now,
        }
