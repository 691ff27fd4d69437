"""Step counts chosen while acting: automatic steps, deadlines, and what rollouts report of them."""

import json
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from shortcut_policy import adaptive, save_policy
from shortcut_policy.adaptive import Auto, StepTimes, sample_auto, say_untaught, time_calls
from shortcut_policy.benchmark.rollouts import roll_out
from shortcut_policy.benchmark.table import Cell
from shortcut_policy.build import build
from shortcut_policy.commands.rollout import run as run_rollouts
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import FlowMatching, Shortcut
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy
from shortcut_policy.recipes import recipe
from shortcut_policy.rollout.config import RolloutConfig
from shortcut_policy.rollout.episode import read_episodes
from shortcut_policy.rollout.evaluate import EvaluationProtocol, RolloutOptions, evaluate
from shortcut_policy.rollout.in_training import rollouts_in
from shortcut_policy.rollout.play import rollout
from shortcut_policy.training import TrainerConfig
from shortcut_studies import CONFIGS, auto_steps
from shortcut_studies.auto_steps import against_fixed, gap_test
from tests.rollout.test_evaluate import SEEDS, SHORT, observations

ROWS = 6


def generators(rows: int = ROWS) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(rows)]


@pytest.fixture(scope="module")
def policy(untrained_policy: Policy) -> Policy:
    """Untrained networks of zero output agree with themselves: let this one differ from row to row."""
    policy = Policy.from_spec(untrained_policy.spec)
    policy.load_state_dict(untrained_policy.state_dict())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.backbone.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    policy.metadata = {**untrained_policy.metadata, "train_steps": 0}
    return policy.eval()


def quartiles(policy: Policy) -> list[float]:
    gap = policy.predict_with_cost(observations(policy, ROWS), "auto", generators()).gap
    assert gap is not None
    return np.quantile(gap, [0.25, 0.5, 0.75]).tolist()


def test_a_row_gets_the_fewest_steps_whose_predicted_error_is_tolerated():
    """The one-step sample is off by e, the K-step one by e / K: the gap is e / 2, and K = e / tolerance."""
    errors = torch.tensor([0.0, 0.019, 0.021, 0.039, 0.041, 0.081, 9.0])
    found = sample_auto(lambda steps: errors[:, None, None] / steps, Shortcut(), Auto(0.01, max_steps=8))
    torch.testing.assert_close(found.gap, errors / 2)
    assert found.evaluations.tolist() == [3, 3, 7, 7, 11, 11, 11]
    torch.testing.assert_close(found.x[:, 0, 0], errors / torch.tensor([2, 2, 4, 4, 8, 8, 8]))


def test_counts_that_the_objective_does_not_know_are_left_out():
    found = sample_auto(lambda steps: torch.ones(2, 3) / steps, Shortcut(max_steps=4), Auto(0.0))
    assert found.evaluations.tolist() == [7, 7]


def test_every_row_is_the_sample_of_the_step_count_it_was_given(policy: Policy):
    obs = observations(policy, ROWS)
    tolerance = quartiles(policy)[1]
    found = policy.predict_with_cost(obs, Auto(tolerance, max_steps=4), generators())
    assert set(found.evaluations.tolist()) == {3, 7}
    fixed = {steps: policy.predict(obs, steps, generators()) for steps in (1, 2, 4)}
    for row, spent in enumerate(found.evaluations.tolist()):
        assert torch.equal(found.x[row], fixed[{3: 2, 7: 4}[spent]][row])
    scaled = [policy.normalizer.normalize("action", fixed[steps]) for steps in (1, 2)]
    gap = (scaled[1] - scaled[0]).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(found.gap, gap, atol=1e-5, rtol=1e-3)


def test_a_row_does_not_depend_on_what_its_neighbours_need(policy: Policy):
    obs, auto = observations(policy, ROWS), Auto(quartiles(policy)[1])
    together = policy.predict_with_cost(obs, auto, generators())
    for row in range(ROWS):
        alike = {name: np.repeat(value[row : row + 1], ROWS, axis=0) for name, value in obs.items()}
        alone = policy.predict_with_cost(
            alike, auto, [torch.Generator().manual_seed(row) for _ in range(ROWS)]
        )
        assert all(torch.equal(a[row], b[row]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(("tolerance", "calls"), [(math.inf, 3), (0.0, 19)])
def test_a_single_row_costs_what_is_reported(policy: Policy, tolerance, calls):
    counted = []
    handle = policy.backbone.register_forward_hook(lambda *_: counted.append(1))
    found = policy.predict_with_cost(observations(policy, 1), Auto(tolerance), generators(1))
    handle.remove()
    assert len(counted) == found.evaluations.item() == calls


def test_the_word_stands_for_the_default(policy: Policy):
    obs = observations(policy, ROWS)
    actions = [policy.act(obs, steps, generators()) for steps in ("auto", Auto())]
    assert torch.equal(*actions)


def test_fixed_steps_report_their_cost_and_no_gap(policy: Policy):
    found = policy.predict_with_cost(observations(policy, 2), 4, generators(2))
    assert found.evaluations.tolist() == [4, 4] and found.gap is None


@pytest.mark.parametrize("name", ["FlowMatching", "Diffusion", "Regression"])
def test_objectives_without_step_sizes_are_refused_in_one_sentence(policy: Policy, name):
    objective = {"_target_": f"shortcut_policy.objectives.{name}"}
    other = Policy.from_spec(policy.spec | {"objective": objective})
    with pytest.raises(InputError, match=f'steps="auto" needs .*{name} does not.*give a number'):
        other.act(observations(policy, 1), "auto")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tolerance": -0.1}, "tolerance=-0.1"),
        ({"tolerance": math.nan}, "tolerance=nan"),
        ({"tolerance": "small"}, "tolerance=small"),
        ({"max_steps": 3}, "max_steps=3"),
        ({"max_steps": 1}, "max_steps=1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, named):
    with pytest.raises(InputError, match=named):
        Auto(**arguments)


def test_a_gap_needs_both_of_its_samples(policy: Policy):
    objective = recipe("objective", "shortcut", level_weights=[0, 1, 1], target_steps=2)
    other = Policy.from_spec(policy.spec | {"objective": objective})
    with pytest.raises(InputError, match="steps=1 cannot be sampled"):
        other.act(observations(policy, 1), "auto")


@pytest.mark.parametrize("deadline", [math.nan, 0, "soon"])
def test_a_deadline_is_a_time(policy: Policy, deadline):
    with pytest.raises(InputError, match=f"deadline_ms={deadline} must be a number of milliseconds above 0"):
        policy.act(observations(policy, 1), deadline_ms=deadline)


def test_other_words_are_refused(policy: Policy):
    with pytest.raises(InputError, match="steps=fast"):
        policy.act(observations(policy, 1), "fast")


# --- deadlines -----------------------------------------------------------------------------------------


class Clock:
    """A clock that advances by a millisecond with every step that is taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.milliseconds, self.calls = 0.0, []
        monkeypatch.setattr(adaptive.time, "perf_counter", lambda: self.milliseconds / 1000)

    def act(self, steps: int) -> None:
        self.calls.append(steps)
        self.milliseconds += steps


@pytest.mark.parametrize(("deadline_ms", "expected"), [(1.5, 1), (5, 4), (100, 64), (10_000, 128)])
def test_the_most_steps_that_fit_are_chosen(monkeypatch, deadline_ms, expected):
    clock = Clock(monkeypatch)
    assert StepTimes().most_within(deadline_ms, FlowMatching(), clock.act, "here") == expected
    assert max(clock.calls) <= 2 * expected, "what cannot fit is not tried"


def test_only_counts_that_the_objective_knows_are_tried(monkeypatch):
    clock = Clock(monkeypatch)
    assert StepTimes().most_within(1000, Shortcut(max_steps=8), clock.act, "here") == 8


def test_each_setting_is_timed_once(monkeypatch):
    clock, times = Clock(monkeypatch), StepTimes()
    times.most_within(5, FlowMatching(), clock.act, "here")
    timed = len(clock.calls)
    assert times.most_within(3, FlowMatching(), clock.act, "here") == 2
    assert len(clock.calls) == timed
    times.most_within(5, FlowMatching(), clock.act, "there")
    assert len(clock.calls) == 2 * timed


def test_one_slow_call_counts(monkeypatch):
    clock = Clock(monkeypatch)

    def act(steps):
        clock.act(steps)
        clock.milliseconds += 50 * (len(clock.calls) == 9)

    with pytest.raises(InputError, match=r"deadline_ms=20 cannot be met.*steps=1 took 51.0 ms \(here\)"):
        StepTimes().most_within(20, FlowMatching(), act, "here")


def test_a_deadline_decides_the_steps_of_a_policy_and_not_its_noise(policy: Policy, monkeypatch):
    clock = Clock(monkeypatch)
    handle = policy.backbone.register_forward_hook(lambda *_: clock.act(1))
    obs = observations(policy, 2)
    actions = policy.act(obs, generator=generators(2), deadline_ms=2.5)
    spent = len(clock.calls)
    again = policy.act(obs, generator=generators(2), deadline_ms=2.5)
    assert len(clock.calls) == spent + 2, "measured once"
    handle.remove()
    assert torch.equal(actions, policy.act(obs, 2, generators(2))) and torch.equal(actions, again)


def test_steps_and_a_deadline_exclude_each_other(policy: Policy):
    with pytest.raises(InputError, match="steps=4 and deadline_ms=20 both"):
        policy.act(observations(policy, 1), 4, deadline_ms=20)


def test_calls_are_timed_after_a_warm_up_and_not_for_ever(monkeypatch):
    clock = Clock(monkeypatch)
    assert time_calls(lambda: clock.act(2), repeats=4, warm_up=3) == pytest.approx([2.0] * 4)
    assert len(clock.calls) == 7
    assert len(time_calls(lambda: clock.act(2), repeats=100, warm_up=0, seconds=0.001)) == 10


# --- rollouts ------------------------------------------------------------------------------------------


def test_automatic_rollouts_do_not_depend_on_what_runs_beside_them(policy: Policy):
    auto = Auto(quartiles(policy)[1], max_steps=4)
    seeds = SEEDS[:5]
    alone, together = (
        rollout(policy, SHORT, seeds, auto, num_envs=num_envs, batch_size=3) for num_envs in (1, 5)
    )
    assert alone == together
    assert {spent for result in alone for spent in result.network_evaluations} == {3, 7}
    assert all(len(result.gaps) == result.chunks == 3 for result in alone)


def test_an_evaluation_reports_what_was_spent(policy: Policy, tmp_path):
    auto = Auto(quartiles(policy)[1], max_steps=4)
    protocol = EvaluationProtocol(episodes=2, batch_size=2, env={"max_steps": 20})
    summary = evaluate(policy, auto, tmp_path, protocol, RolloutOptions())
    lines = read_episodes(tmp_path / "episodes.jsonl")
    spent = np.mean([line["network_evaluations"] for line in lines])
    assert summary["network_evaluations"] == pytest.approx(spent, abs=0.01)
    assert summary["settings"]["tolerance"] == auto.tolerance and summary["settings"]["steps"] == 4
    assert all(line["gap"] > 0 for line in lines)
    assert summary["latency"]["repeats"] == 3, "timed on the three chunks of an episode"

    written = (tmp_path / "summary.json").stat().st_mtime_ns
    evaluate(policy, auto, tmp_path, protocol, RolloutOptions())
    assert (tmp_path / "summary.json").stat().st_mtime_ns == written
    assert "tolerance" not in evaluate(policy, 4, tmp_path, protocol, RolloutOptions())["settings"]


def cell(cost: float, scores: list[float]) -> Cell:
    values = np.array(scores)
    return Cell({"network_evaluations": cost}, values, (values > 0.5).astype(float))


def test_automatic_steps_compete_with_fixed_ones_of_the_same_cost():
    fixed = [cell(2, [0.2, 0.4, 0.0]), cell(4, [0.6, 0.8, 1.0])]
    halfway = against_fixed(cell(3, [0.5, 0.6, 0.6]), fixed)
    assert halfway["same_cost_score_difference"] == pytest.approx(np.mean([0.1, 0.0, 0.1]))
    assert halfway["same_cost_success_difference"] == pytest.approx(2 / 3 - 1 / 2)
    beyond = against_fixed(cell(9, [0.6, 0.8, 1.0]), fixed)
    assert beyond["same_cost_score_difference"] == 0


@pytest.mark.parametrize(
    ("gaps", "failed", "area"),
    [
        ([0.1, 0.2, 0.3, 0.4], [False, False, True, True], 1.0),
        ([0.1, 0.2, 0.3, 0.4], [True, False, False, True], 0.5),
        ([0.1, 0.2, 0.3, 0.4], [True, True, True, False], 0.0),
        ([0.1, 0.2, 0.3, 0.4], [True] * 4, None),
    ],
)
def test_the_area_under_the_roc_curve(tmp_path, gaps, failed, area):
    lines = [
        json.dumps({"gap": gap, "success": not fail, "score": 1 - gap})
        for gap, fail in zip(gaps, failed, strict=True)
    ]
    (tmp_path / "episodes.jsonl").write_text("\n".join(lines))
    found = gap_test(tmp_path)
    assert found["failure_auroc"] == area
    assert found["gap_score_spearman"] == pytest.approx(-1)
    assert found["gap_quartiles"] == pytest.approx([0.175, 0.25, 0.325])


def test_p_values_of_the_table_are_corrected_for_their_number():
    tested = {
        "same_cost_score_p_value": 0.01,
        "same_cost_success_p_value": 0.04,
        "failure_auroc_p_value": None,
    }
    rows = [{"name": "fixed"}, {"name": "automatic", **tested}]
    auto_steps.adjust(rows)
    assert rows[0] == {"name": "fixed"}
    keys = ("same_cost_score_p_adjusted", "same_cost_success_p_adjusted", "failure_auroc_p_adjusted")
    assert [rows[1][key] for key in keys] == [0.02, 0.04, None]


def test_the_measurement_writes_rows_table_and_figure(policy: Policy, tmp_path):
    save_policy(policy, tmp_path / "tiny")
    overrides = [
        f"checkpoint={tmp_path / 'tiny'}",
        f"output={tmp_path / 'out'}",
        f"publish={tmp_path / 'published'}",
        *("steps=[1,2]", "tolerances=[0.01,1]", "episodes=2", "batch_size=2", "+env.max_steps=20"),
    ]
    with initialize_config_dir(str(CONFIGS), version_base=None):
        config = compose("auto_steps", overrides)
    auto_steps.run(config)
    rows = json.loads((tmp_path / "published" / "results.json").read_text())
    assert [row["steps"] for row in rows] == [1, 2, "auto", "auto"]
    costs = [row["nfe"] for row in rows]
    assert costs[:2] == [1, 2] and costs[3] == 3 < costs[2] <= 19
    assert rows[1]["score"] == rows[3]["score"], "a large tolerance acts as two steps do"
    text = (tmp_path / "published" / "results.md").read_text()
    assert "tolerance 0.01" in text and "same cost" in text
    assert (tmp_path / "published" / "steps.png").stat().st_size > 1000


def test_the_rollout_command_takes_automatic_steps(policy: Policy, tmp_path):
    save_policy(policy, tmp_path / "tiny")
    overrides = [
        f"checkpoint={tmp_path / 'tiny'}",
        f"output={tmp_path / 'out'}",
        *("steps=[2,auto]", "tolerance=1", "episodes=2", "batch_size=2", "plot=false", "+env.max_steps=20"),
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        run_rollouts(compose("rollout", overrides))
    fixed, auto = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (fixed["steps"], fixed["nfe"]) == (2, 2)
    assert (auto["steps"], auto["nfe"], auto["tolerance"]) == ("auto", 3, 1)
    assert auto["score"] == fixed["score"]


@pytest.mark.parametrize(
    ("name", "metadata", "steps", "said"),
    [
        (
            "weighted_shortcut",
            {"train_steps": 12, "max_steps": 20},
            1,
            "steps=1: this checkpoint is of update 12",
        ),
        (
            "weighted_shortcut",
            {"train_steps": 12, "max_steps": 20},
            Auto(),
            "steps=auto: this checkpoint is of",
        ),
        ("weighted_shortcut", {"train_steps": 13, "max_steps": 20}, 1, ""),
        ("weighted_shortcut", {"train_steps": 12, "max_steps": 20}, 4, ""),
        ("weighted_shortcut", {"train_steps": 12, "max_steps": 20, "init_from": {}}, 1, ""),
        ("weighted_shortcut", {}, 1, ""),
        ("anchored_shortcut", {"train_steps": 1, "max_steps": 20}, 1, ""),
        ("shortcut_paper", {"train_steps": 1, "max_steps": 20}, 1, ""),
        ("flow_matching", {"train_steps": 1, "max_steps": 20}, 1, ""),
    ],
)
def test_steps_that_a_checkpoint_was_not_taught_yet_are_said(name, metadata, steps, said, capsys):
    say_untaught(build(recipe("objective", name)), metadata, steps)
    err = capsys.readouterr().err
    assert err.startswith(said) and bool(err) == bool(said)
    end = (
        "of 20, and such steps are learned from update 12 on; it acts badly so: take a later one, or steps=4"
    )
    assert not said or err.strip().endswith(end)


def test_the_command_says_it_before_the_first_episode(tiny_policy: Policy, tmp_path, capsys, monkeypatch):
    def stop(*given: object) -> None:
        raise InputError("enough")

    early = Policy.from_spec({**tiny_policy.spec, "objective": recipe("objective", "weighted_shortcut")})
    early.normalizer.load_state_dict(tiny_policy.normalizer.state_dict())
    early.metadata = tiny_policy.metadata | {"train_steps": 10, "max_steps": 20}
    save_policy(early, tmp_path / "early")
    monkeypatch.setattr("shortcut_policy.benchmark.rollouts.measure", stop)
    with pytest.raises(InputError, match="enough"):
        roll_out(RolloutConfig(checkpoint=str(tmp_path / "early"), steps=[1, 4], output=tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("steps=1: this checkpoint is of update 10 of 20, ")


def test_rollouts_in_a_training_that_come_too_early_are_said(tiny_policy: Policy, capsys, monkeypatch):
    monkeypatch.setattr("shortcut_policy.rollout.in_training.try_environment", lambda *given: None)
    monkeypatch.setattr(tiny_policy, "objective", build(recipe("objective", "weighted_shortcut")))
    for every, said in ((12, 1), (13, 0)):
        rollouts_in(tiny_policy, TrainerConfig(max_steps=20, rollout_every=every, rollout_steps=(1, 4)), 0)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == said and all("steps=1 are learned from update 12 on" in line for line in lines)
