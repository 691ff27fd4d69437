"""Flow matching, diffusion, MeanFlow and the regressions: exact targets and samples."""

import pytest
import torch

from shortcut_policy.backbones import ConditionalUnet1D
from shortcut_policy.commands.train import make_dataset, read_training
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import (
    MIP,
    Diffusion,
    FlowMatching,
    MeanFlow,
    Regression,
)
from shortcut_policy.objectives.errors import WEIGHT_OFFSET, row_error, weighted
from shortcut_policy.objectives.paths import euler, interpolate
from shortcut_policy.training.parts import make_model
from tests.step_maps import RATE, Affine, context, linear_flow


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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"train_steps": 0}, "objective.train_steps=0 must be a whole number"),
        (
            {"timestep_spacing": "uniform"},
            "timestep_spacing=uniform must be trailing, leading or linspace",
        ),
        ({"beta_schedule": "cosine"}, "objective.beta_schedule=cosine is not a schedule of diffusers"),
    ],
)
def test_settings_of_diffusion_without_meaning_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        Diffusion(**arguments)


def test_clipping_is_refused_for_data_that_reach_beyond(compose_config):
    overrides = ["objective=diffusion", "task.action.normalize=gaussian"]
    dataset = make_dataset(read_training(compose_config(*overrides)))
    with pytest.raises(
        InputError, match=r"clip_sample=true keeps samples in .* give objective.clip_sample=false"
    ):
        make_model(read_training(compose_config(*overrides)), dataset)
    make_model(read_training(compose_config(*overrides, "objective.clip_sample=false")), dataset)


@pytest.mark.parametrize("steps", [1, 10, 29, 51, 100])
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


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_more_ddim_steps_come_closer_whether_they_divide_the_levels_or_not(spacing):
    """For Gaussian data the best noise prediction is known, and each step makes samples narrower."""
    objective, std = Diffusion(clip_sample=False, timestep_spacing=spacing), 0.3
    alphas = objective.ddpm.alphas_cumprod

    def net(x, t, d, cond):
        alpha = alphas[torch.round((1 - t) * objective.train_steps - 1).long()][:, None]
        return x * (1 - alpha).sqrt() / (alpha * std**2 + 1 - alpha)

    one = torch.ones(1, 1)  # samples are proportional to their noise
    found = [float(objective.sample(net, one, one, steps)) for steps in (10, 16, 29, 30, 40, 51, 60, 80, 99)]
    assert found == sorted(found) and std - 0.1 < found[0] and std - 0.01 < found[-1] < std


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
    eps = 1e-6
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


def test_weighted_rows_pull_as_a_pseudo_huber_error_does():
    errors = torch.tensor([0.0, 1e-4, 0.2, 30.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(weighted(errors, 0.5).sum(), errors)
    (huber,) = torch.autograd.grad(2 * (errors + WEIGHT_OFFSET).sqrt().sum(), errors)
    torch.testing.assert_close(gradient, huber)
    assert weighted(errors, 0.0) is errors
    torch.testing.assert_close(weighted(errors, 1.0, scale=2.0), errors / (errors / 4 + WEIGHT_OFFSET))


def test_flow_matching_can_weight_its_rows():
    cond, x_1 = torch.zeros(5, 1), torch.randn(5, 2)
    plain, half = (
        FlowMatching(**settings).loss(linear_flow, x_1, cond, context(linear_flow, cond))[0]
        for settings in ({}, {"adaptive_power": 0.5})
    )
    torch.testing.assert_close(half, weighted(plain, 0.5))
    with pytest.raises(InputError, match=r"objective\.adaptive_power"):
        FlowMatching(adaptive_power=-1)
