"""What a server remembers of one client, and how it turns a request into a question to the policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from shortcut_policy.adaptive import Steps, check_steps
from shortcut_policy.arrays import as_array
from shortcut_policy.control import as_pixels, check_names
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.serving.protocol import REQUEST, Options


class Noise(NamedTuple):
    """What the noise of a chunk is a function of, see `chunk_generator`."""

    seed: int
    episode: int
    chunk: int


class Sampling(NamedTuple):
    """How a chunk is sampled; see `Policy.act`."""

    steps: Steps
    guidance: float | None


@dataclass(frozen=True)
class Answer:
    """One action chunk.

    Attributes:
        actions: (n_action_steps, A) float32 in environment units.
        evaluations: Network evaluations that it took.
        gap: Its self-consistency gap; None if the steps were fixed.
        queue_ms: Milliseconds in which it waited for others,
        infer_ms: and in which it was computed, with those that shared the batch.
    """

    actions: np.ndarray
    evaluations: int
    gap: float | None
    queue_ms: float
    infer_ms: float


@dataclass(frozen=True)
class Question:
    """A history that wants an action chunk.

    Attributes:
        obs: name -> (n_obs_steps, *shape), bytes or float32.
        noise: Where its noise comes from.
        sampling: How it is sampled.
    """

    obs: dict[str, np.ndarray]
    noise: Noise
    sampling: Sampling

    @property
    def kind(self) -> tuple[Any, ...]:
        """Questions of one kind can share a batch."""
        return (self.sampling, *(value.dtype for value in self.obs.values()))


class Session:
    """One client's episode: number, chunks so far, last observation.

    Args:
        policy: The policy.
        steps: Sampling steps of requests that name none.
        largest_steps: The most that a request may name.
        seed: Of the noise of requests that name none.
    """

    def __init__(self, policy: Policy, steps: Steps, largest_steps: int, seed: int) -> None:
        self._policy, self._steps, self._largest_steps, self._seed = policy, steps, largest_steps, seed
        self._episode, self._chunk = 0, 0
        self._history: dict[str, np.ndarray] | None = None

    def ask(self, obs: Mapping[str, Any], options: Options) -> Question:
        """The question of a request; what is refused leaves the session where it was.

        Args:
            obs: name -> (*shape), one step, or (n_obs_steps, *shape), a whole history with the oldest step
                first; in environment units. One step is taken for the first of an episode, which fills the
                history, unless it is ``consecutive``: the one before is the policy's last observation of some
                steps ago, and no history that it was trained with.
            options: Of the request.

        Raises:
            InputError: An observation is missing, has another shape, is no number, or holds NaN or infinity;
                or the objective cannot be sampled so.
        """
        sampling = self._sampling(options)
        episode, chunk, last = self._place(options)
        history = self._with_history(_checked(self._policy, obs), last if options.consecutive else None)
        seed = self._seed if options.seed is None else options.seed
        self._episode, self._chunk, self._history = episode, chunk + 1, history
        return Question(history, Noise(seed, episode, chunk), sampling)

    def _sampling(self, options: Options) -> Sampling:
        steps = self._steps if options.steps is None else check_steps(self._policy.objective, options.steps)
        if isinstance(steps, int) and options.steps is not None and steps > self._largest_steps:
            raise InputError(f"{REQUEST}.steps={steps} is more than this server takes: {self._largest_steps}")
        if options.guidance is not None:
            self._policy.objective.sampling_cond(torch.zeros(1, 1), options.guidance)
        return Sampling(steps, options.guidance)

    def _place(self, options: Options) -> tuple[int, int, dict[str, np.ndarray] | None]:
        """Number of the episode, of the chunk in it, and the history if the episode goes on."""
        begun = self._history is not None
        following = self._episode + 1 if options.reset and begun else self._episode
        episode = following if options.episode is None else options.episode
        goes_on = begun and not options.reset and episode == self._episode
        chunk = (self._chunk if goes_on else 0) if options.chunk is None else options.chunk
        return episode, chunk, self._history if goes_on else None

    def _with_history(
        self, obs: dict[str, np.ndarray], last: dict[str, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
        count = self._policy.n_obs_steps
        if all(value.ndim > len(self._policy.obs_shapes[name]) for name, value in obs.items()):
            return obs
        if last is None:
            return {name: np.stack([value] * count) for name, value in obs.items()}
        return {name: np.stack([*last[name][1:], value]) for name, value in obs.items()}


def _numbers(name: str, value: Any) -> Any:
    """The same value, if it is an array, a number, or lists of numbers.

    NumPy would make an array of texts, in which each takes as much memory as the longest: a message of one
    megabyte could ask for gigabytes.
    """
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left.extend(part)
        elif not isinstance(part, bool | int | float | np.ndarray | np.generic):
            raise InputError(f"observation '{name}' must be real numbers, not {type(part).__name__}")
    return value


def _checked(policy: Policy, obs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The policy's observations, bytes or float32, all of one step or all histories."""
    check_names(policy.obs_shapes, obs)
    checked, lengths = {}, set()
    for name, shape in policy.obs_shapes.items():
        # NumPy's checks: small as the arrays are, torch's take several times as long.
        value = as_array(f"observation '{name}'", _numbers(name, obs[name]))
        found, history = value.shape, (policy.n_obs_steps, *shape)
        if found not in (tuple(shape), history):
            raise InputError(
                f"observation '{name}' has shape {list(found)}, expected {list(shape)}, one step, or "
                f"{list(history)}, the last {policy.n_obs_steps} steps with the oldest first"
            )
        lengths.add(found == history)
        if name in policy.cameras and value.dtype != np.uint8 and np.isfinite(value).all():
            value = as_pixels(name, torch.from_numpy(value)).numpy()
        if value.dtype != np.uint8:
            if value.dtype != np.float32:
                with np.errstate(over="ignore"):
                    value = value.astype(np.float32)
            if not np.isfinite(value).all():
                raise InputError(f"observation '{name}' holds NaN or infinity, on which no action can rest")
        checked[name] = value
    if len(lengths) > 1:
        raise InputError(
            "some observations are of one step and others whole histories: send one or the other"
        )
    return checked
