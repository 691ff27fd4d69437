import functools
import hashlib
import json
import re
import sys
from copy import deepcopy
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from shortcut_policy import fingerprint, load_policy, provenance, save_policy
from shortcut_policy.benchmark.rollouts import checkpoint_name
from shortcut_policy.control import chunk_generator
from shortcut_policy.errors import InputError
from shortcut_policy.locks import writer_lock
from shortcut_policy.rollout import play
from shortcut_policy.rollout.chunk_batches import ChunkActor
from shortcut_policy.rollout.evaluate import (
    EvaluationProtocol,
    RolloutOptions,
    check,
    environment_maker,
    evaluate,
)
from shortcut_policy.rollout.latency import latencies_in_turns, measure_latency
from shortcut_policy.rollout.play import rollout
from tests.full_disk import no_room

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
def all_at_once(untrained_policy):
    return rollout(untrained_policy, SHORT, SEEDS, steps=2, num_envs=len(SEEDS))


@pytest.mark.parametrize("num_envs", [1, 7, 50])
def test_results_do_not_depend_on_the_number_of_environments(tiny_policy, all_at_once, num_envs):
    # 53 episodes and batches of 50: groups cross the border between batches, and the last one is not full.
    seeds = SEEDS if num_envs > 1 else SEEDS[:3]
    assert rollout(tiny_policy, SHORT, seeds, steps=2, num_envs=num_envs) == all_at_once[: len(seeds)]


@pytest.mark.slow
def test_results_do_not_depend_on_processes(tiny_policy, all_at_once):
    found = rollout(tiny_policy, SHORT, SEEDS[:4], steps=2, num_envs=2, asynchronous=True)
    assert found == all_at_once[:4]


@pytest.mark.parametrize(("slow", "asked"), [(True, None), (False, None), (True, False), (False, True)])
def test_an_environment_says_whether_it_is_played_in_processes(
    tiny_policy, all_at_once, monkeypatch, slow, asked
):
    made: list[int] = []

    class Processes(gymnasium.vector.SyncVectorEnv):
        def __init__(self, makers, context, **options):
            assert context == "forkserver"  # a fork would hang in OpenGL
            made.append(len(makers))
            super().__init__(makers, **options)

    def make() -> gymnasium.Env:
        env = SHORT()
        env.unwrapped.metadata = {**env.unwrapped.metadata, "slow": slow}
        return env

    monkeypatch.setattr(play, "AsyncVectorEnv", Processes)
    monkeypatch.setattr(play, "usable_cores", lambda: 2)
    found = rollout(tiny_policy, make, SEEDS[:3], steps=2, num_envs=3, asynchronous=asked)
    assert found == all_at_once[:3]
    assert made == ([3] if asked else [2] if slow and asked is None else [])


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
    untimed = RolloutOptions(latency=False)
    assert rewritten(steps=2, options=untimed) and not rewritten(steps=2, options=untimed)
    assert rewritten(steps=2), "its latency is missing"
    assert not rewritten(steps=2, options=untimed), "what is not asked for may be there"
    (tmp_path / "episodes.jsonl").unlink()
    assert rewritten(steps=2), "the episodes are missing"
    assert rewritten(protocol=EvaluationProtocol(episodes=2, batch_size=4, env={"max_steps": 20}))


@pytest.fixture
def evaluated(tiny_policy, tmp_path, capsys):
    """A saved policy and its evaluation; evaluates it again and says what was printed."""
    save_policy(tiny_policy, tmp_path / "policy")
    short = replace(PROTOCOL, episodes=1)

    def again(protocol=short):
        evaluate(load_policy(tmp_path / "policy"), 1, tmp_path / "out", protocol, RolloutOptions(num_envs=1))
        return capsys.readouterr().out

    assert again() == ""
    return again


def test_the_same_thing_is_reused_and_said_so(evaluated, tmp_path):
    assert evaluated() == f"reused: {tmp_path / 'out'}\n"


def test_a_policy_that_acts_otherwise_is_evaluated_again(evaluated, tmp_path):
    file = tmp_path / "policy" / "policy.json"
    text = file.read_text()
    changed = text.replace('"n_action_steps": 8', '"n_action_steps": 4')
    assert changed != text
    file.write_text(changed)
    assert re.match(r"evaluated again: .*out \(specification was \w+, is \w+\)\n", evaluated())
    assert evaluated().startswith("reused: "), "and is kept as what it is"


def test_another_environment_code_or_library_is_evaluated_again(evaluated, tmp_path, monkeypatch):
    other = EvaluationProtocol(episodes=1, batch_size=4, env={"max_steps": 16})
    assert "(env.max_steps was 20, is 16)" in evaluated(other)
    assert evaluated(other).startswith("reused: ")
    monkeypatch.setattr(fingerprint, "own_code", lambda: "another")
    assert re.search(r"\(code was \w+, is another\)", evaluated(other))
    versions = {**fingerprint.library_versions(), "pymunk": "6.0"}
    monkeypatch.setattr(fingerprint, "library_versions", lambda: versions)
    assert "versions.pymunk was" in evaluated(other)
    assert evaluated(other).startswith("reused: ")


def test_an_environment_of_ones_own_counts_with_its_source(tiny_policy, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    env = {"_target_": "gymnasium.make", "id": "scene_of_mine:Scene-v0"}

    def parts(source):
        (tmp_path / "scene_of_mine.py").write_text(source)
        provenance.code_hash.cache_clear()
        return fingerprint.fingerprint(tiny_policy, env)["modules"]

    assert parts("A = 1") == parts("A = 1") != parts("A = 2")
    assert "scene_of_mine" not in sys.modules, "its source is read, not run"
    assert fingerprint.fingerprint(tiny_policy)["modules"] == {}


def test_weights_are_hashed_once_and_again_when_one_bit_changes(tiny_policy, monkeypatch):
    policy = deepcopy(tiny_policy)
    first = fingerprint.weights_hash(policy)
    hashed = []
    monkeypatch.setattr(fingerprint.hashlib, "sha256", lambda: hashed.append(1) or hashlib.blake2b())
    assert fingerprint.weights_hash(policy) == first and not hashed
    weight = next(policy.parameters())
    weight.data.view(-1)[0] = torch.nextafter(weight.detach().view(-1)[0], torch.tensor(9.0))
    assert fingerprint.weights_hash(policy) != first and hashed
    assert fingerprint.weights_hash(policy.to(torch.bfloat16)) != first


def test_the_own_code_is_every_source_of_the_package(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "a.py", "inner/__init__.py", "inner/b.py"):
        (package / name).write_text(f"# {name}")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = provenance.code_hash("some_package")
    (package / "inner" / "b.py").write_text("# b, changed")
    provenance.code_hash.cache_clear()
    assert before != provenance.code_hash("some_package") is not None
    assert provenance.code_hash("there_is_no_such_package") is None


def test_rows_of_episodes_that_find_no_room_name_their_file(tiny_policy, tmp_path, capsys):
    with no_room(), pytest.raises(OSError, match=r"'.*/episodes\.part\.jsonl'"):
        evaluate(tiny_policy, 1, tmp_path, PROTOCOL, RolloutOptions(num_envs=1))


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


def test_a_damaged_summary_is_evaluated_again_and_two_evaluations_meet_a_lock(evaluated, tmp_path):
    (tmp_path / "out" / "summary.json").write_text('{"x":')
    assert "summary.json is damaged" in evaluated()
    (tmp_path / "out" / "summary.json").write_text("{}")
    assert "summary.json is damaged" in evaluated()
    with (
        writer_lock(tmp_path / "out"),
        pytest.raises(InputError, match=r"another program is writing to .*out"),
    ):
        evaluated()
    assert evaluated().startswith("reused: ")


def test_what_has_no_environment_says_so(tiny_policy):
    with pytest.raises(InputError, match=r"cannot be made: .*no_such_package"):
        environment_maker(tiny_policy, {"id": "no_such_package:Scene-v0"})()
    policy = deepcopy(tiny_policy)
    policy.metadata = {}
    with pytest.raises(InputError, match="say task=None, and not which task"):
        environment_maker(policy, {})
