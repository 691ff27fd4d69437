"""robomimic's tasks in robosuite: against robomimic's own wrapper, and what they refuse."""

import importlib.metadata
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy.spatial.transform import Rotation

import shortcut_envs.robosuite.env
from shortcut_envs.robosuite import setup as robosuite_setup
from shortcut_envs.robosuite.actions import AbsoluteActions, goal_of, replay
from shortcut_envs.robosuite.env import RobosuiteEnv
from shortcut_envs.robosuite.rotation_6d import from_6d, to_6d
from shortcut_envs.robosuite.setup import OSC_POSE, default_args, make_env, translate_controllers
from shortcut_policy.commands.collect import run as collect
from shortcut_policy.data import EnvArgs, RobomimicSource
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR

pytestmark = pytest.mark.slow

TASKS = {"Lift": "Lift", "Can": "PickPlaceCan", "Square": "NutAssemblySquare", "Transport": "TwoArmTransport"}
DEMOS = 3


@pytest.fixture(scope="module")
def lift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the scripted expert."""
    path = tmp_path_factory.mktemp("demos") / "lift.hdf5"
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        collect(compose("collect", ["expert=lift", f"episodes={DEMOS}", f"output={path}"]))
    return path


@pytest.fixture(scope="module")
def can() -> RobosuiteEnv:
    return RobosuiteEnv("PickPlaceCan", max_steps=20)


def moves(env: RobosuiteEnv, seed: int, steps: int) -> np.ndarray:
    size = env.action_space.shape[0]
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (steps, size))


@pytest.mark.parametrize("name", [*TASKS, "ToolHang"])
def test_starts_and_steps_are_functions_of_seed_and_actions(name):
    env = gymnasium.make(f"shortcut_envs:shortcut_policy/{name}-v0").unwrapped
    assert env.max_steps == (700 if name in ("Transport", "ToolHang") else 400)
    runs = []
    for _ in range(2):
        before = np.random.get_state()[1].copy()
        observation, info = env.reset(seed=5)
        assert np.array_equal(np.random.get_state()[1], before)
        assert env.observation_space.contains(observation)
        steps = [env.step(action)[0]["object"] for action in moves(env, 0, 3)]
        runs.append([info["states"], observation["object"], *steps])
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    assert not np.array_equal(env.reset(seed=6)[1]["states"], runs[0][0])
    env.close()


def test_gymnasium_s_own_check_passes(can):
    check_env(RobosuiteEnv("Lift", max_steps=5), skip_render_check=True)
    can.reset(seed=0)
    truncated = [can.step(action)[3] for action in moves(can, 0, 20)]
    assert truncated == [False] * 19 + [True]


@pytest.mark.parametrize("task", [*TASKS.values(), "ToolHang"])
def test_dropped_evaluations_of_the_dynamics_change_no_bit(task):
    ours = RobosuiteEnv(task)
    theirs = make_env(default_args(task), "delta")
    assert not theirs.lite_physics
    ours.reset(seed=4)
    np.random.seed(4)
    theirs.reset()
    touched = 0
    for action in moves(ours, 2, 40):
        action[2::7] -= 0.3  # down, until something is touched
        reward, states = ours.step(action)[1], ours.simulation.sim.get_state().flatten()
        assert reward == theirs.step(action)[1]
        assert np.array_equal(states, theirs.sim.get_state().flatten())
        touched = max(touched, theirs.sim.data.ncon)
    assert ours.simulation.lite_physics and touched
    theirs.close()


@pytest.mark.skipif(
    importlib.util.find_spec("robomimic") is None, reason="robomimic is not installed (make robomimic)"
)
@pytest.mark.parametrize("task", ["Lift", "PickPlaceCan"])
def test_every_step_is_that_of_robomimic_s_wrapper(task, monkeypatch):
    # robomimic 0.3 imports the bindings that robosuite had before mujoco's own.
    shim = types.ModuleType("mujoco_py")
    shim.builder = types.SimpleNamespace(MujocoException=RuntimeError)
    monkeypatch.setitem(sys.modules, "mujoco_py", shim)
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.envs.env_robosuite import EnvRobosuite

    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["object"]}})
    ours = RobosuiteEnv(task)
    kwargs = {**ours.args.kwargs, "control_freq": 20, "lite_physics": False, "reward_shaping": False}
    theirs = EnvRobosuite(task, **kwargs)
    observation, _ = ours.reset(seed=3)
    np.random.seed(3)
    theirs.reset()
    # Its first observation lacks the object; see shortcut_policy/data/object_state.py.
    other = theirs.get_observation()
    for action in [None, *moves(ours, 1, 25)]:
        if action is not None:
            observation, reward, success, _, info = ours.step(action)
            other, other_reward, _, _ = theirs.step(action)
            assert (reward, success) == (other_reward, theirs.is_success()["task"])
            assert np.array_equal(info["states"], theirs.get_state()["states"])
        for key in set(observation) - {"object"}:
            assert np.array_equal(observation[key], np.asarray(other[key], np.float32)), key
        exact = slice(None) if task == "Lift" else slice(7, None)
        assert np.array_equal(observation["object"][exact], other["object"][exact].astype(np.float32))
        if action is None:
            assert np.allclose(observation["object"], other["object"], atol=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("robomimic") is None, reason="robomimic is not installed (make robomimic)"
)
def test_reads_what_robomimic_s_dataset_reads(lift):
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    keys = ["object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"]
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": keys}})
    theirs = SequenceDataset(
        str(lift), keys, ["actions", "rewards"], frame_stack=1, seq_length=1, filter_by_attribute="train"
    )
    ours = RobomimicSource(lift, "train", objects="stored")
    read = {key: ours.read(key, 0, int(ours.episode_ends[-1])) for key in (*keys, "actions")}
    del ours  # two modes of reading exclude each other
    assert len(theirs) == len(read["actions"])
    for key in keys:
        assert np.array_equal(read[key], np.stack([theirs[i]["obs"][key][0] for i in range(len(theirs))]))
    actions = np.stack([theirs[i]["actions"][0] for i in range(len(theirs))])
    assert np.array_equal(read["actions"].astype(np.float32), actions.astype(np.float32))


def test_a_recording_is_what_the_environment_shows(lift):
    source = RobomimicSource(lift)
    env = RobosuiteEnv(dataset=lift)
    scene = {"model": source.attributes("demo_0")["model_file"]}
    observation, _ = env.reset(options={"states": source.read("states", 0, 1)[0], **scene})
    for row in range(int(source.episode_ends[0])):
        if row:
            observation, *_ = env.step(source.read("actions", row - 1, row)[0])
        for key in ("object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"):
            assert np.allclose(observation[key], source.read(key, row, row + 1)[0], rtol=0, atol=1e-5), (
                row,
                key,
            )


def test_replays_of_stored_and_of_absolute_actions_solve_the_task(lift, tmp_path):
    stored, absolute = RobomimicSource(lift), AbsoluteActions(lift, cache=tmp_path)
    assert absolute.shapes["actions"] == (10,) and stored.shapes["actions"] == (7,)
    cached = AbsoluteActions(lift, cache=tmp_path / "none" / "..", replayed=0)
    assert np.array_equal(cached.read("actions", 5, 9), absolute.read("actions", 5, 9))
    for kind, source in (("delta", stored), ("absolute", absolute)):
        env = RobosuiteEnv(dataset=lift, actions=kind)
        for number, stop in enumerate(stored.episode_ends):
            start = int(stored.episode_ends[number - 1]) if number else 0
            states = stored.read("states", start, start + 1)[0]
            solved, path = replay(env, states, source.read("actions", start, int(stop)))
            recorded = stored.read("robot0_eef_pos", start, int(stop))[1:]
            assert solved and path.shape == (int(stop) - start, 1, 3)
            assert np.abs(path[:-1, 0] - recorded).max() < 0.002, kind
    # Positions are where the gripper is asked to go: within a step of where it is.
    here = stored.read("robot0_eef_pos", 0, int(stored.episode_ends[-1]))
    asked = absolute.read("actions", 0, len(here))[:, :3]
    assert 0.001 < np.abs(asked - here).max() < 0.06


def test_absolute_actions_of_another_recording_are_refused(lift, tmp_path):
    moved = tmp_path / "moved.hdf5"
    moved.write_bytes(lift.read_bytes())
    with h5py.File(moved, "a") as file:
        # Larger steps than were taken.
        args = json.loads(file["data"].attrs["env_args"])
        part = args["env_kwargs"]["controller_configs"]["body_parts"]["right"]
        part["output_max"], part["output_min"] = [0.2] * 6, [-0.2] * 6
        file["data"].attrs["env_args"] = json.dumps(args)
    with pytest.raises(InputError, match=r"absolute actions of demo_0 .* lead \d+\.\d cm away from its path"):
        AbsoluteActions(moved, cache=tmp_path)
    with h5py.File(moved, "a") as file:
        del file["data/demo_0/states"]
    with pytest.raises(InputError, match="has no states"):
        AbsoluteActions(moved, cache=tmp_path)


def test_results_do_not_depend_on_how_many_play_side_by_side(tiny_robot_policy):
    from shortcut_policy.rollout.play import rollout

    def make() -> gymnasium.Env:
        return RobosuiteEnv("Lift", max_steps=6)

    results = [
        rollout(tiny_robot_policy, make, range(7, 10), num_envs=n, batch_size=3, asynchronous=processes)
        for n, processes in ((1, False), (3, False), (2, True))
    ]
    assert results[0] == results[1] == results[2]
    assert len({result.seed for result in results[0]}) == 3


@pytest.fixture
def tiny_robot_policy(lift, tmp_path):
    from shortcut_policy.commands.train import run as train
    from shortcut_policy.policy import load_policy

    overrides = ["task=lift", f"task.source.path={lift}", "backbone.down_dims=[8,16]", "trainer.max_steps=1"]
    overrides += ["trainer.batch_size=4", f"output={tmp_path / 'run'}", "cpu=true"]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return load_policy(train(compose("train", overrides)))


def test_controllers_of_1_4_become_those_of_1_5():
    old = {**OSC_POSE, "control_delta": True, "damping": 1, "damping_limits": [0, 10]}
    assert translate_controllers(old, "delta") == default_args("Lift").kwargs["controller_configs"]
    composite = {"type": "BASIC", "body_parts": {"right": {**old, "input_ref_frame": "base"}}}
    (both,) = translate_controllers([composite], "absolute")
    right = both["body_parts"]["right"]
    assert (right["input_ref_frame"], right["input_type"]) == ("world", "absolute")
    assert "damping" not in right and "control_delta" not in right
    with pytest.raises(InputError, match="controller is JOINT_VELOCITY; only OSC_POSE"):
        translate_controllers({"type": "JOINT_VELOCITY"}, "delta")


def test_displacements_are_in_the_frame_of_the_file():
    """Transport's robots stand a quarter turn to either side, which a file of 1.5 means by default."""
    world = default_args("TwoArmTransport")
    part = {key: value for key, value in OSC_POSE.items() if key != "input_ref_frame"}
    composite = {"type": "BASIC", "body_parts": {"right": part}}
    base = replace(world, kwargs={**world.kwargs, "controller_configs": [composite, composite]})
    forward = np.array([0.5, 0, 0, 0, 0, 0.5])
    moved, goals = [], []
    for args in (world, base):
        simulation = make_env(args, "delta")
        np.random.seed(0)
        simulation.reset()
        turns = [
            robot.composite_controller.get_controller_base_pose("right")[1] for robot in simulation.robots
        ]
        into = turns if args is base else [np.eye(3)] * 2
        asked = [np.concatenate([turn.T @ forward[:3], turn.T @ forward[3:]]) for turn in into]
        goals.append([goal_of(robot, move) for robot, move in zip(simulation.robots, asked, strict=True)])
        before = simulation._get_observations()
        for _ in range(10):
            after, *_ = simulation.step(np.array([1.0, 0, 0, 0, 0, 0, 0] * 2))
        moved.append([after[f"robot{i}_eef_pos"] - before[f"robot{i}_eef_pos"] for i in range(2)])
        simulation.close()
    for robot in range(2):
        assert abs(turns[robot][1, 0]) > 0.99
        assert moved[0][robot][0] > 0.05 and np.abs(moved[0][robot][1:]).max() < 0.02
        assert np.allclose(turns[robot] @ moved[0][robot], moved[1][robot], atol=0.03)
        for in_world, in_base in zip(goals[0][robot], goals[1][robot], strict=True):
            assert np.allclose(in_world, in_base, atol=1e-6)


def test_images_are_seen_and_rendered_the_right_way_up():
    try:
        sizes = {"image_size": 32, "render_size": 64}
        env = RobosuiteEnv("Lift", cameras=["agentview"], render_mode="rgb_array", **sizes)
    except InputError as error:
        pytest.skip(str(error))
    observation, _ = env.reset(seed=0)
    image, frame = observation["agentview_image"], env.render()
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8 and frame.shape == (64, 64, 3)
    # The same picture at two sizes, so both are the right way up if one is; the table is bright and below.
    small = frame.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(small - image).mean() < np.abs(small - image[::-1]).mean() / 2
    env.render_camera = "birdview"
    assert np.abs(env.render().astype(float) - frame).mean() > 10
    env.close()


def test_mistakes_get_a_sentence(can, lift, monkeypatch):
    with pytest.raises(InputError, match="actions=joints must be delta or absolute"):
        RobosuiteEnv("Lift", actions="joints")
    with pytest.raises(InputError, match="needs a task, such as Lift"):
        RobosuiteEnv()
    with pytest.raises(InputError, match="was recorded in Lift, not in PickPlaceCan"):
        RobosuiteEnv("PickPlaceCan", dataset=lift)
    with pytest.raises(InputError, match="no observation 'objekt'; it has object, robot0_eef_pos"):
        RobosuiteEnv("Lift", keys=["objekt"])
    for name, value in (("max_steps", 0), ("max_steps", "10"), ("image_size", 0), ("render_size", -1)):
        with pytest.raises(InputError, match=f"{name}={value!r} must be a whole number from 1 on"):
            RobosuiteEnv("Lift", **{name: value})
    with pytest.raises(
        InputError, match="render_camera: front is none of Lift's cameras: frontview, birdview, "
    ):
        RobosuiteEnv("Lift", render_camera="front")
    with pytest.raises(InputError, match=r"cameras=agentview must be a list, such as \[agentview\]"):
        RobosuiteEnv("Lift", cameras="agentview")
    with pytest.raises(
        InputError, match="cameras: agentvew is none of Lift's cameras: frontview, birdview, "
    ):
        RobosuiteEnv("Lift", cameras=["agentvew"])
    with pytest.raises(InputError, match="'states' must be 71 finite numbers for PickPlaceCan"):
        can.reset(options={"states": np.zeros(32)})
    with pytest.raises(InputError, match="option 'state' is unknown"):
        can.reset(options={"state": np.zeros(71)})
    with pytest.raises(InputError, match="option 'model' needs 'states'"):
        can.reset(options={"model": ""})
    with pytest.raises(InputError, match="must be 7 finite numbers"):
        can.step(np.full(7, np.nan))
    with pytest.raises(InputError, match="robosuite cannot make 'Lift' with the arguments"):
        make_env(replace(default_args("Lift"), kwargs={"robot": "Panda"}), "delta")
    with pytest.raises(InputError, match=r"is not known; only 1\.5"):
        shortcut_envs.robosuite.env.ObjectState("Lifting", "1.4.0", "x")
    with pytest.raises(InputError, match=r"robosuite has no environment 'Lifting'; it has .*Lift"):
        RobosuiteEnv("Lifting")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.10.1")
    with pytest.raises(InputError, match=r"mujoco 3\.10\.1 does not work with robosuite 1\.5"):
        robosuite_setup.import_robosuite()

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match=r"mujoco is not installed, .*\[robomimic\]"):
        robosuite_setup.import_robosuite()


def test_rotations_come_back_from_six_numbers():
    rotations = Rotation.random(200, random_state=0)
    numbers = to_6d(rotations)
    assert numbers.shape == (200, 6)
    assert (from_6d(numbers) * rotations.inv()).magnitude().max() < 1e-7
    scale = np.random.default_rng(0).uniform(0.5, 2, (200, 1))
    assert (from_6d(numbers * scale) * rotations.inv()).magnitude().max() < 1e-7
    assert to_6d(rotations[0]).shape == (6,)
    assert np.array_equal(to_6d(Rotation.identity()), [1, 0, 0, 0, 1, 0])
    for odd in (np.zeros(6), np.ones(6), np.array([0, 0, 1.0, 0, 0, -2])):
        assert np.isfinite(from_6d(odd).as_matrix()).all()


@pytest.mark.parametrize("name", ["lift", "can", "square", "transport", "tool_hang"])
@pytest.mark.parametrize("kind", ["", "_absolute"])
def test_tasks_fit_their_environments(name, kind):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        task = compose("train", [f"task={name}{kind}"]).task
    env = instantiate(task.env).unwrapped
    assert tuple(task.action.shape) == env.action_space.shape
    assert {key: tuple(field.shape) for key, field in task.obs.items()} == {
        key: env.observation_space[key].shape for key in task.obs
    }
    source = (
        "shortcut_envs.robosuite.actions.AbsoluteActions" if kind else "shortcut_policy.data.RobomimicSource"
    )
    assert task.source._target_ == source
    env.close()


def test_env_args_of_both_formats_are_read():
    args = EnvArgs.parse(
        json.dumps({"env_name": "Lift", "env_version": "1.5.0", "env_kwargs": {"a": 1}}), "x"
    )
    assert args == EnvArgs("Lift", "1.5.0", {"a": 1})
    with pytest.raises(InputError, match="cannot be read"):
        EnvArgs.parse("{", "x")
