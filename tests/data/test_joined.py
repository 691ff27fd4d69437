"""Several files as one: all demonstrations in order, or one sentence that says in what the files differ."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from shortcut_policy.commands import cli
from shortcut_policy.data import EpisodeWriter, LeRobotSource, MinariSource, RobomimicSource, ZarrSource
from shortcut_policy.data.agreement import recorded_rate
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.lerobot_writer import LeRobotSettings
from shortcut_policy.errors import InputError
from tests.data.test_convert import MINARI, in_hdf5, same

LENGTHS = {"a": (5, 4), "b": (3,)}
ENV = {"env_name": "Lift", "env_version": "1.5.1", "env_kwargs": {"robots": ["Panda"], "control_freq": 20}}
AT_10 = ConvertOptions(lerobot=LeRobotSettings(fps=10))


def write_file(path: Path, env: dict[str, Any] = ENV, **others: Any) -> Path:
    """A robomimic file; ``others`` replace arrays of its last demonstration, or remove them if None."""
    lengths = LENGTHS[path.stem]
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs.update({"env_args": json.dumps(env), "total": sum(lengths)})
        for number, length in enumerate(lengths):
            demo = file.create_group(f"data/demo_{2 * number}")
            demo.attrs.update({"num_samples": length, "model_file": f"<{path.stem}{number}/>"})
            random = np.random.default_rng(length)
            demo["actions"] = random.uniform(-1, 1, (length, 7))
            demo["obs/robot0_eef_pos"] = random.normal(size=(length, 3))
            demo["rewards"] = np.zeros(length)
            for name, array in others.items():
                del demo[name]
                if array is not None:
                    demo[name] = array
        last = f"demo_{2 * (len(lengths) - 1)}"
        file["mask/train"] = np.array([b"demo_0"])
        file[f"mask/only_{path.stem}"] = np.array([last.encode()])
    return path


def rows(source: Any, key: str) -> np.ndarray:
    return source.read(key, 0, int(source.episode_ends[-1]))


def test_robomimic_files_become_one_file_with_all_that_they_hold(tmp_path):
    a, b = write_file(tmp_path / "a.hdf5"), write_file(tmp_path / "b.hdf5", dict(reversed(ENV.items())))
    joined = convert([b, a], tmp_path / "both.hdf5")
    source = RobomimicSource(joined)
    assert source.demos == ["demo_0", "demo_1", "demo_2"] and source.episode_ends.tolist() == [3, 8, 12]
    assert source.masks() == {"train": ["demo_0", "demo_1"], "only_a": ["demo_2"], "only_b": ["demo_0"]}
    assert [source.attributes(demo)["model_file"] for demo in source.demos] == ["<b0/>", "<a0/>", "<a1/>"]
    assert source.attributes()["total"] == 12 and source.env_args.kwargs["robots"] == ["Panda"]
    for key in source.keys:
        parts = [rows(RobomimicSource(path), key) for path in (b, a)]
        np.testing.assert_array_equal(rows(source, key), np.concatenate(parts))
    store = convert([b, a], tmp_path / "both.zarr")
    assert same(in_hdf5(convert(store, tmp_path / "again.hdf5")), in_hdf5(joined))


def test_stores_that_were_files_become_one_that_is_still_a_file(tmp_path):
    a, b = (write_file(tmp_path / f"{name}.hdf5") for name in "ab")
    stores = [convert(path, path.with_suffix(".zarr")) for path in (a, b)]
    again = convert(convert(stores, tmp_path / "both.zarr"), tmp_path / "again.hdf5")
    assert same(in_hdf5(again), in_hdf5(convert([a, b], tmp_path / "both.hdf5")))


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"env": ENV | {"env_kwargs": {"robots": ["Sawyer"], "control_freq": 20}}},
            r"env_args.env_kwargs.robots is \['Panda'\] in the first and \['Sawyer'\] in the second",
        ),
        ({"env": ENV | {"env_name": "Can"}}, "env_args.env_name is Lift in the first and Can in the second"),
        (
            {"env": ENV | {"env_kwargs": {"robots": ["Panda"]}}},
            "env_args.env_kwargs.control_freq is 20 in the first and missing in the second",
        ),
        (
            {"rewards": None},
            "'rewards' is float64 of shape .. per step in the first and missing in the second",
        ),
        (
            {"actions": np.zeros((3, 8))},
            r"'actions' is float64 of shape \[7\] per step in the first and float64 of shape \[8\] per",
        ),
        (
            {"rewards": np.zeros(3, np.float32)},
            r"'rewards' is float64 of shape \[\] per step in the first and float32 of shape \[\] per step",
        ),
    ],
)
def test_files_that_differ_are_refused_before_anything_is_written(tmp_path, other, sentence):
    a, b = write_file(tmp_path / "a.hdf5"), write_file(tmp_path / "b.hdf5", **other)
    with pytest.raises(InputError, match=rf"a.hdf5 and .*b.hdf5 cannot be joined: {sentence}.*; join files"):
        convert([a, b], tmp_path / "both.zarr", ConvertOptions(lossy=True))
    assert {path.name for path in tmp_path.iterdir()} == {"a.hdf5", "b.hdf5"}


def test_formats_are_not_mixed_and_no_file_counts_twice(tmp_path):
    a, b = write_file(tmp_path / "a.hdf5"), write_file(tmp_path / "b.hdf5")
    store = convert(b, tmp_path / "b.zarr")
    for inputs, sentence in (
        ([a, store], "the format is robomimic in the first and zarr of robomimic in the second"),
        ([a, b, tmp_path / "." / "a.hdf5"], "names .*a.hdf5 twice"),
        ([], "input names nothing: give a path, or several as"),
    ):
        with pytest.raises(InputError, match=sentence):
            convert(inputs, tmp_path / "all.lerobot", AT_10)
    with pytest.raises(InputError, match=r"scripts/convert.py input=\[...\] joins several files"):
        RobomimicSource([a, b])


def test_what_files_say_in_different_words_is_listed(tmp_path):
    stores = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for seed, store in enumerate(stores):
        with EpisodeWriter(store, attributes={"control_hz": 10, "seed": seed}) as writer:
            writer.add_episode({"state": np.full((4, 2), seed), "action": np.zeros((4, 2))})
        zarr.open_group(store).create_array("meta/calibration", data=np.arange(3.0) + seed)
        zarr.open_group(store).create_array("meta/joints", data=np.arange(3))
    lost = "attribute /@seed, which is 0 in a.zarr and 1 in b.zarr; array meta/calibration, which is"
    with pytest.raises(InputError, match=rf"cannot hold all of .*a.zarr, .*b.zarr: {lost} .*lossy=true"):
        convert(stores, tmp_path / "both.zarr")
    source = ZarrSource(convert(stores, tmp_path / "both.zarr", ConvertOptions(lossy=True)))
    assert source.attributes == {"control_hz": 10} and source.episode_ends.tolist() == [4, 8]
    assert rows(source, "state")[:, 0].tolist() == [0] * 4 + [1] * 4
    assert zarr.open_array(tmp_path / "both.zarr/meta/joints")[:].tolist() == [0, 1, 2]
    zarr.open_group(stores[1]).attrs["control_hz"] = 20
    with pytest.raises(InputError, match="control_hz is 10 in the first and 20 in the second"):
        convert(stores, tmp_path / "third.zarr", ConvertOptions(lossy=True))


def test_a_task_has_one_number_in_all_datasets(tmp_path):
    tasks = {"a": ["push"], "b": ["lift"], "c": ["push"]}
    folders = []
    for name, (task,) in tasks.items():
        with EpisodeWriter(tmp_path / f"{name}.zarr") as writer:
            writer.add_episode({"state": np.ones((4, 2)), "action": np.zeros((4, 2), np.float32)})
        settings = LeRobotSettings(fps=10, task=task)
        options = ConvertOptions(lerobot=settings)
        folders.append(convert(tmp_path / f"{name}.zarr", tmp_path / f"{name}.lerobot", options))
        (folders[-1] / "meta/converted.json").unlink()  # as a dataset of LeRobot's own
    source = LeRobotSource(convert(folders, tmp_path / "all.lerobot"))
    assert source.tasks == {0: "push", 1: "lift"} and source.fps == 10
    assert rows(source, "task_index").reshape(3, 4)[:, 0].tolist() == [0, 1, 0]
    options = ConvertOptions(lerobot=LeRobotSettings(fps=30))
    folders[1] = convert(tmp_path / "b.zarr", tmp_path / "fast.lerobot", options)
    (folders[1] / "meta/converted.json").unlink()
    with pytest.raises(InputError, match="fps is 10 in the first and 30 in the second"):
        convert(folders, tmp_path / "other.lerobot")


def test_datasets_that_were_stores_are_joined_with_the_tasks_and_the_rate_that_they_say(tmp_path):
    """A conversion gave them these; back alone they are stores without."""
    made = []
    for name, task, fps in (("a", "push", 10), ("b", "lift", 10), ("c", "push", 30)):
        with EpisodeWriter(tmp_path / f"{name}.zarr") as writer:
            writer.add_episode({"state": np.ones((4, 2)), "action": np.zeros((4, 2), np.float32)})
        options = ConvertOptions(lerobot=LeRobotSettings(fps=fps, task=task))
        made.append(convert(tmp_path / f"{name}.zarr", tmp_path / f"{name}.lerobot", options))
    source = LeRobotSource(convert(made[:2], tmp_path / "both.lerobot"))
    assert source.tasks == {0: "push", 1: "lift"} and source.fps == 10
    assert rows(source, "task_index").reshape(2, 4).tolist() == [[0] * 4, [1] * 4]
    store = ZarrSource(convert(made[:2], tmp_path / "both.zarr"))
    assert recorded_rate(store) == 10 and rows(store, "task_index").reshape(-1).tolist() == [0] * 4 + [1] * 4
    with pytest.raises(InputError, match="fps is 10 in the first and 30 in the second"):
        convert([made[0], made[2]], tmp_path / "other.zarr")
    alone = ZarrSource(convert(made[0], tmp_path / "alone.zarr"))
    assert alone.keys == ("action", "state") and alone.attributes == {}


def test_datasets_of_minari_keep_what_follows_the_last_action(tmp_path):
    other = convert(convert(MINARI, tmp_path / "a.zarr"), tmp_path / "b-v0")
    joined = MinariSource(convert([MINARI, other], tmp_path / "both-v0"))
    one = MinariSource(MINARI)
    for key in one.keys:
        np.testing.assert_array_equal(rows(joined, key), np.concatenate([rows(one, key)] * 2))
        if (last := one.last(key)) is not None:
            np.testing.assert_array_equal(joined.last(key), np.concatenate([last, last]))
    assert joined.metadata["total_episodes"] == 2 * len(one.episodes)
    assert joined.metadata["dataset_id"] == "both-v0"


def test_the_command_takes_a_list_and_errors_name_the_file(give, tmp_path, capsys):
    paths = [write_file(tmp_path / f"{name}.hdf5") for name in "ab"]
    listed = ",".join(map(str, paths))
    give(cli.convert, f"input=[{listed}]", f"output={tmp_path / 'both.zarr'}")
    assert len(ZarrSource(tmp_path / "both.zarr").episode_ends) == 3
    bad = [convert(path, path.with_suffix(".zarr")) for path in paths]
    zarr.open_array(bad[1] / "data/actions")[1, 0] = np.nan
    with pytest.raises(SystemExit):
        give(cli.convert, f"input=[{bad[0]},{bad[1]}]", f"output={tmp_path / 'bad.hdf5'}")
    assert "action 1 of demo_0 of " + str(bad[1]) in capsys.readouterr().err
    assert not (tmp_path / "bad.hdf5").exists()


def test_masks_and_counts_that_are_none_are_listed(tmp_path):
    a, b = (write_file(tmp_path / f"{name}.hdf5") for name in "ab")
    with h5py.File(b, "a") as file:
        file["mask/odd"] = np.array([b"demo_0", b"demo_9"])
        file["data"].attrs["total"] = "three"
    sentence = "array mask/odd, which is missing in a.hdf5 and another one in b.hdf5"
    with pytest.raises(InputError, match=rf"@total, which is 9 in a.hdf5 and three in b.hdf5; .*{sentence}"):
        convert([a, b], tmp_path / "both.hdf5")
    source = RobomimicSource(convert([a, b], tmp_path / "both.hdf5", ConvertOptions(lossy=True)))
    assert sorted(source.masks()) == ["only_a", "only_b", "train"]


def test_episodes_without_a_named_task_get_no_word_of_another(tmp_path):
    folders = []
    for name in "ab":
        with EpisodeWriter(tmp_path / f"{name}.zarr") as writer:
            writer.add_episode({"state": np.ones((4, 2)), "action": np.zeros((4, 2), np.float32)})
        folders.append(convert(tmp_path / f"{name}.zarr", tmp_path / f"{name}.lerobot", AT_10))
        (folders[-1] / "meta/converted.json").unlink()
    tasks = folders[1] / "meta/tasks.parquet"
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"task_index": [4]}, index=pandas.Index(["b"], name="task")).to_parquet(tasks)
    with pytest.raises(InputError, match=r"task_index of .*b.lerobot holds 0, a task that it does not name"):
        convert(folders, tmp_path / "both.lerobot")
    tasks.unlink()
    with pytest.raises(InputError, match="the list of tasks is there in the first and missing in the second"):
        convert(folders, tmp_path / "both.lerobot")


@pytest.mark.parametrize(
    ("element", "change", "said"),
    [
        (6, lambda x: np.sign(x), "element 6 of the actions is -1 to 1 in "),
        (2, lambda x: np.deg2rad(x), "element 2 of the actions is -"),
        (2, lambda x: 0.7 * x, ""),
        (6, lambda x: x, ""),
    ],
)
def test_actions_of_other_units_or_grippers_are_named(tmp_path, capsys, element, change, said):
    a, b = write_file(tmp_path / "a.hdf5"), write_file(tmp_path / "b.hdf5")
    for path in (a, b):
        with h5py.File(path, "a") as file:
            for demo in file["data"].values():
                actions = demo["actions"][()]
                actions[:, 6] = np.arange(len(actions)) % 2
                if path == b:
                    actions[:, element] = change(actions[:, element] - 0.5 * (said != "" and element == 6))
                demo["actions"][...] = actions
    joint = convert([b, a], tmp_path / "both.zarr")
    err = capsys.readouterr().err
    assert (
        (said in err and "another convention of a gripper" in err) if said else "of the actions is" not in err
    )
    assert len(ZarrSource(joint).episode_ends) == 3


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        ([[0.0, 1.0], [1.0, 2.0]], [[0.5, 1.0], [2.0, 3.0]]),  # two rows have two values, whatever they are
        ([[0.0, 0.3], [1.0, 0.3 + 1e-12], [2.0, 0.3]], [[0.0, 0.0], [1.0, 1.0], [2.0, 0.5]]),  # rounding
    ],
)
def test_actions_that_hardly_say_anything_are_no_other_units(tmp_path, capsys, rows, others):
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for path, actions in zip(paths, (rows, others), strict=True):
        with EpisodeWriter(path) as writer:
            writer.add_episode({"action": np.array(actions)})
    convert(paths, tmp_path / "both.zarr")
    assert "of the actions is" not in capsys.readouterr().err


def test_copies_among_demonstrations_are_said(tmp_path, capsys):
    for name, seeds in (("monday", (1, 2)), ("tuesday", (3,)), ("copied", (2, 4, 1))):
        with EpisodeWriter(tmp_path / f"{name}.zarr") as writer:
            for seed in seeds:
                random = np.random.default_rng(seed)
                action = random.normal(size=(5, 2)).astype(np.float32)
                writer.add_episode({"state": random.normal(size=(5, 3)), "action": action})
    with EpisodeWriter(tmp_path / "replayed.zarr") as writer:  # the same actions, from elsewhere
        action = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
        writer.add_episode({"state": np.zeros((5, 3)), "action": action})
    monday, *others = (tmp_path / f"{name}.zarr" for name in ("monday", "tuesday", "replayed"))
    convert([monday, *others], tmp_path / "week.zarr")
    assert "copies" not in capsys.readouterr().err
    convert([monday, tmp_path / "copied.zarr"], tmp_path / "twice.zarr")
    said = capsys.readouterr().err
    assert f"2 of the 3 demonstrations of {tmp_path / 'copied.zarr'} are copies" in said
    assert f"demo_0 of {tmp_path / 'copied.zarr'} of demo_1 of {monday} for one" in said
