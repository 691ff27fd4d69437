"""Gaussian paths between noise and data, and the Euler sampler along them."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.step_map import StepMap, expand_like, same_time


class GaussianPath(ABC):
    """``x_t = alpha(t) x_1 + sigma(t) x_0`` from noise x_0 at t = 0 to data x_1 at t = 1.

    Any pair of smooth functions makes a path, if alpha rises from 0 to 1 and sigma falls from 1 to 0. What a
    path changes is only which points the network is trained at and which velocity it learns there: samples
    are drawn by the same Euler steps on all of them.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data at times ``t`` (B,) in [0, 1]."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the noise at times ``t`` (B,) in [0, 1]."""

    def point(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        """``x_t``, (B, ...), for noise ``x_0`` and data ``x_1`` (B, ...), and ``t`` (B,)."""
        return expand_like(self.alpha(t), x_1) * x_1 + expand_like(self.sigma(t), x_0) * x_0

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha'(t)`` and ``sigma'(t)`` at times ``t`` (B,)."""
        ones = torch.ones_like(t)
        alpha, sigma = (torch.func.jvp(weight, (t,), (ones,))[1] for weight in (self.alpha, self.sigma))
        return alpha, sigma

    def velocity(self, x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        """``dx_t/dt = alpha'(t) x_1 + sigma'(t) x_0``, (B, ...)."""
        alpha, sigma = self.rates(t)
        return expand_like(alpha, x_1) * x_1 + expand_like(sigma, x_0) * x_0

    def check_ends(self) -> None:
        """Raise `InputError` unless the path begins at the noise and ends at the data."""
        ends = torch.tensor([0.0, 1.0])
        found = [[round(value, 4) for value in f(ends).tolist()] for f in (self.alpha, self.sigma)]
        if found != [[0, 1], [1, 0]]:
            raise InputError(
                f"objective.path={type(self).__name__} has alpha={found[0]} and sigma={found[1]} at t=0 and "
                "t=1, but a path goes from noise, alpha=0 and sigma=1, to data, alpha=1 and sigma=0"
            )


class Straight(GaussianPath):
    """``x_t = t x_1 + (1 - t) x_0``, with the constant velocity ``x_1 - x_0`` (Liu et al. 2023)."""

    def alpha(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def sigma(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 and -1."""
        return torch.ones_like(t), -torch.ones_like(t)


class Cosine(GaussianPath):
    """``x_t = sin(pi t / 2) x_1 + cos(pi t / 2) x_0``: the variance stays 1 for data of variance 1.

    The variance-preserving path of diffusion models, in the time of Albergo and Vanden-Eijnden 2023.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t: Tensor) -> Tensor:
        """cos(pi t / 2)."""
        return torch.cos(math.pi / 2 * t)


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """Point of the straight path: ``x_t = (1 - t) x_0 + t x_1``, for t (B,) in [0, 1]."""
    return Straight().point(x_0, x_1, t)


def euler(net: StepMap, x: Tensor, cond: Tensor, steps: int, d: float) -> Tensor:
    """Walk from noise (t = 0) to data (t = 1) in equal steps of 1/steps.

    Args:
        x: Noise, (B, ...).
        d: The step size that the network is told: 1/steps for a step-conditioned network, 0 for a flow.
    """
    for i in range(steps):
        x = x + net(x, same_time(i / steps, x), same_time(d, x), cond) / steps
    return x
