"""OGBench's manipulation: starts, goals, experts; and what is refused, with the package or without."""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hydra import compose, initialize_config_dir

from shortcut_envs.checks import check_cameras
from shortcut_envs.ogbench.demonstrations import OGBenchDemonstrations
from shortcut_envs.ogbench.env import CAMERAS, OGBenchEnv
from shortcut_envs.ogbench.expert import FIRST_SEED, OGBenchExpert
from shortcut_envs.ogbench.goals import lights_out
from shortcut_envs.ogbench.scenes import SCENES, check_scene
from shortcut_policy import EpisodeWriter
from shortcut_policy.commands import cli
from shortcut_policy.commands.collect import run as collect
from shortcut_policy.data.collect import record
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR

installed = pytest.mark.skipif(
    importlib.util.find_spec("ogbench") is None, reason="the extra metaworld is not installed"
)


def played(env: OGBenchEnv, seed: int, steps: int = 20) -> np.ndarray:
    observation, _ = env.reset(seed=seed)
    seen, draws = [observation], np.random.default_rng(seed)
    for _ in range(steps):
        seen.append(env.step(draws.uniform(-1.5, 1.5, 5))[0])
    return np.array([np.concatenate([one["state"], one["goal"]]) for one in seen])


@pytest.fixture(scope="module")
def single() -> OGBenchEnv:
    return OGBenchEnv("cube-single")


@installed
@pytest.mark.parametrize("scene", ["cube-double", "scene", "puzzle-3x3"])
def test_an_episode_is_a_function_of_seed_and_actions_whatever_was_played_before(scene: str):
    env = gymnasium.make(f"shortcut_envs:shortcut_policy/OGBench-{scene}").unwrapped
    first, other, again = played(env, 5), played(env, 11), played(env, 5)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], other[0])


@installed
def test_it_is_a_gymnasium_environment_with_five_tasks_in_turn(single: OGBenchEnv):
    check_env(single, skip_render_check=True)
    names, goals = [], []
    for seed in range(10, 15):
        observation, info = single.reset(seed=seed)
        names.append(info["task"])
        goals.append(observation["goal"])
    assert [name.split("_")[0] for name in names] == [f"task{number}" for number in range(1, 6)]
    assert len(np.unique(np.round(goals, 1), axis=0)) == 5
    assert single.reset(seed=10, options={"task_id": 3})[1]["task"] == names[2]
    third = OGBenchEnv("cube-single", task_id=3)
    assert {third.reset(seed=seed)[1]["task"] for seed in range(3)} == {names[2]}


@installed
def test_the_goal_is_where_success_is(single: OGBenchEnv):
    observation, _ = single.reset(seed=2)
    target = single.simulation._data.mocap_pos[single.simulation._cube_target_mocap_ids[0]]
    assert np.abs(observation["goal"] / 10 + [0.425, 0, 0] - target).max() < 1e-3


@installed
@pytest.mark.parametrize("oracles", ["markov", "plan"])
def test_each_oracle_solves_the_task(oracles: str):
    spec = {
        "_target_": "shortcut_envs.ogbench.expert.OGBenchExpert",
        "scene": "cube-single",
        "oracles": oracles,
    }
    state = np.random.get_state()[1].copy()
    episode, failures = record(spec, seed=0, index=1)
    assert np.array_equal(state, np.random.get_state()[1]), "numpy's global generator was used up"
    again, _ = record(spec, seed=0, index=1)
    assert failures == 0 and all(np.array_equal(episode[key], again[key]) for key in episode)
    assert {key: value.shape[1:] for key, value in episode.items()} == {
        "state": (28,),
        "goal": (3,),
        "action": (5,),
    }
    assert np.abs(episode["action"]).max() <= 1
    env, random = OGBenchEnv("cube-single"), np.random.default_rng(np.random.SeedSequence([0, 1, 0]))
    observation, _ = env.reset(seed=FIRST_SEED + int(random.integers(2**32)), options={"task_id": 2})
    for row, action in enumerate(episode["action"]):
        assert np.array_equal(observation["state"], episode["state"][row])
        observation, _, terminated, _, info = env.step(action)
    assert terminated and info["is_success"]


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("scene", "task_id"), [("cube-double", 4), ("scene", 4), ("puzzle-3x3", 1)])
def test_experts_solve_what_takes_several_things(scene: str, task_id: int):
    """Cubes that change places; a locked drawer that a cube goes into; buttons that turn their neighbours."""
    expert = OGBenchExpert(scene, task_id)
    found = [expert.episode(np.random.default_rng(i)) for i in range(4)]
    assert any(episode is not None for episode in found)


@installed
def test_demonstrations_are_of_every_task_and_checked(tmp_path: Path):
    path = tmp_path / "cubes.zarr"
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        collect(
            compose("collect", ["expert=ogbench", "expert.scene=cube-single", "episodes=5", f"output={path}"])
        )
    source = OGBenchDemonstrations(path, "cube-single")
    goals = source.read("goal", 0, source.episode_ends[-1])[np.concatenate([[0], source.episode_ends[:-1]])]
    assert len(np.unique(np.round(goals, 1), axis=0)) == 5
    with pytest.raises(InputError, match="holds demonstrations of cube-single, and the task is cube-double"):
        OGBenchDemonstrations(path, "cube-double")


@pytest.fixture(scope="module")
def seen() -> OGBenchEnv:
    return OGBenchEnv("cube-single", cameras=["front_pixels"], image_size=32, render_mode="rgb_array")


def test_demonstrations_without_pictures_are_told_with_the_command_that_records_them(tmp_path: Path):
    path = tmp_path / "cube.zarr"
    cameras = ["front_pixels"]
    with pytest.raises(InputError, match=r"no demonstrations of .* expert\.cameras=\[front_pixels\] output="):
        OGBenchDemonstrations(path, "cube-single", cameras)
    with EpisodeWriter(path, attributes={"task": "cube-single"}) as writer:
        writer.add_episode({"action": np.zeros((3, 5), np.float32)})
    assert OGBenchDemonstrations(path, "cube-single").keys == ("action",)
    with pytest.raises(InputError, match=r"pictures of front_pixels: .*=\[front_pixels\] output="):
        OGBenchDemonstrations(path, "cube-single", cameras)


@pytest.mark.parametrize("cameras", [None, 3, {"front": 1}, "front", ["side"], [["front"]]])
def test_what_are_no_cameras_is_told(cameras: Any):
    with pytest.raises(InputError, match=r"^cameras=.* must be a list of some of front_pixels, front$"):
        check_cameras(cameras, CAMERAS)


@installed
def test_cameras_see_the_scene_and_change_nothing_else(single: OGBenchEnv, seen: OGBenchEnv):
    assert np.array_equal(played(single, 7, 3), played(seen, 7, 3))
    first, _ = seen.reset(seed=3)
    assert seen.observation_space.contains(first)
    assert np.array_equal(first["arm"], first["state"][:19])
    picture = first["front_pixels_image"]
    assert picture.std() > 10
    moved = seen.step(np.array([0, 0, -1, 0, 0], np.float32))[0]["front_pixels_image"]
    assert not np.array_equal(moved, picture)
    assert np.array_equal(seen.reset(seed=3)[0]["front_pixels_image"], picture)
    film = seen.render()
    assert film is not None and film.shape == (256, 256, 3)
    assert np.array_equal(seen.reset(seed=3)[0]["front_pixels_image"], picture)


@installed
def test_pictures_that_nobody_looks_at_are_not_drawn(seen: OGBenchEnv, monkeypatch):
    picture = seen.reset(seed=4)[0]["front_pixels_image"]
    monkeypatch.setattr(seen, "draws", False)
    old, *_ = seen.step(np.array([0, 0, -1, 0, 0], np.float32))
    assert np.array_equal(old["front_pixels_image"], picture)
    old["front_pixels_image"][:] = 0
    monkeypatch.setattr(seen, "draws", True)
    new, *_ = seen.step(np.zeros(5, np.float32))
    assert not np.array_equal(new["front_pixels_image"], picture)


@installed
@pytest.mark.slow
def test_recorded_pictures_lie_beside_the_states_of_the_same_demonstration(tmp_path: Path):
    spec = {"_target_": "shortcut_envs.ogbench.expert.OGBenchExpert", "scene": "cube-single"}
    blind, _ = record(spec, 0, 0)
    seen, _ = record({**spec, "cameras": ["front_pixels"], "image_size": 8}, 0, 0)
    assert seen.keys() - blind.keys() == {"arm", "front_pixels_image"}
    assert all(np.array_equal(blind[key], seen[key]) for key in blind)
    assert seen["front_pixels_image"].shape == (len(seen["action"]), 8, 8, 3)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 4), (1, 5)])
def test_lights_out_is_solved_where_it_can_be(rows: int, columns: int):
    random = np.random.default_rng(0)
    for _ in range(20):
        pressed = random.integers(0, 2, (rows, columns))
        lit = pressed.copy()
        for axis, size in ((0, rows), (1, columns)):
            for shift in (-1, 1):
                moved = np.roll(pressed, shift, axis)
                edge = 0 if shift == 1 else size - 1
                moved[(edge, slice(None)) if axis == 0 else (slice(None), edge)] = 0
                lit = lit + moved
        found = lights_out(rows, columns, (lit % 2).ravel())
        assert found is not None
        again = np.zeros((rows, columns), int)
        for one in np.flatnonzero(found):
            y, x = divmod(int(one), columns)
            for dy, dx in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
                if 0 <= y + dy < rows and 0 <= x + dx < columns:
                    again[y + dy, x + dx] ^= 1
        assert np.array_equal(again, lit % 2)
    assert lights_out(1, 2, np.array([1, 0])) is None


@installed
def test_what_cannot_be_used_is_told(single: OGBenchEnv):
    single.reset(seed=0)
    with pytest.raises(InputError, match="an action of cube-single must be 5 finite numbers"):
        single.step(np.zeros(4))
    with pytest.raises(InputError, match="reset option 'goal' is unknown; the only option is 'task_id'"):
        single.reset(options={"goal": 1})
    with pytest.raises(InputError, match="task_id"):
        OGBenchEnv("cube-single", task_id=6)
    with pytest.raises(
        InputError, match=r"^cameras=\['side'\] must be a list of some of front_pixels, front$"
    ):
        OGBenchEnv("cube-single", cameras=["side"])
    with pytest.raises(InputError, match="cameras=front must be a list of some of"):
        OGBenchExpert("cube-single", cameras="front")
    with pytest.raises(InputError, match=r"^expert.oracles=all must be both, markov, plan"):
        OGBenchExpert("cube-single", oracles="all")


def test_an_unknown_scene_is_told_with_the_nearest_names(give, capsys):
    with pytest.raises(InputError, match="no scene 'cube_single'; did you mean cube-single"):
        check_scene("cube_single")
    with pytest.raises(SystemExit):
        give(cli.collect, "expert=ogbench", "expert.scene=puzzel-3x3", "output=demos.zarr")
    assert "no scene 'puzzel-3x3'; did you mean puzzle-3x3" in capsys.readouterr().err


def test_without_the_package_there_is_one_sentence(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match=r"^ogbench is not installed, .*'shortcut-policy\[metaworld\]'$"):
        OGBenchEnv("cube-single")


@pytest.mark.parametrize("scene", SCENES)
def test_each_scene_has_a_task_with_its_sizes(scene: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", [f"task=ogbench/{scene.replace('-', '_')}"]).task
    assert config.name == config.source.scene == scene
    assert config.env.id == f"shortcut_envs:shortcut_policy/OGBench-{scene}"
    if importlib.util.find_spec("ogbench") is not None and scene in ("cube-single", "scene", "puzzle-3x3"):
        space = gymnasium.make(config.env.id).observation_space
        assert {key: list(space[key].shape) for key in space} == {
            key: list(field.shape) for key, field in config.obs.items()
        }


@pytest.mark.parametrize("scene", SCENES)
def test_each_scene_has_a_task_of_pictures(scene: str):
    name = scene.replace("-", "_")
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", [f"task=ogbench/{name}_image"])
        states = compose("train", [f"task=ogbench/{name}"]).task
    task = config.task
    assert (task.name, task.source.scene) == (f"{scene}-image", scene)
    assert task.source.cameras == task.env.cameras == ["front_pixels"]
    assert (task.env.id, task.obs.goal) == (states.env.id, states.obs.goal)
    assert config.encoder.crop < task.obs.front_pixels_image.shape[0]
