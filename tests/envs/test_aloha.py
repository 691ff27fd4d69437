"""ALOHA in simulation: ranges of actions, starts, success; the tasks on data of LeRobot's and ACT's kind."""

import importlib.metadata
import importlib.util
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from shortcut_envs.aloha.env import AlohaEnv, _limits
from shortcut_policy.build import build
from shortcut_policy.commands import train
from shortcut_policy.data import Field
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from tests.data.test_act_source import write

installed = pytest.mark.skipif(
    importlib.util.find_spec("gym_aloha") is None, reason="gym-aloha is not installed"
)
#: Of both arms as gym-aloha has them, with its six joints and two fingers each.
START = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.1] * 2, np.float32)


@pytest.fixture(scope="module")
def blind() -> AlohaEnv:
    """Without a camera nothing is drawn, which takes no OpenGL."""
    return AlohaEnv("transfer_cube", cameras=[])


def test_limits_are_those_of_the_joints_and_of_open_and_closed_fingers():
    joints = [[-3, 3], [-1.8, 1.2], [-1.7, 1.6], [-3, 3], [-1.9, 2.2], [-3, 3], [0.02, 0.06], [-0.06, -0.02]]
    low, high = _limits(np.array(joints * 2))
    assert low.tolist() == pytest.approx([-3, -1.8, -1.7, -3, -1.9, -3, 0] * 2)
    assert high.tolist() == pytest.approx([3, 1.2, 1.6, 3, 2.2, 3, 1] * 2)


@installed
def test_the_start_pose_is_an_action_and_holds_the_arms_where_they_are(blind: AlohaEnv):
    """Clipped to [-1, 1], as gym-aloha's own space has it, the elbows would move."""
    observation, _ = blind.reset(seed=0)
    assert observation["state"] == pytest.approx(START, abs=1e-3)
    assert blind.action_space.contains(observation["state"])
    for _ in range(25):
        observation, *_ = blind.step(observation["state"])
    assert np.abs(observation["state"] - START)[[2, 9]].max() < 0.05
    blind.reset(seed=0)
    for _ in range(25):
        clipped, *_ = blind.step(START.clip(-1, 1))
    assert np.abs(clipped["state"] - START)[[2, 9]].min() > 0.1


@installed
@pytest.mark.parametrize("task", ["transfer_cube", "insertion"])
def test_an_episode_is_a_function_of_its_seed_and_actions(task: str):
    env = AlohaEnv(task, cameras=[])

    def played(seed: int) -> np.ndarray:
        draws = np.random.default_rng(1)
        env.reset(seed=seed)
        things = env.simulation._env.physics.data.qpos[16:].copy()
        states = [env.step(draws.uniform(-1, 1, 14))[0]["state"] for _ in range(5)]
        return np.concatenate([things, *states])

    first, other, again = played(3), played(4), played(3)
    assert np.array_equal(first, again) and not np.array_equal(first[:2], other[:2])
    env.reset(seed=1)
    drawn = env.simulation._env.physics.data.qpos[16:].copy()
    env.reset()
    assert not np.array_equal(drawn, env.simulation._env.physics.data.qpos[16:])


@installed
def test_success_and_score_are_the_best_of_the_episode(blind: AlohaEnv, monkeypatch):
    blind.reset(seed=0)
    rewards = iter([1, 3, 0, 4])
    monkeypatch.setattr(blind._made.task, "get_reward", lambda physics: next(rewards))
    told = [blind.step(START) for _ in range(4)]
    assert [one[1] for one in told] == [1, 3, 0, 4]
    assert [one[4]["score"] for one in told] == [0.25, 0.75, 0.75, 1.0]
    assert [one[2] for one in told] == [False, False, False, True] and told[-1][4]["is_success"]


@installed
def test_cameras_are_drawn_in_the_size_that_is_asked_for():
    env = AlohaEnv(
        "transfer_cube", cameras=["top", "left_wrist"], image_size=(24, 32), render_mode="rgb_array"
    )
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["top_image"].shape == (24, 32, 3) and observation["top_image"].std() > 10
    assert env.render().shape == (256, 256, 3)
    env.close()


@installed
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cameras": ["front"]}, r"cameras=\['front'\] must be a list of some of top, angle"),
        ({"image_size": [480]}, "image_size"),
        ({"max_steps": 0}, "max_steps"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        AlohaEnv("insertion", **arguments)


@installed
def test_actions_and_seeds_that_cannot_be_used(blind: AlohaEnv):
    with pytest.raises(InputError, match="seed=4294967296 must be"):
        blind.reset(seed=2**32)
    blind.reset(seed=0)
    for action in (np.zeros(13), np.full(14, np.inf)):
        with pytest.raises(InputError, match="must be 14 finite numbers"):
            blind.step(action)


def test_an_unknown_task_or_a_missing_package_is_one_sentence(monkeypatch):
    with pytest.raises(InputError, match="gym-aloha has no task 'fold'; there are transfer_cube, insertion"):
        AlohaEnv("fold")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match=r"^gym-aloha is not installed, .* pip install gym-aloha$"):
        AlohaEnv("insertion")


def test_the_task_is_learned_from_files_of_act(tmp_path: Path):
    for number in range(3):
        write(tmp_path / "act", number, 80)
    small = [
        "trainer.max_steps=2",
        "trainer.warmup_steps=1",
        "trainer.validate_every=0",
        "trainer.batch_size=2",
    ]
    shapes = [
        "backbone=mlp",
        "task.obs.top_image.shape=[4,6,3]",
        "encoder.crop=null",
        f"output={tmp_path}/run",
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        overrides = ["task=aloha_act", f"task.source.path={tmp_path}/act", *small, *shapes]
        config = train.read_training(compose("train", overrides))
    train.train(config)
    assert (tmp_path / "run" / "checkpoints" / "step_00000002").is_dir()


@pytest.mark.parametrize("name", ["aloha", "aloha_insertion", "aloha_act"])
def test_tasks_observe_what_their_environment_shows(name: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        task = compose("train", [f"task={name}", "task.source.path=x"]).task
    assert task.env.id.split(":")[1] in gymnasium.registry
    fields: dict[str, Field] = {key: build(field) for key, field in task.obs.items()}
    assert {key: field.shape for key, field in fields.items()} == {"top_image": (480, 640, 3), "state": (14,)}
    if importlib.util.find_spec("gym_aloha") is not None:
        shown = gymnasium.make(task.env.id).observation_space
        assert {key: space.shape for key, space in shown.items()} == {
            key: field.shape for key, field in fields.items()
        }
