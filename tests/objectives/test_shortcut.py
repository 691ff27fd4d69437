"""Shortcut models: exact targets, and rows as configured."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws, FlowMatching, Shortcut
from shortcut_policy.objectives.base import cost_phases
from shortcut_policy.objectives.guidance import Guidance
from tests.step_maps import CHUNKS, RATE, Affine, Counting, context, linear_flow


@pytest.mark.parametrize("target_steps", [2, 4, 8])
@pytest.mark.parametrize("level", range(8))
def test_exact_smaller_steps_make_the_exact_step(level, target_steps):
    d = torch.full((5,), 0.5**level, dtype=torch.float64)
    x, cond = torch.randn(5, 4, 2, dtype=torch.float64), torch.zeros(5, 1)
    t = d * torch.arange(5).clamp(max=2**level - 1)
    # M = 1024, so that the smaller steps of all these levels are asked at their own size.
    objective = Shortcut(max_steps=1024, target_steps=target_steps)
    target = objective.bootstrap_target(linear_flow, x, t, d, cond)
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


def test_sizes_that_are_not_trained_are_the_flow():
    asked = []

    def net(x, t, d, cond):
        asked.append(d[0].item())
        return torch.zeros_like(x)

    objective = Shortcut(max_steps=128, level_weights=[4, 2, 1, 1, 0, 0], target_steps=4)
    assert objective.smallest_step == 1 / 8
    objective.sample(net, torch.zeros(2, 2), torch.zeros(2, 1), 8)
    assert set(asked) == {1 / 8}
    asked.clear()
    objective.sample(net, torch.zeros(2, 2), torch.zeros(2, 1), 16)
    assert set(asked) == {0.0} and len(asked) == 16
    asked.clear()
    objective.bootstrap_target(
        net, torch.zeros(2, 2), torch.zeros(2), torch.full((2,), 0.25), torch.zeros(2, 1)
    )
    assert asked == [0.0] * 4


def test_self_consistency_begins_when_asked_to():
    objective, cond = Shortcut(bootstrap_every=2, bootstrap_from=0.5, target_steps=4), torch.zeros(8, 1)
    for progress, bootstrapped in ((0.0, 0), (0.49, 0), (0.5, 4), (1.0, 4)):
        net = Counting(Affine())
        _, metrics = objective.loss(net, torch.randn(8, 2), cond, context(net, cond, progress=progress))
        assert net.rows == 8 + 4 * bootstrapped
        assert ("loss_consistency" in metrics) == (bootstrapped > 0)
    assert cost_phases(objective) == [(0.0, 0.5), (0.5, 1.0)]
    assert cost_phases(Shortcut()) == [(0.0, 1.0)]


def test_added_rows_leave_flow_matching_the_whole_batch():
    """Every row has its flow error, and the first ones that of self-consistency on top."""
    objective = Shortcut(bootstrap_every=2, bootstrap_rows="added", target_steps=4)
    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Counting(Affine())
    losses, metrics = objective.loss(net, x_1, cond, context(net, cond))
    assert net.rows == 8 + 4 + 4 * 4 and net.differentiated == 8 + 4
    flow, _ = FlowMatching().loss(net, x_1, cond, context(net, cond))
    torch.testing.assert_close(losses[4:], flow[4:])
    torch.testing.assert_close((losses - flow)[:4].mean(), metrics["loss_consistency"])
    assert (losses > flow)[:4].all()
    settled = Shortcut(bootstrap_every=2, bootstrap_rows="added", bootstrap_from=0.5)
    alone, _ = settled.loss(net, x_1, cond, context(net, cond, progress=0.4))
    torch.testing.assert_close(alone, flow)


def test_the_weight_of_self_consistency_multiplies_its_rows_alone():
    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()
    plain, logged = Shortcut().loss(net, x_1, cond, context(net, cond))
    heavy, same = Shortcut(consistency_weight=5.0).loss(net, x_1, cond, context(net, cond))
    torch.testing.assert_close(heavy[:2], 5 * plain[:2])
    assert torch.equal(heavy[2:], plain[2:]) and logged == same


@pytest.mark.parametrize("rows", ["taken", "added"])
@pytest.mark.parametrize("share", [0.1, 1.0, 3.0])
def test_self_consistency_adds_no_more_than_its_share(rows, share):
    """However large its weight is; where it stays below the share, the weight counts."""

    def losses(**settings) -> Tensor:
        objective = Shortcut(bootstrap_every=2, bootstrap_rows=rows, **settings)
        return objective.loss(net, x_1, cond, context(net, cond))[0]

    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()
    plain, heavy = losses(), losses(consistency_weight=1000.0)
    consistency = (heavy - plain).sum() / 999
    flow = plain.sum() - consistency
    for weight in (1e6, 2e6):
        limited = losses(consistency_weight=weight, consistency_share=share)
        torch.testing.assert_close(limited.sum(), (1 + share) * flow)
    torch.testing.assert_close(losses(consistency_share=1000 * float((consistency / flow).detach())), plain)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows", ["taken", "added"])
def test_without_a_weight_self_consistency_adds_its_share_of_the_weighted_flow(rows, power):
    def losses(net, start: float = 0.0, **settings) -> Tensor:
        objective = Shortcut(bootstrap_every=2, bootstrap_rows=rows, bootstrap_from=start, **settings)
        return objective.loss(net, x_1, cond, replace(context(net, cond), ema=ema, progress=0.5))[0]

    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()
    for size in (1e-3, 1.0, 1e3):
        ema = lambda x, t, d, cond, size=size: size * torch.ones_like(x)  # noqa: E731
        settings = {"consistency_weight": None, "adaptive_power": power}
        one, three = (losses(net, consistency_share=share, **settings) for share in (1.0, 3.0))
        torch.testing.assert_close(three.sum(), 2 * one.sum())
        if rows == "added":
            alone = losses(net, start=0.9, consistency_share=1.0, **settings)
            torch.testing.assert_close(one.sum(), 2 * alone.sum())


def test_rows_of_the_flow_are_weighted_by_their_errors_and_others_are_not():
    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()
    plain, logged = Shortcut().loss(net, x_1, cond, context(net, cond))
    heavy, same = Shortcut(adaptive_power=0.5).loss(net, x_1, cond, context(net, cond))
    assert torch.equal(heavy[:2], plain[:2]) and logged == same
    torch.testing.assert_close(heavy[2:], plain[2:] / (plain[2:] + 0.01).sqrt())


def test_the_share_of_self_consistency_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch):
    settings = {"bootstrap_rows": "added", "consistency_weight": 1e6, "consistency_share": 0.5}
    objective = Shortcut(bootstrap_every=2, **settings)
    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()

    def losses(rank: int, world: int) -> Tensor:
        own = context(net, cond[rank::world])
        own = replace(own, draws=Draws(torch.Generator().manual_seed(3), rank, world))
        return objective.loss(net, x_1[rank::world], cond[rank::world], own)[0].detach()

    sums: list[Tensor] = []
    monkeypatch.setattr("accelerate.utils.reduce", lambda own: sums.append(own) or own)
    apart = [losses(rank, 2) for rank in range(2)]
    monkeypatch.setattr("accelerate.utils.reduce", lambda own: torch.stack(sums).mean(0))
    together = [losses(rank, 2) for rank in range(2)]
    whole = losses(0, 1)
    for rank in range(2):
        torch.testing.assert_close(together[rank], whole[rank::2])
        assert not torch.allclose(apart[rank], whole[rank::2])


def test_the_share_of_self_consistency_where_nothing_is_wrong():
    """A perfect field has no errors, of either kind."""
    cond, x_1 = torch.zeros(8, 1), torch.zeros(8, 2)
    net = lambda x, t, d, cond: -x / (1 - t)[:, None]  # noqa: E731
    objective = Shortcut(bootstrap_every=2, bootstrap_rows="added", target_steps=2, consistency_share=0.1)
    losses, _ = objective.loss(net, x_1, cond, context(net, cond))
    torch.testing.assert_close(losses, torch.zeros(8))


@pytest.mark.parametrize(
    ("target_steps", "level_weights", "evaluations"),
    # Asked twice, with and without the condition, where a smaller step is the flow's: below the last size of
    # eight alike, or of four with shares 4, 2, 2, 1; with four steps below the last two sizes.
    [
        (2, None, 2 + 2 / 8),
        (4, None, 4 + 4 * 2 / 8),
        (2, [4, 2, 2, 1], 2 + 2 / 9),
        (4, [4, 2, 2, 1], 4 + 4 * 3 / 9),
    ],
)
@pytest.mark.parametrize("rows", ["taken", "added"])
def test_guided_targets_cost_two_evaluations_where_they_are_the_flow_s(
    target_steps, level_weights, evaluations, rows
):
    objective = Shortcut(
        bootstrap_every=2,
        bootstrap_rows=rows,
        level_weights=level_weights,
        target_steps=target_steps,
        target_weights="online",
        guidance=Guidance(),
    )
    net, cond = Counting(Affine()), torch.rand(144, 3)
    objective.loss(net, torch.randn(144, 2), cond, context(net, cond))
    own = 1 + 0.5 * (rows == "added")
    assert net.rows / 144 == pytest.approx(own + 0.5 * evaluations)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(None, [0.25] * 4), ([1, 0, 1], [0.5, 0, 0.5, 0]), ([4, 2, 1, 1], [0.5, 0.25, 0.125, 0.125])],
)
def test_level_frequencies_are_as_configured(weights, expected):
    objective = Shortcut(max_steps=8, level_weights=weights, target_steps=4)
    draws = Draws(torch.Generator().manual_seed(0))
    sizes = objective.draw_step_sizes(draws.stratified(800, 800))
    shares = [(sizes == 0.5**level).float().mean().item() for level in range(4)]
    assert shares == pytest.approx(expected, abs=1 / 400)
    independent = objective.draw_step_sizes(draws.uniform(20_000))
    shares = [(independent == 0.5**level).float().mean().item() for level in range(4)]
    assert shares == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize(("every", "rows", "bootstrapped"), [(4, 128, 32), (8, 128, 16), (4, 3, 1)])
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


def test_a_size_that_is_left_out_is_neither_asked_in_targets_nor_sampled():
    objective = Shortcut(level_weights=[4, 0, 2, 1, 1], target_steps=4)
    with pytest.raises(InputError, match=r"steps=2 cannot be sampled.*without steps of 1/2"):
        objective.check_steps(2)
    for steps in (1, 4, 8, 16, 32, 128):
        objective.check_steps(steps)
    with pytest.raises(InputError, match="steps of 1/1 on targets of steps of 1/4, whose share is 0"):
        Shortcut(level_weights=[4, 2, 0, 1], target_steps=4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_steps": 100},
        {"max_steps": 0},
        {"bootstrap_every": 0.5},
        {"bootstrap_every": 1},  # taken: no row is left to the flow
        {"bootstrap_rows": "lent"},
        {"level_weights": [1] * 9},
        {"level_weights": [0] * 8},
        {"target_steps": 3},
        {"bootstrap_from": 1.0},
        {"level_weights": [math.nan, 1]},
        {"level_weights": "all"},
        {"bootstrap_every": math.nan},
        {"consistency_weight": 0.0},
        {"consistency_weight": math.nan},
        {"consistency_share": 0.0},
        {"consistency_weight": None},  # nor a share
        {"adaptive_power": -0.5},
        {"target_weights": "teacher"},
        {"flow_times": "log"},
        {"target_clip": 0},
        {"path": "cosine"},
        {"guidance": 1.5},
    ],
)
def test_settings_without_meaning_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"objective.{name}"):
        Shortcut(**arguments)


@pytest.mark.parametrize(
    ("settings", "batch_size", "updates", "sentence"),
    [
        ({"bootstrap_every": 2, "bootstrap_rows": "added"}, 1, 100, "no row .* give trainer.batch_size=2 or"),
        (
            {"bootstrap_every": 8},
            4,
            100,
            "no row of a batch self-consistent.* give trainer.batch_size=5 or more",
        ),
        ({"bootstrap_every": 8}, 5, 100, None),
        ({"bootstrap_every": 1.1}, 4, 100, "leave no row to flow matching"),
        ({"bootstrap_every": 1, "bootstrap_rows": "added"}, 1, 100, None),
        ({"bootstrap_from": 0.6}, 4, 2, "bootstrap_from=0.6 comes after the last of trainer.max_steps=2 upd"),
        ({"bootstrap_from": 0.6}, 4, 3, None),
    ],
)
def test_what_a_training_would_not_teach_is_what_its_loss_lacks(settings, batch_size, updates, sentence):
    objective = Shortcut(**settings)
    missed = objective.missed(batch_size, updates)
    assert (missed is None) == (sentence is None) and (missed is None or re.search(sentence, missed))
    net, cond = Affine(), torch.zeros(batch_size, 3)
    last = context(net, cond, progress=(updates - 1) / updates)
    _, metrics = objective.loss(net, torch.rand(batch_size, 4, 2), cond, last)
    assert (metrics.keys() == {"loss_consistency", "loss_flow"}) == (sentence is None)
    for advised in re.findall(r"give trainer.batch_size=(\d+)", missed or ""):
        assert objective.missed(int(advised), updates) is None
