"""Scripted experts of robomimic's tasks, and the demonstrations of theirs that ship with the package."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from envs import robosuite_experts
from envs.robosuite_actions import replay
from envs.robosuite_env import RobosuiteEnv
from envs.robosuite_experts import CanExpert, LiftExpert, RobosuiteExpert, SquareExpert, TransportExpert
from shortcut_policy.collect import record
from shortcut_policy.collect import run as collect
from shortcut_policy.data import RobomimicSource, bundled
from shortcut_policy.errors import InputError
from shortcut_policy.paths import ASSETS_DIR, CONFIG_DIR


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
    with pytest.raises(InputError, match="was recorded with seed=5, not 6"):
        collect(config("expert=lift", "episodes=4", "seed=6", f"output={parts}"))


@pytest.mark.parametrize("name", ["lift", "can"])
def test_bundled_demonstrations_are_scripted_and_solve_the_task(name: str):
    source = bundled(name)
    assert isinstance(source, RobomimicSource)
    attributes = source.attributes()
    assert attributes["expert"] == f"{name.capitalize()}Expert" and attributes["compact"]
    env = RobosuiteEnv(dataset=source.path)
    start, stop = (int(row) for row in source.episode_ends[[0, 1]])
    solved, _ = replay(env, source.read("states", start, start + 1)[0], source.read("actions", start, stop))
    assert solved
    assert sum((ASSETS_DIR / f"{name}.hdf5").stat().st_size for name in ("lift", "can")) < 4e6


def test_a_bundled_demonstration_is_made_again():
    source = bundled("lift")
    episode, _ = record(config("expert=lift", "expert.compact=true", "seed=0", "output=none"), 1)
    start, stop = (int(row) for row in source.episode_ends[[0, 1]])
    assert len(episode["actions"]) == stop - start
    assert np.allclose(episode["actions"], source.read("actions", start, stop), atol=1e-6)
