import json
from itertools import pairwise

import pytest
import torch

from shortcut_policy import Policy
from shortcut_policy.benchmark.compute import (
    PhaseCost,
    compute_rows,
    compute_table,
    make_update,
    phase_costs,
    phase_mean,
    take_turns,
    training_flops,
    untrained,
)
from shortcut_policy.benchmark.curves import curve_checkpoints, curve_rows
from shortcut_policy.benchmark.methods import Method
from shortcut_policy.benchmark.plots import plot_compute
from shortcut_policy.benchmark.result_files import RunResults
from shortcut_policy.benchmark.table import Cell
from tests.conftest import with_objective

BATCH = 16


@pytest.fixture(scope="module")
def make(untrained_policy):
    """The tiny policy with another objective."""

    def make(name, **settings):
        spec = {"_target_": f"shortcut_policy.objectives.{name}", **settings}
        policy = with_objective(untrained_policy, spec)
        policy.metadata = {**untrained_policy.metadata, "batch_size": BATCH}
        return policy

    return make


#: SoFlow whose loss does not change over the training.
ONE_PART = {
    "_target_": "shortcut_policy.objectives.SoFlow",
    "largest_part": 0.25,
    "smallest_part": 0.25,
}


WHOLE_PART = {key: value for key, value in ONE_PART.items() if key != "_target_"}


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("FlowMatching", {}, [(1, 0, 1)]),
        ("Shortcut", {"bootstrap_every": 4}, [(1.5, 0, 1)]),
        ("Shortcut", {"bootstrap_every": 2}, [(2, 0, 1)]),
        ("MeanFlow", {"interval_share": 0.25}, [(1.25, 0.25, 1)]),
        ("SoFlow", {"largest_part": 0.5, "smallest_part": 0.25}, [(1.5, 0, 1), (1.5, 0, 1)]),
        ("SoFlow", {**WHOLE_PART, "consistency_share": 0.25, "consistency_rows": "added"}, [(1.5, 0, 1.25)]),
        ("AnchoredShortcut", {"anchors": ONE_PART, "bootstrap_every": 2}, [(1.5, 0, 1), (4, 0, 1.5)]),
        (
            "Shortcut",
            {"bootstrap_every": 2, "bootstrap_rows": "added", "target_steps": 4, "bootstrap_from": 0.6},
            [(1, 0, 1), (3.5, 0, 1.5)],
        ),
        ("MIP", {}, [(2, 0, 2)]),
        ("LiveReflow", {"reflow_every": 4, "target_steps": 8}, [(3, 0, 1)]),
        ("Reflow", {"teacher_steps": 8, "first_phase": 0.5}, [(1, 0, 1), (9, 0, 1)]),
        ("ProgressiveDistillation", {"max_steps": 4, "first_phase": 0.5}, [(1, 0, 1), (3, 0, 1), (3, 0, 1)]),
        # With a teacher from outside there is no first phase.
        ("Reflow", {"teacher_steps": 2, "first_phase": 0.0}, [(3, 0, 1)]),
    ],
)
def test_evaluations_are_counted_phase_by_phase(make, name, settings, expected):
    phases = phase_costs(make(name, **settings))
    assert [(phase.forward, phase.derivative, phase.backward) for phase in phases] == expected
    assert (phases[0].start, phases[-1].end) == (0, 1)
    assert all(before.end == after.start for before, after in pairwise(phases))


def test_flops_add_up_to_forward_and_backward_passes(make):
    (flow,), (shortcut,) = phase_costs(make("FlowMatching")), phase_costs(make("Shortcut"))
    (mip,) = phase_costs(make("MIP"))
    # A backward pass costs two forward passes, less the gradient of the input; half a forward one on top.
    assert shortcut.flops / flow.flops == pytest.approx(1 + 0.5 / 3, abs=0.01)
    assert mip.flops / flow.flops == pytest.approx(2, abs=0.01)


def test_means_and_totals_weigh_phases_by_their_length():
    phases = [PhaseCost(0, 0.25, 1, 0, 1, flops=100.0), PhaseCost(0.25, 1, 3, 0, 1, flops=200.0)]
    assert phase_mean(phases, [1, 3]) == 2.5
    assert training_flops(phases, 10, 40) == pytest.approx(10 * 100)
    assert training_flops(phases, 20, 40) == pytest.approx(10 * 100 + 10 * 200)
    assert training_flops(phases, 40, 40) == pytest.approx(10 * 100 + 30 * 200)


def test_an_update_learns_and_leaves_the_policy_alone(make):
    policy = make("Shortcut")
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    update = make_update(policy, BATCH, 0.0, "fp32")
    held = [cell.cell_contents for cell in update.__closure__]
    (student,) = (one for one in held if isinstance(one, Policy) and one is not policy)
    update()
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    moved = [not torch.equal(before[name], value) for name, value in student.named_parameters()]
    assert sum(moved) > len(moved) / 2


def test_taking_turns_compares_alike():
    order, clock = [], iter(range(1000))
    times = take_turns(
        {"a": lambda: order.append("a"), "b": lambda: [order.append("b"), next(clock)]},
        rounds=3,
        clock=lambda: next(clock),
        warm_up=1,
    )
    assert order == ["a", "b"] * 4
    assert times == {"a": 1000.0, "b": 2000.0}


def test_the_compute_table_is_relative_to_the_baseline(make):
    policies = {"flow": make("FlowMatching"), "reflow": make("Reflow", teacher_steps=8, first_phase=0.5)}
    costs = {name: phase_costs(policy) for name, policy in policies.items()}
    rows = compute_rows(policies, costs, {"flow": None, "reflow": "+400%"}, baseline="flow", rounds=1)
    flow, reflow = json.loads(json.dumps(rows))
    assert (flow["relative_flops"], flow["relative_time"]) == (1, 1)
    assert reflow["relative_flops"] == pytest.approx(1 + 0.5 * 8 / 3, abs=0.05)
    assert reflow["milliseconds"] == pytest.approx(sum(p["milliseconds"] for p in reflow["phases"]) / 2)
    text = compute_table(rows).markdown()
    assert "| reflow | 5.00 | 1.00 |" in text
    assert "| +400% |" in text
    assert f"{BATCH} rows in fp32" in text
    rows = compute_rows(policies, costs, dict.fromkeys(policies), baseline="shortcut", rounds=1)
    assert {row["relative_time"] for row in rows} == {None}
    assert "relative to" not in compute_table(rows).markdown()


def test_curve_checkpoints_are_spread_over_the_updates():
    names = [f"step_{step:08d}" for step in (1000, 2000, 6000, 7000, 7500, 8000)]
    assert curve_checkpoints(names, 0) == []
    assert curve_checkpoints(names, 1) == names[-1:]
    assert curve_checkpoints(names, 4) == [names[1], names[2], names[5]]
    assert curve_checkpoints(["final"], 4) == ["final"]


def test_curves_average_training_seeds_and_know_the_flops(tmp_path):
    def results(number, scores):
        cells = {}
        for update, score in scores.items():
            policy = {"train_steps": update, "max_steps": 20}
            summary = {"policy": policy, "settings": {"steps": 1}}
            starts = torch.tensor([score, score + 0.1]).double().numpy()
            cells[f"step_{update}", 1] = Cell(summary, starts, (starts > 0.55).astype(float))
        return RunResults(number, {}, None, ["step_10", "step_20"], {}, cells)

    phases = [PhaseCost(0, 0.5, 1, 0, 1, flops=1e9), PhaseCost(0.5, 1, 3, 0, 1, flops=2e9)]
    runs = [results(0, {10: 0.2, 20: 0.4}), results(1, {10: 0.4, 20: 0.6}), results(2, {20: 0.9})]
    rows = curve_rows(Method("flow", [1, 2], runs=["a", "b"]), runs, phases, 2, [1, 4])
    assert [(row["train_flops"], row["seeds"]) for row in rows] == [(1e10, 2), (3e10, 2)]
    assert [row["score"] for row in rows] == pytest.approx([0.35, 0.55])
    assert rows[1]["success"] == pytest.approx(0.5)
    assert rows[1]["score_ci"][0] <= 0.45 < 0.65 <= rows[1]["score_ci"][1]
    plot_compute(rows, tmp_path / "compute.png")
    assert (tmp_path / "compute.png").stat().st_size > 1000
    partial = [results(0, {10: 0.2}), runs[2]]
    rows = curve_rows(Method("flow", [1], runs=["a", "b"]), partial, phases, 2, [1])
    assert [(row["seeds"], row["score"]) for row in rows] == [(1, pytest.approx(x)) for x in (0.25, 0.95)]


def test_a_policy_whose_encoder_has_statistics_is_timed_too(untrained_policy):
    field = {"_target_": "shortcut_policy.data.Field", "normalize": "identity"}
    obs = {name: {**field, "key": name, "shape": [size]} for name, size in (("hand", 2), ("task", 3))}
    encoder = {"_target_": "shortcut_policy.encoders.PerTaskEncoder"}
    policy = untrained({**untrained_policy.spec, "obs": obs, "encoder": encoder}, {})
    steps = untrained_policy.spec["n_obs_steps"]
    action = policy.act({"hand": torch.zeros(1, steps, 2), "task": torch.eye(3)[:1].expand(1, steps, 3)})
    assert torch.isfinite(action).all()
