"""What stands below objectives and paths: the network's signature, and numbers that belong to rows."""

from typing import Protocol

import torch
from torch import Tensor


class StepMap(Protocol):
    """The network: average velocity over [t, t + d]."""

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Predict like ``x`` (B, ...), from noise level ``t`` (B,), step size ``d`` (B,), ``cond`` (B, C).

        ``t`` and ``d`` are float32 even where ``x`` and the parameters of a network were cast to fewer bits.
        """
        ...


def same_time(value: float, x: Tensor) -> Tensor:
    """One time or step size for all rows of ``x`` (B, ...), as samplers hand it to a network: (B,).

    While a policy is exported it is (1,), a constant, so that a runtime computes once and for all what
    depends on nothing else. A network of yours has to broadcast it over the rows then.
    """
    if torch.compiler.is_exporting():
        return torch.tensor([value], dtype=x.dtype, device=x.device)
    return torch.full((len(x),), value, dtype=x.dtype, device=x.device)


def row_mean(x: Tensor) -> Tensor:
    """Mean over all axes but the first: (B, ...) to (B,)."""
    return x.flatten(1).mean(1)


def expand_like(scalar: Tensor, x: Tensor) -> Tensor:
    """Give one number a row, (B,), the number of axes of ``x`` (B, ...), to multiply with it."""
    return scalar.reshape(-1, *[1] * (x.ndim - 1))
