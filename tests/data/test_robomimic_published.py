"""The tasks of robomimic's published datasets, on recorded files of the same layout."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from einops import repeat
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from shortcut_envs.robosuite.env import RobosuiteEnv
from shortcut_envs.robosuite.setup import OSC_POSE, default_args
from shortcut_policy.commands.train import make_dataset, read_training
from shortcut_policy.commands.train import run as train
from shortcut_policy.data.object_state import LAYOUTS
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import load_policy
from tests.conftest import TINY

pytestmark = pytest.mark.slow

#: Task -> robosuite's name, numbers of an observation, of an action, steps of an episode; as in the
#: configurations of Diffusion Policy's state experiments, and for mh in robomimic's list of datasets.
PUBLISHED = {
    "lift_ph": ("Lift", 19, 10, 400),
    "lift_mh": ("Lift", 19, 10, 500),
    "can_ph": ("PickPlaceCan", 23, 10, 400),
    "can_mh": ("PickPlaceCan", 23, 10, 500),
    "square_ph": ("NutAssemblySquare", 23, 10, 400),
    "square_mh": ("NutAssemblySquare", 23, 10, 500),
    "transport_ph": ("TwoArmTransport", 59, 20, 700),
    "transport_mh": ("TwoArmTransport", 59, 20, 1100),
    "tool_hang_ph": ("ToolHang", 53, 10, 700),
}
ROTATION = slice(3, 9)
STEPS, DEMOS = 12, 2

Recorded = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """robosuite's name of a task -> its low_dim_v15.hdf5 and low_dim_v141.hdf5, the same short episodes."""
    folder = tmp_path_factory.mktemp("robomimic")

    @cache
    def record(env_name: str) -> tuple[Path, Path]:
        episodes = _episodes(env_name)
        files = folder / env_name / "low_dim_v15.hdf5", folder / env_name / "low_dim_v141.hdf5"
        for path, version in zip(files, ("1.5", "1.4"), strict=True):
            with RobomimicWriter(path, {"env_args": json.dumps(_env_args(env_name, version))}) as writer:
                for episode in episodes:
                    writer.add_episode(episode | _objects(env_name, episode, version))
            with h5py.File(path, "a") as file:
                file.create_dataset("mask/better", data=np.array([b"demo_1"]))
        return files

    return record


def _episodes(env_name: str) -> list[dict[str, Any]]:
    env, episodes = RobosuiteEnv(env_name), []
    for seed in range(DEMOS):
        _, info = env.reset(seed=seed)
        moves = np.random.default_rng(seed).uniform(-0.7, 0.7, (STEPS, env.action_space.shape[0]))
        seen, states, rewards = [env.stored_observation()], [], []
        for action in moves:
            states.append(info["states"])
            _, reward, _, _, info = env.step(action)
            rewards.append(reward)
            seen.append(env.stored_observation())
        groups = {"obs": seen[:-1], "next_obs": seen[1:]}
        episodes.append(
            {
                "model_file": env.simulation.sim.model.get_xml(),
                "actions": moves,
                "states": np.array(states),
                "rewards": np.array(rewards),
                "dones": np.eye(STEPS, dtype=np.int64)[-1],
                **{
                    f"{group}/{key}": np.array([observation[key] for observation in rows])
                    for group, rows in groups.items()
                    for key in rows[0]
                },
            }
        )
    env.close()
    return episodes


def _objects(env_name: str, episode: dict[str, Any], version: str) -> dict[str, np.ndarray]:
    """The object vectors, which are in the order of 1.5, in that of a version."""
    order = {part.name: i for i, part in enumerate(LAYOUTS[env_name]["1.5"])}
    cuts = np.cumsum([part.size for part in LAYOUTS[env_name]["1.5"]])[:-1]
    return {
        key: np.concatenate(
            [np.split(episode[key], cuts, axis=1)[order[part.name]] for part in LAYOUTS[env_name][version]], 1
        )
        for key in ("obs/object", "next_obs/object")
    }


def _env_args(env_name: str, version: str) -> dict[str, Any]:
    """As the published files of a version hold them."""
    two = env_name == "TwoArmTransport"
    old = {**OSC_POSE, "damping": 1, "damping_limits": [0, 10], "control_delta": True}
    composite = {
        "type": "BASIC",
        "body_parts": {"right": {**old, "input_ref_frame": "world", "gripper": {"type": "GRIP"}}},
    }
    kwargs = {
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": False,
        "control_freq": 20,
        "controller_configs": composite if version == "1.5" else old,
        "robots": ["Panda", "Panda"] if two else ["Panda"],
        "camera_depths": False,
        "camera_heights": 84,
        "camera_widths": 84,
        "reward_shaping": False,
        **({"env_configuration": "single-arm-opposed"} if two else {}),
        **({"lite_physics": False} if version == "1.5" else {}),
    }
    return {"env_name": env_name, "env_version": f"{version}.1", "type": 1, "env_kwargs": kwargs}


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("train", list(overrides))


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name, monkeypatch):
    monkeypatch.setenv("SHORTCUT_POLICY_DATA", "/somewhere")
    _, observed, acted, _ = PUBLISHED[name]
    task = configuration(f"task={name}").task
    assert (task.horizon, task.n_obs_steps, task.n_action_steps) == (16, 2, 8)
    robots = range(2 if name.startswith("transport") else 1)
    measured = [f"robot{i}_{what}" for i in robots for what in ("eef_pos", "eef_quat", "gripper_qpos")]
    assert list(task.obs) == ["object", *measured]
    assert sum(field.shape[0] for field in task.obs.values()) == observed
    assert {field.normalize for field in task.obs.values()} == {"identity"}
    rotations = [10 * i + number for i in robots for number in range(ROTATION.start, ROTATION.stop)]
    assert (task.action.normalize, list(task.action.unscaled)) == ("limits", rotations)
    kind = name.rpartition("_")
    assert task.source.path == f"/somewhere/robomimic/{kind[0]}/{kind[2]}/low_dim_v15.hdf5"
    assert tuple(task.action.shape) == (acted,)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("_ph")])
def test_files_of_both_versions_are_the_same_demonstrations(name, recorded):
    paths = recorded(PUBLISHED[name][0])
    # The second is not replayed: its actions are compared with those of the first.
    new, old = (
        make_dataset(
            read_training(
                configuration(f"task={name}", f"task.source.path={path}", *replays, "data.val_fraction=0")
            )
        )
        for path, replays in zip(paths, ([], ["+task.source.replayed=0"]), strict=True)
    )
    batches = [dataset.batch(dataset.train) for dataset in (new, old)]
    assert torch.equal(batches[0]["action"], batches[1]["action"])
    for key, values in batches[0]["obs"].items():
        assert torch.equal(values, batches[1]["obs"][key]), key
    normalizer = new.fit_normalizer()
    scaled = normalizer.normalize("action", batches[0]["action"])
    assert torch.equal(scaled[..., ROTATION], batches[0]["action"][..., ROTATION])
    assert scaled[..., :3].abs().amax() == pytest.approx(1, abs=1e-5)
    assert torch.equal(
        normalizer.normalize("object", batches[0]["obs"]["object"]), batches[0]["obs"]["object"]
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_policy_trains_and_acts(name, recorded, tmp_path):
    env_name, _, acted, steps = PUBLISHED[name]
    mixed = name.endswith("mh")
    source = [f"task.source.path={recorded(env_name)[mixed]}", "+task.source.replayed=0"]
    if mixed:
        source.append("task.source.filter_key=better")
    small = ["trainer.max_steps=3", "data.val_fraction=0", f"output={tmp_path / 'run'}"]
    config = configuration(f"task={name}", *source, *TINY, *small)
    policy = load_policy(train(config))
    assert policy.metadata["train_episodes"] == (1 if mixed else DEMOS)
    env = instantiate(config.task.env).unwrapped
    assert (env.args, env.max_steps) == (default_args(env_name), steps)
    observation, _ = env.reset(seed=0)
    history = {key: repeat(torch.tensor(observation[key]), "... -> 1 t ...", t=2) for key in config.task.obs}
    actions = policy.act(history, steps=1)
    assert actions.shape == (1, 8, acted)
    assert env.observation_space.contains(env.step(actions[0, 0].numpy())[0])
    env.close()


def test_actions_that_are_absolute_already_are_refused(recorded, tmp_path):
    """Diffusion Policy's own low_dim_abs.hdf5: positions and angles where displacements were."""
    path = tmp_path / "low_dim_abs.hdf5"
    path.write_bytes(recorded("Lift")[1].read_bytes())
    with h5py.File(path, "a") as file:
        file["data/demo_0/actions"][:, 3:6] = [3.1, 0.0, 0.1]
    with pytest.raises(InputError, match=r"from -\d\.\d+ to 3\.1, .* made from these by the library"):
        make_dataset(read_training(configuration("task=lift_ph", f"task.source.path={path}")))
