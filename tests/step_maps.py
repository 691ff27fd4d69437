"""Small step maps, and what else the tests of objectives share."""

from functools import cache

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from shortcut_policy.errors import InputError
from shortcut_policy.objectives import (
    Draws,
    LossContext,
    Objective,
)
from shortcut_policy.paths import CONFIG_DIR

OBJECTIVES = sorted(path.stem for path in (CONFIG_DIR / "objective").glob("*.yaml"))
CHUNKS, IMAGES = (6, 4, 2), (6, 3, 8, 8)
RATE = -1.7


def make(name: str):
    return instantiate(settings(name))


@cache
def settings(name: str) -> DictConfig:
    """What ``objective=<name>`` stands for."""
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("train", [f"objective={name}"]).objective


def context(net, cond: Tensor, seed: int = 0, teacher=None, progress: float = 0.0) -> LossContext:
    draws = Draws(torch.Generator().manual_seed(seed))
    return LossContext(draws, net, cond, teacher, None if teacher is None else cond, progress)


class Affine(nn.Module):
    """The smallest step map whose every parameter matters to every objective."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([0.3, 0.1, 0.2, 0.4, 0.05]))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        a, b, c, e, f = self.weights
        row = b * t + c * d + e * cond.mean(1) + f
        return a * x + row.reshape(-1, *[1] * (x.ndim - 1))


class Small(nn.Module):
    """A step map over points of the plane that learns within seconds, under one number as condition."""

    def __init__(self, cond_dim: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 + 2 + cond_dim, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        return self.net(torch.cat([x, t[:, None], d[:, None], cond], dim=1))


class Counting(nn.Module):
    """Counts the calls of a network, the rows it evaluates, and those of them that are differentiated."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.rows, self.differentiated, self.calls = net, 0, 0, 0

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        self.rows += len(x)
        self.calls += 1
        out = self.net(x, *rest)
        self.differentiated += len(x) if out.requires_grad else 0
        return out


def linear_flow(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
    """The exact step map of dx/dt = RATE * x: average velocity over [t, t + d], and its limit at d = 0."""
    factor = torch.where(d == 0, RATE, torch.expm1(RATE * d) / torch.where(d == 0, 1, d))
    return x * factor.reshape(-1, *[1] * (x.ndim - 1))


def takes(objective: Objective, steps: int) -> bool:
    try:
        objective.check_steps(steps)
    except InputError:
        return False
    return True
