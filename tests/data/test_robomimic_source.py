"""robomimic's files: read, refused, and turned into zarr and back."""

import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hydra import compose, initialize_config_dir

from shortcut_policy.commands.convert import run as convert
from shortcut_policy.commands.train import run as train
from shortcut_policy.commands.view import run as view
from shortcut_policy.data import EpisodeWriter, Field, RobomimicSource, ZarrSource
from shortcut_policy.data.object_state import LAYOUTS, ObjectState, relative_pose
from shortcut_policy.data.robomimic_source import read_env_args
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import load_policy

LENGTHS = (12, 7, 9)
CAN = {"env_name": "PickPlaceCan", "env_version": "1.5.1", "type": 1, "env_kwargs": {"robots": "Panda"}}


def episode(length: int, seed: int = 0, objects: int = 14) -> dict[str, Any]:
    random = np.random.default_rng([seed, length])
    quaternion = random.normal(size=(length, 4))
    return {
        "model_file": f"<mujoco {seed}/>",
        "actions": random.uniform(-1, 1, (length, 7)),
        "states": random.normal(size=(length, 71)),
        "rewards": np.eye(length)[-1],
        "dones": np.eye(length, dtype=np.int64)[-1],
        **{
            f"{group}/{key}": value
            for group in ("obs", "next_obs")
            for key, value in {
                "object": random.normal(size=(length, objects)),
                "robot0_eef_pos": random.normal(size=(length, 3)),
                "robot0_eef_quat": quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True),
                "robot0_gripper_qpos": random.normal(size=(length, 2)),
            }.items()
        },
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "can.hdf5"
    with RobomimicWriter(path, {"env_args": json.dumps(CAN)}) as writer:
        for seed, length in enumerate(LENGTHS):
            writer.add_episode(episode(length, seed))
    return path


def contents(path: Path) -> dict[str, Any]:
    """Every group and array of a file, with its attributes."""
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        values = (item[()].tolist(), item.dtype) if isinstance(item, h5py.Dataset) else None
        found[name] = (dict(item.attrs), values)

    with h5py.File(path) as opened:
        opened.visititems(note)
    return found


def test_episodes_lie_end_to_end(file):
    source = RobomimicSource(file)
    assert source.episode_ends.tolist() == np.cumsum(LENGTHS).tolist()
    assert source.shapes["actions"] == (7,) and source.shapes["next_obs/robot0_eef_pos"] == (3,)
    for key in ("actions", "robot0_eef_pos", "states"):
        path = key if key != "robot0_eef_pos" else f"obs/{key}"
        whole = np.concatenate([episode(length, seed)[path] for seed, length in enumerate(LENGTHS)])
        assert np.array_equal(source.read(key, 0, sum(LENGTHS)), whole)
        assert np.array_equal(source.read(key, 10, 21), whole[10:21])
        assert np.array_equal(pickle.loads(pickle.dumps(source)).read(key, 5, 6), whole[5:6])


@pytest.mark.slow
def test_the_tenth_demonstration_comes_after_the_ninth(tmp_path):
    path = tmp_path / "many.hdf5"
    with RobomimicWriter(path, {"env_args": json.dumps(CAN)}) as writer:
        for seed in range(11):
            writer.add_episode(episode(seed + 1, seed))
    assert np.diff(RobomimicSource(path).episode_ends, prepend=0).tolist() == list(range(1, 12))
    assert RobomimicSource(path, "valid").demos == ["demo_9"]
    assert len(RobomimicSource(path, "train").demos) == 10


def test_poses_relative_to_the_gripper_are_those_of_the_moment(file):
    source, stored = RobomimicSource(file), RobomimicSource(file, objects="stored")
    repaired, raw = (one.read("object", 0, 28) for one in (source, stored))
    position, quaternion = raw[:, 7:10], raw[:, 10:]
    assert np.array_equal(repaired[:, 7:], raw[:, 7:])
    offset, turn = relative_pose(
        position, quaternion, source.read("robot0_eef_pos", 0, 28), source.read("robot0_eef_quat", 0, 28)
    )
    assert np.array_equal(repaired[:, :3], offset) and np.array_equal(repaired[:, 3:7], turn)
    assert not np.allclose(raw[:, :7], repaired[:, :7])


def test_relative_pose_takes_the_gripper_s_view():
    # A gripper that is turned by a quarter about z sees what lies ahead in x to its right, at -y.
    quarter = np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    offset, turn = relative_pose(np.array([1.0, 0, 0]), quarter, np.zeros(3), quarter)
    assert np.allclose(offset, [0, -1, 0]) and np.allclose(turn, [0, 0, 0, 1])


@pytest.mark.parametrize("task", sorted(LAYOUTS))
def test_vectors_of_both_versions_become_the_same(task):
    random = np.random.default_rng(0)
    parts = {part.name: random.normal(size=(3, part.size)) for part in LAYOUTS[task]["1.4"]}
    eef = random.normal(size=(3, 3)), random.normal(size=(3, 4))
    old, new = (
        ObjectState(task, f"{version}.1", "data")(
            np.concatenate([parts[part.name] for part in LAYOUTS[task][version]], axis=1), *eef
        )
        for version in ("1.4", "1.5")
    )
    assert np.array_equal(old, new)
    assert sorted(LAYOUTS[task]["1.4"], key=str) == sorted(LAYOUTS[task]["1.5"], key=str)


@pytest.mark.slow
def test_there_and_back_is_the_same_file(file, tmp_path):
    with h5py.File(file, "a") as opened:
        opened["data/demo_1"].attrs["ep_meta"] = json.dumps({"layout": 3})
        opened.create_dataset("mask/first", data=np.array([b"demo_0"]))
    store, again = tmp_path / "can.zarr", tmp_path / "again.hdf5"
    for names in ((file, store), (store, again)):
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            convert(compose("convert", [f"input={names[0]}", f"output={names[1]}"]))
    assert contents(again) == contents(file)
    assert np.array_equal(
        ZarrSource(store).read("object", 0, 28), RobomimicSource(file).read("object", 0, 28)
    )
    assert np.array_equal(
        ZarrSource(store).read("next_obs.object", 3, 4)[0], episode(12)["next_obs/object"][3]
    )


def converted(source: Path, output: Path, *overrides: str) -> Path:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        convert(compose("convert", [f"input={source}", f"output={output}", *overrides]))
    return output


def test_a_conversion_that_stops_leaves_nothing(file, tmp_path):
    change(file, put("data/demo_2/actions", (3, 2), np.nan))
    with pytest.raises(InputError, match=r"action 3 of demo_2 of .*can\.hdf5 is not a finite number"):
        converted(file, tmp_path / "can.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["can.hdf5"]


def test_observations_called_like_other_arrays_keep_their_path(file, tmp_path):
    def add(opened: h5py.File) -> None:
        for demo in opened["data"].values():
            demo["obs/actions"] = demo["actions"][()] + 3

    change(file, add)
    store, again = converted(file, tmp_path / "can.zarr"), tmp_path / "again.hdf5"
    for source, observed in ((RobomimicSource(file), "obs/actions"), (ZarrSource(store), "obs.actions")):
        assert np.array_equal(source.read(observed, 0, 28), source.read("actions", 0, 28) + 3)
        assert np.abs(source.read("actions", 0, 28)).max() <= 1
    assert contents(converted(store, again)) == contents(file)


@pytest.mark.parametrize(
    "edit",
    [
        lambda opened: [opened[f"data/demo_{i}/obs"].pop("robot0_eef_quat") for i in range(3)],
        lambda opened: version("1.3.0")(opened),
    ],
)
def test_what_cannot_be_repaired_is_converted_without(file, tmp_path, capsys, edit):
    store = converted(change(file, edit), tmp_path / "can.zarr")
    assert "only 'obs.object', as the file holds it, and no 'object' is written: " in capsys.readouterr().out
    assert "object" not in ZarrSource(store).keys and "obs.object" in ZarrSource(store).keys
    assert contents(converted(store, tmp_path / "again.hdf5")) == contents(file)


@pytest.mark.parametrize("added", ["episode", "key"])
def test_a_store_that_has_changed_is_not_the_file_any_more(file, tmp_path, added):
    store = converted(file, tmp_path / "can.zarr")
    source = ZarrSource(store)
    if added == "episode":
        with EpisodeWriter(store) as writer:
            writer.add_episode({key: source.read(key, 0, 5) for key in source.keys})
    else:
        zarr.open_group(store).create_array("data/force", data=np.ones(28))
    message = "4 episodes, 33 steps;" if added == "episode" else "3 episodes, 28 steps and the keys force;"
    with pytest.raises(
        InputError, match=f"has changed since .* of 3 demonstrations and 28 steps: .*{message}"
    ):
        converted(store, tmp_path / "again.hdf5")


@pytest.mark.slow
def test_files_and_their_stores_are_shown(file, tmp_path, capsys):
    store = tmp_path / "can.zarr"
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        convert(compose("convert", [f"input={file}", f"output={store}"]))
        for path in (file, store):
            view(compose("view", [f"store={path}", "episodes=[1]", f"output={tmp_path / path.suffix[1:]}"]))
            assert (tmp_path / path.suffix[1:] / "can.png").is_file()
            shown = " ".join(capsys.readouterr().out.split())
            assert "3 episodes of 7 to 12 steps" in shown and "demo_0" not in shown
            told = "converted from a file of it" if path == store else "PickPlaceCan, robosuite 1.5.1"
            assert told in shown
    assert not list(tmp_path.rglob("*.mp4"))


def test_any_store_becomes_a_robomimic_file(tmp_path, demonstrations):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        overrides = [f"input={demonstrations}", f"output={tmp_path / 'pusht.hdf5'}"]
        with pytest.raises(InputError, match="was not converted from a robomimic file"):
            convert(compose("convert", overrides))
        args = tmp_path / "env_args.json"
        args.write_text(json.dumps({"env_name": "PushT", "env_version": "1.5.0"}))
        with pytest.raises(InputError, match="no key 'what', given as actions="):
            convert(compose("convert", [*overrides, f"env_args={args}", "actions=what"]))
        for wrong in (tmp_path, tmp_path / "none.json", "a" * 300, "{env_name:PushT}"):
            with pytest.raises(InputError, match=r"env_args=.* cannot be read .* give the name of a file"):
                convert(compose("convert", [*overrides, f"env_args={wrong}"]))
        convert(compose("convert", [*overrides, f"env_args={args}"]))
    source, store = RobomimicSource(tmp_path / "pusht.hdf5"), ZarrSource(demonstrations)
    assert np.array_equal(source.episode_ends, store.episode_ends)
    assert np.array_equal(source.read("state", 0, 5), store.read("state", 0, 5))


def test_writer_goes_on_where_it_was_stopped(tmp_path):
    whole, stopped = tmp_path / "whole.hdf5", tmp_path / "stopped.hdf5"
    with RobomimicWriter(whole, {"env_args": json.dumps(CAN)}) as writer:
        for seed in range(3):
            writer.add_episode(episode(4, seed))
    with pytest.raises(KeyboardInterrupt), RobomimicWriter(stopped, {"env_args": json.dumps(CAN)}) as writer:
        writer.add_episode(episode(4, 0))
        with pytest.raises(InputError, match=f"another program is writing to {stopped}"):
            RobomimicWriter(stopped, {"env_args": json.dumps(CAN)})
        raise KeyboardInterrupt
    assert not stopped.exists()
    for seed in (1, 2):  # once after an interruption, once onto a finished file
        with RobomimicWriter(stopped, {"env_args": json.dumps(CAN)}) as writer:
            assert writer.n_episodes == seed
            writer.add_episode(episode(4, seed))
    assert contents(stopped) == contents(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.hdf5", "stopped.hdf5"}


def test_a_policy_trains_on_the_file(file, tmp_path):
    overrides = [
        "task=can",
        f"task.source.path={file}",
        "backbone.down_dims=[8,16]",
        "trainer.max_steps=2",
        "trainer.batch_size=4",
        f"output={tmp_path / 'run'}",
        "task.horizon=4",
        "task.n_action_steps=2",
        "cpu=true",
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        policy = load_policy(train(compose("train", overrides)))
    assert policy.action_dim == 7 and policy.normalizer.fitted


def change(path: Path, edit: Any) -> Path:
    with h5py.File(path, "a") as opened:
        edit(opened)
    return path


def put(name: str, index: Any, value: float) -> Any:
    def edit(opened: h5py.File) -> None:
        opened[name][index] = value

    return edit


def drop(name: str, attribute: str | None = None) -> Any:
    def edit(opened: h5py.File) -> None:
        if attribute is None:
            del opened[name]
        else:
            del opened[name].attrs[attribute]

    return edit


def version(number: str | None, task: str = "PickPlaceCan") -> Any:
    def edit(opened: h5py.File) -> None:
        opened["data"].attrs["env_args"] = json.dumps({**CAN, "env_version": number, "env_name": task})

    return edit


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (drop("data/demo_1", "num_samples"), "demo_1 of .* has no attribute num_samples"),
        (drop("data/demo_2/actions"), "demo_2 of .* has no actions"),
        (drop("data/demo_0/obs"), "demo_0 of .* has no obs"),
        (drop("data"), "has no group 'data'"),
        (put("data/demo_1/actions", (3, 2), np.nan), "action 3 of demo_1 of .* is not a finite number"),
        (put("data/demo_1/actions", (3, 2), 1.7), r"reach from -0\.9\d+ to 1\.7, but .* \[-1, 1\]"),
        (lambda opened: opened.move("data/demo_1", "data/other"), "'other' is not called so"),
    ],
)
def test_bad_files_get_a_sentence(file, edit, sentence):
    with pytest.raises(InputError, match=sentence):
        RobomimicSource(change(file, edit))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (version("1.3.0"), "robosuite 1.3.0, whose order .* not known; 1.4 and 1.5 are handled"),
        (version("2.0"), "robosuite 2.0"),
        (version(None), "do not say which robosuite"),
        (version("1.4.1", "Stack"), "of Stack is not known; only 1.5"),
        (version("1.5.1", "ToolHang"), "'object' has shape .14. per step, but the ToolHang .* has .44."),
        (drop("data/demo_0/obs/robot0_eef_quat"), "has no robot0_eef_quat, which the poses"),
        (drop("data", "env_args"), "do not say which robosuite"),
    ],
)
def test_objects_that_cannot_be_repaired_are_said_by_who_needs_them_alone(file, edit, sentence):
    source = RobomimicSource(change(file, edit))
    assert not {"object", "next_obs/object"} & set(source.keys)
    assert source.read("robot0_eef_pos", 0, 5).shape == (5, 3)
    for use in (lambda: Field("object", (14,)).check(source), lambda: source.read("next_obs/object", 0, 1)):
        with pytest.raises(InputError, match=rf"{sentence}.*with \+task.source.objects=stored"):
            use()
    assert RobomimicSource(file, objects="stored").read("object", 0, 5).shape == (5, 14)


def test_files_of_mimicgen(tmp_path):
    """Another task and version, and arrays without a row for each step."""
    path = tmp_path / "stack.hdf5"
    args = {"env_name": "Stack_D0", "env_version": "1.4.1", "type": 1, "env_kwargs": {}}
    with h5py.File(path, "w") as opened:
        opened.create_group("data").attrs["env_args"] = json.dumps(args)
        for number, length in enumerate(LENGTHS):
            demo = opened.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = length
            for name, value in episode(length, number).items():
                if not isinstance(value, str):
                    demo.create_dataset(name, data=value)
            demo.create_dataset("datagen_info/object_poses/cube", data=np.zeros((length, 4, 4)))
            demo.create_dataset("src_demo_inds", data=np.arange(4))
            demo.create_dataset("src_demo_labels", data=np.zeros((length, 1)))
            demo.create_dataset("longer", data=np.zeros((length + 50, 2)))
            demo.create_dataset("seed", data=number)
    source = RobomimicSource(path)
    assert {"actions", "datagen_info/object_poses/cube", "src_demo_labels"} <= set(source.keys)
    for key, shape in (("src_demo_inds", "[4]"), ("longer", "[62, 2]"), ("seed", "[]")):
        assert key not in source.keys
        with pytest.raises(
            InputError, match=re.escape(f"{key} in demo_0 of {path} has shape {shape}, but num")
        ):
            Field(key, (1,)).check(source)


def test_files_of_isaac_lab(tmp_path):
    """Nested groups, states of one row, gaps in the names, and no version."""
    path = tmp_path / "isaac.hdf5"
    with h5py.File(path, "w") as opened:
        data = opened.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Isaac-Stack-Cube-Franka-IK-Rel-v0", "type": 2})
        for name, length in {"demo_10": 5, "demo_2": 4}.items():
            demo = data.create_group(name)
            demo.attrs.update({"num_samples": length, "success": True, "seed": 1})
            demo.create_dataset("actions", data=np.full((length, 7), 1.5, np.float32))
            demo.create_dataset("obs/eef_pos", data=np.full((length, 3), length, np.float32))
            demo.create_dataset("obs/subtask_terms/grasp_1", data=np.zeros((length, 1), bool))
            demo.create_dataset("states/articulation/robot/joint_position", data=np.zeros((length, 9)))
            demo.create_dataset("initial_state/articulation/robot/joint_position", data=np.zeros((1, 9)))
    source = RobomimicSource(path)
    assert source.demos == ["demo_2", "demo_10"] and source.masks() == {}
    assert source.read("eef_pos", 3, 5)[:, 0].tolist() == [4, 5]
    assert {"subtask_terms/grasp_1", "states/articulation/robot/joint_position"} <= set(source.keys)
    assert "initial_state/articulation/robot/joint_position" in source.lacking
    del source
    change(path, drop("data", "env_args"))
    assert RobomimicSource(path).read("actions", 0, 1).shape == (1, 7)
    with pytest.raises(InputError, match="has no attribute env_args"):
        read_env_args(path)


def test_a_recording_of_robosuite_names_the_conversion(tmp_path):
    path = tmp_path / "demo.hdf5"
    with h5py.File(path, "w") as opened:
        opened.create_group("data").attrs["env"] = "Lift"
        opened.create_dataset("data/demo_1/states", data=np.zeros((5, 3)))
        opened.create_dataset("data/demo_1/actions", data=np.zeros((5, 7)))
    with pytest.raises(
        InputError, match=r"without observations: .*convert_robosuite.py, then .*states_to_obs"
    ):
        RobomimicSource(path)


def test_a_filter_of_hdf5_that_is_not_there_names_its_package(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda number: number != h5py.h5z.FILTER_LZF)

    def edit(opened: h5py.File) -> None:
        for number, length in enumerate(LENGTHS):
            opened.create_dataset(
                f"data/demo_{number}/obs/extra", data=np.zeros((length, 2)), compression="lzf"
            )

    source = RobomimicSource(change(file, edit))
    assert "extra" not in source.keys
    with pytest.raises(
        InputError, match=r"obs/extra in demo_0 .* filter lzf \(32000\), .*pip install hdf5plugin"
    ):
        source.read("extra", 0, 1)


def test_a_pointer_of_git_lfs_is_called_so(tmp_path):
    (tmp_path / "a.hdf5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=r"a.hdf5 is a pointer of git LFS .*: run 'git lfs pull'"):
        RobomimicSource(tmp_path / "a.hdf5")


def test_a_camera_that_only_some_demonstrations_have_is_said_by_who_needs_it(file):
    def edit(opened: h5py.File) -> None:
        for name in ("demo_0", "demo_1", "demo_2"):
            opened[f"data/{name}/obs/everywhere"] = np.zeros((len(opened[f"data/{name}/actions"]), 2))
        opened["data/demo_1/obs/wrist_image"] = np.zeros((LENGTHS[1], 8, 8, 3), np.uint8)

    source = RobomimicSource(change(file, edit))
    assert "everywhere" in source.keys and "wrist_image" not in source.keys
    wanted = r"obs/wrist_image is missing in demo_0, demo_2 of the 3 demonstrations of .*with a filter_key"
    field = Field("wrist_image", (8, 8, 3), normalize="image")
    for use in (lambda: field.check(source), lambda: source.read("wrist_image", 0, 1)):
        with pytest.raises(InputError, match=wanted):
            use()
    with pytest.raises(InputError, match="has no key 'front_image'"):
        source.read("front_image", 0, 1)


def test_other_mistakes_get_a_sentence(file, tmp_path):
    with pytest.raises(InputError, match="no filter key 'best'; it has train, valid"):
        RobomimicSource(file, "best")
    with pytest.raises(InputError, match="does not exist"):
        RobomimicSource(tmp_path / "none.hdf5")
    (tmp_path / "text.hdf5").write_text("no")
    with pytest.raises(InputError, match="is not an HDF5 file"):
        RobomimicSource(tmp_path / "text.hdf5")
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(InputError, match="cut short"):
        RobomimicSource(cut)
    with pytest.raises(InputError, match="has no key 'image'; it holds actions"):
        RobomimicSource(file).read("image", 0, 1)
    with pytest.raises(InputError, match="objects=raw must be repaired or stored"):
        RobomimicSource(file, objects="raw")
    with pytest.raises(InputError, match="need env_args"):
        RobomimicWriter(tmp_path / "new.hdf5", {})
    writer = RobomimicWriter(tmp_path / "new.hdf5", {"env_args": "{}"})
    with pytest.raises(InputError, match="same number of steps"):
        writer.add_episode({"actions": np.zeros((3, 7)), "states": np.zeros((2, 5))})
    h5py.File(tmp_path / "empty.hdf5", "w").close()
    for name, message in (("text.hdf5", "is not an HDF5 file"), ("empty.hdf5", "has no group 'data'")):
        with pytest.raises(InputError, match=message):
            RobomimicWriter(tmp_path / name, {"env_args": "{}"})
    gap = tmp_path / "gap.hdf5"
    gap.write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"cannot be continued: .* they are demo_0, demo_2; choose another"):
        RobomimicWriter(change(gap, drop("data/demo_1")), {"env_args": "{}"})
    assert not (tmp_path / "gap.hdf5.parts").exists()
    short = change(file, lambda opened: opened["data/demo_1"].attrs.__setitem__("num_samples", 5))
    with pytest.raises(InputError, match=r"in demo_1 of .* but num_samples=5"):
        RobomimicSource(short)


def test_a_camera_of_bytes_here_and_floats_there_is_not_taken_for_either(file):
    """Of pictures the type says the range: floats in 0..1 would become black bytes."""

    def add(opened: h5py.File) -> None:
        for number, length in enumerate(LENGTHS):
            frames = np.full((length, 4, 4, 3), 200, np.uint8)
            opened[f"data/demo_{number}/obs/cam"] = frames if number == 0 else frames / 255

    source = RobomimicSource(change(file, add))
    assert "cam" not in source.keys
    with pytest.raises(
        InputError, match=r"obs/cam in demo_1 of .* is float64, and uint8 in demonstrations b"
    ):
        source.read("cam", 0, 1)


def test_numbers_of_several_types_get_one_that_holds_all(file):
    values = [np.arange(length) + offset for length, offset in zip(LENGTHS, (0, 0.5, 2**40), strict=True)]

    def add(opened: h5py.File) -> None:
        for number, dtype in enumerate((">f4", np.float64, np.int64)):
            opened[f"data/demo_{number}/obs/ticks"] = values[number].astype(dtype)

    source = RobomimicSource(change(file, add))
    assert source.dtypes["ticks"] == np.float64
    for e, expected in enumerate(values):
        rows = source.read("ticks", int(source.episode_ends[e]) - LENGTHS[e], int(source.episode_ends[e]))
        assert rows.dtype == np.float64 and rows.tolist() == expected.tolist()


def test_a_mask_that_lists_a_demonstration_twice_is_refused(file):
    def edit(opened: h5py.File) -> None:
        opened["mask/some"] = np.array([b"demo_1", b"demo_0", b"demo_1"])

    with pytest.raises(InputError, match=r"the filter key 'some' of .* lists demo_1 twice; choose another"):
        RobomimicSource(change(file, edit), filter_key="some")
