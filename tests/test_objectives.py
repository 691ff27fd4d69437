"""What the objectives promise: exact targets, honest sampling, the stated number of evaluations."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from shortcut_policy.backbones import ConditionalUnet1D
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import (
    MIP,
    Diffusion,
    Draws,
    FlowMatching,
    LossContext,
    MeanFlow,
    Objective,
    Regression,
    Shortcut,
)
from shortcut_policy.objectives.base import teacher_phase
from shortcut_policy.objectives.errors import row_error
from shortcut_policy.objectives.paths import euler, interpolate
from shortcut_policy.paths import CONFIG_DIR

OBJECTIVES = sorted(path.stem for path in (CONFIG_DIR / "objective").glob("*.yaml"))
CHUNKS, IMAGES = (6, 4, 2), (6, 3, 8, 8)
RATE = -1.7


def make(name: str):
    return instantiate(OmegaConf.load(Path(CONFIG_DIR) / "objective" / f"{name}.yaml"))


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

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 + 2 + 1, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        return self.net(torch.cat([x, t[:, None], d[:, None], cond], dim=1))


class Counting(nn.Module):
    """Counts the rows that the network evaluates."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.rows, self.calls = net, 0, 0

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        self.rows += len(x)
        self.calls += 1
        return self.net(x, *rest)


def linear_flow(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
    """The exact step map of dx/dt = RATE * x: average velocity over [t, t + d], and its limit at d = 0."""
    factor = torch.where(d == 0, RATE, torch.expm1(RATE * d) / torch.where(d == 0, 1, d))
    return x * factor.reshape(-1, *[1] * (x.ndim - 1))


def _takes(objective: Objective, steps: int) -> bool:
    try:
        objective.check_steps(steps)
    except InputError:
        return False
    return True


# --- every objective -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [CHUNKS, IMAGES])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_are_finite_on_chunks_and_images(name, shape):
    net, cond = Affine(), torch.rand(shape[0], 3)
    losses, metrics = make(name).loss(net, torch.randn(shape), cond, context(net, cond))
    assert losses.shape == shape[:1]
    assert losses.isfinite().all()
    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())
    losses.mean().backward()
    assert net.weights.grad.isfinite().all()
    assert (net.weights.grad[[3, 4]] != 0).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_is_a_function_of_the_generator(name):
    net, cond, x_1 = Affine(), torch.rand(6, 3), torch.randn(CHUNKS)
    first, again, other = (make(name).loss(net, x_1, cond, context(net, cond, seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "regression")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sampling_costs_the_stated_evaluations_and_is_deterministic(name):
    objective, cond, noise = make(name), torch.rand(6, 3), torch.randn(CHUNKS)
    allowed = []
    for steps in (1, 2, 3, 4, 16, 100, 128):
        if not _takes(objective, steps):
            continue
        net = Counting(Affine())
        with torch.no_grad():
            sample = objective.sample(net, noise, cond, steps, torch.Generator().manual_seed(0))
            again = objective.sample(net.net, noise, cond, steps, torch.Generator().manual_seed(0))
        assert torch.equal(sample, again)
        assert sample.shape == noise.shape and sample.isfinite().all()
        assert net.calls == objective.network_evaluations(steps)
        allowed.append(steps)
    expected = {
        "shortcut": [1, 2, 4, 16, 128],
        "diffusion": [1, 2, 3, 4, 16, 100],
        "regression": [1],
        "flow_matching": [1, 2, 3, 4, 16, 100, 128],
    }
    assert allowed == expected.get(name, allowed)
    assert 1 in allowed


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_row_follows_its_own_generator(name):
    objective, cond, noise = make(name), torch.rand(6, 3), torch.randn(CHUNKS)
    steps = 100 if name == "diffusion" else 1
    generators = [torch.Generator().manual_seed(row) for row in range(6)]
    together = objective.sample(Affine(), noise, cond, steps, generators)
    alone = objective.sample(Affine(), noise[3:4], cond[3:4], steps, [torch.Generator().manual_seed(3)])
    torch.testing.assert_close(together[3:4], alone)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "4"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_step_counts_that_are_no_counts_are_refused(name, steps):
    with pytest.raises(InputError, match=f"steps={steps}"):
        make(name).check_steps(steps)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_short_fit_improves_the_samples(name):
    """Trained for a moment, with all its phases, it draws the data that the condition determines."""
    torch.manual_seed(0)
    net, objective, teacher = Small(), make(name), None
    optimizer, updates = torch.optim.Adam(net.parameters(), 3e-3), 200
    steps = next(steps for steps in (4, 2, 1) if _takes(objective, steps))

    def error() -> float:
        cond = torch.linspace(0, 1, 64)[:, None]
        with torch.no_grad():
            x = objective.sample(net, torch.randn(64, 2), cond, steps, torch.Generator())
        return (x - torch.cat([cond, 1 - cond], dim=1)).abs().mean().item()

    before, phase = error(), 0
    for step in range(updates):
        progress = step / updates
        if teacher_phase(objective, progress) > phase:
            phase, teacher = teacher_phase(objective, progress), copy.deepcopy(net)
        cond = torch.rand(128, 1, generator=torch.Generator().manual_seed(step))
        x_1 = torch.cat([cond, 1 - cond], dim=1)
        losses, _ = objective.loss(net, x_1, cond, context(net, cond, step, teacher, progress))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    assert error() < 0.5 * before


# --- shortcut ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", range(8))
def test_two_exact_half_steps_make_the_exact_step(level):
    d = torch.full((5,), 0.5**level, dtype=torch.float64)
    x, cond = torch.randn(5, 4, 2, dtype=torch.float64), torch.zeros(5, 1)
    t = d * torch.arange(5).clamp(max=2**level - 1)
    # M = 512, so that the half steps of all these levels are asked at their own size.
    target = Shortcut(max_steps=512).bootstrap_target(linear_flow, x, t, d, cond)
    torch.testing.assert_close(target, linear_flow(x, t, d, cond), rtol=0, atol=1e-10)


def test_the_second_half_step_is_taken_at_t_plus_d():
    asked: list[tuple[Tensor, Tensor]] = []

    def net(x, t, d, cond):
        asked.append((t, d))
        return torch.ones_like(x)

    t, d = torch.tensor([0.0, 0.5, 0.75]), torch.tensor([1.0, 0.5, 0.25])
    Shortcut().bootstrap_target(net, torch.zeros(3, 2), t, d, torch.zeros(3, 1))
    (t_1, d_1), (t_2, d_2) = asked
    assert torch.equal(t_1, t) and torch.equal(t_2, t + d / 2)
    assert torch.equal(d_1, d / 2) and torch.equal(d_2, d / 2)


def test_a_time_dependent_field_tells_t_from_t_plus_d():
    """dx/dt = 2 t has average velocity 2 t + d: a second half step at t would give 2 t + d / 2."""

    def net(x, t, d, cond):
        return (2 * t + d)[:, None].expand_as(x)

    t, d = torch.tensor([0.0, 0.5]), torch.tensor([0.5, 0.5])
    target = Shortcut().bootstrap_target(net, torch.zeros(2, 3), t, d, torch.zeros(2, 1))
    torch.testing.assert_close(target, net(torch.zeros(2, 3), t, d, None))


@pytest.mark.parametrize("target_weights", ["ema", "online"])
def test_targets_carry_no_gradient_and_come_from_the_weights_asked_for(target_weights):
    online, ema, cond = Affine(), Affine(), torch.rand(6, 3)
    with torch.no_grad():
        ema.weights += 1.0
    objective = Shortcut(target_weights=target_weights)
    counted = Counting(ema)
    with torch.no_grad():
        before = objective.loss(online, torch.ones(CHUNKS), cond, context(counted, cond))[0]
    losses, _ = objective.loss(online, torch.ones(CHUNKS), cond, context(counted, cond))
    assert torch.equal(before, losses.detach())
    losses.sum().backward()
    assert ema.weights.grad is None
    assert counted.calls == (4 if target_weights == "ema" else 0)
    target = objective.bootstrap_target(online, torch.ones(CHUNKS), torch.zeros(6), torch.ones(6), cond)
    assert not target.requires_grad


def test_below_the_finest_size_the_network_is_asked_at_zero():
    asked = []

    def net(x, t, d, cond):
        asked.append(d)
        return torch.zeros_like(x)

    d = torch.tensor([1 / 128, 1 / 64])
    Shortcut(max_steps=128).bootstrap_target(net, torch.zeros(2, 2), torch.zeros(2), d, torch.zeros(2, 1))
    assert torch.equal(asked[0], torch.tensor([0.0, 1 / 128]))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(None, [0.25] * 4), ([1, 0, 0, 1], [0.5, 0, 0, 0.5]), ([4, 2, 1, 1], [0.5, 0.25, 0.125, 0.125])],
)
def test_level_frequencies_are_as_configured(weights, expected):
    objective = Shortcut(max_steps=8, level_weights=weights)
    draws = Draws(torch.Generator().manual_seed(0))
    sizes = objective.draw_step_sizes(draws.stratified(800, 800))
    shares = [(sizes == 0.5**level).float().mean().item() for level in range(4)]
    assert shares == pytest.approx(expected, abs=1 / 400)
    independent = objective.draw_step_sizes(draws.uniform(20_000))
    shares = [(independent == 0.5**level).float().mean().item() for level in range(4)]
    assert shares == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize(
    ("every", "rows", "bootstrapped"), [(4, 128, 32), (8, 128, 16), (1, 8, 8), (4, 3, 1)]
)
def test_rows_of_a_batch_are_shared_out_as_configured(every, rows, bootstrapped):
    seen = {}

    def net(x, t, d, cond):
        seen.update(t=t, d=d)
        return torch.zeros_like(x)

    ema, cond = Counting(Affine()), torch.zeros(rows, 1)
    Shortcut(bootstrap_every=every).loss(net, torch.randn(rows, 2), cond, context(ema, cond))
    t, d = seen["t"][:bootstrapped], seen["d"][:bootstrapped]
    assert ema.rows == 2 * bootstrapped
    assert (d > 0).all() and (seen["d"][bootstrapped:] == 0).all()
    assert torch.equal(t / d, torch.round(t / d)), "bootstrapped times are multiples of their step size"
    assert (t + d <= 1).all()


def test_clipping_bounds_the_targets():
    def net(x, t, d, cond):
        return torch.full_like(x, 100.0)

    args = (torch.zeros(1, 2), torch.zeros(1), torch.ones(1), torch.zeros(1, 1))
    assert Shortcut(target_clip=4.0).bootstrap_target(net, *args).abs().max() == 4
    assert Shortcut().bootstrap_target(net, *args).abs().max() == 100


@pytest.mark.parametrize("steps", [1, 2, 4, 16, 128])
def test_an_exact_step_map_samples_exactly_at_any_step_count(steps):
    noise = torch.randn(4, 3, dtype=torch.float64)
    sample = Shortcut().sample(linear_flow, noise, torch.zeros(4, 1), steps)
    torch.testing.assert_close(sample, noise * math.exp(RATE), rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [3, 6, 100, 256])
def test_steps_that_were_not_trained_are_refused(steps):
    with pytest.raises(InputError, match=f"steps={steps}.*(powers of two|from 1 to 128)"):
        Shortcut(max_steps=128).check_steps(steps)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_steps": 100},
        {"max_steps": 0},
        {"bootstrap_every": 0.5},
        {"level_weights": [1, 1]},
        {"level_weights": [0] * 8},
        {"target_weights": "teacher"},
        {"flow_times": "log"},
    ],
)
def test_settings_without_meaning_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"objective.{name}"):
        Shortcut(**arguments)


# --- the others ----------------------------------------------------------------------------------------


def test_the_velocity_of_a_single_point_is_a_fixed_point_of_flow_matching():
    """With one data point c the velocity field is (c - x) / (1 - t), exactly: its loss is zero."""
    point = torch.tensor([0.5, -1.0])

    def net(x, t, d, cond):
        assert (d == 0).all()
        return (point - x) / (1 - t)[:, None]

    cond = torch.zeros(64, 1)
    losses, _ = FlowMatching().loss(net, point.expand(64, 2), cond, context(net, cond))
    assert losses.max() < 1e-8
    sample = FlowMatching().sample(net, torch.randn(8, 2), cond[:8], 4)
    torch.testing.assert_close(sample, point.expand(8, 2))


def test_euler_walks_from_noise_to_data():
    times: list[float] = []

    def net(x, t, d, cond):
        times.append(t[0].item())
        return torch.ones_like(x)

    x = euler(net, torch.zeros(2, 3), torch.zeros(2, 1), steps=4, d=0.25)
    assert times == [0, 0.25, 0.5, 0.75]
    assert torch.equal(x, torch.ones(2, 3))
    x_0, x_1 = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(interpolate(x_0, x_1, torch.tensor([0.0, 1.0])), torch.stack([x_0[0], x_1[0]]))


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_diffusion_with_the_exact_noise_recovers_the_data(steps):
    """For one data point c the best noise prediction is known at every level; DDPM and DDIM must return c."""
    objective, point = Diffusion(), torch.tensor([0.3, -0.6])
    alphas = objective.ddpm.alphas_cumprod

    def net(x, t, d, cond):
        level = torch.round((1 - t) * objective.train_steps - 1).long()
        alpha = alphas[level][:, None]
        return (x - alpha.sqrt() * point) / (1 - alpha).sqrt()

    sample = objective.sample(net, torch.randn(8, 2), torch.zeros(8, 1), steps, torch.Generator())
    torch.testing.assert_close(sample, point.expand(8, 2), atol=2e-3, rtol=0)
    cond = torch.zeros(64, 1)
    assert objective.loss(net, point.expand(64, 2), cond, context(net, cond))[0].max() < 1e-6


def test_regression_sees_neither_noise_nor_data():
    def net(x, t, d, cond):
        assert (x == 0).all() and (t == 0).all() and (d == 1).all()
        return cond

    x_1 = torch.randn(5, 2)
    for error in ("l1", "l2"):
        losses, _ = Regression(error).loss(net, x_1, x_1 + 2, context(net, x_1))
        torch.testing.assert_close(losses, torch.full((5,), 2.0 if error == "l1" else 4.0))
    assert torch.equal(Regression().sample(net, torch.randn(5, 2), x_1, 1), x_1)


def test_errors_of_a_row():
    prediction, target = torch.full((3, 4, 2), 3.0), torch.zeros(3, 4, 2)
    prediction[1] = 0
    for name, expected in {"l2": [9.0, 0, 9], "l1": [3.0, 0, 3], "pseudo_huber": [3.0, 0, 3]}.items():
        torch.testing.assert_close(
            row_error(name)(prediction, target), torch.tensor(expected), atol=1e-3, rtol=0
        )
    near = torch.full((1, 8), 1e-5)
    # Below its scale of 0.00054 the pseudo-Huber error is the square, divided by twice the scale.
    torch.testing.assert_close(
        row_error("pseudo_huber")(near.double(), 0 * near.double()),
        torch.tensor([1e-10 / (2 * 0.00054)], dtype=torch.float64),
        rtol=1e-3,
        atol=0,
    )
    with pytest.raises(InputError, match="error=huber must be one of l2, l1, pseudo_huber"):
        row_error("huber")


# --- MeanFlow and MIP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [0.0, 0.125, 0.5, 1.0])
def test_an_exact_step_map_is_a_fixed_point_of_the_meanflow_target(d):
    """Wherever the network is exact, v + d ds/dt is the network's own answer."""
    sizes = torch.full((5,), d, dtype=torch.float64)
    x, t = torch.randn(5, 4, 2, dtype=torch.float64), torch.linspace(0, 1 - d, 5, dtype=torch.float64)
    target = MeanFlow().mean_target(linear_flow, x, t, sizes, RATE * x, torch.zeros(5, 1))
    torch.testing.assert_close(target, linear_flow(x, t, sizes, None), rtol=0, atol=1e-10)


def test_the_meanflow_target_keeps_the_end_point_fixed():
    """dx/dt = 2 t has average velocity 2 t + d: only a derivative along (1, -1) in (t, d) gives it back."""

    def net(x, t, d, cond):
        return (2 * t + d)[:, None].expand_as(x)

    t, d = torch.tensor([0.0, 0.25, 0.5]), torch.tensor([1.0, 0.5, 0.25])
    velocity = (2 * t)[:, None].expand(3, 2)
    target = MeanFlow().mean_target(net, torch.zeros(3, 2), t, d, velocity, torch.zeros(3, 1))
    torch.testing.assert_close(target, net(target, t, d, None))
    assert not MeanFlow().mean_target(Affine(), velocity, t, d, velocity, torch.zeros(3, 1)).requires_grad


@pytest.mark.parametrize(("share", "intervals"), [(0.25, 16), (0.0, 0), (1.0, 64)])
@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_rows_of_meanflow_have_an_interval_as_often_as_configured(share, intervals, times):
    seen = {}

    def net(x, t, d, cond):
        seen.update(t=t, d=d)
        return torch.zeros_like(x)

    cond = torch.zeros(64, 1)
    MeanFlow(share, times).loss(net, torch.randn(64, 2), cond, context(net, cond))
    assert (seen["d"][:intervals] > 0).all() and (seen["d"][intervals:] == 0).all()
    assert (seen["t"] >= 0).all() and (seen["t"] + seen["d"] <= 1).all()


def test_the_weights_of_meanflow_even_out_the_rows():
    def net(x, t, d, cond):
        return torch.zeros_like(x)

    cond, x_1 = torch.zeros(64, 1), torch.randn(64, 2)
    even, _ = MeanFlow(adaptive_power=1).loss(net, x_1, cond, context(net, cond))
    plain, _ = MeanFlow(adaptive_power=0).loss(net, x_1, cond, context(net, cond))
    torch.testing.assert_close(even, plain / (plain + 1e-3))


@pytest.mark.parametrize(
    "arguments", [{"interval_share": 1.5}, {"times": "log"}, {"adaptive_power": -1}, {"error": "l3"}]
)
def test_settings_of_meanflow_without_meaning_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"objective.{name}"):
        MeanFlow(**arguments)


def test_meanflow_differentiates_the_unet():
    """Group normalisation on channels-last tensors has no forward-mode derivative of its own."""
    torch.manual_seed(0)
    net = ConditionalUnet1D(2, 8, 3, (8, 16), embedding_dim=8, time_scale=1.0).double()
    x, cond = torch.randn(4, 8, 2, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    velocity, t, d = torch.randn_like(x), torch.rand(4).double() / 2, torch.full((4,), 0.5).double()
    eps = 1e-5
    with torch.no_grad():
        ahead = net(x + eps * velocity, t + eps, d - eps, cond)
        behind = net(x - eps * velocity, t - eps, d + eps, cond)
    target = MeanFlow().mean_target(net, x, t, d, velocity, cond)
    torch.testing.assert_close(target, velocity + 0.5 * (ahead - behind) / (2 * eps), rtol=0, atol=1e-6)


def test_mip_learns_from_nothing_and_from_a_little_noise_and_refines_its_own_estimate():
    seen = {}

    def net(x, t, d, cond):
        seen.update(x=x, t=t, d=d)
        return 0.5 * x + 1

    x_1, cond = torch.randn(500, 4), torch.zeros(500, 1)
    losses, metrics = MIP(refine_time=0.9).loss(net, x_1, cond, context(net, cond))
    assert torch.equal(seen["t"], torch.tensor([0.0, 0.9]).repeat_interleave(500))
    assert torch.equal(seen["d"], 1 - seen["t"])
    assert (seen["x"][:500] == 0).all()
    noise = (seen["x"][500:] - 0.9 * x_1) / 0.1
    assert noise.std().item() == pytest.approx(1, abs=0.05) and abs(noise.mean().item()) < 0.05
    torch.testing.assert_close(losses.mean(), (metrics["error_estimate"] + metrics["error_refined"]) / 2)
    noise = torch.randn(3, 4)
    assert (MIP().sample(net, noise, cond[:3], 1) == 1).all()
    assert torch.equal(MIP(0.9).sample(net, noise, cond[:3], 2), torch.full((3, 4), 0.5 * 0.9 + 1))


@pytest.mark.parametrize("time", [0, 1, 1.2])
def test_mip_refines_between_noise_and_data(time):
    with pytest.raises(InputError, match=f"objective.refine_time={time}"):
        MIP(refine_time=time)


# --- random numbers shared by processes ----------------------------------------------------------------


Stream = Callable[[Draws], Tensor]


@pytest.mark.parametrize("world", [2, 3])
def test_rows_meet_the_same_numbers_whatever_the_number_of_processes(world):
    def draw(rank: int, world: int) -> list[Tensor]:
        draws, rows = Draws(torch.Generator().manual_seed(5), rank, world), 12 // world
        return [draws.normal_like(torch.empty(rows, 4)), draws.uniform(rows), draws.stratified(rows, 5)]

    whole = draw(0, 1)
    for rank in range(world):
        for part, all_rows in zip(draw(rank, world), whole, strict=True):
            assert torch.equal(part, all_rows[rank::world])


def test_stratified_numbers_stay_below_one():
    draws = Draws(torch.Generator().manual_seed(0))
    assert all(draws.stratified(7, 7).max() < 1 for _ in range(100))
