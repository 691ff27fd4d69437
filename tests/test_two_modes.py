"""Learned on a two-mode distribution in the plane: what one step can and cannot do."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from shortcut_policy.backbones.embeddings import ScalarEmbedding
from shortcut_policy.objectives import Draws, FlowMatching, LossContext, Objective, Shortcut

MODES = torch.tensor([[-1.5, 0.0], [1.5, 0.0]])
WIDTH = 0.15


class Plane(nn.Module):
    """A step map over points of the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_t, self.embed_d = ScalarEmbedding(32, 10.0), ScalarEmbedding(32, 10.0)
        self.net = nn.Sequential(
            nn.Linear(34, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2)
        )

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        return self.net(torch.cat([x, self.embed_t(t) + self.embed_d(d)], dim=1))


def data(generator: torch.Generator, n: int) -> Tensor:
    mode = torch.randint(2, (n,), generator=generator)
    return MODES[mode] + WIDTH * torch.randn(n, 2, generator=generator)


def train(objective: Objective, updates: int = 2500, rows: int = 256) -> Plane:
    torch.manual_seed(0)
    net, generator = Plane(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    cond = torch.zeros(rows, 1)
    for _ in range(updates):
        context = LossContext(Draws(generator), ema=net, ema_cond=cond)
        losses, _ = objective.loss(net, data(generator, rows), cond, context)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        schedule.step()
    return net


def sample(objective: Objective, net: Plane, steps: int, n: int = 2000) -> Tensor:
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return objective.sample(net, noise, torch.zeros(n, 1), steps)


def distance(points: Tensor, directions: int = 32) -> float:
    """Sliced Wasserstein distance to the data, the mean over directions of the half circle."""
    truth = data(torch.Generator().manual_seed(2), len(points)).numpy()
    angles = np.linspace(0, np.pi, directions, endpoint=False)
    axes = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.mean([wasserstein_distance(points.numpy() @ axis, truth @ axis) for axis in axes.T]))


@pytest.fixture(scope="module")
def shortcut() -> Plane:
    return train(Shortcut(max_steps=32, target_weights="online"))


@pytest.fixture(scope="module")
def flow() -> Plane:
    return train(FlowMatching())


def test_one_shortcut_keeps_both_modes_where_one_flow_step_falls_between_them(shortcut, flow):
    one_shortcut = sample(Shortcut(max_steps=32), shortcut, 1)
    one_flow = sample(FlowMatching(), flow, 1)
    between = [(points[:, 0].abs() < 0.75).float().mean().item() for points in (one_shortcut, one_flow)]
    assert between[0] < 0.15 and between[1] > 0.9
    share_left = (one_shortcut[:, 0] < 0).float().mean().item()
    assert 0.4 < share_left < 0.6
    assert distance(one_shortcut) < 0.25 * distance(one_flow)


def test_many_steps_of_both_reach_the_data(shortcut, flow):
    assert distance(sample(Shortcut(max_steps=32), shortcut, 32)) < 0.1
    assert distance(sample(FlowMatching(), flow, 32)) < 0.1
