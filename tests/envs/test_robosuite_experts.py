"""Scripted experts of robomimic's tasks, and the demonstrations of theirs that ship with the package."""

import json
from functools import partialmethod
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from shortcut_envs.robosuite import experts as robosuite_experts
from shortcut_envs.robosuite.actions import replay
from shortcut_envs.robosuite.env import RobosuiteEnv
from shortcut_envs.robosuite.experts import (
    CanExpert,
    LiftExpert,
    Nut,
    RobosuiteExpert,
    SquareExpert,
    TransportExpert,
)
from shortcut_envs.robosuite.scripted_gripper import OPEN, ScriptedGripper
from shortcut_policy.commands.collect import run as collect
from shortcut_policy.data import RobomimicSource, bundled
from shortcut_policy.data.collect import record
from shortcut_policy.errors import InputError
from shortcut_policy.paths import ASSETS_DIR, CONFIG_DIR

pytestmark = pytest.mark.slow


def config(*overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("collect", list(overrides))


@pytest.mark.parametrize(
    ("expert", "longest"), [(LiftExpert, 80), (CanExpert, 300), (SquareExpert, 350), (TransportExpert, 600)]
)
def test_solves_its_task(expert: type[RobosuiteExpert], longest: int):
    episode = expert().episode(np.random.default_rng([0, 0, 0]))
    assert episode is not None
    length = len(episode["actions"])
    assert 20 < length < longest
    assert np.abs(episode["actions"]).max() <= 1
    assert episode["dones"].tolist() == [0] * (length - 1) + [1] == episode["rewards"].tolist()
    assert np.array_equal(episode["obs/object"][1:], episode["next_obs/object"][:-1])
    assert "<mujoco" in episode["model_file"]


def test_ways_differ_between_episodes_of_a_start(monkeypatch):
    """From one start: several sides to grasp from, and several ways there."""
    env = robosuite_experts._env("Lift")
    reset = env.reset
    monkeypatch.setattr(env, "reset", lambda seed: reset(seed=0))
    expert, yaws, sides = LiftExpert(noise=0.0), [], []
    for i in range(8):
        obs = expert.episode(np.random.default_rng(i))["obs/robot0_eef_quat_site"][-1]
        yaws.append(round(float(abs(obs[0])), 1))
        path = expert.episode(np.random.default_rng(i))["obs/robot0_eef_pos"]
        way, begun = path[-1] - path[0], path[5] - path[0]
        sides.append(np.sign(way[0] * begun[1] - way[1] * begun[0]))
    assert len(set(yaws)) > 1 and len(set(sides)) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_can_is_let_go_at_a_place_not_at_a_time(monkeypatch, seed: int):
    """An imitator sees where the hand is, and not for how long it has tried to come closer."""
    usual = CanExpert(compact=True).episode(np.random.default_rng(seed))
    monkeypatch.setattr(ScriptedGripper, "move", partialmethod(ScriptedGripper.move, max_steps=1000))
    patient = CanExpert(compact=True).episode(np.random.default_rng(seed))
    assert usual is not None and patient is not None
    assert np.array_equal(usual["actions"], patient["actions"])


@pytest.mark.parametrize("start", [38, 22, 19])
def test_square_solves_starts_of_known_trouble(start: int):
    """Comes to the peg at speed; a ring under the fingers; a turn that bends the arm to its limits."""
    assert SquareExpert(compact=True).episode(np.random.default_rng([7, start, 0])) is not None


def test_the_wrist_reaches_the_nut_and_never_turns_the_long_way():
    env, both = robosuite_experts._env("NutAssemblySquare"), 0
    for seed in range(12):
        env.reset(seed=seed)
        hand = ScriptedGripper(env, np.random.default_rng(seed), noise=0.0)
        nut = Nut(env.simulation)
        yaws = nut.yaws_of_grasp(hand)
        both += len(yaws) == 2
        assert len(yaws) and (yaws - hand.yaw_at_rest).min() > -1.9 and (yaws - hand.yaw_at_rest).max() < 2.4
        for yaw in yaws:
            assert abs(nut.yaw_of_place(hand, yaw) - yaw) < 1.7
    assert both > 2, "hardly ever a choice of the side to grasp from"


def test_a_move_that_settles_ends_slowly():
    env = robosuite_experts._env("Lift")
    left = []
    for settle in (1, 4):
        env.reset(seed=0)
        hand = ScriptedGripper(env, np.random.default_rng(0), noise=0.0)
        goal, before = hand.position + np.array([0.15, 0.1, -0.05]), hand.position
        for action in hand.move(goal, hand.yaw, OPEN, settle=settle):
            before = hand.position
            env.step(action)
        assert np.abs(hand.position - goal).max() < 0.01
        left.append(np.linalg.norm(hand.position - before))
    assert left[1] < 0.5 * left[0]


def test_a_file_is_a_function_of_the_seed_and_goes_on(tmp_path: Path):
    whole, parts = tmp_path / "whole.hdf5", tmp_path / "parts.hdf5"
    collect(config("expert=lift", "episodes=3", "workers=2", "seed=5", f"output={whole}"))
    for episodes in (1, 3):
        collect(config("expert=lift", f"episodes={episodes}", "seed=5", f"output={parts}"))
    with h5py.File(whole) as one, h5py.File(parts) as other:
        assert list(one["data"]) == list(other["data"]) == ["demo_0", "demo_1", "demo_2"]
        for name, demo in one["data"].items():
            for key in ("actions", "states", "obs/object", "next_obs/robot0_joint_vel"):
                assert np.array_equal(demo[key], other["data"][name][key])
            assert demo.attrs["model_file"] == other["data"][name].attrs["model_file"]
        assert json.loads(one["data"].attrs["env_args"])["env_name"] == "Lift"
        assert one["data"].attrs["total"] == sum(len(demo["actions"]) for demo in one["data"].values())
        assert [name.decode() for name in one["mask/train"]] == ["demo_0", "demo_1", "demo_2"]
    with pytest.raises(InputError, match=f"was recorded with seed=5, not 6; .* delete {parts}$"):
        collect(config("expert=lift", "episodes=4", "seed=6", f"output={parts}"))


def test_a_recording_without_an_episode_binds_nobody(tmp_path: Path, monkeypatch):
    path = tmp_path / "lift.hdf5"

    def interrupted(self, random):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LiftExpert, "episode", interrupted)
        collect(config("expert=lift", "episodes=1", "seed=5", f"output={path}"))
    collect(config("expert=lift", "episodes=1", "seed=6", f"output={path}"))
    with h5py.File(path) as file:
        assert file["data"].attrs["seed"] == 6


def test_noise_that_is_none_gets_a_sentence():
    for noise in (None, -1, float("nan")):
        with pytest.raises(InputError, match=r"expert\.noise is .*; it must be a finite number from 0 on"):
            LiftExpert(noise=noise)


@pytest.mark.parametrize("name", ["lift", "can"])
def test_bundled_demonstrations_are_scripted_and_solve_the_task(name: str):
    source = bundled(name)
    assert isinstance(source, RobomimicSource)
    attributes = source.attributes()
    assert attributes["expert"] == f"{name.capitalize()}Expert" and attributes["compact"]
    env = RobosuiteEnv(dataset=source.path)
    for start, stop in pairwise([0, *source.episode_ends[:3].tolist()]):
        actions = source.read("actions", start, stop)
        # The scene is not in the file: a can that falls comes to rest within a step of when it did.
        longer = np.concatenate([actions, actions[-1:]])
        solved, path = replay(env, source.read("states", start, start + 1)[0], longer)
        assert solved
        assert np.abs(path[:-2, 0] - source.read("robot0_eef_pos", start + 1, stop)).max() < 1e-3
    assert sum((ASSETS_DIR / f"{name}.hdf5").stat().st_size for name in ("lift", "can")) < 4e6


def test_a_bundled_demonstration_is_made_again():
    source = bundled("lift")
    episode, _ = record(dict(config("expert=lift", "expert.compact=true", "output=none").expert), 0, 1)
    start, stop = (int(row) for row in source.episode_ends[[0, 1]])
    assert len(episode["actions"]) == stop - start
    assert np.allclose(episode["actions"], source.read("actions", start, stop), atol=1e-6)
