"""Meta-World's tasks: starts, success, what is seen, experts; what is refused, with the package or not."""

import importlib.metadata
import importlib.util
import json
from collections import Counter
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hydra import compose, initialize_config_dir

from shortcut_envs.metaworld import expert as experts
from shortcut_envs.metaworld.demonstrations import MetaWorldDemonstrations
from shortcut_envs.metaworld.env import MetaWorldEnv
from shortcut_envs.metaworld.expert import FIRST_SEED, MetaWorldExpert
from shortcut_envs.metaworld.simulation import LONGEST, import_metaworld
from shortcut_envs.metaworld.tasks import SETS, TASKS, tasks_of
from shortcut_policy.commands import benchmark, cli
from shortcut_policy.commands.collect import run as collect
from shortcut_policy.data import EpisodeWriter
from shortcut_policy.data.collect import collect as collect_demonstrations
from shortcut_policy.data.collect import record
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR

installed = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None, reason="the extra metaworld is not installed"
)
SPEC = {"_target_": "shortcut_envs.metaworld.expert.MetaWorldExpert"}


def played(env: MetaWorldEnv, seed: int, steps: int = 30) -> list[np.ndarray]:
    """Observations of an episode with drawn actions, larger than the box."""
    observation, _ = env.reset(seed=seed)
    seen, draws = [observation], np.random.default_rng(seed)
    for _ in range(steps):
        seen.append(env.step(draws.uniform(-1.5, 1.5, 4))[0])
    return [np.concatenate([one[key] for key in sorted(one)]) for one in seen]


@pytest.fixture(scope="module")
def reach() -> MetaWorldEnv:
    return MetaWorldEnv("reach-v3")


@installed
def test_the_names_are_those_of_the_package():
    module = import_metaworld()
    assert list(module.env_dict.ALL_V3_ENVIRONMENTS) == list(TASKS)
    assert list(module.env_dict.MT10_V3) == list(SETS["mt10"])
    assert list(module.env_dict.MT50_V3) == list(SETS["mt50"])
    for task in TASKS:
        assert hasattr(experts._policy(task), "get_action")


@installed
@pytest.mark.parametrize("task", ["reach-v3", "door-lock-v3", "window-close-v3"])
def test_an_episode_is_a_function_of_seed_and_actions_whatever_was_played_before(task: str):
    env = gymnasium.make(f"shortcut_envs:shortcut_policy/MetaWorld-{task}").unwrapped
    first = played(env, seed=5)
    other = played(env, seed=6)
    again = played(env, seed=5)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], other[0])
    assert all(env.observation_space.contains(env.reset(seed=seed)[0]) for seed in (0, FIRST_SEED))


@installed
@pytest.mark.parametrize("task", ["door-lock-v3", "disassemble-v3"])
def test_starts_are_those_that_its_own_tasks_set_up(task: str):
    """Nothing is left of a draw before."""
    module = import_metaworld()
    env = MetaWorldEnv(task)
    observation, _ = env.reset(seed=3)
    kwargs = {key: value for key, value in module.env_dict.ML1_ARGS_KWARGS[task]["kwargs"].items()}
    del kwargs["task_id"]
    drawn = env.simulation.env._last_rand_vec
    own = module.env_dict.ALL_V3_ENVIRONMENTS[task]()
    kwargs |= {"rand_vec": drawn, "env_cls": type(own), "partially_observable": False}
    own.set_task(module._encode_task(task, kwargs))
    own.reset()
    assert np.array_equal(observation["goal"], own._target_pos.astype(np.float32))
    assert np.array_equal(env.simulation.env.data.qpos, own.data.qpos)


@installed
def test_it_is_a_gymnasium_environment_that_shows_the_goal(reach: MetaWorldEnv):
    check_env(reach, skip_render_check=True)
    observation, info = reach.reset(seed=1)
    assert np.array_equal(observation["goal"], reach.simulation.goal.astype(np.float32))
    assert np.abs(observation["goal"]).max() > 0.1
    assert info == {"is_success": False, "success_now": False, "score": 0.0, "task": "reach-v3"}


@installed
def test_the_first_observation_is_of_the_scene_that_is_played():
    env = MetaWorldEnv("window-close-v3")
    before = env.reset(seed=0)[0]["objects"]
    after = env.step(np.zeros(4))[0]["objects"]
    assert np.abs(before - after).max() < 0.01


@installed
def test_success_is_latched_and_what_is_now_is_told_beside_it():
    """An expert that solves handle-press lets go of the handle again."""
    env = MetaWorldEnv("handle-press-v3", after_success=None)
    env.reset(seed=0)
    policy, infos, ends = experts._policy("handle-press-v3"), [], []
    for _ in range(LONGEST):
        *_, terminated, truncated, info = env.step(policy.get_action(env.simulation.observation_of_experts()))
        infos.append(info)
        ends.append((terminated, truncated))
    first = next(number for number, info in enumerate(infos) if info["success_now"])
    assert all(info["is_success"] == (number >= first) for number, info in enumerate(infos))
    assert infos[-1]["score"] == 1.0 and not infos[-1]["success_now"]
    assert ends == [(False, False)] * (LONGEST - 1) + [(False, True)]


@installed
def test_an_episode_ends_so_many_steps_after_its_success():
    lengths = []
    for after in (0, 7):
        env = MetaWorldEnv("handle-press-v3", after_success=after)
        env.reset(seed=0)
        policy, over, length = experts._policy("handle-press-v3"), False, 0
        while not over:
            _, _, over, _, _ = env.step(policy.get_action(env.simulation.observation_of_experts()))
            length += 1
        lengths.append(length)
    assert lengths[1] - lengths[0] == 7


@installed
@pytest.mark.slow
def test_consecutive_seeds_meet_every_task_of_a_set():
    env = MetaWorldEnv("mt10")
    met = []
    for seed in range(100, 110):
        observation, info = env.reset(seed=seed)
        assert observation["task"].tolist() == np.eye(10)[seed % 10].tolist()
        met.append(info["task"])
    assert met == list(SETS["mt10"])
    observation, info = env.reset(seed=100, options={"task": "push-v3"})
    assert info["task"] == "push-v3" and observation["task"].argmax() == 1
    single = MetaWorldEnv("push-v3").reset(seed=100)[0]
    assert all(np.array_equal(single[key], observation[key]) for key in single)


@installed
@pytest.mark.slow
def test_demonstrations_are_bit_for_bit_those_of_their_seed_and_of_every_task(tmp_path: Path, capsys):
    paths = [tmp_path / f"{name}.zarr" for name in ("one", "two")]
    for path, workers in zip(paths, (1, 2), strict=True):
        overrides = ["expert=metaworld", "expert.task=mt10", "episodes=10", f"workers={workers}"]
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            collect(compose("collect", [*overrides, f"output={path}"]))
    assert "10 new, " in capsys.readouterr().out
    one, two = (MetaWorldDemonstrations(path, "mt10") for path in paths)
    assert one.shapes == {"hand": (4,), "objects": (14,), "goal": (3,), "task": (10,), "action": (4,)}
    rows = one.episode_ends[-1]
    assert all(np.array_equal(one.read(key, 0, rows), two.read(key, 0, rows)) for key in one.keys)
    starts = np.concatenate([[0], one.episode_ends[:-1]])
    assert [int(one.read("task", start, start + 1).argmax()) for start in starts] == list(range(10))
    actions = one.read("action", 0, rows)
    assert np.abs(actions).max() == 1.0
    with pytest.raises(
        InputError, match=r"holds demonstrations of mt10, and the task is reach-v3: give the path"
    ):
        MetaWorldDemonstrations(paths[0], "reach-v3")


@installed
def test_a_demonstration_replays_to_success_in_the_environment_of_its_start():
    spec = {**SPEC, "task": "push-v3", "after_success": 3}
    episode, _ = record(spec, seed=1, index=4)
    random = np.random.default_rng(np.random.SeedSequence([1, 4, 0]))
    env = MetaWorldEnv("push-v3", after_success=3)
    observation, _ = env.reset(seed=FIRST_SEED + int(random.integers(2**32)))
    for row, action in enumerate(episode["action"]):
        assert all(np.array_equal(observation[key], episode[key][row]) for key in observation)
        observation, _, terminated, _, info = env.step(action)
    assert terminated and info["is_success"]


@installed
def test_noise_and_ways_round_make_other_demonstrations_of_a_start():
    plain = MetaWorldExpert("reach-v3", noise=0.0, waypoint=0.0).episode(np.random.default_rng(0))
    again = MetaWorldExpert("reach-v3", noise=0.0, waypoint=0.0).episode(np.random.default_rng(0))
    noisy = MetaWorldExpert("reach-v3", noise=0.2, waypoint=0.0).episode(np.random.default_rng(0))
    round_about = MetaWorldExpert("reach-v3", noise=0.0, waypoint=0.2).episode(np.random.default_rng(0))
    assert np.array_equal(plain["action"], again["action"])
    assert all(np.array_equal(plain["goal"][0], other["goal"][0]) for other in (noisy, round_about))
    assert not np.array_equal(plain["action"][1], noisy["action"][1])
    assert len(round_about["action"]) > len(plain["action"])


@installed
def test_failures_are_left_out(monkeypatch):
    env = experts._env("reach-v3", 10)
    monkeypatch.setattr(env, "max_steps", 3)
    assert MetaWorldExpert("reach-v3").episode(np.random.default_rng(0)) is None


@installed
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_steps": 501}, "max_steps"),
        ({"render_mode": "human"}, "render_mode='human' must be 'rgb_array' or None"),
        ({"after_success": -1}, "after_success"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        MetaWorldEnv("reach-v3", **arguments)


@installed
def test_actions_and_options_that_cannot_be_used(reach: MetaWorldEnv):
    reach.reset(seed=0)
    for action in (np.zeros(3), np.full(4, np.nan)):
        with pytest.raises(InputError, match="an action of reach-v3 must be 4 finite numbers"):
            reach.step(action)
    with pytest.raises(InputError, match="reset option 'goal' is unknown; the only option is 'task'"):
        reach.reset(options={"goal": 1})
    with pytest.raises(InputError, match="reset option task='push-v3' is none of reach-v3"):
        reach.reset(options={"task": "push-v3"})


@installed
@pytest.mark.parametrize(
    ("argument", "value"), [("noise", -1), ("waypoint", float("nan")), ("after_success", 0.5)]
)
def test_an_expert_refuses_what_it_cannot_use(argument: str, value: float):
    with pytest.raises(InputError, match=f"^expert.{argument}"):
        MetaWorldExpert("reach-v3", **{argument: value})


def test_an_unknown_task_is_told_with_the_nearest_names(give, capsys):
    with pytest.raises(InputError, match="Meta-World has no task 'reach'; did you mean reach-v3"):
        tasks_of("reach")
    with pytest.raises(InputError, match="'xyz'; there are mt10, mt50, assembly-v3, basketball-v3"):
        tasks_of("xyz")
    for command, overrides in (
        (cli.collect, ["expert=metaworld", "expert.task=door-opne-v3", "output=demos.zarr"]),
        (cli.train, ["task=metaworld", "task.name=door-opne-v3"]),
    ):
        with pytest.raises(SystemExit):
            give(command, *overrides)
        assert "no task 'door-opne-v3'; did you mean door-open-v3" in capsys.readouterr().err


def test_without_the_package_there_is_one_sentence(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match=r"^metaworld is not installed, .*'shortcut-policy\[metaworld\]'$"):
        MetaWorldEnv("reach-v3")


def test_demonstrations_of_something_else_are_refused(tmp_path: Path):
    with EpisodeWriter(tmp_path / "other.zarr") as writer:
        writer.add_episode({"action": np.zeros((3, 4), np.float32)})
    with pytest.raises(InputError, match="that do not say of which task they are, and the task is reach-v3"):
        MetaWorldDemonstrations(tmp_path / "other.zarr", "reach-v3")
    with pytest.raises(
        InputError, match=r"record some with scripts/collect\.py expert=metaworld expert\.task=mt10"
    ):
        MetaWorldDemonstrations(tmp_path / "none.zarr", "mt10")


@pytest.mark.parametrize("name", ["reach-v3", "mt10", "mt50"])
def test_a_task_is_made_of_its_name(name: str):
    task = "task=metaworld" if name in TASKS else f"task=metaworld/{name}"
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", [task, f"task.name={name}"]).task
    assert config.source.task == name and Path(config.source.path).name == f"{name}.zarr"
    assert config.env.id == f"shortcut_envs:shortcut_policy/MetaWorld-{name}"
    assert config.env.id.split(":")[1] in gymnasium.registry
    sizes = {key: list(field.shape) for key, field in config.obs.items()}
    expected = {"hand": [4], "objects": [14], "goal": [3]}
    assert sizes == expected | ({} if name in TASKS else {"task": [len(SETS[name])]})


def test_an_expert_of_several_tasks_gives_each_its_share(tmp_path: Path):
    episodes = [record({"_target_": f"{__name__}.InTurn"}, seed=0, index=index) for index in range(6)]
    assert Counter(int(episode["task"][0]) for episode, _ in episodes) == {0: 2, 1: 2, 2: 2}
    assert [failures for _, failures in episodes] == [0, 1, 0, 0, 1, 0]


class InTurn:
    """An expert of three tasks; the second fails at its first try."""

    attributes = {"expert": "in turn"}  # noqa: RUF012

    def of_episode(self, index: int) -> "InTurn":
        one = InTurn()
        one.task, one.tries = index % 3, 0
        return one

    def episode(self, random: np.random.Generator) -> dict[str, np.ndarray] | None:
        self.tries += 1
        return None if self.task == 1 and self.tries == 1 else {"task": np.full((2,), self.task)}


@installed
@pytest.mark.slow
def test_the_study_runs_from_demonstrations_to_figure(monkeypatch, tmp_path: Path):
    """`benchmark_mt50` with two tasks, a small network and two updates."""
    monkeypatch.setitem(SETS, "two", ("reach-v3", "door-close-v3"))
    store, spec = tmp_path / "two.zarr", {**SPEC, "task": "two"}
    collect_demonstrations(spec, str(store), episodes=8)
    methods = ("shortcut", "flow_matching", "diffusion", "consistency_training", "regression")
    entries = [
        {"name": name, "overrides": [f"objective={name}"], "seeds": [0, 1], "steps": [steps]}
        for name, steps in zip(methods, (1, 1, 100, 1, 1), strict=True)
    ]
    more = [
        *("task.name=two", "task.obs.task.shape=[2]", f"task.source.path={store}", "~task.env.id"),
        *(f"task.env._target_={MetaWorldEnv.__module__}.MetaWorldEnv", "+task.env.task=two"),
        *("+task.env.max_steps=20", "backbone=mlp", "trainer.warmup_steps=1", "trainer.batch_size=8"),
    ]
    settings = ["tasks=metaworld/mt10", "demonstrations=3", "updates=2", "episodes=4", "num_envs=2"]
    places = [f"publish='{tmp_path}/published'", f"output='{tmp_path}/out'", "compute_rounds=1"]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("benchmark_mt50", [*settings, *places])
    config.entries = entries
    config.training.extend(more)
    benchmark.run(config)
    assert (tmp_path / "published" / "tasks.png").is_file()
    rows = json.loads((tmp_path / "published" / "results.json").read_text())["rows"]
    assert {(row["method"], row["task"]) for row in rows} == {
        (name, task) for name in methods for task in ("reach-v3", "door-close-v3", "mean")
    }
    assert {row["seeds"] for row in rows} == {2}
