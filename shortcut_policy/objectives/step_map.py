"""What stands below objectives and paths: the network's signature, and numbers that belong to rows."""

from typing import Protocol

from torch import Tensor


class StepMap(Protocol):
    """The network: average velocity over [t, t + d]."""

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Predict like ``x`` (B, ...), from noise level ``t`` (B,), step size ``d`` (B,), ``cond`` (B, C).

        ``t`` and ``d`` are float32 even where ``x`` and the parameters of a network were cast to fewer bits.
        """
        ...


def row_mean(x: Tensor) -> Tensor:
    """Mean over all axes but the first: (B, ...) to (B,)."""
    return x.flatten(1).mean(1)


def expand_like(scalar: Tensor, x: Tensor) -> Tensor:
    """Give one number a row, (B,), the number of axes of ``x`` (B, ...), to multiply with it."""
    return scalar.reshape(-1, *[1] * (x.ndim - 1))
