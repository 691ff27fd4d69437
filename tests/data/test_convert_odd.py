"""Conversions of stores and files of other programs: nothing is lost, or it is listed."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from shortcut_policy.commands import cli
from shortcut_policy.data import (
    DemonstrationDataset,
    EpisodeWriter,
    Field,
    RobomimicSource,
    ZarrSource,
    robomimic_recording,
)
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.lerobot_writer import LeRobotSettings
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError
from tests.conftest import TINY
from tests.data.test_convert import in_hdf5, in_zarr, same

LENGTHS = 5, 4
ROWS = sum(LENGTHS)


@pytest.fixture
def options(tmp_path: Path) -> ConvertOptions:
    args = tmp_path / "env_args.json"
    args.write_text(json.dumps({"env_name": "Mine", "env_version": "1.5.0"}))
    return ConvertOptions(env_args=str(args), lerobot=LeRobotSettings(fps=10))


def write(path: Path, prefix: str, ends: str, zarr_format: int = 2) -> Path:
    """A store of a program that has groups, attributes, and arrays that are no rows."""
    random = np.random.default_rng(0)
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)  # type: ignore[call-overload]
    for key, values in {
        "action": random.normal(size=(ROWS, 2)),
        "arm/hand/pose": random.normal(size=(ROWS, 3)).astype(np.float32),
        "scale": np.arange(1, 5.0),
        "weights": random.normal(size=(300, 3)),
        "nothing": np.empty((0, 3)),
        "one": np.array(7),
    }.items():
        group.create_array(prefix + key, data=values, chunks=[max(1, n) for n in values.shape])
        group[prefix + key].attrs["called"] = key
    group.create_array(ends, data=np.array(LENGTHS if "length" in ends else np.cumsum(LENGTHS)))
    group[ends].attrs["of"] = "episodes"
    group[f"{prefix}arm"].attrs["frame"] = "base"
    group.create_array("meta/joints", data=np.arange(1, 4))
    group.attrs["robot"] = "mine"
    return path


def as_written(store: dict[str, Any], prefix: str, ends: str) -> dict[str, Any]:
    """What `in_zarr` finds, at the places where `EpisodeWriter` puts it."""
    kinds = "data/", "meta/"
    found = {}
    for name, value in store.items():
        bare = name.removesuffix("@")
        if bare == ends:
            name = name.replace(ends, "meta/episode_ends")
            if "length" in ends and isinstance(value, tuple):
                value = value[0], np.cumsum(LENGTHS).tobytes(), value[2]
        elif not prefix and bare and bare != "meta" and not bare.startswith(kinds):
            name = f"data/{name}"
        found[name] = value
    return found | {"data@": store.get("data@", {})}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("prefix", "ends"),
    [
        ("", "episode_ends"),
        ("", "meta/ends"),
        ("data/", "data/episode_ends"),
        ("data/", "meta/episode_lengths"),
    ],
)
def test_a_store_of_another_layout_keeps_everything(tmp_path, options, prefix, ends, zarr_format) -> None:
    store = write(tmp_path / "a.zarr", prefix, ends, zarr_format)
    again = convert(convert(store, tmp_path / "a.hdf5", options), tmp_path / "again.zarr")
    assert same(in_zarr(again), as_written(in_zarr(store), prefix, ends))
    for key in ("arm/hand/pose", "action"):
        one, other = (ZarrSource(path).read(key, 0, ROWS) for path in (store, again))
        assert np.array_equal(one, other) and one.dtype == other.dtype


def test_what_has_no_row_for_each_step_is_listed_where_it_cannot_be_kept(tmp_path, options) -> None:
    store = write(tmp_path / "a.zarr", "", "episode_ends")
    for name in ("a.lerobot", "a-v0"):
        with pytest.raises(InputError, match=r"cannot hold all of .*array data/scale; array data/weights"):
            convert(store, tmp_path / name, options)
        convert(store, tmp_path / name, ConvertOptions(lossy=True, lerobot=LeRobotSettings(fps=10)))
        listed = (tmp_path / f"{name}.lost.txt").read_text().splitlines()
        assert {"array meta/joints", "array data/nothing", "attribute data/arm/@frame"} < set(listed)
        again = ZarrSource(convert(tmp_path / name, tmp_path / f"{name}.zarr"))
        assert again.keys == ("action", "arm/hand/pose")


@pytest.mark.parametrize("place", ["data/image", "meta/image"])
def test_an_array_that_cannot_be_read_is_listed(tmp_path, options, place) -> None:
    store = write(tmp_path / "a.zarr", "data/", "meta/episode_ends")
    zarr.open_group(store).create_array(place, data=np.ones((ROWS, 2)))
    metadata = store / place / ".zarray"
    known = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(known | {"filters": [{"id": "of_somebody"}]}))
    with pytest.raises(InputError, match=r"image' of .* codec of_somebody, which is not installed: install"):
        convert(store, tmp_path / "a.hdf5", options)
    lossy = ConvertOptions(env_args=options.env_args, lossy=True)
    assert "image" not in RobomimicSource(convert(store, tmp_path / "a.hdf5", lossy)).keys
    assert "codec of_somebody" in (tmp_path / "a.hdf5.lost.txt").read_text()


def test_an_array_of_no_steps_whose_chunks_are_damaged_is_listed(tmp_path, options) -> None:
    store = write(tmp_path / "a.zarr", "data/", "meta/episode_ends")
    (store / "data/weights/0.0").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"cannot hold all of .*: array data/weights: .*0\.0.*lossy=true"):
        convert(store, tmp_path / "a.hdf5", options)
    lossy = ConvertOptions(env_args=options.env_args, lossy=True)
    again = in_zarr(convert(convert(store, tmp_path / "a.hdf5", lossy), tmp_path / "again.zarr"))
    assert "data/weights" not in again and "data/scale" in again
    assert "array data/weights: " in (tmp_path / "a.hdf5.lost.txt").read_text()


def test_arrays_that_would_get_one_key_do_not_replace_each_other(tmp_path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for number, length in enumerate(LENGTHS):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"] = np.full((length, 3), 0.5)
            demo["obs/hand"] = np.ones((length, 3))
            demo["next_obs/hand"], demo["next_obs.hand"] = np.zeros((length, 2)), np.ones((length, 3))
    with pytest.raises(InputError, match=r"array next_obs.hand, which next_obs\.hand would be the key of"):
        convert(path, tmp_path / "a.zarr")
    source = ZarrSource(convert(path, tmp_path / "a.zarr", ConvertOptions(lossy=True)))
    assert source.shapes["next_obs.hand"] in ((2,), (3,))


def test_arrays_of_no_numbers_are_kept_or_listed(tmp_path, options) -> None:
    """As robosuite's observation of objects is where there is none."""
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        for length in LENGTHS:
            episode = {"action": np.ones((length, 2)), "object": np.empty((length, 0), np.float32)}
            writer.add_episode(episode | {"hand": np.ones((length, 3))})
    assert ZarrSource(tmp_path / "a.zarr").read("object", 2, 5).shape == (3, 0)
    for name in ("a.hdf5", "a.minari"):
        again = convert(convert(tmp_path / "a.zarr", tmp_path / name, options), tmp_path / f"{name}.zarr")
        assert same(in_zarr(again), in_zarr(tmp_path / "a.zarr"))
    with pytest.raises(InputError, match="array obs/object, which has no numbers; choose another format"):
        convert(tmp_path / "a.zarr", tmp_path / "a.lerobot", options)
    lossy = ConvertOptions(lossy=True, lerobot=options.lerobot)
    convert(tmp_path / "a.zarr", tmp_path / "a.lerobot", lossy)
    found = json.loads((tmp_path / "a.lerobot/meta/info.json").read_text())["features"]
    assert "observation.hand" in found and "observation.object" not in found


def test_what_is_not_a_number_is_kept_and_refused_where_it_is_trained(tmp_path, options) -> None:
    """A sensor that was not there in some steps, and that nobody trains."""
    with RobomimicWriter(
        tmp_path / "a.hdf5", {"env_args": json.dumps({"env_name": "Mine", "env_kwargs": {}})}
    ) as writer:
        for length in LENGTHS:
            touch = np.where(np.arange(length)[:, None] == 1, np.nan, np.ones((length, 2)))
            writer.add_episode({"actions": np.ones((length, 2)), "obs/touch": touch})
    store = convert(tmp_path / "a.hdf5", tmp_path / "a.zarr")
    assert np.isnan(ZarrSource(store).read("touch", 0, 3)[1]).all()
    assert same(in_hdf5(convert(store, tmp_path / "again.hdf5")), in_hdf5(tmp_path / "a.hdf5"))
    sizes = {"horizon": 2, "n_obs_steps": 1, "n_action_steps": 1}
    with pytest.raises(InputError, match=r"key 'touch' of .* is not a finite number"):
        DemonstrationDataset(
            ZarrSource(store), {"touch": Field("touch", (2,))}, Field("actions", (2,)), **sizes
        )


def test_chunks_that_zarr_left_out_are_converted_where_the_store_says_so(tmp_path, options) -> None:
    store = write(tmp_path / "a.zarr", "data/", "meta/episode_ends")
    group = zarr.open_group(store)
    for name, length in (("gripper", ROWS), ("mask", 40)):
        group.create_array(f"data/{name}", data=np.zeros((length, 1)), chunks=(2, 1))
    with pytest.raises(InputError, match="is missing"):
        convert(store, tmp_path / "a.hdf5", options)
    group.attrs["absent_chunks"] = "fill"
    again = convert(convert(store, tmp_path / "a.hdf5", options), tmp_path / "again.zarr")
    assert same(in_zarr(again), as_written(in_zarr(store), "data/", "meta/episode_ends"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A robomimic file with arrays that fit nowhere."""
    path = tmp_path / "robot.hdf5"
    with h5py.File(path, "w") as opened:
        for number, length in enumerate(LENGTHS):
            demo = opened.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"] = np.full((length, 3), 0.5)
            demo["obs/hand"] = np.ones((length, 3), np.float32)
            demo["obs/fast"] = np.ones((10 * length + number, 2))
            demo["src_demo_inds"] = np.arange(4)
            demo["operator"] = "somebody"
    return path


def test_arrays_of_a_file_that_fit_nowhere_come_back(file, tmp_path) -> None:
    """Without env_args, too."""
    source = RobomimicSource(file)
    assert source.keys == ("actions", "hand") and {"fast", "src_demo_inds", "operator"} <= set(source.lacking)
    store = convert(file, tmp_path / "robot.zarr")
    assert ZarrSource(store).keys == ("actions", "hand")
    with pytest.raises(InputError, match=r"'fast' of .* has no row for each step in the 2 demonstrations"):
        Field("fast", (2,)).check(ZarrSource(store))
    assert same(in_hdf5(convert(store, tmp_path / "again.hdf5")), in_hdf5(file))
    with EpisodeWriter(store) as writer:  # what lies elsewhere hinders nobody
        writer.add_episode({"actions": np.ones((2, 3)), "hand": np.ones((2, 3), np.float32)})


def test_what_only_hdf5_has_hinders_no_reading_and_is_listed(file, tmp_path) -> None:
    with h5py.File(file, "a") as opened:
        opened["data/demo_0/lost"] = h5py.SoftLink("/not/there")
        opened["data/demo_0/kind"] = np.dtype("f8")
        opened["data/demo_1/empty"] = h5py.Empty("f4")
    assert RobomimicSource(file).keys == ("actions", "hand")
    sentence = r"demo_0/kind, a type or .*; data/demo_0/lost, a link to nothing; data/demo_1/empty, of a type"
    with pytest.raises(InputError, match=sentence):
        convert(file, tmp_path / "robot.zarr")


@pytest.mark.parametrize(
    "key, values, said",
    [
        ("obs/stage", np.zeros(LENGTHS[1], h5py.enum_dtype({"a": 0, "b": 1}, "i1")), "the names a, b of the"),
        ("obs/fine", np.zeros(LENGTHS[1], np.longdouble), "data/demo_1/obs/fine, of a type"),
        ("note", np.array(b"\xe9t\xe9", h5py.string_dtype()), "data/demo_1/note, text that is not UTF-8"),
        ("obs/hand", np.ones((LENGTHS[1], 3)), "the type float32 of data/demo_0/obs/hand, which becomes"),
    ],
)
def test_types_and_texts_that_do_not_come_back_are_listed(file, tmp_path, key, values, said) -> None:
    """They were changed without a word, or blocked all else of the file."""
    with h5py.File(file, "a") as opened:
        for number, length in enumerate(LENGTHS[: 2 if key.startswith("obs/") else 1]):
            if (key, number) != ("obs/hand", 0):
                opened[f"data/demo_{number}"].pop(key, None)
                rows = values if values.ndim == 0 else np.resize(values, (length, *values.shape[1:]))
                opened[f"data/demo_{number}"].create_dataset(key, data=rows, dtype=values.dtype)
        if key == "note":
            opened.move("data/demo_0/note", "data/demo_1/note")
            opened["data/demo_1"].attrs.create("by", b"\xe9", dtype=h5py.string_dtype())
        if key == "obs/hand":
            opened["data/demo_0/obs/hand"][:] = 2
    with pytest.raises(InputError, match=said):
        convert(file, tmp_path / "robot.zarr")
    store = convert(file, tmp_path / "robot.zarr", ConvertOptions(lossy=True))
    assert {"actions", "hand"} <= set(ZarrSource(store).keys)
    convert(store, tmp_path / "again.hdf5")


def test_whole_numbers_that_no_type_holds_together_are_no_floats(file, tmp_path) -> None:
    with h5py.File(file, "a") as opened:
        opened["data/demo_0/obs/count"] = np.full(LENGTHS[0], -1, np.int64)
        opened["data/demo_1/obs/count"] = np.full(LENGTHS[1], 2**63 + 1, np.uint64)
    assert "is uint64, and int64 in demonstrations before" in RobomimicSource(file).lacking["count"]
    store = convert(file, tmp_path / "robot.zarr")
    assert same(in_hdf5(convert(store, tmp_path / "again.hdf5")), in_hdf5(file))


def test_masks_of_numbers_hinder_no_filter_key(file) -> None:
    with h5py.File(file, "a") as opened:
        opened["mask/train"] = np.array(["demo_1"], "S")
        opened["mask/index"] = np.array([1])
    assert RobomimicSource(file, filter_key="train").demos == ["demo_1"]


@pytest.mark.parametrize("said", ["0.3", {"version": 2}, {"rest": None}])
def test_an_attribute_that_others_call_as_a_format_is_an_attribute(tmp_path, options, said) -> None:
    """A store with it could not be read at all."""
    store = write(tmp_path / "a.zarr", "data/", "meta/episode_ends")
    zarr.open_group(store).attrs.update({"lerobot": said, "robomimic": said, "recording": "of May"})
    assert "action" in ZarrSource(store).keys
    lossy = replace(options, lossy=True)
    dataset = convert(store, tmp_path / "a.lerobot", lossy)
    with pytest.raises(InputError, match="attribute /@recording, with which a writer marks a store"):
        convert(dataset, tmp_path / "again.zarr")
    again = convert(dataset, tmp_path / "again.zarr", lossy)
    assert ZarrSource(again).attributes["robomimic"] == said
    file = convert(store, tmp_path / "a.hdf5", options)
    with pytest.raises(
        InputError, match="attribute /@robomimic, in place of which stands what only robomimic"
    ):
        convert(file, tmp_path / "other.zarr")


def test_an_attribute_that_is_no_number_comes_back(tmp_path, options) -> None:
    """What had been converted could not be converted back."""
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        writer.add_episode({"state": np.ones((4, 3)), "action": np.zeros((4, 2))})
    zarr.open_group(tmp_path / "a.zarr").attrs["noise"] = float("nan")
    for name in ("a.hdf5", "a.lerobot", "a-v0"):
        back = convert(convert(tmp_path / "a.zarr", tmp_path / name, options), tmp_path / f"{name}.zarr")
        assert np.isnan(ZarrSource(back).attributes["noise"])


def test_names_of_axes_are_kept_or_listed(tmp_path, options) -> None:
    """Format 3 has them beside the attributes."""
    store = write(tmp_path / "a.zarr", "data/", "meta/episode_ends", zarr_format=3)
    data = zarr.open_group(store)["data"]
    data.create_array("force", data=np.ones((ROWS, 2)), dimension_names=["time", "axis"])
    with pytest.raises(InputError, match="attribute data/force/@_ARRAY_DIMENSIONS"):
        convert(store, tmp_path / "a.lerobot", options)
    back = convert(convert(store, tmp_path / "a.hdf5", options), tmp_path / "back.zarr")
    assert zarr.open_group(back)["data/force"].attrs["_ARRAY_DIMENSIONS"] == ["time", "axis"]


def test_a_filter_that_is_not_there_is_listed(file, tmp_path, monkeypatch) -> None:
    with h5py.File(file, "a") as opened:
        for number, length in enumerate(LENGTHS):
            opened[f"data/demo_{number}"].create_dataset(
                "obs/extra", data=np.zeros((length, 2)), compression="lzf"
            )
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda number: number != h5py.h5z.FILTER_LZF)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(
        InputError, match=r"demo_0/obs/extra, whose HDF5 filter lzf \(32000\) is missing: pip"
    ):
        convert(file, tmp_path / "robot.zarr")
    assert ZarrSource(convert(file, tmp_path / "robot.zarr", ConvertOptions(lossy=True))).keys == (
        "actions",
        "hand",
    )


def suggested(error: str, command: str) -> str:
    """The setting that an error names for a command line."""
    found = re.search(
        r"with \+task\.source\.(.+?) \((.+?) in scripts/convert\.py and scripts/view\.py\)", error
    )
    assert found is not None and found[1] == found[2], error
    return f"+task.source.{found[1]}" if command == "train" else found[2]


@pytest.mark.parametrize("fault", ["ends", "chunk"])
def test_what_an_error_suggests_works_as_it_is_printed(tmp_path, give, capsys, fault) -> None:
    store = write(tmp_path / "a.zarr", "data/", "meta/cuts" if fault == "ends" else "meta/episode_ends")
    if fault == "chunk":
        zarr.open_group(store).create_array("data/gripper", data=np.zeros((ROWS, 1)), chunks=(2, 1))
    train = [
        "task=minari",
        "task.source._target_=shortcut_policy.data.ZarrSource",
        f"task.source.path={store}",
        "task.obs.state.key=" + ("arm/hand/pose" if fault == "ends" else "gripper"),
        f"task.obs.state.shape=[{3 if fault == 'ends' else 1}]",
        "task.action.key=action",
        "task.action.shape=[2]",
        "task.horizon=4",
        "task.n_action_steps=2",
        f"output={tmp_path / 'run'}",
        *TINY,
        "trainer.max_steps=1",
        "trainer.warmup_steps=1",
        "trainer.rollout_every=0",
        "trainer.batch_size=2",
        "data.val_fraction=0",
    ]
    commands = {
        "convert": (
            cli.convert,
            [f"input={store}", f"output={tmp_path / 'a.lerobot'}", "fps=10", "lossy=true"],
        ),
        "view": (cli.view, [f"store={store}", "episodes=0", f"output={tmp_path}"]),
        "train": (cli.train, train),
    }
    for name, (command, arguments) in commands.items():
        with pytest.raises(SystemExit):
            give(command, *arguments)
        setting = suggested(capsys.readouterr().err, name).replace("<its path>", "meta/cuts")
        give(command, *arguments, setting)
    assert (tmp_path / "a.lerobot/meta/info.json").is_file() and (tmp_path / "a.png").is_file()


def test_settings_of_stores_are_refused_with_other_formats(file, tmp_path, give, capsys) -> None:
    for command, arguments in (
        (cli.convert, [f"input={file}", f"output={tmp_path / 'a.zarr'}", "absent_chunks=fill"]),
        (cli.view, [f"store={file}", "episode_ends=meta/cuts"]),
    ):
        with pytest.raises(SystemExit):
            give(command, *arguments)
        assert f"is a setting for zarr stores, and {file} is none: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.lerobot", "a-v0"])
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"names": 3}, "cannot be read .*names=3 must be a list of texts"),
        ({"attributes": [1]}, "cannot be read .*attributes=.* must be a mapping"),
        ({"shapes": {"actions": "x"}}, "cannot be read .*shapes="),
        ({"keys": {"obs/x": "x"}}, "is of other episodes or keys than are there"),
        ({"names": ["demo_0"]}, "is of other episodes or keys than are there"),
    ],
)
def test_a_note_that_somebody_changed_is_refused(tmp_path, options, name, changed, sentence) -> None:
    lossy = ConvertOptions(lossy=True, lerobot=options.lerobot)
    dataset = convert(write(tmp_path / "a.zarr", "data/", "meta/episode_ends"), tmp_path / name, lossy)
    file = dataset / ("meta/converted.json" if name == "a.lerobot" else "data/metadata.json")
    values = json.loads(file.read_text())
    values.update(changed) if name == "a.lerobot" else values["converted"].update(changed)
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"which a conversion wrote, {sentence}.*onvert again, or remove"):
        convert(dataset, tmp_path / "b.zarr")


#: What LeRobot gives to columns of its own, and what numbers are like in files of others.
ODD = {
    "timestamp": 1.75e9 + np.arange(ROWS) / 10,
    "task_index": np.arange(ROWS) // LENGTHS[0] + 3,
    "index": np.arange(ROWS) * 1.5,
    "obs/turned": np.arange(2.0 * ROWS).reshape(ROWS, 2).astype(">f4"),
    "obs/one": np.arange(1.0 * ROWS).astype(">f4"),
    "obs/ticks": (2**60 + np.arange(ROWS)).astype(">i8"),
    "obs/far": np.uint64(2**63 + 1) + np.arange(ROWS, dtype=np.uint64),
}


@pytest.mark.parametrize("name", ["a.zarr", "a.lerobot", "a-v0"])
def test_arrays_of_any_name_and_byte_order_come_back_with_their_values(tmp_path, options, name) -> None:
    source = tmp_path / "a.hdf5"
    with h5py.File(source, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Mine", "type": 1})
        for number, stop in enumerate(np.cumsum(LENGTHS)):
            rows = slice(stop - LENGTHS[number], stop)
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = LENGTHS[number]
            for key, values in {"actions": np.zeros((ROWS, 2)), **ODD}.items():
                demo[key] = values[rows]
    lossy = replace(options, lossy=True)
    back = convert(convert(source, tmp_path / name, lossy), tmp_path / "back.hdf5", lossy)
    found = RobomimicSource(back)
    for key, values in ODD.items():
        rows = found.read(key.removeprefix("obs/"), 0, ROWS)
        np.testing.assert_array_equal(rows, values, err_msg=key)
        assert rows.dtype == values.dtype.newbyteorder("=")
    if name == "a.lerobot":
        info = json.loads((tmp_path / name / "meta/info.json").read_text())
        assert info["features"]["observation.turned"]["dtype"] == "float32"


def test_an_array_that_takes_no_end_of_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a damaged shape does; others than rows of steps are read when they are written."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["notes/large"] = np.ones((3, 5))

    def refuse(*_: object) -> np.ndarray:
        raise MemoryError("Unable to allocate 9 PiB")

    monkeypatch.setattr(robomimic_recording.np, "asarray", refuse)
    with pytest.raises(InputError, match=r"notes/large of .*a\.hdf5 cannot be read \(Unable to allocate"):
        robomimic_recording._read(str(tmp_path / "a.hdf5"), "notes/large")
