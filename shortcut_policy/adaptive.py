"""Step counts chosen while acting: by the policy's own error, or by the time that there is.

Both need nothing but a trained policy. A step-conditioned network is asked for one sample in one step and in
two; how far they are apart, its *self-consistency gap*, says how much a step costs just here.
"""

import math
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Objective
from shortcut_policy.objectives.base import allowed_steps

#: Step counts to choose from with a deadline; more of them make no policy better.
DOUBLINGS = tuple(2**k for k in range(8))
TIMED_CALLS, WARM_UP_CALLS = 10, 3


@dataclass(frozen=True)
class Auto:
    """As many steps as an action chunk needs; ``steps="auto"`` stands for ``Auto()``.

    The first-order error of K steps is 2/K times the gap between the one-step and the two-step sample. A
    chunk gets the smallest K of 2, 4, 8, ... that brings it to ``tolerance``; two steps are taken already.

    Finding out costs one evaluation in three. On Push-T that is not clearly earned back: fixed steps of the
    same cost succeed as often within chance (``results/auto_steps``). The gap itself tells more: it is larger
    in episodes that fail.

    Args:
        tolerance: Root mean square error over an action chunk, in normalised action units: limits-normalised
            actions span [-1, 1]. In 100 rollouts of ``pretrained/pusht`` the mean gap of an episode has the
            quartiles 0.012, 0.014 and 0.015, and the default takes 3.8 evaluations a chunk; two steps and
            their gap are 3.
        max_steps: The largest K.
    """

    tolerance: float = 0.02
    max_steps: int = 16

    def __post_init__(self) -> None:
        if not (isinstance(self.tolerance, int | float) and self.tolerance >= 0):
            raise InputError(
                f"tolerance={self.tolerance} must be a number from 0 on, in normalised action units"
            )
        if self.max_steps not in DOUBLINGS[1:]:
            raise InputError(
                f"max_steps={self.max_steps} of automatic steps must be a power of two from 2 to 128"
            )


Steps = int | Literal["auto"] | Auto


class Sample(NamedTuple):
    """Samples and what they cost.

    Attributes:
        x: (B, ...).
        evaluations: Network evaluations of each row, (B,) whole numbers.
        gap: Self-consistency gap of each row, (B,); None where it was not measured.
    """

    x: Tensor
    evaluations: Tensor
    gap: Tensor | None


def check_steps(objective: Objective, steps: Steps) -> Steps:
    """The same ``steps``, a whole number of NumPy as one of Python.

    Raises:
        InputError: ``objective`` cannot be sampled with them.
    """
    if isinstance(steps, Integral) and not isinstance(steps, bool):
        steps = int(steps)
    if isinstance(steps, Auto) or steps == "auto":
        if not objective.step_conditioned:
            raise InputError(
                'steps="auto" needs a network that knows steps of every size, such as a shortcut policy\'s; '
                f"{type(objective).__name__} does not train one: give a number of steps"
            )
        for count in (1, 2):  # whose samples the gap lies between
            objective.check_steps(count)
        return steps
    try:
        objective.check_steps(steps)
    except InputError as error:
        if isinstance(steps, int) or not objective.step_conditioned:
            raise
        raise InputError(f'{error}, or "auto"') from error
    return steps


def check_deadline(deadline_ms: float, steps: Steps = 1) -> None:
    """Raise `InputError` unless it is a time, given in place of ``steps``."""
    if steps != 1:
        raise InputError(
            f"steps={steps} and deadline_ms={deadline_ms} both decide the number of steps: give one of them"
        )
    if not (isinstance(deadline_ms, int | float) and deadline_ms > 0):
        raise InputError(f"deadline_ms={deadline_ms} must be a number of milliseconds above 0")


def say_untaught(objective: Objective, metadata: Mapping[str, Any], steps: Steps) -> None:
    """On stderr, that a checkpoint of a training that has not ended was not taught such steps yet.

    Args:
        objective: That it was trained with.
        metadata: What the checkpoint says of itself.
        steps: That it is to act with.
    """
    done, whole = metadata.get("train_steps"), metadata.get("max_steps")
    if not isinstance(done, int) or not isinstance(whole, int) or "init_from" in metadata:
        return  # made by hand, or perhaps taught before
    count = steps if isinstance(steps, int) else 1  # with which the automatic choice begins
    first = objective.first_update(count, whole)
    if done > first or not first:
        return
    others = [other for other in allowed_steps(objective, DOUBLINGS) if not objective.taught_from(other)]
    given = count if steps == count else "auto"
    instead = f", or steps={others[0]}" if others else ""
    print(
        f"steps={given}: this checkpoint is of update {done} of {whole}, and such steps are learned from "
        f"update {first} on; it acts badly so: take a later one{instead}",
        file=sys.stderr,
    )


def sample_auto(draw: Callable[[int], Tensor], objective: Objective, auto: Auto) -> Sample:
    """Sample each row with as many steps as it needs.

    Steps of different sizes are different questions to the network, so no evaluation of the one-step sample
    serves the two-step one: a row costs 1 + 2, and K more if it is sampled again with K. What a row gets
    depends on itself alone. A batch keeps its shape, and computes K steps for all rows if one of them wants
    them, because rounding follows the shape: ``evaluations`` is what each row would have spent alone.

    Args:
        draw: Number of steps -> sample (B, ...), always from the same noise.
        objective: Step-conditioned.
        auto: Tolerance and largest number of steps.
    """
    coarse, x = draw(1), draw(2)
    gap = (x - coarse).flatten(1).square().mean(1).sqrt()
    counts = allowed_steps(objective, [count for count in DOUBLINGS[1:] if count <= auto.max_steps])
    steps = torch.full_like(gap, counts[-1], dtype=torch.long)
    for count in reversed(counts):
        steps[gap * 2 / count <= auto.tolerance] = count
    cost = objective.network_evaluations
    evaluations = torch.full_like(steps, cost(1) + cost(2))
    for count in counts[1:]:
        wanted = steps == count
        if wanted.any():
            x = torch.where(wanted.reshape(-1, *[1] * (x.ndim - 1)), draw(count), x)
            evaluations[wanted] += cost(count)
    return Sample(x, evaluations, gap)


class StepTimes:
    """Finds the most steps that fit into a deadline; each step count is timed once and remembered."""

    def __init__(self) -> None:
        self._milliseconds: dict[tuple[Hashable, int], float] = {}

    def most_within(
        self, deadline_ms: float, objective: Objective, call: Callable[[int], object], setting: Hashable
    ) -> int:
        """The largest power of two of steps, up to 128, whose slowest call of ten stays within the deadline.

        Args:
            deadline_ms: Milliseconds.
            objective: Says which step counts there are.
            call: Acts with this number of steps, and returns when the actions are on the host.
            setting: What the time depends on beside the steps: device, batch size.

        Raises:
            InputError: the fewest steps take longer, or the deadline is no time.
        """
        check_deadline(deadline_ms)
        most = 0
        for steps in allowed_steps(objective, DOUBLINGS):
            if (setting, steps) not in self._milliseconds:
                self._milliseconds[setting, steps] = max(time_calls(partial(call, steps), TIMED_CALLS))
            if (slowest := self._milliseconds[setting, steps]) > deadline_ms:
                break
            most = steps
        if not most:
            raise InputError(
                f"deadline_ms={deadline_ms} cannot be met: the slowest of {TIMED_CALLS} calls with steps="
                f"{steps} took {slowest:.1f} ms ({setting}); give more time or a smaller network"
            )
        return most


def time_calls(
    call: Callable[[], object], repeats: int, warm_up: int = WARM_UP_CALLS, seconds: float = math.inf
) -> list[float]:
    """Wall-clock of each of ``repeats`` calls, in milliseconds.

    Args:
        call: Must not return before its work is done.
        repeats: Calls to measure.
        warm_up: Calls before the clock starts (allocator, kernel choice).
        seconds: Stop after this long, but never before 10 calls.
    """
    for _ in range(warm_up):
        call()
    milliseconds: list[float] = []
    while len(milliseconds) < repeats and (len(milliseconds) < 10 or sum(milliseconds) <= 1000 * seconds):
        start = time.perf_counter()
        call()
        milliseconds.append(1000 * (time.perf_counter() - start))
    return milliseconds
