"""Learning rates: a warm-up and a decay for each phase of a training."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from shortcut_policy.errors import InputError


def phase_starts(points: Sequence[float], max_steps: int) -> list[int]:
    """First update of each phase, the first one whose progress is not below the phase's point.

    Args:
        points: Progress of the training at which the phases after the first begin, in [0, 1].
        max_steps: Updates in all.

    Raises:
        InputError: A phase has no update.
    """
    starts = [bisect_left(range(max_steps), point, key=lambda step: step / max_steps) for point in points]
    if any(start >= end for start, end in pairwise([*starts, max_steps])):
        raise InputError(
            f"trainer.max_steps={max_steps} is too few for the {len(points)} phases with a teacher of this "
            "objective: each needs an update; raise it"
        )
    return starts


def make_schedule(
    optimizer: Optimizer,
    warmup_steps: int,
    steps: int,
    recorded_on: torch.device | None,
    cooldown: float | None = None,
) -> LambdaLR:
    """A linear warm-up to the optimizer's own rate, then a decay to 0: a function of the update alone.

    Args:
        optimizer: Its rate is set to that of the first update.
        warmup_steps: Updates of the warm-up.
        steps: Updates of both.
        recorded_on: See `set_rate`.
        cooldown: None for a cosine; else the rate is constant but for the last part of the updates, so large,
            in which it falls linearly (Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond
            Fixed Training Durations").
    """
    set_rate(optimizer, optimizer.defaults["lr"], recorded_on)
    if cooldown is not None:
        return LambdaLR(optimizer, partial(_trapezoid, warmup=warmup_steps, steps=steps, cooldown=cooldown))
    from diffusers.optimization import get_scheduler  # seconds, which only the cosine needs

    schedule: LambdaLR = get_scheduler(
        "cosine", optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps
    )
    return schedule


def _trapezoid(step: int, warmup: int, steps: int, cooldown: float) -> float:
    """Part of the full rate at an update."""
    # A first phase that a teacher from outside replaces has no update.
    return max(0.0, min(1.0, step / max(1, warmup), (steps - step) / max(1.0, cooldown * steps)))


def set_rate(optimizer: Optimizer, rate: float, recorded_on: torch.device | None) -> None:
    """Set the learning rate: a number, but a tensor on the device where a CUDA graph would keep a number.

    A group of parameters with a ``factor`` has that multiple of it.
    """
    for group in optimizer.param_groups:
        own = rate * group.get("factor", 1.0)
        group["lr"] = own if recorded_on is None else torch.tensor(own, device=recorded_on)
        if "capturable" in group:
            group["capturable"] = recorded_on is not None


def present_rate(schedule: LambdaLR) -> float:
    """The rate of the schedule at its update, whatever the length of the one that it was saved with."""
    return float(schedule.optimizer.defaults["lr"] * schedule.lr_lambdas[0](schedule.last_epoch))
