"""Anchored shortcut models: rows anchored on data, and self-consistency that has a fixed part of the loss."""

from dataclasses import replace

import pytest
import torch

from shortcut_policy.errors import InputError
from shortcut_policy.objectives import AnchoredShortcut, Draws, FlowMatching, SoFlow
from shortcut_policy.objectives.base import cost_phases
from tests.step_maps import CHUNKS, Affine, Counting, context, linear_flow


def test_the_rows_of_the_batch_are_soflow_s():
    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()
    before = AnchoredShortcut(bootstrap_from=0.6).loss(net, x_1, cond, context(net, cond, progress=0.5))
    alone = SoFlow().loss(net, x_1, cond, context(net, cond, progress=0.5))
    torch.testing.assert_close(before, alone, rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.05, 0.15, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_self_consistency_adds_its_share_however_large_its_errors_are(share, scale):
    """Averaged weights that are another map make errors of any size: what they add is a part of the rest."""
    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()

    def ema(x, t, d, cond):
        return scale * torch.ones_like(x)

    def losses(bootstrap_from: float):
        objective = AnchoredShortcut(
            bootstrap_every=1, consistency_share=share, bootstrap_from=bootstrap_from
        )
        return objective.loss(net, x_1, cond, context(ema, cond, progress=0.5))

    (with_it, metrics), (without, fewer) = losses(0.5), losses(0.9)
    torch.testing.assert_close(with_it.sum(), (1 + share) * without.sum())
    assert "loss_consistency" in metrics and "loss_consistency" not in fewer
    # The weight is a number and has no gradient: each row counts by its own error.
    added = with_it - without
    assert (added > 0).all() and added.std() > 0


def test_errors_of_zero_have_no_weight_without_bound():
    cond, x_1 = torch.zeros(8, 1), torch.zeros(8, 2)

    def still(x, t, d, cond):
        return torch.zeros_like(x)

    losses, metrics = AnchoredShortcut(bootstrap_from=0).loss(still, x_1, cond, context(still, cond))
    assert metrics["loss_consistency"] == 0 and losses.isfinite().all()


def test_targets_are_small_steps_at_their_own_size_by_the_averaged_weights():
    asked = []

    def ema(x, t, d, cond):
        asked.append(set(d.tolist()))
        return linear_flow(x, t, d, cond)

    objective = AnchoredShortcut(level_weights=[1, 1], target_steps=4, bootstrap_from=0)
    cond, x_1 = torch.zeros(8, 1, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    _, metrics = objective.loss(linear_flow, x_1, cond, context(ema, cond))
    assert asked == [{1 / 4, 1 / 8}] * 4
    assert metrics["loss_consistency"] < 1e-12  # the exact map is consistent
    net = Affine()
    AnchoredShortcut(bootstrap_from=0, target_weights="online").loss(
        net, x_1.float(), cond.float(), context(ema, cond.float())
    )
    assert len(asked) == 4  # no more of the averaged one's


def test_rows_and_evaluations_are_those_configured():
    cond, x_1 = torch.zeros(8, 1), torch.randn(8, 2)
    objective = AnchoredShortcut(SoFlow(consistency_share=0.5), bootstrap_every=2, target_steps=4)
    for progress, added in ((0.5, 0), (0.6, 4)):
        net, averaged = Counting(Affine()), Counting(Affine())
        objective.loss(net, x_1, cond, context(averaged, cond, progress=progress))
        assert (net.rows, net.differentiated) == (4 + 8 + added, 8 + added)
        assert averaged.rows == 4 * added
    phases = cost_phases(SoFlow())
    assert cost_phases(objective) == [*phases[:4], (4 / 7, 0.6), (0.6, 5 / 7), *phases[5:]]


def test_anchors_can_be_added_to_the_batch():
    cond, x_1 = torch.rand(8, 1), torch.randn(8, 2)
    anchors = SoFlow(consistency_share=0.25, consistency_rows="added")
    objective = AnchoredShortcut(anchors, bootstrap_every=4, consistency_share=0.2)
    for progress, added in ((0.5, 0), (0.6, 2)):
        net, averaged = Counting(Affine()), Counting(Affine())
        now = context(averaged, cond, progress=progress)
        losses, metrics = objective.loss(net, x_1, cond, now)
        assert (net.rows, net.differentiated) == (2 + 10 + added, 10 + added)
        assert losses.shape == (8,) and losses.isfinite().all()
        before, _ = anchors.loss(Affine(), x_1, cond, context(averaged, cond, progress=progress))
        torch.testing.assert_close(losses.sum(), before.sum() * (1.2 if added else 1))
        assert ("loss_consistency" in metrics) == (added > 0)


def test_sizes_without_self_consistency_are_trained_by_the_anchors():
    objective = AnchoredShortcut(level_weights=[1, 0, 1], target_steps=2, bootstrap_from=0)
    cond, x_1, net = torch.zeros(8, 1), torch.randn(8, 2), Affine()
    losses, _ = objective.loss(net, x_1, cond, context(net, cond))
    assert losses.isfinite().all()
    for steps in (1, 2, 4, 8, 16):
        objective.check_steps(steps)


def test_samples_take_small_steps_as_the_flow_does():
    def asked(steps: int) -> set[float]:
        sizes = set()

        def net(x, t, d, cond):
            sizes.update(d.tolist())
            return torch.zeros_like(x)

        AnchoredShortcut().sample(net, torch.zeros(2, 2), torch.zeros(2, 1), steps)
        return sizes

    assert [asked(steps) for steps in (1, 2, 4, 8, 16, 128)] == [{1.0}, {0.5}, {0.25}, {0.125}, {0.0}, {0.0}]
    objective, noise, cond = AnchoredShortcut(), torch.randn(CHUNKS), torch.rand(6, 3)
    torch.testing.assert_close(
        objective.sample(Affine(), noise, cond, 16), FlowMatching().sample(Affine(), noise, cond, 16)
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"anchors": FlowMatching()}, "must be a mapping with _target_, shortcut_policy.objectives.SoFlow"),
        ({"consistency_share": 0}, "objective.consistency_share=0 must be above 0"),
        ({"consistency_share": None}, "objective.consistency_share=None must be above 0"),
        ({"bootstrap_from": 1.0}, "objective.bootstrap_from=1.0 must be a share of the training"),
        ({"level_weights": []}, "objective.level_weights must be"),
        ({"max_steps": 100}, "objective.max_steps=100 must be a power of two"),
        ({"max_steps": "128"}, "objective.max_steps='128' must be a whole number from 1"),
        ({"max_steps": 128.0}, "objective.max_steps=128.0 must be a whole number from 1"),
        ({"consistency_share": "0.3"}, "objective.consistency_share='0.3' .a text. must be above 0"),
    ],
)
def test_settings_without_meaning_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        AnchoredShortcut(**settings)


def test_a_map_that_agrees_with_itself_and_misses_the_data_has_a_finite_loss():
    """As a network whose last layer begins at zero: nothing to make consistent, whatever the flow's error."""
    cond, x_1 = torch.zeros(8, 1), torch.full((8, 2), 100.0)

    def still(x, t, d, cond):
        return torch.zeros_like(x)

    losses, metrics = AnchoredShortcut(bootstrap_from=0).loss(still, x_1, cond, context(still, cond))
    assert metrics["loss_consistency"] == 0 and losses.isfinite().all() and losses.min() > 0


def test_every_process_takes_part_in_the_sum_that_the_weight_is_of(monkeypatch):
    """A process without a row of self-consistency, too: the others would wait for it for ever."""
    asked = []
    monkeypatch.setattr("accelerate.utils.reduce", lambda sums: asked.append(sums) or sums)
    net, cond, x_1 = Affine(), torch.zeros(1, 1), torch.randn(1, 2)
    for rank in (0, 1):
        shared = replace(
            context(net, cond, progress=0.9), draws=Draws(torch.Generator().manual_seed(0), rank, world=2)
        )
        losses, metrics = AnchoredShortcut(bootstrap_every=2).loss(net, x_1, cond, shared)
        assert ("loss_consistency" in metrics) == (rank == 0) and losses.isfinite().all()
    assert len(asked) == 2


def test_batches_without_a_step_are_told():
    objective = AnchoredShortcut(SoFlow(consistency_share=0.25), bootstrap_every=4)
    assert objective.missed(2, 100).startswith(
        "objective.anchors.consistency_share=0.25 of trainer.batch_size=2 rows"
    )
    assert objective.missed(3, 100) is objective.missed(3, 1) is None
