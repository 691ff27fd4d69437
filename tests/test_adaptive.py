"""Step counts chosen while acting: automatic steps, deadlines, and what rollouts report of them."""

import math

import numpy as np
import pytest
import torch

from shortcut_policy import adaptive
from shortcut_policy.adaptive import Auto, StepTimes, sample_auto, time_calls
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import FlowMatching, Shortcut
from shortcut_policy.policy import Policy
from tests.test_evaluation_rollout import observations

ROWS = 6


def generators(rows: int = ROWS) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(rows)]


@pytest.fixture(scope="module")
def policy(tiny_policy: Policy) -> Policy:
    """Untrained networks of zero output agree with themselves: let this one differ from row to row."""
    policy = Policy.from_spec(tiny_policy.spec)
    policy.load_state_dict(tiny_policy.state_dict())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.backbone.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    policy.metadata = tiny_policy.metadata
    return policy.eval()


def quartiles(policy: Policy) -> list[float]:
    gap = policy.plan(observations(policy, ROWS), "auto", generators()).gap
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
    found = policy.plan(obs, Auto(tolerance, max_steps=4), generators())
    assert set(found.evaluations.tolist()) == {3, 7}
    fixed = {steps: policy.predict(obs, steps, generators()) for steps in (1, 2, 4)}
    for row, spent in enumerate(found.evaluations.tolist()):
        assert torch.equal(found.x[row], fixed[{3: 2, 7: 4}[spent]][row])
    scaled = [policy.normalizer.normalize("action", fixed[steps]) for steps in (1, 2)]
    gap = (scaled[1] - scaled[0]).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(found.gap, gap, atol=1e-5, rtol=1e-3)


def test_a_row_does_not_depend_on_what_its_neighbours_need(policy: Policy):
    obs, auto = observations(policy, ROWS), Auto(quartiles(policy)[1])
    together = policy.plan(obs, auto, generators())
    for row in range(ROWS):
        alike = {name: np.repeat(value[row : row + 1], ROWS, axis=0) for name, value in obs.items()}
        alone = policy.plan(alike, auto, [torch.Generator().manual_seed(row) for _ in range(ROWS)])
        assert all(torch.equal(a[row], b[row]) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(("tolerance", "calls"), [(math.inf, 3), (0.0, 19)])
def test_a_single_row_costs_what_is_reported(policy: Policy, tolerance, calls):
    counted = []
    handle = policy.backbone.register_forward_hook(lambda *_: counted.append(1))
    found = policy.plan(observations(policy, 1), Auto(tolerance), generators(1))
    handle.remove()
    assert len(counted) == found.evaluations.item() == calls


def test_the_word_stands_for_the_default(policy: Policy):
    obs = observations(policy, ROWS)
    actions = [policy.act(obs, steps, generators()) for steps in ("auto", Auto())]
    assert torch.equal(*actions)


def test_fixed_steps_report_their_cost_and_no_gap(policy: Policy):
    found = policy.plan(observations(policy, 2), 4, generators(2))
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
        ({"max_steps": 3}, "max_steps=3"),
        ({"max_steps": 1}, "max_steps=1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, named):
    with pytest.raises(InputError, match=named):
        Auto(**arguments)


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
    actions = policy.act(obs, generator=generators(2), deadline_ms=9.5)
    spent = len(clock.calls)
    again = policy.act(obs, generator=generators(2), deadline_ms=9.5)
    assert len(clock.calls) == spent + 8, "measured once"
    handle.remove()
    assert torch.equal(actions, policy.act(obs, 8, generators(2))) and torch.equal(actions, again)


def test_steps_and_a_deadline_exclude_each_other(policy: Policy):
    with pytest.raises(InputError, match="steps=4 and deadline_ms=20 both"):
        policy.act(observations(policy, 1), 4, deadline_ms=20)


def test_calls_are_timed_after_a_warm_up_and_not_for_ever(monkeypatch):
    clock = Clock(monkeypatch)
    assert time_calls(lambda: clock.act(2), repeats=4, warm_up=3) == pytest.approx([2.0] * 4)
    assert len(clock.calls) == 7
    assert len(time_calls(lambda: clock.act(2), repeats=100, warm_up=0, seconds=0.001)) == 10
