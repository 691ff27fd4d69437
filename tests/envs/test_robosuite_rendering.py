"""Images of robosuite: of the state alone, at play and from recordings; which OpenGL; what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from shortcut_envs import opengl
from shortcut_envs.robosuite.actions import AbsoluteActions
from shortcut_envs.robosuite.env import RobosuiteEnv
from shortcut_policy.commands import cli
from shortcut_policy.data import RobomimicSource, ZarrSource
from shortcut_policy.data.robomimic_writer import RobomimicWriter, attributes_of
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.settings import flatten

CAMERAS = ["agentview", "robot0_eye_in_hand"]
SIZE, STEPS = 48, 4


@pytest.fixture(scope="module")
def gl() -> None:
    """Skips where nothing can draw."""
    try:
        RobosuiteEnv("Lift", cameras=["agentview"], image_size=8).close()
    except InputError as error:
        pytest.skip(str(error))


def play(path: Path, task: str, model: bool, episodes: int = 2) -> dict[str, np.ndarray]:
    """Record played steps in a file; returns the images that were observed."""
    env = RobosuiteEnv(task, cameras=CAMERAS, image_size=SIZE)
    images: dict[str, list[np.ndarray]] = {f"{camera}_image": [] for camera in CAMERAS}
    with RobomimicWriter(path, attributes_of(env.args)) as writer:
        for seed in range(episodes):
            observation, info = env.reset(seed=seed)
            actions = np.random.default_rng(seed).uniform(-1, 1, (STEPS, 7))
            steps = []
            for action in actions:
                for name, kept in images.items():
                    kept.append(observation[name])
                steps.append(
                    {"states": info["states"], **{f"obs/{k}": v for k, v in env.stored_observation().items()}}
                )
                observation, _, _, _, info = env.step(action)
            episode = {key: np.stack([step[key] for step in steps]) for key in steps[0]}
            scene = {"model_file": env.simulation.sim.model.get_xml()} if model else {}
            writer.add_episode({"actions": actions, **episode, **scene})
    env.close()
    return {name: np.array(kept) for name, kept in images.items()}


@pytest.fixture(scope="module")
def can(gl: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("can") / "can.hdf5"
    return path, play(path, "PickPlaceCan", model=False)


def draw(give, path: Path, output: Path, *overrides: str) -> ZarrSource:
    source = [f"task.source.path={path}", f"output={output}", f"size={SIZE}"]
    give(cli.render, "task=can", f"cameras=[{','.join(CAMERAS)}]", *source, *overrides)
    return ZarrSource(output)


@pytest.mark.slow
def test_images_of_recorded_states_are_those_of_play_to_the_bit(can, tmp_path, give):
    path, images = can
    one, two = (draw(give, path, tmp_path / f"{n}.zarr", f"workers={n}") for n in (1, 2))
    stored = RobomimicSource(path)
    assert set(stored.keys) | set(images) == set(one.keys)
    for key in one.keys:
        rows = one.read(key, 0, 2 * STEPS)
        assert np.array_equal(rows, images[key] if key in images else stored.read(key, 0, 2 * STEPS))
        assert np.array_equal(rows, two.read(key, 0, 2 * STEPS))
    assert AbsoluteActions(one.path, cache=tmp_path, replayed=0).shapes["actions"] == (10,)


@pytest.mark.slow
def test_images_in_the_recorded_scene_differ_by_the_rounding_of_its_file(gl, tmp_path, give):
    """mujoco's XML has six digits: edges move by a thousandth of a pixel."""
    images = play(tmp_path / "lift.hdf5", "Lift", model=True)
    drawn = draw(give, tmp_path / "lift.hdf5", tmp_path / "lift.zarr", "task=lift")
    for key, played in images.items():
        rows = drawn.read(key, 0, 2 * STEPS)
        assert (rows != played).mean() < 0.01
        assert np.abs(rows.astype(float) - played).mean() < 0.1
        assert np.abs(np.diff(played.astype(float), axis=0)).mean() > 0.5  # of neighbours in time


@pytest.mark.slow
def test_environments_in_one_process_do_not_draw_each_other_s_scene(gl):
    alone = {}
    for task in ("Lift", "PickPlaceCan"):
        env = RobosuiteEnv(task, cameras=CAMERAS, image_size=SIZE, render_mode="rgb_array", render_size=SIZE)
        alone[task] = (env.reset(seed=3)[0]["agentview_image"], env.render())
        env.close()
    both = {
        task: RobosuiteEnv(task, cameras=CAMERAS, image_size=SIZE, render_mode="rgb_array", render_size=SIZE)
        for task in alone
    }
    seen = {task: env.reset(seed=3)[0]["agentview_image"] for task, env in both.items()}
    for task, env in both.items():
        assert np.array_equal(seen[task], alone[task][0])
        assert np.array_equal(env.render(), alone[task][1])
        assert np.array_equal(env.render(), seen[task])
        env.close()


@pytest.mark.slow
def test_drawing_changes_no_bit_of_the_simulation(gl):
    states = []
    for cameras in ([], CAMERAS):
        env = RobosuiteEnv("Lift", cameras=cameras, image_size=8)
        env.reset(seed=0)
        actions = np.random.default_rng(0).uniform(-1, 1, (10, 7))
        states.append([env.step(action)[4]["states"] for action in actions])
        env.close()
    assert np.array_equal(*states)


@pytest.mark.slow
def test_rollouts_with_cameras_do_not_depend_on_how_many_play_side_by_side(can, tmp_path, give):
    from shortcut_policy.commands.train import run as train
    from shortcut_policy.policy import load_policy
    from shortcut_policy.rollout.evaluate import environment_maker
    from shortcut_policy.rollout.play import rollout

    store = draw(give, can[0], tmp_path / "can.zarr")
    overrides = [f"task.source.path={store.path}", "task.horizon=4", "task.n_action_steps=2", "cpu=true"]
    overrides += [f"task.env.image_size={SIZE}", f"task.source.cache={tmp_path}", "+task.source.replayed=0"]
    overrides += [f"task.obs.{camera}_image.shape=[{SIZE},{SIZE},3]" for camera in CAMERAS]
    overrides += [
        "encoder.crop=40",
        "backbone.down_dims=[8,16]",
        "trainer.max_steps=1",
        "trainer.batch_size=2",
    ]
    overrides = [one.replace("task.source.cache", "+task.source.cache") for one in overrides]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        policy = load_policy(
            train(compose("train", ["task=can_image", *overrides, f"output={tmp_path / 'run'}"]))
        )
    make = environment_maker(policy, {"max_steps": 3})
    results = [
        rollout(policy, make, range(7, 9), num_envs=n, batch_size=2, asynchronous=processes)
        for n, processes in ((1, False), (2, None))
    ]
    assert results[0] == results[1] and [one.length for one in results[0]] == [3, 3]


@pytest.mark.slow
def test_what_cannot_be_drawn_gets_a_sentence(can, tmp_path, give, capsys):
    path, _ = can
    nothing = tmp_path / "none.zarr"
    for overrides, sentence in (
        (
            ["cameras=[agentvew]"],
            "cameras: agentvew is none of PickPlaceCan's cameras: frontview, birdview, agentview",
        ),
        (["cameras=[]"], "cameras=[] must be a list, such as [agentview,robot0_eye_in_hand]"),
    ):
        with pytest.raises(SystemExit):
            draw(give, path, nothing, *overrides)
        assert sentence in capsys.readouterr().err
    bare = tmp_path / "bare.hdf5"
    bare.write_bytes(path.read_bytes())
    with h5py.File(bare, "a") as file:
        del file["data/demo_1/states"]
    with pytest.raises(SystemExit):
        draw(give, bare, nothing)
    assert "has no states, which images are drawn from" in capsys.readouterr().err
    assert not nothing.exists()


@pytest.mark.slow
def test_without_opengl_there_is_one_sentence(monkeypatch):
    import mujoco

    def fail(*arguments: object) -> None:
        raise mujoco.FatalError("gladLoadGL error")

    monkeypatch.setattr(mujoco, "Renderer", fail)
    RobosuiteEnv("Lift").close()
    with pytest.raises(
        InputError, match=r"^rendering failed \(FatalError: gladLoadGL error\): .* libegl1 .* libosmesa6"
    ):
        RobosuiteEnv("Lift", cameras=["agentview"])
    with pytest.raises(InputError, match="rendering failed"):
        RobosuiteEnv("Lift", render_mode="rgb_array")


def test_a_half_made_renderer_says_nothing_after_the_sentence():
    """mujoco's, of a context that was never made, fails once more when it is freed."""
    pytest.importorskip("mujoco")
    body = """
import mujoco
from shortcut_envs.opengl import open_renderer
from shortcut_policy.errors import InputError

try:
    open_renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8)
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", body],
        env={**os.environ, "MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "OpenGL" not in done.stdout:
        pytest.skip("mujoco cannot be imported with EGL here")
    assert done.stdout.startswith("rendering failed (") and done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("there", "set_before", "chosen"),
    [
        (("egl", "osmesa"), {}, "egl"),
        (("osmesa",), {}, "osmesa"),
        ((), {}, None),
        (("egl",), {"MUJOCO_GL": "glfw"}, "glfw"),
        (("egl", "osmesa"), {"PYOPENGL_PLATFORM": "osmesa"}, "osmesa"),
        (("egl",), {"PYOPENGL_PLATFORM": "osmesa"}, None),
    ],
)
def test_opengl_is_chosen_by_what_is_there(monkeypatch, there, set_before, chosen):
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS"):
        monkeypatch.setenv(name, set_before.get(name, ""))
        if name not in set_before:
            monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(opengl, "_egl_is_there", lambda: "egl" in there)
    monkeypatch.setattr(opengl, "_osmesa_is_there", lambda: "osmesa" in there)
    opengl.choose_opengl()
    assert os.environ.get("MUJOCO_GL") == chosen


@pytest.mark.parametrize("name", ["lift", "can", "square", "transport"])
def test_tasks_ask_their_environment_for_what_they_observe(name):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", [f"task={name}_image"])
    task, settings = config.task, flatten(json.loads(json.dumps(dict(config.encoder), default=str)))
    images = [key for key, field in task.obs.items() if field.normalize == "image"]
    assert images and sorted(images) == sorted(f"{camera}_image" for camera in task.env.cameras)
    assert all(task.obs[key].shape == [task.env.image_size] * 2 + [3] for key in images)
    assert settings["crop"] == 76 and task.env.actions == "absolute"
