"""Gaussian paths: their geometry, and shortcut models on them."""

import math

import pytest
import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Shortcut
from shortcut_policy.objectives.paths import Cosine, GaussianPath, Straight, euler, interpolate
from tests.step_maps import context


class Cubic(GaussianPath):
    """A pair of no particular use."""

    def alpha(self, t: Tensor) -> Tensor:
        return t**3

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2


class Reversed(Straight):
    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t


PATHS = [Straight(), Cosine(), Cubic()]


def optimal_velocity(path: GaussianPath, spread: float, x: Tensor, t: Tensor) -> Tensor:
    """The mean velocity at x, where the data are Gaussian with this standard deviation: linear in x."""

    def log_scale(t: Tensor) -> Tensor:
        return (spread**2 * path.alpha(t) ** 2 + path.sigma(t) ** 2).log() / 2

    return torch.func.jvp(log_scale, (t,), (torch.ones_like(t),))[1][:, None] * x


def exact_step_map(path: GaussianPath, spread: float):
    """Average velocity of that flow: x is scaled as the standard deviation of x_t is."""

    def scale(t: Tensor) -> Tensor:
        return (spread**2 * path.alpha(t) ** 2 + path.sigma(t) ** 2).sqrt()

    def net(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        size = torch.where(d == 0, 1, d)
        jump = (scale(t + d) / scale(t) - 1) / size
        return torch.where((d == 0)[:, None], optimal_velocity(path, spread, x, t), jump[:, None] * x)

    return net


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_a_path_leads_from_noise_to_data_at_its_velocity(path):
    x_0, x_1 = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    path.check_ends()
    torch.testing.assert_close(path.point(x_0, x_1, torch.zeros_like(t)), x_0)
    torch.testing.assert_close(path.point(x_0, x_1, torch.ones_like(t)), x_1)
    eps = 1e-6
    slope = (path.point(x_0, x_1, t + eps) - path.point(x_0, x_1, t - eps)) / (2 * eps)
    torch.testing.assert_close(path.velocity(x_0, x_1, t), slope, rtol=0, atol=1e-7)


def test_the_straight_path_is_the_one_of_all_other_objectives():
    x_0, x_1, t = torch.randn(5, 4, 2), torch.randn(5, 4, 2), torch.rand(5)
    assert torch.equal(Straight().velocity(x_0, x_1, t), x_1 - x_0)
    assert torch.equal(Straight().point(x_0, x_1, t), interpolate(x_0, x_1, t))
    torch.testing.assert_close(interpolate(x_0, x_1, t), x_0 + t[:, None, None] * (x_1 - x_0))


def test_the_cosine_path_preserves_the_variance():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(Cosine().alpha(t) ** 2 + Cosine().sigma(t) ** 2, torch.ones(11))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_flow_rows_learn_the_velocity_of_the_path(path):
    """Of all maps linear in x, the mean velocity of Gaussian data has the smallest loss."""
    spread, rows = 0.5, 40_000
    x_1, cond = spread * torch.randn(rows, 1), torch.zeros(rows, 1)
    objective = Shortcut(bootstrap_every=1e9, path=path)

    def loss(factor: float) -> float:
        def net(x, t, d, cond):
            return factor * optimal_velocity(path, spread, x, t.clamp(max=0.999))

        return objective.loss(net, x_1, cond, context(net, cond))[0].mean().item()

    assert loss(1.0) < min(loss(0.8), loss(1.2))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_the_exact_step_map_of_a_path_is_a_fixed_point_and_samples_the_data(path):
    spread, net = 0.5, exact_step_map(path, 0.5)
    x, cond = torch.randn(6, 2, dtype=torch.float64), torch.zeros(6, 1)
    for level in range(6):
        d = torch.full((6,), 0.5**level, dtype=torch.float64)
        t = d * torch.arange(6).clamp(max=2**level - 1)
        target = Shortcut(path=path).bootstrap_target(net, x, t, d, cond)
        torch.testing.assert_close(target, net(x, t, d, cond), rtol=0, atol=1e-9)
    for steps in (1, 2, 16):
        sample = Shortcut(path=path).sample(net, x, cond, steps)
        torch.testing.assert_close(sample, spread * x, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_euler_steps_at_the_velocity_of_a_path_reach_the_data(path):
    def net(x, t, d, cond):
        return optimal_velocity(path, 0.5, x, t)

    x = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(euler(net, x, torch.zeros(6, 1), 2000, 0.0), 0.5 * x, rtol=0, atol=5e-3)


def test_a_pair_that_does_not_end_at_the_data_is_refused():
    with pytest.raises(InputError, match=r"path=Reversed has alpha=\[1.0, 0.0\] and sigma=\[1.0, 0.0\]"):
        Shortcut(path=Reversed())


def test_only_the_straight_path_can_teach_the_others():
    assert Shortcut().velocity_at_zero and not Shortcut(path=Cosine()).velocity_at_zero
    assert math.isclose(Cosine().alpha(torch.tensor(0.5)).item(), math.sqrt(0.5), rel_tol=1e-6)
