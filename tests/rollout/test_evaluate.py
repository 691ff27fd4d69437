import functools
import json
import re

import gymnasium
import numpy as np
import pytest
import torch

from shortcut_policy.benchmark.rollouts import checkpoint_name
from shortcut_policy.errors import InputError
from shortcut_policy.rollout.chunk_batches import ChunkActor, chunk_generator
from shortcut_policy.rollout.evaluate import EvaluationProtocol, RolloutOptions, check, evaluate
from shortcut_policy.rollout.latency import latencies_in_turns, measure_latency
from shortcut_policy.rollout.play import rollout

SEEDS = range(100000, 100053)
SHORT = functools.partial(gymnasium.make, "shortcut_envs:shortcut_policy/PushTKeypoints-v0", max_steps=20)
PROTOCOL = EvaluationProtocol(episodes=3, batch_size=4, env={"max_steps": 20})


def observations(policy, count):
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(50, 450, (count, policy.n_obs_steps, *shape)).astype(np.float32)
        for name, shape in policy.obs_shapes.items()
    }


@pytest.fixture(scope="module")
def all_at_once(tiny_policy):
    return rollout(tiny_policy, SHORT, SEEDS, steps=2, num_envs=len(SEEDS))


@pytest.mark.parametrize("num_envs", [1, 7, 50])
def test_results_do_not_depend_on_the_number_of_environments(tiny_policy, all_at_once, num_envs):
    # 53 episodes and batches of 50: groups cross the border between batches, and the last one is not full.
    seeds = SEEDS if num_envs > 1 else SEEDS[:3]
    assert rollout(tiny_policy, SHORT, seeds, steps=2, num_envs=num_envs) == all_at_once[: len(seeds)]


def test_results_do_not_depend_on_processes(tiny_policy, all_at_once):
    found = rollout(tiny_policy, SHORT, SEEDS[:4], steps=2, num_envs=2, asynchronous=True)
    assert found == all_at_once[:4]


def test_results_follow_the_seeds(tiny_policy, all_at_once):
    assert [result.seed for result in all_at_once] == list(SEEDS)
    assert len({result.total_reward for result in all_at_once}) > 5
    assert all(result.length == 20 and result.chunks == 3 for result in all_at_once)
    other_noise = rollout(tiny_policy, SHORT, SEEDS[:8], steps=2, seed=1)
    assert other_noise != all_at_once[:8]


def test_rows_of_an_inference_batch_do_not_see_each_other(tiny_policy):
    actor = ChunkActor(tiny_policy, range(100), steps=2, seed=0, batch_size=16)
    obs = observations(tiny_policy, 40)
    together = actor(obs, np.arange(40), chunk=3).actions
    for episode in (0, 5, 15, 16, 39):
        alone = actor({k: v[[episode]] for k, v in obs.items()}, np.array([episode]), chunk=3)
        assert np.array_equal(alone.actions[0], together[episode])
    assert not np.array_equal(actor(obs, np.arange(40), chunk=4).actions, together), (
        "every chunk has its own noise"
    )


def test_chunk_generator_is_a_function_of_its_arguments():
    def draw(*key):
        return torch.randn(4, generator=chunk_generator(*key)).tolist()

    assert draw(0, 100000, 3) == draw(0, 100000, 3)
    assert len({tuple(draw(*key)) for key in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]}) == 4


def test_a_foreign_environment_is_refused_in_one_sentence(tiny_policy):
    make_state_env = functools.partial(gymnasium.make, "shortcut_envs:shortcut_policy/PushTState-v0")
    with pytest.raises(InputError, match=r"keypoint \[9, 2\].*environment gives state \[5\].*own task"):
        rollout(tiny_policy, make_state_env, SEEDS)
    with pytest.raises(InputError, match="environment of its own task"):
        check(tiny_policy, [1], EvaluationProtocol(env={"id": "shortcut_envs:shortcut_policy/PushTState-v0"}))


def test_a_step_count_the_objective_cannot_take_is_refused(tiny_policy):
    with pytest.raises(InputError, match="steps=3"):
        check(tiny_policy, [3], PROTOCOL)
    with pytest.raises(InputError, match="steps=3"):
        rollout(tiny_policy, SHORT, SEEDS, steps=3)


def test_evaluate_writes_everything_and_resumes(tiny_policy, tmp_path):
    options = RolloutOptions(num_envs=2, videos=1, plot=True)
    summary = evaluate(tiny_policy, 1, tmp_path, PROTOCOL, options)
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [100000, 100001, 100002]
    assert {"seed", "return", "score", "success", "length", "latency_ms", "network_evaluations"} <= lines[
        0
    ].keys()
    assert summary["score"] == pytest.approx(np.mean([line["score"] for line in lines]))
    assert summary["success_ci"] == pytest.approx((0, 0.5615), abs=1e-3)
    assert summary["latency"]["p95"] >= summary["latency"]["p50"] > 0
    assert (tmp_path / "episode_100000.mp4").stat().st_size > 1000
    assert not (tmp_path / "episode_100001.mp4").exists()
    assert (tmp_path / "paths.png").is_file()
    assert not list(tmp_path.glob("*part*"))

    written = (tmp_path / "summary.json").stat().st_mtime_ns

    def rewritten(steps=1, protocol=PROTOCOL, options=options):
        nonlocal written
        evaluate(tiny_policy, steps, tmp_path, protocol, options)
        before, written = written, (tmp_path / "summary.json").stat().st_mtime_ns
        return before != written

    assert not rewritten(), "finished with these settings"
    assert not rewritten(options=RolloutOptions(num_envs=3)), "the number of environments is no setting"
    assert rewritten(options=RolloutOptions(videos=2)), "a film is missing"
    assert list(tmp_path.glob("episode_*.mp4"))
    assert rewritten(options=RolloutOptions(overwrite=True))
    assert not list(tmp_path.glob("episode_*.mp4")), "films of before would pass for films of these numbers"
    assert rewritten(steps=2)
    (tmp_path / "episodes.jsonl").unlink()
    assert rewritten(steps=2), "the episodes are missing"
    assert rewritten(protocol=EvaluationProtocol(episodes=2, batch_size=4, env={"max_steps": 20}))


def test_a_crash_leaves_the_finished_episodes_readable_and_the_folder_unfinished(
    tiny_policy, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    plan = type(tiny_policy).predict_with_cost
    calls = []
    monkeypatch.setattr(
        type(tiny_policy),
        "predict_with_cost",
        lambda *args, **kwargs: (calls.append(0), plan(*args, **kwargs) if len(calls) <= 3 else fail())[1],
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_policy, 1, tmp_path, PROTOCOL, RolloutOptions(num_envs=1))
    (line,) = (tmp_path / "episodes.part.jsonl").read_text().splitlines()
    assert json.loads(line)["seed"] == 100000
    assert not (tmp_path / "summary.json").exists()


def test_latency_is_measured_at_batch_size_one(tiny_policy):
    latency = measure_latency(tiny_policy, steps=1, repeats=12)
    assert 0 < latency.p50 <= latency.p95
    assert latency.repeats == 12
    assert latency.device and re.search(r"\w", latency.device)
    one, two = latencies_in_turns([(tiny_policy, 1), (tiny_policy, 2)], rounds=2, repeats=10)
    assert one.repeats == two.repeats == 20


def test_checkpoint_names(tmp_path):
    assert checkpoint_name(tmp_path / "runs" / "a" / "checkpoints" / "step_00000010") == "a/step_00000010"
    assert checkpoint_name("pretrained/pusht") == "pusht"
