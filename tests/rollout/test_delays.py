"""Rollouts in which chunks come late."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict

import numpy as np
import pytest

from shortcut_policy.benchmark.rollouts import measure
from shortcut_policy.commands.train import read_training
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.chunk_joins import Joining
from shortcut_policy.rollout.config import RolloutConfig
from shortcut_policy.rollout.delays import DelayedPlay, Execution
from shortcut_policy.rollout.evaluate import EvaluationProtocol, RolloutOptions
from shortcut_policy.rollout.motion import Motion, mean_motion
from shortcut_policy.rollout.play import rollout
from shortcut_policy.training.parts import make_model
from tests.conftest import Compose
from tests.rollout.test_evaluate import SEEDS, SHORT
from tests.test_control import Drifting

PROTOCOL = EvaluationProtocol(episodes=2, batch_size=2, env={"max_steps": 20})
LATE = Execution(Joining("crossfade"), delay=3, jitter=2)


@pytest.fixture(scope="module")
def told(compose_config: Compose, tiny_dataset) -> Policy:
    return make_model(read_training(compose_config("prefix_steps=6")), tiny_dataset).eval()


def steps_played(policy: Policy, execution: Execution, chunks: int = 4) -> list[list[float]]:
    """What one robot plays whose chunk c has the actions 100 c, 100 c + 1, ... from its observation on."""
    play, parts = DelayedPlay(execution, policy, [7], seed=0), []
    ahead = policy.horizon - policy.n_obs_steps + 1
    for number in range(chunks):
        actions = 100 * number + np.arange(ahead, dtype=np.float32)
        chunk = np.repeat(actions[None, :, None], policy.action_dim, axis=2)
        plan, _ = play.next(np.array([0]), chunk, number)
        parts.append(plan.actions[0, :, 0].tolist())
    return parts


def numbers(*parts: tuple[int, int]) -> list[float]:
    return [float(one) for first, last in parts for one in range(first, last)]


def test_without_delay_chunks_follow_each_other(tiny_policy: Policy):
    assert steps_played(tiny_policy, Execution()) == [numbers((100 * c, 100 * c + 8)) for c in range(4)]


def test_a_chunk_is_asked_for_early_enough_and_what_has_passed_of_it_is_dropped(tiny_policy: Policy):
    switched = steps_played(tiny_policy, Execution(delay=2, sensor_delay=1))
    assert switched == [
        numbers((0, 5)),
        numbers((5, 8), (103, 108)),
        numbers((108, 111), (203, 208)),
        numbers((208, 211), (303, 308)),
    ]
    naive = steps_played(tiny_policy, Execution(Joining("naive"), delay=3))
    assert naive[2] == numbers((105, 108), (200, 205))
    # Asked for at once, and there after eight steps: one of them is beyond what a chunk holds.
    latest = steps_played(tiny_policy, Execution(delay=8), chunks=3)
    assert latest == [[0.0], numbers((1, 9)), [*numbers((108, 115)), 114.0]]


def test_more_often_than_once_a_chunk(tiny_policy: Policy):
    assert steps_played(tiny_policy, Execution(every=1), chunks=3) == [[0.0], [100.0], [200.0]]
    assert steps_played(tiny_policy, Execution(every=2, delay=3), chunks=3)[1:] == [
        numbers((1, 4)),
        numbers((103, 106)),
    ]


def test_jitter_is_of_the_start_and_the_chunk(tiny_policy: Policy):
    """From 0 to as many steps as were allowed, whoever plays beside it."""

    def begins(seeds: list[int], rows: list[int]) -> np.ndarray:
        play = DelayedPlay(Execution(delay=1, jitter=3), tiny_policy, seeds, seed=0)
        chunks = np.zeros((len(rows), 15, 2), np.float32)
        return np.array([play.next(np.array(rows), chunks, number)[1] for number in range(30)])

    together = begins([5, 6, 7], [0, 1, 2])
    assert set(together[1:].ravel()) == {1, 2, 3, 4} and not together[0].any()
    assert np.array_equal(begins([6], [0])[:, 0], together[:, 1])
    assert not np.array_equal(together[:, 0], together[:, 1])


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("execution", [LATE, Execution(Joining("naive"), jitter=4)], ids=["fade", "naive"])
def test_results_do_not_depend_on_the_number_of_environments(
    tiny_policy: Policy, num_envs: int, execution: Execution
):
    together = rollout(tiny_policy, SHORT, SEEDS[:4], num_envs=4, execution=execution)
    assert rollout(tiny_policy, SHORT, SEEDS[:4], num_envs=num_envs, execution=execution) == together
    assert all(result.length == 20 for result in together)


def test_the_prefix_is_what_will_be_played(told: Policy, monkeypatch: pytest.MonkeyPatch):
    """Up to the latest that a chunk may come, so that it is right whenever it comes."""
    asked: list[np.ndarray] = []
    plan = Policy.predict_with_cost

    def remember(self, obs, steps, generator, guidance, prefix):
        asked.append(np.empty((0, 2)) if prefix is None else prefix[0].numpy())
        return plan(self, obs, steps, generator, guidance, prefix)

    monkeypatch.setattr(Policy, "predict_with_cost", remember)
    env, execution = Drifting(), Execution(Joining("prefix"), delay=3, jitter=2)
    rollout(told, lambda: env, [3], num_envs=1, batch_size=1, execution=execution)
    assert [len(one) for one in asked] == [0, 5, 5, 5]
    for prefix, first in zip(asked[1:], (5, 13, 21), strict=True):
        assert np.array_equal(env.played[first : first + 5], prefix)


@pytest.mark.parametrize(
    ("execution", "sentence"),
    [
        (Execution(Joining("prefix"), delay=5, jitter=2), "prefix_steps=7 or more, and this one .* 6"),
        (Execution(delay=15), "late by up to 15 steps, and a chunk of this policy ends after 15"),
        (Execution(every=16), "every=16 .* it holds 15"),
    ],
)
def test_delays_that_cannot_be_played_are_refused(told: Policy, execution: Execution, sentence: str):
    with pytest.raises(InputError, match=sentence):
        rollout(told, SHORT, SEEDS[:1], execution=execution)


def test_a_measurement_says_its_delays_and_has_a_folder_of_its_own(tiny_policy: Policy, tmp_path):
    policy = deepcopy(tiny_policy)
    policy.metadata["train_steps"] = 0
    run = [
        measure(policy, "tiny", 1, tmp_path, PROTOCOL, RolloutOptions(num_envs=2), execution=how)
        for how in (None, LATE)
    ]
    (usual, _, first), (late, _, second) = run
    assert (first.name, second.name) == ("steps_001", "steps_001_crossfade_delay_3_jitter_2")
    assert late["name"] == "tiny, crossfade, delay 3, jitter 2" and usual["name"] == "tiny"
    assert (late["delay"], late["executor"], late["fade"]) == (3, "crossfade", 1)
    assert usual["jerk"] > 0 and usual["border_jump"] > 0 and usual["held"] == 0
    with_none = measure(policy, "tiny", 1, tmp_path, PROTOCOL, RolloutOptions(), execution=Execution())
    assert with_none[2] == first


def test_settings_of_the_command_are_those_of_the_delays():
    config = RolloutConfig(checkpoint="x", executor="prefix", delay=4, jitter=1, every=2, fade=3)
    assert config.execution == Execution(Joining("prefix", fade=3), delay=4, jitter=1, every=2)
    assert asdict(RolloutConfig(checkpoint="x").execution) == asdict(Execution())


@pytest.fixture
def moved() -> Callable[..., Motion]:
    return lambda *actions, borders=(), held=0: Motion.of(
        np.array(actions, np.float32)[:, None], np.array(borders, int), held
    )


def test_motion_is_measured_at_borders_and_elsewhere(moved: Callable[..., Motion]):
    found = moved(0, 1, 3, 13, 14, borders=[3], held=2)
    assert (found.border_jump, found.inner_step, found.held) == (10, 4 / 3, 2)
    third = [abs(13 - 3 * 3 + 3 * 1 - 0), abs(14 - 3 * 13 + 3 * 3 - 1)]
    assert found.jerk == sum(third) / 2
    assert moved(*range(9)).jerk == 0, "an even motion has none"
    assert moved(1, 2, borders=[0, 5]) == Motion(jerk=None, border_jump=None, inner_step=1.0)
    means = mean_motion([found, moved(1, 2)])
    assert (means["jerk"], means["border_jump"], means["held"]) == (found.jerk, 10, 1)
