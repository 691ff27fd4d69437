"""Consistency models, SoFlow, progressive distillation and reflow: exact targets, phases and evaluations."""

import math

import pytest
import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives import (
    ConsistencyDistillation,
    ConsistencyTraining,
    Draws,
    LiveReflow,
    LossContext,
    Objective,
    ProgressiveDistillation,
    Reflow,
    SoFlow,
)
from shortcut_policy.objectives.consistency import consistency_target
from shortcut_policy.objectives.progressive_distillation import two_steps
from shortcut_policy.objectives.step_map import expand_like
from tests.step_maps import Affine, Counting, linear_flow

GAIN = 3.0
POINT = torch.tensor([0.5, -1.0], dtype=torch.float64)
COND = torch.zeros(64, 1)
NOISE = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def context(net, teacher=None, progress: float = 0.0) -> LossContext:
    draws = Draws(torch.Generator().manual_seed(0))
    return LossContext(draws, net, COND, teacher, None if teacher is None else COND, progress)


def straight_map(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
    """The exact step map of the flow that takes x_0 to GAIN * x_0 on straight lines, whatever d."""
    return x * expand_like((GAIN - 1) / (1 - t + GAIN * t), x)


def to_point(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
    """The exact step map of a single data point; 0 at t = 1, where it has none."""
    return (POINT - x) / expand_like(torch.where(t < 1, 1 - t, torch.inf), x)


# --- perfect maps are fixed points ---------------------------------------------------------------------


@pytest.mark.parametrize("dt", [1.0, 0.25, 1 / 64])
def test_perfect_straight_map_is_a_fixed_point_of_the_consistency_target(dt: float):
    t = dt * torch.floor(torch.rand(64, dtype=torch.float64) / dt)
    target = consistency_target(
        straight_map, NOISE, t, 1 - t, torch.full_like(t, dt), straight_map(NOISE, t, t, COND), COND
    )
    torch.testing.assert_close(target, straight_map(NOISE, t, 1 - t, COND), rtol=0, atol=1e-12)


def test_consistency_target_is_the_velocity_to_the_predicted_data():
    t, dt, velocity = torch.full((64,), 0.25, dtype=torch.float64), 0.5, torch.ones_like(NOISE)
    x_later = NOISE + dt * velocity
    predicted = x_later + 0.25 * linear_flow(x_later, t + dt, 1 - t - dt, COND)
    target = consistency_target(linear_flow, NOISE, t, 1 - t, torch.full_like(t, dt), velocity, COND)
    torch.testing.assert_close(target, (predicted - NOISE) / 0.75, rtol=0, atol=1e-12)


def test_error_of_a_curved_teacher_shrinks_with_its_step():
    """On a curved flow the Euler step of the teacher is off by O(dt^2): sixteen times finer, 16^2 less."""
    t, errors = torch.full((64,), 0.25, dtype=torch.float64), []
    exact = linear_flow(NOISE, t, 1 - t, COND)
    for dt in (1 / 16, 1 / 256):
        velocity = linear_flow(NOISE, t, torch.zeros_like(t), COND)
        target = consistency_target(linear_flow, NOISE, t, 1 - t, torch.full_like(t, dt), velocity, COND)
        errors.append((target - exact).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(256, rel=0.15)


@pytest.mark.parametrize("times", ["uniform", "lognormal"])
@pytest.mark.parametrize("progress", [0.0, 0.5, 0.99])
def test_perfect_map_of_one_point_is_a_fixed_point_of_consistency_training(times, progress):
    objective = ConsistencyTraining(times=times)
    losses, _ = objective.loss(to_point, POINT.expand(64, 2), COND, context(to_point, progress=progress))
    assert losses.max() < 1e-10


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
@pytest.mark.parametrize("progress", [0.0, 0.99])
def test_perfect_map_of_one_point_is_a_fixed_point_of_soflow(times, progress):
    objective = SoFlow(times=times)
    losses, _ = objective.loss(to_point, POINT.expand(64, 2), COND, context(to_point, progress=progress))
    assert losses.max() < 1e-6


def test_perfect_map_is_a_fixed_point_of_consistency_distillation():
    losses, _ = ConsistencyDistillation().loss(straight_map, NOISE, COND, context(straight_map, straight_map))
    assert losses.max() < 1e-12


@pytest.mark.parametrize("progress", [0.3, 0.5, 0.95])
def test_perfect_curved_map_is_a_fixed_point_of_progressive_distillation(progress: float):
    """Where the teacher is told its own step size; its first one, a flow, has the error of Euler steps."""
    losses, _ = ProgressiveDistillation(first_phase=0.3).loss(
        linear_flow, NOISE, COND, context(linear_flow, linear_flow, progress)
    )
    assert losses.max() < (1e-3 if progress == 0.3 else 1e-12)


def test_two_exact_steps_make_the_exact_step():
    t = torch.full((64,), 0.5, dtype=torch.float64)
    target = two_steps(linear_flow, NOISE, t, 0.25, told=0.25, cond=COND)
    torch.testing.assert_close(target, linear_flow(NOISE, t, torch.full_like(t, 0.5), COND))


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_perfect_straight_flow_is_a_fixed_point_of_reflow(steps: int):
    losses, _ = Reflow(teacher_steps=steps).loss(
        straight_map, NOISE, COND, context(straight_map, straight_map)
    )
    assert losses.max() < 1e-12
    losses, _ = LiveReflow(reflow_every=2, target_steps=steps).loss(
        straight_map, NOISE, COND, context(straight_map)
    )
    assert losses[: len(losses) // 2].max() < 1e-12  # the reflowed rows


def test_samplers_follow_perfect_maps():
    """Every sampler takes noise to data exactly, when the map is exact."""
    for objective in (Reflow(), LiveReflow(), ProgressiveDistillation()):
        for steps in (1, 4):
            sample = objective.sample(straight_map, NOISE, COND, steps)
            torch.testing.assert_close(sample, GAIN * NOISE, rtol=0, atol=1e-12)
    for steps in (1, 4):
        sample = ConsistencyTraining().sample(to_point, NOISE, COND, steps, torch.Generator().manual_seed(0))
        torch.testing.assert_close(sample, POINT.expand(64, 2), rtol=0, atol=1e-12)


def test_consistency_steps_renoise_at_equally_spaced_times():
    asked: list[tuple[float, float]] = []

    def net(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        asked.append((t[0].item(), d[0].item()))
        return to_point(x, t, d, cond)

    objective = ConsistencyTraining()
    objective.sample(net, NOISE, COND, 4, torch.Generator().manual_seed(0))
    assert asked == [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25)]
    # A map that does not undo the noise shows that it is new each time, and a function of the generator.
    samples = [
        objective.sample(Affine(), NOISE, COND, 2, torch.Generator().manual_seed(i)) for i in (0, 0, 1)
    ]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


# --- what the network is asked -------------------------------------------------------------------------


class Recording(Counting):
    """Remembers the times and step sizes that it was asked for."""

    def __init__(self) -> None:
        super().__init__(Affine())
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        self.asked.append((t, d))
        return super().forward(x, t, d, cond)


def ask(objective: Objective, progress: float = 0.0, with_teacher: bool = True):
    """The networks after one loss: student, averaged, teacher."""
    net, ema, teacher = Recording(), Recording(), Recording() if with_teacher else None
    draws = Draws(torch.Generator().manual_seed(0))
    taught = (None, None) if teacher is None else (teacher, COND)
    objective.loss(net, NOISE.float(), COND, LossContext(draws, ema, COND, *taught, progress=progress))
    return net, ema, teacher


@pytest.mark.parametrize(
    ("objective", "with_teacher", "evaluations"),
    [
        (ConsistencyTraining(), False, (1, 1, 0)),
        (ConsistencyTraining(target_weights="online"), False, (2, 0, 0)),
        (ConsistencyDistillation(), False, (1, 0, 0)),
        (ConsistencyDistillation(), True, (1, 1, 1)),
        (ConsistencyDistillation(target_weights="online"), True, (2, 0, 1)),
        (ProgressiveDistillation(), False, (1, 0, 0)),
        (ProgressiveDistillation(), True, (1, 0, 2)),
        (Reflow(), False, (1, 0, 0)),
        (Reflow(), True, (1, 0, 8)),
        (Reflow(teacher_steps=3), True, (1, 0, 3)),
        (LiveReflow(), False, (1, 8 / 4, 0)),
        (LiveReflow(reflow_every=2, target_steps=3), False, (1, 3 / 2, 0)),
    ],
)
def test_a_training_row_costs_the_stated_evaluations(objective, with_teacher, evaluations):
    counted = [0 if net is None else net.rows / 64 for net in ask(objective, 0.5, with_teacher)]
    assert tuple(counted) == evaluations


@pytest.mark.parametrize(("progress", "bins"), [(0.0, 1), (1 / 7, 2), (0.5, 8), (6 / 7, 64), (1.0, 64)])
def test_bins_double_over_training_and_times_lie_on_them(progress: float, bins: int):
    for times in ("uniform", "lognormal"):
        net, ema, _ = ask(ConsistencyTraining(times=times), progress, with_teacher=False)
        ((t, d),), ((later, rest),) = net.asked, ema.asked
        assert torch.equal(t * bins, torch.round(t * bins)) and (t <= 1 - 1 / bins).all()
        assert torch.equal(d, 1 - t)
        assert torch.equal(later, t + 1 / bins) and torch.equal(rest, 1 - later)


def test_bins_are_those_of_the_paper():
    """2^floor(progress * log2 M) with its M = 128, of which M = 64 here is what it reaches before the end."""
    for progress in torch.linspace(0, 0.999, 50).tolist():
        assert ConsistencyTraining(max_steps=64).bins(progress) == 2 ** math.floor(progress * 7)


def test_lognormal_times_have_the_share_of_their_bin():
    """The noise level (1 - t) / t is lognormal: P(t < 1/2) = P(log level > 0), with mean -1.1 and std 2."""
    net, cond = Recording(), torch.zeros(20_000, 1)
    draws = Draws(torch.Generator().manual_seed(0))
    objective, x_1 = ConsistencyTraining(times="lognormal"), torch.zeros(20_000, 2)
    objective.loss(net, x_1, cond, LossContext(draws, Affine(), cond, progress=0.2))
    ((t, _),) = net.asked
    share = torch.distributions.Normal(-1.1, 2.0).cdf(torch.tensor(0.0))
    assert sorted(t.unique().tolist()) == [0.0, 0.5]
    assert (t == 0).float().mean().item() == pytest.approx(1 - share.item(), abs=0.01)


def test_consistency_distillation_steps_along_the_teacher():
    net, ema, teacher = ask(ConsistencyDistillation(max_steps=16))
    ((t, d),), ((later, rest),), ((at, told),) = net.asked, ema.asked, teacher.asked
    assert torch.equal(t * 16, torch.round(t * 16)) and t.min() >= 0 and t.max() <= 15 / 16
    assert torch.equal(at, t) and (told == 0).all()
    assert torch.equal(d, 1 - t) and torch.equal(later, t + 1 / 16) and torch.equal(rest, 1 - later)


def test_phases_of_progressive_distillation_double_the_step_up_to_one():
    objective = ProgressiveDistillation(max_steps=8, first_phase=0.25)
    assert objective.teacher_phases == pytest.approx((0.25, 0.5, 0.75))
    for progress, told, size in ((0.25, 0.0, 0.25), (0.5, 0.25, 0.5), (0.75, 0.5, 1.0), (1.0, 0.5, 1.0)):
        net, _, teacher = ask(objective, progress)
        ((t, d),), ((first, d_1), (second, d_2)) = net.asked, teacher.asked
        assert (d == size).all() and (d_1 == told).all() and (d_2 == told).all()
        assert torch.equal(t / d, torch.round(t / d)) and (t + d <= 1).all()
        assert torch.equal(first, t) and torch.equal(second, t + d / 2)
    for steps in (1, 2, 4):
        objective.check_steps(steps)
    with pytest.raises(InputError, match="steps=8"):
        objective.check_steps(8)


def test_reflow_stays_a_flow_and_live_reflow_tells_its_two_flows_apart():
    net, _, teacher = ask(Reflow())
    assert (net.asked[0][1] == 0).all()
    assert [t[0].item() for t, _ in teacher.asked] == [i / 8 for i in range(8)]
    assert all((d == 0).all() for _, d in teacher.asked)
    net, ema, _ = ask(LiveReflow(reflow_every=4), with_teacher=False)
    assert net.asked[0][1].tolist() == [1.0] * 16 + [0.0] * 48
    assert all((d == 0).all() and len(d) == 16 for _, d in ema.asked)


@pytest.mark.parametrize("rank", [0, 1])
def test_live_reflow_shares_its_rows_among_processes(rank: int):
    net, ema, cond = Recording(), Affine(), torch.zeros(5, 1)
    draws = Draws(torch.Generator().manual_seed(0), rank, world=2)
    LiveReflow(reflow_every=3).loss(net, torch.zeros(5, 2), cond, LossContext(draws, ema, cond))
    # Of 10 rows 3 are reflowed: rows 0 and 2 of the one process, row 1 of the other.
    assert int(net.asked[0][1].sum()) == 2 - rank


@pytest.mark.parametrize(
    "objective",
    [
        ConsistencyTraining(),
        ConsistencyDistillation(),
        ProgressiveDistillation(),
        Reflow(),
        LiveReflow(),
    ],
)
def test_targets_carry_no_gradient(objective: Objective):
    net, ema, teacher = Affine(), Affine(), Affine()
    draws = Draws(torch.Generator().manual_seed(0))
    losses, _ = objective.loss(
        net, NOISE.float(), COND, LossContext(draws, ema, COND, teacher, COND, progress=0.5)
    )
    losses.sum().backward()
    assert net.weights.grad is not None and net.weights.grad.isfinite().all()
    assert ema.weights.grad is None and teacher.weights.grad is None


@pytest.mark.parametrize(
    ("make", "arguments", "name"),
    [
        (ConsistencyTraining, {"max_steps": 100}, "max_steps"),
        (ConsistencyTraining, {"times": "cosine"}, "times"),
        (ConsistencyTraining, {"target_weights": "teacher"}, "target_weights"),
        (ConsistencyTraining, {"error": "l3"}, "error"),
        (ConsistencyDistillation, {"first_phase": 1.0}, "first_phase"),
        (ProgressiveDistillation, {"max_steps": 1}, "max_steps"),
        (ProgressiveDistillation, {"first_phase": -0.1}, "first_phase"),
        (Reflow, {"first_phase": 2}, "first_phase"),
        (LiveReflow, {"reflow_every": 0.5}, "reflow_every"),
        (LiveReflow, {"reflow_every": 1}, "reflow_every"),
    ],
)
def test_settings_without_meaning_are_refused(make, arguments, name):
    with pytest.raises(InputError, match=f"objective.{name}"):
        make(**arguments)


@pytest.mark.parametrize(("make", "name"), [(Reflow, "teacher_steps"), (LiveReflow, "target_steps")])
def test_sample_counts_of_targets_are_checked(make, name):
    with pytest.raises(InputError, match=f"objective.{name}"):
        make(**{name: 0})


# --- SoFlow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "intervals"), [(0.25, 16), (0.0, 0), (1.0, 64)])
@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_rows_of_soflow_have_a_step_as_often_as_configured(share, intervals, times):
    asked: list[tuple[Tensor, Tensor]] = []

    def net(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        asked.append((t, d))
        return torch.zeros_like(x)

    SoFlow(share, 0.25, 0.25, times).loss(net, NOISE, COND, context(net))
    t, d = asked[-1]
    assert (d[:intervals] > 0).all() and (d[intervals:] == 0).all()
    assert (t >= 0).all() and (t + d <= 1 + 1e-6).all()
    if intervals:  # a quarter of the step along the velocity, the network for the rest
        later, rest = asked[0]
        torch.testing.assert_close(later, (t + d / 4)[:intervals])
        torch.testing.assert_close(rest, (d * 3 / 4)[:intervals])


@pytest.mark.parametrize(("share", "added"), [(0.25, 16), (0.0, 0), (1.0, 64)])
def test_rows_that_are_added_leave_all_rows_to_the_flow(share, added):
    asked: list[tuple[Tensor, ...]] = []

    def net(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        asked.append((x, t, d, cond))
        return torch.zeros_like(x)

    settings = {"largest_part": 0.25, "smallest_part": 0.25, "adaptive_power": 0.0}
    losses, metrics = SoFlow(share, **settings, consistency_rows="added").loss(net, NOISE, COND, context(net))
    flow, _ = SoFlow(0.0, **settings).loss(net, NOISE, COND, context(net))
    x, _, d, cond = asked[-2]
    assert len(x) == len(NOISE) + added
    assert (d[:added] > 0).all() and (d[added:] == 0).all()
    assert torch.equal(cond, torch.cat([COND[:added], COND]))
    # The flow's rows are those of flow matching alone; what is added counts with the rows that it is of.
    assert losses.shape == flow.shape
    torch.testing.assert_close(losses[added:], flow[added:], rtol=0, atol=0)
    assert (losses[:added] > flow[:added]).all()
    assert ("error_consistency" in metrics) == (added > 0)
    torch.testing.assert_close(metrics["error_flow"], flow.mean())


def test_the_first_part_of_a_step_is_halved_until_it_is_the_smallest():
    objective = SoFlow(largest_part=0.1, smallest_part=0.02)
    assert [objective.part(progress) for progress in (0.0, 0.3, 0.6, 0.9)] == [0.1, 0.05, 0.025, 0.02]
    assert SoFlow(largest_part=0.25, smallest_part=0.25).loss_changes == []


def test_errors_of_soflow_count_by_the_part_of_the_step_that_they_are_of():
    """A target moves by r times what the velocity does: divided by r**2, its error is of flow rows' size."""

    def net(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        return torch.zeros_like(x)

    r = 0.25
    equal, weighted = (
        SoFlow(1.0, r, r, adaptive_power=power).loss(net, NOISE, COND, context(net))[0] for power in (0, 1)
    )
    torch.testing.assert_close(weighted, equal / (equal / r + 1e-2))
    flow = SoFlow(0.0, adaptive_power=0).loss(net, NOISE, COND, context(net))[0]
    torch.testing.assert_close(equal / r, flow)


@pytest.mark.parametrize(
    "arguments",
    [
        {"consistency_share": 1.5},
        {"largest_part": 1.5},
        {"smallest_part": 0.2},
        {"smallest_part": 0.0},
        {"times": "log"},
        {"adaptive_power": -1},
        {"consistency_rows": "replaced"},
    ],
)
def test_settings_of_soflow_without_meaning_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"objective.{name}"):
        SoFlow(**arguments)
