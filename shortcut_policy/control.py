"""A policy as a robot's loop wants it: one observation in, one action out."""

import math
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.adaptive import Steps, check_deadline, check_steps
from shortcut_policy.arrays import as_numbers
from shortcut_policy.data.agreement import SAME_RATE
from shortcut_policy.data.normalizer import Normalizer
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Objective
from shortcut_policy.objectives.base import Generators, check_generators
from shortcut_policy.settings import check_whole

#: Floats up to this number that are not whole are a picture in 0..1, however it was resized or brightened.
BRIGHTEST_UNIT = 1.5


def chunk_generator(seed: int, episode: int, chunk: int) -> torch.Generator:
    """The generator of the sampling noise of one action chunk, a function of these three numbers alone.

    Args:
        seed: Of the noise, from 0 on.
        episode: Number of the episode, from 0 on; `shortcut_policy.rollout` gives the environment's seed.
        chunk: Index of the chunk in its episode.
    """
    state = np.random.SeedSequence([seed, episode, chunk]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@dataclass
class Episode:
    """What `StepwiseControl` remembers of the episode that it plays.

    Attributes:
        number: Of the episode.
        seed: Of the noise; None if ``generator`` is its source.
        generator: Source of the noise of all chunks.
        sampling: Further arguments of `act`.
        history: The newest observations, oldest first.
        chunk: (n_action_steps, A) actions that are played now.
        played: Actions of it that have been returned.
        chunks: Chunks inferred so far.
    """

    number: int
    seed: int | None
    generator: torch.Generator | None
    sampling: dict[str, Any]
    history: deque[dict[str, Tensor]] = field(default_factory=deque)
    chunk: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    played: int = 0
    chunks: int = 0

    def observe(self, obs: dict[str, Tensor], n_obs_steps: int) -> None:
        """Add an observation; the first one fills the history."""
        self.history.extend([obs] * (1 if self.history else n_obs_steps))
        while len(self.history) > n_obs_steps:
            self.history.popleft()

    def stacked(self) -> dict[str, Tensor]:
        """The history as a batch of one row, name -> (1, n_obs_steps, *shape), where its newest step is."""
        newest = self.history[-1]
        return {
            name: torch.stack([obs[name].to(newest[name].device) for obs in self.history])[None]
            for name in newest
        }

    def noise(self) -> torch.Generator | list[torch.Generator]:
        """The source of the noise of the next chunk."""
        if self.generator is not None:
            return self.generator
        assert self.seed is not None
        return [chunk_generator(self.seed, self.number, self.chunks)]


class StepwiseControl(ABC):
    """Adds `reset` and `select_action` to what acts on batches of histories.

    What it remembers of an episode is no part of the weights: it is in no ``state_dict`` and no checkpoint.
    """

    obs_shapes: dict[str, tuple[int, ...]]
    cameras: frozenset[str]
    n_obs_steps: int
    objective: Objective
    normalizer: Normalizer
    obs_clamp: float | None
    device: torch.device
    _episode: Episode | None = None

    @abstractmethod
    def act(
        self,
        obs: Mapping[str, Any],
        steps: Steps = 1,
        generator: Generators = None,
        *,
        deadline_ms: float | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Choose the next actions of a batch, (B, n_action_steps, A)."""

    def reset(
        self,
        steps: Steps = 1,
        *,
        seed: int | None = None,
        episode: int | None = None,
        generator: torch.Generator | None = None,
        deadline_ms: float | None = None,
        guidance: float | None = None,
    ) -> None:
        """Begin an episode: forget the history and the rest of the chunk, and say how to sample.

        The noise of chunk k is a function of (``seed``, ``episode``, k). With one environment this gives the
        actions of ``shortcut_policy.rollout.play.rollout(..., batch_size=1)``, bit for bit, whose
        ``episode`` is the seed with which the environment was reset.

        Args:
            steps: Sampling steps of each chunk, see `act`.
            seed: Of the noise, from 0 on; 0 if None.
            episode: Number of the episode, from 0 on; if None one more than that of the last one, 0 at first.
            generator: Source of the noise in place of ``seed`` and ``episode``; it goes on from chunk to
                chunk.
            deadline_ms: See `act`; in place of ``steps``.
            guidance: See `act`.

        Raises:
            InputError: The objective cannot take so many steps, this deadline or this guidance, or the noise
                has two sources or another one than a generator.

        Example:
            >>> policy = load_policy("pretrained/pusht")
            >>> policy.reset(steps=1, seed=0)
            >>> obs, _ = env.reset()
            >>> obs, *_ = env.step(policy.select_action(obs))
        """
        if generator is not None and (seed is not None or episode is not None):
            raise InputError(
                f"generator and seed={seed}, episode={episode} both decide the noise: give a generator, or "
                "seed and episode"
            )
        check_generators(None if generator is None else [generator])
        steps = check_steps(self.objective, steps)
        if deadline_ms is not None:
            check_deadline(deadline_ms, steps)
        if guidance is not None:
            self.objective.sampling_cond(torch.zeros(1, 0), guidance)
        if episode is None:
            episode = 0 if self._episode is None else self._episode.number + 1
        number, seed = _whole("episode", episode), _whole("seed", 0 if seed is None else seed)
        sampling = {"steps": steps, "deadline_ms": deadline_ms, "guidance": guidance}
        self._episode = Episode(number, None if generator else seed, generator, sampling)

    def select_action(self, obs: Mapping[str, Any]) -> np.ndarray:
        """The action for the step that was just observed; call it once in each step of the loop.

        It keeps the last ``n_obs_steps`` observations and plays the ``n_action_steps`` actions of a chunk,
        one a call; then it infers the next one. So most calls return at once, and one in
        ``n_action_steps`` takes as long as `act`. Begin each episode with `reset`; without one, the first
        call resets with the defaults.

        Args:
            obs: name -> (*shape), an array or tensor of one step in environment units, without axes of batch
                and time. It is copied: the caller may use its arrays again. Further names are ignored.

        Returns:
            (A,) float32 in environment units, the caller's to change.

        Raises:
            InputError: An observation is missing, has another shape, is no number, or holds NaN or infinity.
                It is not kept then: the next call goes on from the observations before.
        """
        if self._episode is None:
            self.reset()
        episode = self._episode
        assert episode is not None
        episode.observe(self._one_step(obs), self.n_obs_steps)
        if episode.played == len(episode.chunk):
            found = self.act(episode.stacked(), generator=episode.noise(), **episode.sampling)
            episode.chunk, episode.played = found[0].float().cpu().numpy(), 0
            episode.chunks += 1
        episode.played += 1
        action: np.ndarray = episode.chunk[episode.played - 1].copy()
        return action

    def check_histories(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """A batch of histories, name -> (B, n_obs_steps, *shape), as tensors on the policy's device.

        Raises:
            InputError: One is missing, has another shape, is no number, or holds NaN or infinity.
        """
        check_names(self.obs_shapes, obs)
        device = self.device
        tensors = {
            name: as_numbers(f"observation '{name}'", obs[name]).to(device) for name in self.obs_shapes
        }
        for name, shape in self.obs_shapes.items():
            expected = (self.n_obs_steps, *shape)
            if tuple(tensors[name].shape[1:]) != expected:
                raise InputError(
                    f"observation '{name}' has shape {tuple(tensors[name].shape)}, expected (B, "
                    f"{', '.join(map(str, expected))}): batch, n_obs_steps, then one step's shape"
                )
        rows = {name: len(x) for name, x in tensors.items()}
        if len(set(rows.values())) > 1 or 0 in rows.values():
            listed = ", ".join(f"{count} ({name})" for name, count in rows.items())
            raise InputError(
                f"the batches of the observations have {listed} rows: give all the same, above 0"
            )
        for name in self.cameras:
            tensors[name] = as_pixels(name, tensors[name])
        # NumPy's numbers are float64 by default, which layers of float32 do not take; images stay bytes.
        tensors = {name: x if x.dtype == torch.uint8 else x.float() for name, x in tensors.items()}
        if not all(self.normalizer.is_near(name, x) for name, x in tensors.items()):
            if bad := ", ".join(name for name, x in tensors.items() if not x.isfinite().all()):
                raise InputError(f"observation {bad} holds NaN or infinity, on which no action can rest")
            self.normalizer.say_far(tensors, self.obs_clamp)
        return tensors

    def _one_step(self, obs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Copies of the observations of one step, checked."""
        check_names(self.obs_shapes, obs)
        copies = {name: as_numbers(f"observation '{name}'", obs[name]).clone() for name in self.obs_shapes}
        for name, shape in self.obs_shapes.items():
            if tuple(copies[name].shape) != tuple(shape):
                raise InputError(
                    f"observation '{name}' has shape {list(copies[name].shape)}, expected {list(shape)}: one "
                    "step, without axes of batch and time (`act` takes batches of histories)"
                )
            if name in self.cameras:
                copies[name] = as_pixels(name, copies[name])
            if not copies[name].isfinite().all():
                raise InputError(f"observation {name} holds NaN or infinity, on which no action can rest")
        return copies


def agreed_rate(metadata: Mapping[str, Any], given: float | None) -> float | None:
    """Control steps a second: as given, or else those of the data; if they differ that is said on stderr.

    Args:
        metadata: Of a policy; ``rate_hz`` is that of its data, where these said one.
        given: By who plays it, None if it is left to the data.
    """
    known = metadata.get("rate_hz")
    if not isinstance(known, Real):
        return given
    if given is None:
        return float(known)
    if abs(given / float(known) - 1) > SAME_RATE:
        print(
            f"the policy learned from data of {known:g} steps a second, and is played at {given:g}: it moves "
            f"{given / float(known):.3g} times as fast as it was shown, and sees its history at other "
            "distances; act at the rate of the data, or train on data of this rate",
            file=sys.stderr,
        )
    return given


def as_pixels(name: str, picture: Tensor) -> Tensor:
    """A camera's observation as bytes, or as the floats in 0..255 that it holds.

    Whole numbers up to 1 are a dark picture or a mask, floats up to 1 a picture that was divided by 255. Of
    several pictures, (..., H, W, C), each is looked at.

    Raises:
        InputError: It holds other numbers than pixels.
    """
    if picture.dtype == torch.uint8 or not picture.numel():
        return picture
    if picture.dtype == torch.bool:  # black and white, as in data
        return 255 * picture.to(torch.uint8)
    is_float = picture.is_floating_point()
    # Torch looks for the smallest of no unsigned numbers but bytes.
    numbers = picture if is_float else picture.float()
    low, high = numbers.min().item(), numbers.max().item()
    is_unit = is_float and 0 < high <= 1
    if is_float and low >= 0 and 1 < high <= 255:
        highest = numbers.amax(dim=tuple(range(-min(3, numbers.dim()), 0)))
        suspects = numbers[(highest > 0) & (highest <= BRIGHTEST_UNIT)]
        if (suspects != suspects.round()).any():
            low, high = suspects.min().item(), suspects.max().item()
            is_unit = True
    if low < 0 or high > 255 or is_unit:
        raise InputError(
            f"observation '{name}' holds numbers from {low:.3g} to {high:.3g}, and this policy sees pixels "
            "in 0..255: give it as bytes (np.uint8), such as (255 * picture).round().astype(np.uint8)"
        )
    return picture if is_float else picture.to(torch.uint8)


def check_finite(actions: Tensor, obs: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless all actions are finite numbers; ``obs`` is what they were chosen for."""
    # A sum is finite only if all its numbers are, and takes one operation.
    if not math.isfinite(actions.sum().item()) and not actions.isfinite().all():
        largest = {name: f"{value.abs().max().item():.3g}" for name, value in obs.items()}
        raise InputError(
            "the policy has no finite action for these observations, whose largest numbers are "
            f"{', '.join(f'{name} {size}' for name, size in largest.items())}: check their units, or "
            "take another checkpoint"
        )


def check_names(expected: Collection[str], obs: Any) -> None:
    """Raise `InputError` unless ``obs`` is a mapping with at least the ``expected`` names."""
    if not isinstance(obs, Mapping):
        raise InputError(
            f"observations must be a mapping of names to arrays, with {', '.join(sorted(expected))}, not "
            f"{type(obs).__name__}"
        )
    if missing := sorted(set(expected) - set(obs)):
        raise InputError(
            f"this policy observes {sorted(expected)}, and {', '.join(missing)} is missing among "
            f"{sorted(map(str, obs))}; use the environment and observation mode that it was trained for"
        )


def _whole(name: str, value: Any) -> int:
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
    check_whole(name, number, 0)
    return int(number)
