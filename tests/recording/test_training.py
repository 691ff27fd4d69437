"""What was recorded fits the tasks as they are, and trains."""

import numpy as np
import pytest

from shortcut_policy.commands import cli
from shortcut_policy.commands.train import make_dataset, read_training
from shortcut_policy.data import RobomimicSource, ZarrSource
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError
from shortcut_policy.recording.controls import control_of
from shortcut_policy.recording.player import PolicyPlayer
from shortcut_policy.recording.rows import RobomimicRows, is_robomimic
from shortcut_policy.recording.session import Session
from tests.conftest import TINY


def record(session, episodes, steps, held=lambda step: True):
    random = np.random.default_rng(0)
    for _ in range(episodes):
        session.begin()
        for step in range(steps):
            session.step(random.uniform(0.1, 0.9, 2).tolist(), held(step))
        session.finish()
    session._writer.close()


@pytest.mark.slow
def test_recorded_episodes_train(make_session, store, give, tmp_path):
    record(make_session(), episodes=3, steps=30)
    output = tmp_path / "run"
    source = ["task=pusht_human", f"task.source.path={store}"]
    give(cli.train, *source, *TINY, "data.val_fraction=0", f"output={output}")
    assert (output / "checkpoints").is_dir() and (output / "log.jsonl").is_file()


def test_corrections_are_picked_out_of_whole_episodes(make_session, store, tiny_policy, compose_config):
    session = make_session(player=PolicyPlayer(tiny_policy), keep="episodes")
    record(session, episodes=2, steps=30, held=lambda step: 10 <= step < 20)
    picked = [f"task.source.path={store}", "data.val_fraction=0", "data.only=intervention"]
    dataset = make_dataset(read_training(compose_config(*picked)))
    decided = (dataset.train[:, 0] + dataset.n_obs_steps - 1).tolist()
    assert decided == [*range(10, 20), *range(40, 50)]
    marks = ZarrSource(store).read("intervention", 0, 60)
    assert marks[decided].all() and marks.sum() == len(decided)
    with pytest.raises(InputError, match=r"data.only=corrected: .* has no such key"):
        make_dataset(read_training(compose_config(*picked[:2], "data.only=corrected")))


@pytest.mark.slow
def test_episodes_of_robosuite_are_a_file_of_its_task(tmp_path):
    from shortcut_envs.robosuite.env import RobosuiteEnv

    env = RobosuiteEnv("Lift")
    rows, control = RobomimicRows(env), control_of(env)
    assert is_robomimic(env) and control.kind == "arm"
    _, info = env.reset(seed=0)
    path = tmp_path / "mine.hdf5"
    for first in (0, 2):  # the second one goes on
        with RobomimicWriter(path, rows.attributes("lift", info)) as writer:
            session = Session(env, writer, control, rows)
            for _ in range(2):
                session.begin()
                for _ in range(6):
                    session.step([0.5, 0, 0, 0, 0, 0, -1], False)
                session.finish()
            assert writer.n_episodes == first + 2
            session.undo()
            session.begin()
            for _ in range(4):
                session.step([0, 0.5, 0, 0, 0, 0, -1], False)
            session.finish()
    source = RobomimicSource(path)
    assert source.episode_ends.tolist() == [6, 10, 16, 20]
    assert source.read("actions", 6, 7).tolist() == [[0, 0.5, 0, 0, 0, 0, -1]]
    assert {"object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "states"} <= set(
        source.keys
    )
    assert source.attributes()["expert"] == "human" and source.scene(0) is not None
    moved = source.read("robot0_eef_pos", 5, 6) - source.read("robot0_eef_pos", 0, 1)
    assert moved[0, 0] > 0.01
    env.close()
