"""Franka Kitchen: what is done and how it is told; the task on data of Minari's kind; what is refused."""

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hydra import compose, initialize_config_dir

from shortcut_envs.kitchen import env as kitchen
from shortcut_envs.kitchen.env import COMPLETE, TASKS, KitchenEnv, import_kitchen
from shortcut_policy.commands import train
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR

installed = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="gymnasium-robotics is not installed"
)


class Scripted:
    """Does tasks at given steps, and keeps one list for all episodes, as Gymnasium-Robotics does."""

    completions = {2: ["kettle"], 4: ["microwave", "kettle"], 5: ["light switch"]}  # noqa: RUF012

    def __init__(self, tasks_to_complete: list[str], **_: Any) -> None:
        self.tasks, self.all_done = tasks_to_complete, []

    def reset(self, seed: int) -> tuple[dict, dict]:
        self.all_done.clear()
        self.t = 0
        return {"observation": np.full(59, seed, float)}, {"episode_task_completions": self.all_done}

    def step(self, action: np.ndarray) -> tuple:
        self.t += 1
        assert np.abs(action).max() <= 1
        now = self.completions.get(self.t, [])
        self.all_done += now
        info = {"step_task_completions": now, "episode_task_completions": self.all_done}
        return {"observation": np.zeros(59)}, float(len(now)), False, False, info

    def close(self) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[KitchenEnv]:
    monkeypatch.setattr(kitchen, "import_kitchen", lambda: SimpleNamespace(KitchenEnv=Scripted))
    return KitchenEnv


def test_what_was_done_outlives_the_reset_that_empties_the_simulators_list(scripted):
    env = scripted(wanted=3)
    env.reset(seed=0)
    infos, over = [], False
    while not over:
        _, _, over, _, info = env.step(np.full(9, 7.0))
        infos.append(info)
    env.reset(seed=1)
    assert [info["done"] for info in infos] == [
        *([], ["kettle"], ["kettle"]),
        *(["kettle", "microwave"], ["kettle", "microwave", "light switch"]),
    ]
    assert [info["score"] for info in infos] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert [info["is_success"] for info in infos] == [False] * 4 + [True]


def test_an_episode_is_cut_at_its_length(scripted):
    env = scripted(max_steps=3)
    env.reset(seed=0)
    assert [env.step(np.zeros(9))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_infos_of_a_vector_of_environments_say_what_was_done(scripted):
    """With autoreset in the same step the simulator's own list is empty before it is read."""
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.vector.SyncVectorEnv([lambda: scripted(wanted=2)], autoreset_mode=mode)
    envs.reset(seed=0)
    for _ in range(4):
        *_, info = envs.step(np.zeros((1, 9)))
    assert list(info["final_info"]["done"][0]) == ["kettle", "microwave"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tasks": ["oven"]}, r"tasks=\['oven'\] must be a list of some of bottom burner, top burner"),
        ({"tasks": []}, "must be a list"),
        ({"tasks": "kettle"}, "must be a list"),
        ({"tasks": ["kettle", "kettle"]}, "each once"),
        ({"wanted": 5}, "wanted"),
        ({"render_mode": "human"}, "render_mode='human'"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_arguments_that_cannot_be_used(scripted, arguments: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        scripted(**arguments)


def test_actions_and_options_that_cannot_be_used(scripted):
    env = scripted()
    with pytest.raises(InputError, match="reset option 'goal' is unknown"):
        env.reset(options={"goal": 1})
    env.reset(seed=0)
    for action in (np.zeros(8), np.full(9, np.nan)):
        with pytest.raises(InputError, match="must be 9 finite numbers"):
            env.step(action)


@pytest.mark.parametrize(
    ("mujoco", "refused"), [("3.9.0", False), ("3.12.0", True), ("4.0.1", True), ("3.11.2", False)]
)
def test_a_mujoco_that_it_fails_with_is_refused(monkeypatch, mujoco: str, refused: bool):
    versions = {"mujoco": mujoco, "gymnasium-robotics": "1.4.2"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(name=name))
    if not refused:
        assert import_kitchen().name == "gymnasium_robotics.envs.franka_kitchen"
        return
    with pytest.raises(
        InputError, match=rf"^mujoco {mujoco} is too new .* pip install gymnasium-robotics 'mujoco<3"
    ):
        import_kitchen()


def test_without_the_package_there_is_one_sentence(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(
        InputError, match=r"^gymnasium-robotics is not installed, which the task kitchen needs"
    ):
        KitchenEnv()


def minari(folder: Path) -> Path:
    """Two episodes as Minari keeps those of D4RL's kitchen."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "metadata.json").write_text(json.dumps({"total_episodes": 2, "data_format": "hdf5"}))
    draws = np.random.default_rng(0)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, rows in enumerate((30, 25)):
            episode = file.create_group(f"episode_{number}")
            episode["actions"] = draws.uniform(-1, 1, (rows, 9))
            episode["observations/observation"] = draws.standard_normal((rows + 1, 59))
            for kind in ("achieved_goal", "desired_goal"):
                episode[f"observations/{kind}/kettle"] = draws.standard_normal((rows + 1, 7))
            episode["rewards"] = np.zeros(rows)
    return folder


def test_the_task_is_learned_from_data_of_minari(tmp_path: Path):
    path = minari(tmp_path / "complete-v2")
    small = ["backbone=mlp", "trainer.max_steps=2", "trainer.warmup_steps=1", "trainer.validate_every=0"]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        overrides = ["task=kitchen", f"task.source.path={path}", *small, f"output={tmp_path}/run"]
        config = train.read_training(compose("train", overrides))
    train.train(config)
    assert (tmp_path / "run" / "checkpoints" / "step_00000002").is_dir()
    assert tuple(config.task.env["tasks"]) == COMPLETE and set(COMPLETE) < set(TASKS)
    assert config.task.env["id"].split(":")[1] in gymnasium.registry


@installed
def test_it_is_a_gymnasium_environment_whose_episodes_are_functions_of_their_seed():
    env = gymnasium.make("shortcut_envs:shortcut_policy/Kitchen-v0").unwrapped
    check_env(env, skip_render_check=True)

    def played(seed: int) -> np.ndarray:
        draws = np.random.default_rng(1)
        seen = [env.reset(seed=seed)[0]["state"]]
        return np.array(seen + [env.step(draws.uniform(-1, 1, 9))[0]["state"] for _ in range(10)])

    first, other, again = played(3), played(4), played(3)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@installed
def test_a_task_is_done_when_its_part_is_where_it_shall_be():
    env = KitchenEnv(tasks=["microwave", "kettle"])
    env.reset(seed=0)
    env.simulation.data.qpos[22] = -0.75
    *_, over, _, info = env.step(np.zeros(9))
    assert info["done"] == ["microwave"] and info["score"] == 0.5 and not over
    env.reset(seed=0)
    assert env.step(np.zeros(9))[-1]["done"] == []
    assert info["done"] == ["microwave"]
