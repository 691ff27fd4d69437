"""The straight path between noise and data, and the Euler sampler along it."""

import torch
from torch import Tensor

from shortcut_policy.objectives.base import StepMap, expand_like


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """Point of the straight path: ``x_t = (1 - t) x_0 + t x_1``, for t (B,) in [0, 1]."""
    t = expand_like(t, x_1)
    return (1 - t) * x_0 + t * x_1


def euler(net: StepMap, x: Tensor, cond: Tensor, steps: int, d: float) -> Tensor:
    """Walk from noise (t = 0) to data (t = 1) in equal steps of 1/steps.

    Args:
        x: Noise, (B, ...).
        d: The step size that the network is told: 1/steps for a step-conditioned network, 0 for a flow.
    """
    told = torch.full(x.shape[:1], d, dtype=x.dtype, device=x.device)
    for i in range(steps):
        x = x + net(x, torch.full_like(told, i / steps), told, cond) / steps
    return x
