"""The contract of an objective, and the random numbers that it draws.

Convention of the whole library: t = 0 is noise, t = 1 is data. A *step map* ``net(x, t, d, cond)`` predicts
the average velocity over [t, t + d], so that a sampling step is ``x_{t+d} = x_t + d * net(x_t, t, d, cond)``.
Nothing here looks at the trailing shape of x: action chunks (B, T, A) and images (B, C, H, W) are the same.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.paths import GaussianPath
from shortcut_policy.objectives.step_map import StepMap
from shortcut_policy.settings import check_number, check_whole, shown

Metrics = dict[str, Tensor]

#: Whether autocast may give copies of weights that were made without gradient to a pass that is trained.
STALE_COPIES = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 11)


@contextmanager
def without_gradient() -> Iterator[None]:
    """``torch.no_grad`` for the targets of an update; a decorator, too.

    Up to torch 2.10, autocast keeps the copies of weights in bfloat16 that are made here. If the network is
    the one that is trained, its forward pass gets them, and its weights no gradient.
    """
    with torch.no_grad():
        yield
    if STALE_COPIES:
        torch.clear_autocast_cache()


class Condition(Protocol):
    """A condition (B, C) by its rows, which may be encoded only when they are asked for; a tensor is one."""

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Those rows, (n, C)."""
        ...


#: One generator for all rows, or a list of one a row: then row i depends on generator i alone.
Generators = torch.Generator | list[torch.Generator] | None


class Draws:
    """Random numbers for the rows of a global batch that several processes may share.

    Every process draws for the whole batch and keeps each ``world``-th row from its ``rank`` on, so a row
    meets the same numbers, and plays the same role in the loss, whatever the number of processes.

    Args:
        generator: Seeded by the trainer for each step, on the device of the batch.
        rank: Of this process.
        world: Number of processes.
    """

    def __init__(self, generator: torch.Generator, rank: int = 0, world: int = 1) -> None:
        self.generator, self.rank, self.world = generator, rank, world

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of ``x``, (B, ...)."""
        shape = (x.shape[0] * self.world, *x.shape[1:])
        return torch.randn(shape, generator=self.generator, dtype=x.dtype, device=x.device)[
            self.rank :: self.world
        ]

    def uniform(self, rows: int) -> Tensor:
        """One number a row in [0, 1), (rows,)."""
        device = self.generator.device
        return torch.rand(rows * self.world, generator=self.generator, device=device)[self.rank :: self.world]

    def stratified(self, rows: int, first: int) -> Tensor:
        """Numbers in [0, 1) for the first ``first`` rows of the global batch, evenly spread over them.

        Systematic sampling: one random offset, then equal spacing, so that every batch meets the shares of a
        distribution as exactly as ``first`` rows can.

        Returns:
            One number for each of those rows that this process holds, see `local`.
        """
        device = self.generator.device
        offset = torch.rand((), generator=self.generator, device=device)
        index = torch.arange(self.rank, rows * self.world, self.world, device=device)
        # float64: the last number must stay below 1.
        return ((index[: self.local(first)] + offset.double()) / first).float().clamp(max=1 - 2**-24)

    def local(self, first: int) -> int:
        """How many of the first ``first`` rows of the global batch this process holds: its own first ones."""
        return max(0, -(-(first - self.rank) // self.world))


@dataclass(frozen=True)
class LossContext:
    """What an objective may use beside the network it trains.

    Attributes:
        draws: The only source of random numbers.
        ema: Step map with the averaged weights, for targets; never differentiated.
        ema_cond: ``cond`` as the averaged encoder sees it, (B, C): ask for the rows that need a target.
        teacher: Frozen step map for the objectives that distil one; None until their first phase is over.
        teacher_cond: ``cond`` as the teacher's encoder sees it, the same way.
        progress: Part of the training done, in [0, 1].
    """

    draws: Draws
    ema: StepMap
    ema_cond: Condition
    teacher: StepMap | None = None
    teacher_cond: Condition | None = None
    progress: float = 0.0


class Objective(ABC):
    """How to make a regression target, and how to sample from the network that was trained on it.

    A subclass has the four abstract methods, and sets those of the attributes that are not the usual ones.

    Attributes:
        teacher_phases: Increasing points of `LossContext.progress` at which the trainer freezes a copy of the
            averaged policy, which is `LossContext.teacher` from then on. A first one of 0 asks for a trained
            teacher from outside.
        loss_changes: Points of it at which the loss becomes another one, perhaps at another cost, under the
            same teacher. Between all these points it does not depend on the progress.
        path: Between noise and data, if the network predicts average velocities of one; else None.
        velocity_at_zero: Whether the trained network's answer at d = 0 is the velocity of the path from noise
            to data, so that it can teach an objective that distils one.
        step_conditioned: Whether the trained network knows steps of every size, and `sample` is deterministic
            in the noise: samples of different step counts are then the same one, more or less exactly.
        bounded: Whether samples are kept in [-1, 1], beyond which data cannot be made then.
        extra_cond_dim: Channels that the objective adds to the condition of its network; see `sampling_cond`.
        capturable: Whether `loss` runs the same kernels whatever the values, until one of the points above.
    """

    teacher_phases: Sequence[float] = ()
    loss_changes: Sequence[float] = ()
    path: GaussianPath | None = None
    velocity_at_zero: bool = False
    step_conditioned: bool = False
    bounded: bool = False
    extra_cond_dim: int = 0
    capturable: bool = True

    @abstractmethod
    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Loss of each row, (B,), and scalars to log, for data ``x_1`` (B, ...) under ``cond`` (B, C)."""

    @abstractmethod
    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Turn ``noise`` (B, ...) into data; ``generator`` feeds samplers that draw noise on the way."""

    @abstractmethod
    def check_steps(self, steps: int) -> None:
        """Raise `InputError` unless `sample` can take this number of steps."""

    @abstractmethod
    def network_evaluations(self, steps: int) -> int:
        """Network evaluations that `sample` costs."""

    def taught_from(self, steps: int) -> float:
        """Part of the training, in [0, 1), before which the network has not learned steps of this number."""
        return 0.0

    def first_update(self, steps: int, updates: int) -> int:
        """The update of a training of this many after which steps of this number begin to be learned."""
        return math.ceil(self.taught_from(steps) * updates)

    def missed(self, batch_size: int, updates: int) -> str | None:
        """Why a training of this size would not teach what is sampled later, and what to do; or None.

        Args:
            batch_size: Rows of an update, of all processes together.
            updates: Of the training.
        """
        return None

    def sampling_cond(self, cond: Tensor, guidance: float | None = None) -> Tensor:
        """What `sample` takes as ``cond``, (B, C + extra_cond_dim), for the encoder's ``cond`` (B, C).

        Args:
            guidance: Guidance scale, for objectives that leave it to be chosen; None for their own.

        Raises:
            InputError: The network does not know this scale.
        """
        if guidance is not None:
            raise InputError(
                f"guidance={guidance} cannot be chosen: {type(self).__name__} was trained without guidance; "
                "leave it out, or train a policy with objective=shortcut_guided"
            )
        return cond


def teacher_phase(objective: Objective, progress: float) -> int:
    """Number of teachers that the objective has had frozen at this point of the training; 0 for none."""
    return bisect_right(objective.teacher_phases, progress)


def loss_phase(objective: Objective, progress: float) -> int:
    """How often the loss has changed until this point of the training, by itself or its teacher."""
    return bisect_right([start for start, _ in cost_phases(objective)], progress) - 1


def cost_phases(objective: Objective) -> list[tuple[float, float]]:
    """The parts of a training, (start, end) in [0, 1], within each of which every update costs the same."""
    edges = {0.0, *objective.teacher_phases, *objective.loss_changes, 1.0}
    return list(pairwise(sorted(edges)))


def check_generators(generator: Generators) -> None:
    """Raise `InputError` unless ``generator`` is what its type says; a seed is none."""
    own = generator if isinstance(generator, list) else [generator]
    wrong = [one for one in own if not isinstance(one, torch.Generator)]
    if wrong and generator is not None:
        raise InputError(
            f"generator={wrong[0]!r} must be a torch.Generator, such as torch.Generator().manual_seed(0), or "
            "a list of them, one a row"
        )


def normal_noise(shape: Sequence[int], generator: Generators, device: torch.device) -> Tensor:
    """Standard normal numbers, float32, for samples (B, ...): the same ones whatever network they are for.

    Args:
        shape: B first.
        generator: One for all rows or a list of B, see `Generators`. Those of the CPU draw there, and the
            numbers are moved: a seed gives the same noise on every device.
        device: Where the numbers are to be.
    """
    own = generator if isinstance(generator, list) else [generator]
    rows = (shape[0], *shape[1:]) if len(own) == 1 else (1, *shape[1:])
    parts = [
        torch.randn(rows, generator=one, device=device if one is None else one.device, dtype=torch.float32)
        for one in own
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(device)


def draw_times(draws: Draws, rows: int, logit: tuple[float, float] | None = None) -> Tensor:
    """One time a row, (rows,): uniform in [0, 1), or with a normal logit of this mean and deviation."""
    u = draws.uniform(rows)
    return u if logit is None else torch.sigmoid(logit[0] + logit[1] * draws.normal_like(u))


def allowed_steps(objective: Objective, steps: Sequence[int]) -> list[int]:
    """Those of the step counts that the objective can sample with."""
    allowed = []
    for count in steps:
        with suppress(InputError):
            objective.check_steps(count)
            allowed.append(count)
    return allowed


def usable_steps(objective: Objective, steps: Sequence[int], key: str) -> list[int]:
    """`allowed_steps`, of which there must be one.

    Args:
        objective: That samples.
        steps: Step counts.
        key: Of the setting that holds them.

    Raises:
        InputError: There is none.
    """
    usable = allowed_steps(objective, steps)
    if not usable:
        raise InputError(
            f"{key}={list(steps)} holds no step count that {type(objective).__name__} can take; give one "
            "that it can, such as [1]"
        )
    return usable


def check_step_range(steps: int, largest: int | None, method: str) -> None:
    """Raise `InputError` unless ``steps`` is a whole number from 1 to ``largest`` (no bound if None)."""
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    if not whole or steps < 1 or (largest is not None and steps > largest):
        bound = "a whole number from 1 on" if largest is None else f"a whole number from 1 to {largest}"
        raise InputError(
            f"steps={shown(steps)} cannot be sampled by {method}: give {'steps=1' if largest == 1 else bound}"
        )


def check_doubling_steps(steps: int, largest: int, method: str) -> None:
    """Raise `InputError` unless ``steps`` is a power of two up to ``largest``."""
    check_step_range(steps, largest, method)
    if steps & (steps - 1):
        below = 1 << steps.bit_length() - 1
        raise InputError(
            f"steps={steps} cannot be sampled by {method}: it knows powers of two up to {largest}, give "
            f"{below} or {2 * below}"
        )


def check_power_of_two(max_steps: int) -> None:
    """Raise `InputError` unless an objective's ``max_steps`` is a power of two."""
    check_whole("objective.max_steps", max_steps, 1)
    if max_steps & (max_steps - 1):
        raise InputError(f"objective.max_steps={max_steps} must be a power of two, such as 128")


def check_first_phase(share: float) -> None:
    """Raise `InputError` unless ``first_phase`` of an objective with a teacher is a share below 1."""
    check_number(
        "objective.first_phase",
        share,
        lambda part: 0 <= part < 1,
        "a share of the training that makes the teacher, from 0 (it is given as teacher=<checkpoint>) to "
        "below 1",
    )
