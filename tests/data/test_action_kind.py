"""Files of robomimic's tasks whose actions are poses, as Diffusion Policy publishes them."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from shortcut_envs.robosuite.actions import AbsoluteActions, poses_of
from shortcut_envs.robosuite.env import RobosuiteEnv
from shortcut_envs.robosuite.rotation_6d import from_6d, to_6d
from shortcut_policy.data import EpisodeWriter, Field, RobomimicSource
from shortcut_policy.data.robomimic_source import RobomimicStore, read_env_args
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError

OLD = {"type": "OSC_POSE", "control_delta": True}
CAN = {
    "env_name": "PickPlaceCan",
    "env_version": "1.4.1",
    "type": 1,
    "env_kwargs": {"controller_configs": OLD},
}
STEPS = 9


def episode(arms: int = 1) -> tuple[dict[str, np.ndarray], np.ndarray, Rotation]:
    """A demonstration with poses as Diffusion Policy stores them; and its positions and rotations."""
    random = np.random.default_rng(0)
    hands = np.array([0.1, 0.2, 1.0]) + random.normal(0, 0.05, (STEPS, arms, 3))
    asked = hands + random.uniform(-0.05, 0.05, hands.shape)
    # Grippers point down: half a turn about an axis in the plane, where the vector's sign flips.
    axes = random.normal(size=(STEPS * arms, 3)) * [1, 1, 0.02]
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turns = Rotation.from_rotvec(axes * (np.pi - random.uniform(-1e-3, 1e-3, (STEPS * arms, 1))))
    vectors = turns.as_rotvec().reshape(STEPS, arms, 3)
    gripper = random.choice([-1.0, 1.0], (STEPS, arms, 1))
    arrays = {"actions": np.concatenate([asked, vectors, gripper], axis=2).reshape(STEPS, -1)}
    for arm in range(arms):
        arrays[f"obs/robot{arm}_eef_pos"] = hands[:, arm]
    return arrays, asked, turns


def write(path: Path, arrays: dict[str, np.ndarray], env_args: dict[str, Any] = CAN) -> Path:
    with RobomimicWriter(path, {"env_args": json.dumps(env_args)}) as writer:
        writer.add_episode(arrays)
    return path


@pytest.mark.parametrize(("arms", "task"), [(1, "PickPlaceCan"), (2, "TwoArmTransport")])
@pytest.mark.parametrize("said", [True, False])
def test_poses_with_rotation_vectors_become_those_of_the_library(tmp_path, arms, task, said):
    """The ``env_args`` of the published files still say displacements; others may say poses."""
    arrays, asked, turns = episode(arms)
    configs = {"controller_configs": {**OLD, "control_delta": not said}}
    path = write(tmp_path / "abs.hdf5", arrays, {**CAN, "env_name": task, "env_kwargs": configs})
    source = AbsoluteActions(path, cache=tmp_path / "unused")
    assert source.shapes["actions"] == (10 * arms,)
    Field("actions", (10 * arms,)).check(source)
    read = source.read("actions", 0, STEPS).reshape(STEPS, arms, 10)
    assert np.array_equal(read[..., :3], asked)
    assert np.array_equal(read[..., 9:], arrays["actions"].reshape(STEPS, arms, 7)[..., 6:])
    assert (from_6d(read[..., 3:9].reshape(-1, 6)) * turns.inv()).magnitude().max() < 1e-12
    assert np.abs(read[..., 3:9].reshape(-1, 6) - to_6d(turns)).max() < 1e-12
    assert not (tmp_path / "unused").exists()


def test_half_a_turn_either_way_is_the_same_pose():
    turn = np.pi * np.array([0.6, -0.8, 0])
    actions = np.array([[0, 0, 1.0, *turn, 1], [0, 0, 1.0, *-turn, 1]])
    assert np.allclose(*poses_of(actions), atol=1e-15)
    assert poses_of(actions.astype(np.float32)).dtype == np.float64


def test_poses_are_not_taken_for_displacements(tmp_path):
    path = write(tmp_path / "abs.hdf5", episode()[0])
    with pytest.raises(InputError, match=r"the actions of .*abs\.hdf5 are poses, .* \*_absolute task"):
        RobomimicSource(path)
    assert RobomimicSource(path, poses=True).action_kind == "rotation_vector"


def test_displacements_are_not_taken_for_poses(tmp_path):
    arrays, _, _ = episode()
    arrays["actions"] = np.random.default_rng(0).uniform(-1, 1, (STEPS, 7))
    assert RobomimicSource(write(tmp_path / "delta.hdf5", arrays)).action_kind == "displacement"
    for name, configs in (
        ("1.4", {**OLD, "control_delta": False}),
        ("1.5", {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE", "input_type": "absolute"}}}),
    ):
        args = {**CAN, "env_kwargs": {"controller_configs": configs}}
        path = write(tmp_path / f"{name}.hdf5", arrays, args)
        with pytest.raises(InputError, match=r"say that its actions are poses, but .* \d.* m away"):
            AbsoluteActions(path)
    # What robosuite 1.5 does not know says nothing.
    ignored = {"type": "BASIC", "body_parts": {"right": OLD | {"control_delta": False}}}
    path = write(tmp_path / "ignored.hdf5", arrays, {**CAN, "env_kwargs": {"controller_configs": ignored}})
    assert RobomimicSource(path).action_kind == "displacement"
    arrays["actions"] *= 3
    with pytest.raises(
        InputError, match=r"reach from -2\.\d+ to 2\.\d+, but .* and poses where the grippers are"
    ):
        RobomimicSource(write(tmp_path / "large.hdf5", arrays), poses=True)


def test_stores_of_rendered_files_are_read_by_the_same_source(tmp_path):
    arrays, asked, turns = episode()
    poses = np.concatenate([asked[:, 0], to_6d(turns), arrays["actions"][:, 6:]], axis=1)
    for name, actions in (("vectors", arrays["actions"]), ("six", poses)):
        with EpisodeWriter(tmp_path / name, attributes={"env_args": json.dumps(CAN)}) as writer:
            writer.add_episode({"actions": actions, "robot0_eef_pos": arrays["obs/robot0_eef_pos"]})
        source = AbsoluteActions(tmp_path / name)
        assert np.abs(source.read("actions", 0, STEPS) - poses).max() < 1e-12
        assert read_env_args(tmp_path / name).name == "PickPlaceCan"
    with pytest.raises(
        InputError, match=r"filter_key=train chooses demonstrations of a file, .* a zarr store"
    ):
        AbsoluteActions(tmp_path / "six", filter_key="train")
    with EpisodeWriter(tmp_path / "foreign") as writer:
        writer.add_episode({"actions": poses})
    with pytest.raises(
        InputError, match=r"foreign does not say what it was recorded in \(attribute env_args\)"
    ):
        RobomimicStore(tmp_path / "foreign")
    with pytest.raises(InputError, match="does not say what it was recorded in"):
        RobosuiteEnv(dataset=tmp_path / "foreign")


def test_a_camera_that_some_demonstrations_lack_is_told_with_the_demonstration(tmp_path):
    arrays, _, _ = episode()
    with RobomimicWriter(tmp_path / "images.hdf5", {"env_args": json.dumps(CAN)}) as writer:
        for _ in range(3):
            writer.add_episode({**arrays, "obs/agentview_image": np.zeros((STEPS, 4, 4, 3), np.uint8)})
    with h5py.File(tmp_path / "images.hdf5", "a") as file:
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_2/obs/birdview_image"] = np.zeros((STEPS, 4, 4, 3), np.uint8)
    source = AbsoluteActions(tmp_path / "images.hdf5")
    for key, demos in (("agentview_image", "demo_1"), ("birdview_image", "demo_0, demo_1")):
        with pytest.raises(InputError, match=f"^obs/{key} is missing in {demos} of the 3 demonstrations"):
            Field(key, (4, 4, 3), normalize="image").check(source)
    with pytest.raises(InputError, match="has no key 'frontview_image'; it holds actions, robot0_eef_pos"):
        Field("frontview_image", (4, 4, 3), normalize="image").check(source)
