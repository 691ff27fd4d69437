"""How far a prediction is from its target: one number a row, for every objective that regresses."""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.step_map import row_mean
from shortcut_policy.settings import check_number

ErrorName = Literal["l2", "l1", "pseudo_huber"]
#: (prediction, target), both (B, ...), to one error a row, (B,).
RowError = Callable[[Tensor, Tensor], Tensor]

#: Keeps the weight of a row without error finite; the epsilon of SoFlow.
WEIGHT_OFFSET = 1e-2
#: Where the pseudo-Huber error turns from a square into a norm, a root mean square over a row's elements.
PSEUDO_HUBER_SCALE = 0.00054


def row_error(name: ErrorName) -> RowError:
    """The error measure that a configuration names.

    Args:
        name: ``l2``, the mean square; ``l1``, the mean absolute value; ``pseudo_huber``, see `pseudo_huber`.

    Raises:
        InputError: There is no error of this name.
    """
    measures: dict[str, RowError] = {"l2": l2, "l1": l1, "pseudo_huber": pseudo_huber}
    if name not in measures:
        raise InputError(f"objective.error={name} must be one of {', '.join(get_args(ErrorName))}")
    return measures[name]


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean square of each row, (B,): its best prediction is the mean of the targets."""
    return row_mean((prediction - target) ** 2)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute value of each row, (B,): its best prediction is the median of each element."""
    return row_mean((prediction - target).abs())


def pseudo_huber(prediction: Tensor, target: Tensor) -> Tensor:
    """A row's root mean square, made smooth at zero, (B,): a target far off pulls no harder than a near one.

    Song and Dhariwal 2024, equation 11, ``sqrt(|x - y|^2 + c^2) - c`` with ``c = 0.00054 sqrt(n)`` for rows
    of n elements; here divided by sqrt(n), to be of the size of the other errors at any n.
    """
    return (row_mean((prediction - target) ** 2) + PSEUDO_HUBER_SCALE**2).sqrt() - PSEUDO_HUBER_SCALE


def weighted(
    errors: Tensor, power: float, scale: Tensor | float = 1.0, offset: float = WEIGHT_OFFSET
) -> Tensor:
    """Errors, (B,), each times ``(error / scale**2 + offset) ** -power``, a weight without gradient.

    The adaptive weights of MeanFlow (Geng et al. 2025, section 4.3) and SoFlow (Luo et al. 2026, section
    3.3). With a power of 0.5 the gradient is that of a pseudo-Huber error, twice
    ``sqrt(error + offset) - sqrt(offset)``.

    Args:
        errors: Mean squares.
        power: From 0 on, which gives equal weights.
        scale: Size of a row's error beside that of a velocity, (B,) or one number.
        offset: Keeps the weight of a row without error finite.
    """
    return errors if power == 0 else errors * (errors.detach() / scale**2 + offset) ** -power


def check_adaptive_power(power: float) -> None:
    """Raise `InputError` unless it is a number from 0 on."""
    check_number("objective.adaptive_power", power, lambda number: number >= 0, "0 (equal weights) or more")
