"""From every format to every other and back: the same, or a list of what is lost, or one sentence."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from shortcut_policy.data import EpisodeWriter, Field, RobomimicSource, ZarrSource
from shortcut_policy.data.agreement import recorded_rate
from shortcut_policy.data.convert import ConvertOptions, convert, format_to
from shortcut_policy.data.formats import format_of
from shortcut_policy.data.lerobot_source import LeRobotSource
from shortcut_policy.data.lerobot_writer import LeRobotSettings
from shortcut_policy.data.minari_source import MinariSource
from shortcut_policy.errors import InputError

MINARI = Path(__file__).parents[1] / "fixtures" / "small-v0"
LENGTHS = 5, 4
AT_10 = LeRobotSettings(fps=10)
LOSSY = ConvertOptions(lossy=True, lerobot=AT_10)
PLAIN = ConvertOptions(lerobot=AT_10)


def rows(length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    return {
        "state": random.normal(size=(length, 3)),
        "block_pose": random.normal(size=(length, 2, 2)).astype(np.float32),
        "touch": random.integers(0, 9, length),
        "closed": random.integers(0, 2, (length, 2)).astype(bool),
        "image": random.integers(0, 256, (length, 16, 20, 3), np.uint8),
        "front": random.integers(0, 256, (length, 3, 16, 20), np.uint8),
        "action": random.normal(size=(length, 2)).astype(np.float32),
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "demos.zarr"
    with EpisodeWriter(path) as writer:
        for length in LENGTHS:
            writer.add_episode(rows(length))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As files are that were put together: one demonstration lacks an array, and everything has "
    "attributes."""
    path = tmp_path / "robot.hdf5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as opened:
        data = opened.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Mine", "env_version": "1.5.1", "env_kwargs": {}})
        data.attrs["scale"] = np.float32(0.1)
        for number, length in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update({"num_samples": length, "note": np.bytes_(b"by hand"), "best": np.inf})
            demo["actions"] = random.uniform(-1, 1, (length, 3))
            demo["actions"].attrs["units"] = ["m", "m", "rad"]
            demo["obs/hand"] = random.normal(size=(length, 3)).astype(np.float32)
            demo["obs"].attrs["frame"] = "base"
            demo["seed"] = np.int32(number)
            demo["operator"] = "somebody"
            demo["said"] = np.array(["go", "stop"], dtype=h5py.string_dtype())
        opened["data/demo_1/obs/force"] = random.normal(size=(LENGTHS[1], 60))
        opened["mask/train"] = np.array([b"demo_0"])
        opened["camera/intrinsics"] = np.array([[np.nan, 1], [2, 3]])
        opened.create_group("empty")
        opened.attrs["creator"] = "me"
    return path


def in_hdf5(path: Path) -> dict[str, Any]:
    """Every group, array and attribute with its type."""
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (
                item.dtype,
                item.shape,
                np.asarray(item[()]).tobytes() if item.dtype != object else item[()],
            )
        else:
            found[name] = None
        found.update({f"{name}@{key}": (type(value), value) for key, value in item.attrs.items()})

    with h5py.File(path) as opened:
        note("", opened)
        opened.visititems(note)
    return found


def in_zarr(path: Path) -> dict[str, Any]:
    """Every array and attribute, but those that say what the store was converted from."""
    found: dict[str, Any] = {}
    group = zarr.open_group(path, mode="r")
    for name, item in [("", group), *group.members(max_depth=None)]:
        if isinstance(item, zarr.Array):
            found[name] = item.dtype, item[...].tobytes(), item.shape
        own = {
            key: value for key, value in item.attrs.items() if key not in ("robomimic", "lerobot", "minari")
        }
        found[f"{name}@"] = own
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert set(one) == set(other)
    for name, value in one.items():
        assert str(value) == str(other[name]), name
    return True


def test_a_robomimic_file_keeps_everything_in_a_store(file, tmp_path):
    store = convert(file, tmp_path / "robot.zarr")
    assert ZarrSource(store).keys == ("actions", "hand")
    with pytest.raises(InputError, match=r"key 'force' of .* is missing in demo_0 of the 2 demonstrations"):
        Field("force", (60,)).check(ZarrSource(store))
    with h5py.File(file) as opened:
        assert np.array_equal(
            zarr.open_array(store / "robomimic/data/demo_1/obs/force")[:], opened["data/demo_1/obs/force"]
        )
    assert same(in_hdf5(convert(store, tmp_path / "again.hdf5")), in_hdf5(file))


def test_a_store_of_an_earlier_release_is_still_the_file(tmp_path):
    store = tmp_path / "old.zarr"
    env_args = json.dumps({"env_name": "Mine", "env_version": "1.5.1", "env_kwargs": {}})
    about = {
        "attributes": {"env_args": env_args, "total": 4},
        "demos": [["demo_7", {"num_samples": 4, "model_file": "<mujoco/>"}]],
        "masks": {"train": ["demo_7"]},
        "datasets": {"actions": "actions", "hand": "obs/hand"},
    }
    with EpisodeWriter(store, attributes={"robomimic": about}) as writer:
        writer.add_episode({"actions": np.ones((4, 2)), "hand": np.zeros((4, 3))})
    source = RobomimicSource(convert(store, tmp_path / "old.hdf5"), "train")
    assert source.demos == ["demo_7"] and source.attributes("demo_7")["model_file"] == "<mujoco/>"


def test_a_store_keeps_everything_in_a_robomimic_file(store, tmp_path):
    group = zarr.open_group(store)
    group.attrs.update({"robot": {"name": "arm", "joints": [1, 2]}, "rate": 10})
    group["data/state"].attrs["units"] = "m"
    group.create_array("meta/weights", data=np.arange(500.0))
    group.create_array("meta/names", data=np.array(["left", "right"]))
    args = tmp_path / "env_args.json"
    args.write_text(json.dumps({"env_name": "Mine", "env_version": "1.5.0"}))
    file = convert(store, tmp_path / "demos.hdf5", ConvertOptions(env_args=str(args)))
    assert RobomimicSource(file).shapes["front"] == (3, 16, 20)
    assert same(in_zarr(convert(file, tmp_path / "again.zarr")), in_zarr(store))


@pytest.mark.parametrize("name", ["demos.lerobot", "demos-v0"])
def test_a_store_survives_lerobot_and_minari(store, tmp_path, name):
    written = convert(store, tmp_path / name, PLAIN)
    assert same(in_zarr(convert(written, tmp_path / "again.zarr")), in_zarr(store))
    assert {path.name for path in tmp_path.iterdir()} >= {"again.zarr", name, "demos.zarr"}
    assert not list(tmp_path.glob("*.lost.txt")) and not list(tmp_path.glob(f".{name}*"))


def test_lerobot_has_the_names_that_it_expects(store, tmp_path):
    source = LeRobotSource(convert(store, tmp_path / "demos.lerobot", PLAIN))
    assert {"action", "observation.state", "observation.images.image", "observation.images.front"} < set(
        source.keys
    )
    assert source.fps == 10 and source.tasks == {0: "demos"}
    assert source.shapes["observation.images.front"] == (16, 20, 3)
    front = source.read("observation.images.front", 0, 5)
    assert np.array_equal(front.transpose(0, 3, 1, 2), rows(5)["front"])
    episodes = [
        json.loads((tmp_path / "demos.lerobot/meta/info.json").read_text())[key] for key in ("total_frames",)
    ]
    assert episodes == [sum(LENGTHS)]


def test_what_no_robot_sees_is_no_observation_of_lerobot_s(tmp_path):
    """Its policies take all that a dataset observes: a mark or a reward would be missing at play."""
    with EpisodeWriter(tmp_path / "demos.zarr") as writer:
        for length in LENGTHS:
            steps = np.arange(length)
            more = {
                "intervention": steps % 2,
                "reward": steps / 9,
                "rewards": steps / 8,
                "timestamp": steps / 10,
            }
            writer.add_episode({**rows(length), **more, "success": np.ones((length, 3))})
    source = LeRobotSource(convert(tmp_path / "demos.zarr", tmp_path / "demos.lerobot", PLAIN))
    assert {"intervention", "reward", "next.reward", "recorded.timestamp"} < set(source.keys)
    assert "observation.success" in source.keys, "three numbers are something of the user's"
    for name in ("demos.hdf5", "demos-v0"):
        args = tmp_path / "env.json"
        args.write_text('{"env_name": "Mine", "env_kwargs": {}}')
        written = convert(tmp_path / "demos.zarr", tmp_path / name, ConvertOptions(env_args=args))
        again = convert(written, tmp_path / f"{name}.zarr")
        assert same(in_zarr(again), in_zarr(tmp_path / "demos.zarr"))
    again = convert(tmp_path / "demos.lerobot", tmp_path / "again.zarr")
    assert same(in_zarr(again), in_zarr(tmp_path / "demos.zarr"))


def test_lerobot_takes_the_rate_that_the_demonstrations_say(tmp_path, capsys):
    with EpisodeWriter(tmp_path / "demos.zarr", attributes={"control_hz": 20}) as writer:
        writer.add_episode({"state": np.ones((4, 2)), "action": np.zeros((4, 2), np.float32)})
    assert LeRobotSource(convert(tmp_path / "demos.zarr", tmp_path / "demos.lerobot")).fps == 20
    minari = convert(tmp_path / "demos.zarr", tmp_path / "demos-v0")
    assert recorded_rate(MinariSource(minari)) == 20
    assert LeRobotSource(convert(minari, tmp_path / "minari.lerobot")).fps == 20
    assert capsys.readouterr().err.count("steps a second") == 0
    other = convert(tmp_path / "demos.zarr", tmp_path / "other.lerobot", PLAIN)
    said = capsys.readouterr().err
    assert (
        "fps=10 is given, and" in said and "says 20 steps a second" in said and LeRobotSource(other).fps == 10
    )


def test_a_refusal_for_want_of_a_rate_names_that_of_the_times(tmp_path):
    with EpisodeWriter(tmp_path / "demos.zarr") as writer:
        times = {"timestamp": np.arange(9) / 30}
        writer.add_episode({"state": np.ones((9, 2)), "action": np.zeros((9, 2), np.float32), **times})
    with pytest.raises(InputError, match=r"give fps=<number> \(by the times of its steps about 30\)"):
        convert(tmp_path / "demos.zarr", tmp_path / "demos.lerobot")


def test_a_store_that_was_something_else_says_its_rate(file, tmp_path):
    fixture = Path(__file__).parents[1] / "fixtures" / "lerobot_v3"
    assert recorded_rate(ZarrSource(convert(fixture, tmp_path / "a.zarr"))) == 10
    with h5py.File(file, "r+") as opened:
        opened["data"].attrs["env_args"] = '{"env_name": "Mine", "env_kwargs": {"control_freq": 25}}'
    store = convert(file, tmp_path / "b.zarr", LOSSY)
    assert recorded_rate(ZarrSource(store)) == 25


@pytest.mark.parametrize("where", ["zarr", "lerobot"])
def test_a_robomimic_file_says_the_rate_of_what_it_was_made_of(tmp_path, where):
    args = tmp_path / "env.json"
    args.write_text('{"env_name": "Mine", "env_kwargs": {}}')
    with EpisodeWriter(tmp_path / "demos.zarr", attributes={"control_hz": 20}) as writer:
        writer.add_episode({"state": np.ones((4, 2)), "action": np.zeros((4, 2), np.float32)})
    made = convert(tmp_path / "demos.zarr", tmp_path / "demos.lerobot")
    made = tmp_path / "demos.zarr" if where == "zarr" else made
    file = convert(made, tmp_path / "demos.hdf5", ConvertOptions(env_args=args))
    assert recorded_rate(RobomimicSource(file)) == 20
    with h5py.File(file, "r+") as opened:  # notes that are damaged are the business of conversions
        for group in opened["shortcut_policy"].values():
            group.attrs["note"] = "{"
    assert recorded_rate(RobomimicSource(file)) is None


def test_statistics_are_those_of_all_frames(store, tmp_path):
    convert(store, tmp_path / "demos.lerobot", PLAIN)
    found = json.loads((tmp_path / "demos.lerobot/meta/stats.json").read_text())
    whole = {key: np.concatenate([rows(length)[key] for length in LENGTHS]) for key in rows(1)}
    assert np.allclose(found["observation.state"]["q10"], np.quantile(whole["state"], 0.1, axis=0))
    assert found["observation.touch"]["count"] == [9] and len(found["observation.touch"]["mean"]) == 1
    pixels = whole["image"] / 255
    for name, value in (("mean", pixels.mean((0, 1, 2))), ("std", pixels.std((0, 1, 2)))):
        assert np.allclose(np.ravel(found["observation.images.image"][name]), value)
    assert np.shape(found["observation.images.image"]["q50"]) == (3, 1, 1)


def smooth(length: int) -> np.ndarray:
    """Images (T, 32, 48, 3) of something that moves a little."""
    y, x = np.mgrid[:32, :48]
    frames = [128 + 100 * np.sin((x + t) / 9) * np.cos((y - t) / 7) for t in range(length)]
    return np.repeat(np.array(frames)[..., None], 3, axis=-1).astype(np.uint8)


def test_videos_hold_every_frame_about_as_well(tmp_path, capsys):
    store = tmp_path / "demos.zarr"
    with EpisodeWriter(store) as writer:
        for length in (12, 9):
            writer.add_episode({"image": smooth(length), "action": np.zeros((length, 1))})
    settings = LeRobotSettings(fps=12.5, videos=True)
    source = LeRobotSource(convert(store, tmp_path / "demos.lerobot", ConvertOptions(lerobot=settings)))
    frames = source.read("observation.images.image", 0, 21)
    errors = np.abs(frames.astype(float) - np.concatenate([smooth(12), smooth(9)])).mean((1, 2, 3))
    assert errors.max() < 4 and 0.7 < errors[0:12:2].mean() / errors[1:12:2].mean() < 1.4
    assert "the frames of the videos differ from the images by" in capsys.readouterr().out


def test_images_of_odd_size_are_no_video(tmp_path):
    store = tmp_path / "odd.zarr"
    with EpisodeWriter(store) as writer:
        writer.add_episode({"image": np.zeros((3, 15, 20, 3), np.uint8), "action": np.zeros((3, 1))})
    with pytest.raises(InputError, match=r"15 x 20, but videos need an even height and width"):
        convert(store, tmp_path / "odd.lerobot", ConvertOptions(lerobot=LeRobotSettings(fps=5, videos=True)))


def test_a_dataset_of_minari_survives_a_store(tmp_path):
    store = convert(MINARI, tmp_path / "small.zarr")
    source = ZarrSource(store)
    assert source.shapes["goal.xy"] == (2,) and source.shapes["image"] == (32, 32, 3)
    again = convert(store, tmp_path / "small-v0")
    one, other = MinariSource(MINARI), MinariSource(again)
    assert one.keys == other.keys
    for key in one.keys:
        for read in (lambda s: s.read(key, 0, 9), lambda s: s.last(key)):  # noqa: B023
            assert str(read(one)) == str(read(other)) and np.array_equal(read(one), read(other))
    with h5py.File(MINARI / "data/main_data.hdf5") as a, h5py.File(again / "data/main_data.hdf5") as b:
        for name in a:
            assert dict(a[name].attrs) == dict(b[name].attrs)
    kept = [json.loads((path / "data/metadata.json").read_text()) for path in (MINARI, again)]
    assert {**kept[0], "jpeg_encoding": False} == kept[1]


def test_what_a_format_cannot_hold_is_refused_or_listed(file, tmp_path, capsys):
    for name in ("robot.lerobot", "robot-v0"):
        sentence = (
            r"cannot hold all of .*attribute data/demo_\*/@note \(2 of them\).*; choose another format, or "
            "leave these out with lossy=true"
        )
        with pytest.raises(InputError, match=sentence):
            convert(file, tmp_path / name, PLAIN)
        assert not (tmp_path / name).exists()
        convert(file, tmp_path / name, LOSSY)
        listed = (tmp_path / f"{name}.lost.txt").read_text()
        assert "array data/demo_*/obs/force\n" in listed and listed.splitlines()[1] in capsys.readouterr().out
    assert LeRobotSource(tmp_path / "robot.lerobot").tasks == {0: "Mine"}


def test_a_list_of_what_is_lost_that_cannot_be_written_leaves_no_output(file, tmp_path, monkeypatch):
    """Given again, the command would find the output there, and never make the list."""

    def broken(path: Path, text: str) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("shortcut_policy.data.convert.write_atomic", broken)
        with pytest.raises(OSError, match="Input/output error"):
            convert(file, tmp_path / "robot.lerobot", LOSSY)
    assert not (tmp_path / "robot.lerobot").exists()
    convert(file, tmp_path / "robot.lerobot", LOSSY)
    assert (tmp_path / "robot.lerobot").is_dir() and (tmp_path / "robot.lerobot.lost.txt").is_file()


def test_types_that_only_hdf5_has_are_never_dropped_in_silence(file, tmp_path):
    with h5py.File(file, "a") as opened:
        opened["data/table"] = np.zeros(2, [("a", int), ("b", float)])
        del opened["data/table"]
        opened["table"] = np.zeros(2, [("a", int), ("b", float)])
        opened["nothing"] = h5py.SoftLink("/not/there")
    with pytest.raises(InputError, match=r"nothing, a link to nothing; table, of a type that only HDF5 has"):
        convert(file, tmp_path / "robot.zarr")
    convert(file, tmp_path / "robot.zarr", LOSSY)
    assert "table" in (tmp_path / "robot.zarr.lost.txt").read_text()


def test_formats_are_told_by_what_is_there_and_by_name(store, file, tmp_path):
    assert [format_of(path) for path in (store, file, MINARI)] == ["zarr", "robomimic", "minari"]
    names = {"a.zarr": "zarr", "a.h5": "robomimic", "a.lerobot": "lerobot", "a-v3": "minari", "a": "zarr"}
    assert {name: format_to(Path(name), None) for name in names} == names
    assert format_to(Path("a"), "lerobot") == "lerobot"
    for options, sentence in (
        (ConvertOptions(to="rlds"), "to=rlds is not one of zarr, robomimic, lerobot, minari"),
        (
            ConvertOptions(to="zarr"),
            "are both of the format zarr: copy it, or .* to=robomimic or lerobot or minari",
        ),
    ):
        with pytest.raises(InputError, match=sentence):
            convert(store, tmp_path / "other", options)
    with pytest.raises(InputError, match=r"does not say how many steps a second"):
        convert(store, tmp_path / "demos.lerobot")
    for wrong in ({"fps": 0}, {"crf": 60}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}="):
            LeRobotSettings(**wrong)


def test_bad_actions_are_refused(tmp_path):
    for values, sentence in (
        (np.arange(4), r"int64 of shape \[\] per step.* choices out of a set"),
        (np.zeros((4, 2), bool), "are bool"),
    ):
        store = tmp_path / "bad.zarr"
        with EpisodeWriter(store, overwrite=True) as writer:
            writer.add_episode({"action": values, "state": np.zeros((4, 2))})
        with pytest.raises(InputError, match=sentence):
            convert(store, tmp_path / "bad.lerobot", PLAIN)
    with EpisodeWriter(store, overwrite=True) as writer:
        writer.add_episode({"action": np.zeros((4, 2)), "state": np.zeros((4, 2))})
    zarr.open_array(store / "data/action")[2, 1] = np.nan
    for name in ("bad.lerobot", "bad-v0"):
        with pytest.raises(InputError, match=r"action 2 of demo_0 of .* is not a finite number"):
            convert(store, tmp_path / name, PLAIN)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.zarr"}


def test_whole_numbers_stay_whole_numbers(tmp_path):
    store = tmp_path / "pixels.zarr"
    with EpisodeWriter(store) as writer:
        writer.add_episode({"action": np.arange(8).reshape(4, 2), "state": np.zeros((4, 2))})
    for name in ("pixels.lerobot", "pixels-v0"):
        again = ZarrSource(convert(convert(store, tmp_path / name, PLAIN), tmp_path / f"{name}.zarr"))
        assert again.dtypes["action"] == np.int64 and again.read("action", 3, 4).tolist() == [[6, 7]]


def test_a_store_that_is_being_written_is_refused(store, tmp_path):
    with (
        EpisodeWriter(store),
        pytest.raises(InputError, match=r"is being written, or its recording was stopped"),
    ):
        convert(store, tmp_path / "demos.lerobot", PLAIN)
    assert convert(store, tmp_path / "demos.lerobot", PLAIN).is_dir()


def fail(store: Path, how: str) -> Callable[..., Any]:
    def instead(*arguments: Any, **options: Any) -> Any:
        if how == "changes":
            (store / "data/state/0.0").touch()
            return 0
        if how == "broken":  # as pyarrow says it, without the file
            raise OSError(errno.EIO, "Error writing bytes to file. Detail: [errno 5] Input/output error")
        raise OSError(errno.ENOSPC, "No space left on device")

    return instead


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("changes", "has changed while it was converted"),
        ("full", "there is no space left for .*: nothing was written"),
        ("broken", r"demos\.lerobot cannot be made \(.*Input/output error\): nothing was written"),
    ],
)
def test_what_fails_half_way_leaves_nothing(store, tmp_path, monkeypatch, how, sentence):
    monkeypatch.setattr("shortcut_policy.data.lerobot_writer._write_meta", fail(store, how))
    before = in_zarr(store)
    with pytest.raises(InputError, match=sentence):
        convert(store, tmp_path / "demos.lerobot", PLAIN)
    assert [path.name for path in tmp_path.iterdir()] == ["demos.zarr"] and same(in_zarr(store), before)


def test_demonstrations_of_two_robots_are_no_file(file, tmp_path):
    with h5py.File(file, "a") as opened:
        del opened["data/demo_1/actions"]
        opened["data/demo_1/actions"] = np.zeros((LENGTHS[1], 7))
    with pytest.raises(
        InputError, match=r"actions in demo_1 of .* has shape \[4, 7\], but .* ask for \[4, 3\]"
    ):
        convert(file, tmp_path / "robot.zarr")
    other = tmp_path / "two-v0"
    shutil.copytree(MINARI, other)
    with h5py.File(other / "data/main_data.hdf5", "a") as opened:
        del opened["episode_1/actions"]
        opened["episode_1/actions"] = np.zeros((5, 7))
    with pytest.raises(
        InputError, match=r"actions in episode_1 .* float64 .*7.*, and in episode_0 .*another robot"
    ):
        convert(other, tmp_path / "two.zarr")


def test_an_output_inside_the_input_is_refused_before_any_work(store):
    before = sorted(store.rglob("*"))
    with pytest.raises(
        InputError, match=r"output=.*inner.lerobot lies inside input=.*: choose another place"
    ):
        convert(store, store / "inner.lerobot", PLAIN)
    assert sorted(store.rglob("*")) == before


#: What a step came to, as formats call it: path in a robomimic file, feature, place in an episode of Minari.
OUTCOMES = [
    ("rewards", "next.reward", "rewards"),
    ("dones", "next.done", "infos/dones"),
    ("terminations", "terminations", "terminations"),
    ("truncations", "truncations", "truncations"),
]


def test_rewards_and_ends_have_the_name_that_each_format_gives_them(tmp_path):
    path, random = tmp_path / "a.hdf5", np.random.default_rng(0)
    types = {"rewards": np.float64, "dones": np.int64, "terminations": bool, "truncations": bool}
    with h5py.File(path, "w") as file:
        for number, length in enumerate(LENGTHS):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"], demo["obs/x"] = np.zeros((length, 2)), np.ones((length, 1))
            for name, kind in types.items():
                demo[name] = random.integers(0, 2, length).astype(kind)
    sources = {
        "robomimic": RobomimicSource(path),
        "lerobot": LeRobotSource(convert(path, tmp_path / "a.lerobot", LOSSY)),
        "minari": MinariSource(convert(path, tmp_path / "a-v0", LOSSY)),
        "store": ZarrSource(convert(path, tmp_path / "a.zarr")),
    }
    backs = {
        name: RobomimicSource(
            convert(
                convert(sources[name].path, tmp_path / f"{name}.zarr"),
                tmp_path / f"{name}.hdf5",
                ConvertOptions(env_args=args(tmp_path)),
            )
        )
        for name in ("lerobot", "minari")
    }
    for in_robomimic, in_lerobot, in_minari in OUTCOMES:
        expected = sources["robomimic"].read(in_robomimic, 0, sum(LENGTHS))
        names = {"lerobot": in_lerobot, "minari": in_minari}
        for name, source in sources.items():
            found = source.read(names.get(name, in_robomimic), 0, sum(LENGTHS))
            np.testing.assert_array_equal(found.reshape(-1), expected)
            assert found.dtype == expected.dtype, (name, in_robomimic)
        for source in backs.values():
            back = source.read(in_robomimic, 0, sum(LENGTHS))
            np.testing.assert_array_equal(back, expected)
            assert back.dtype == expected.dtype


def args(folder: Path) -> str:
    path = folder / "env_args.json"
    path.write_text(json.dumps({"env_name": "Mine", "env_version": "1.5.0"}))
    return str(path)


def test_ends_that_were_not_recorded_are_made_and_do_not_come_back(store, tmp_path):
    """Minari needs them: nothing was earned, and each episode was cut off at its last step."""
    dataset = MinariSource(convert(store, tmp_path / "a-v0"))
    cut = dataset.read("truncations", 0, 9)
    assert np.flatnonzero(cut).tolist() == [4, 8] and not dataset.read("terminations", 0, 9).any()
    assert not dataset.read("rewards", 0, 9).any()
    assert same(in_zarr(convert(tmp_path / "a-v0", tmp_path / "again.zarr")), in_zarr(store))


@pytest.mark.parametrize("name", ["demos.lerobot", "demos-v0"])
def test_attributes_of_a_store_come_back_from_every_format(store, tmp_path, name):
    """Such as what scripts/import_mcap.py says of the files that a store was made of."""
    mcap = {"files": ["a.mcap"], "recording": {"rate": 10.0, "split_gap": None}}
    zarr.open_group(store).attrs.update({"mcap": mcap, "control_hz": 10})
    written = convert(store, tmp_path / name, PLAIN)
    assert same(in_zarr(convert(written, tmp_path / "again.zarr")), in_zarr(store))
    other = "over-v0" if name == "demos.lerobot" else "over.lerobot"
    over = convert(written, tmp_path / other, PLAIN)
    assert ZarrSource(convert(over, tmp_path / "third.zarr")).attributes["mcap"] == mcap
    zarr.open_group(store)["data/state"].attrs["units"] = "m"
    with pytest.raises(InputError, match=r"cannot hold all of .*: attribute data/state/@units"):
        convert(store, tmp_path / f"other{name[5:]}", PLAIN)


def test_actions_alone_come_back(tmp_path):
    """A demonstration without observations is not one of states, of which robomimic can make some."""
    store, env_args = tmp_path / "blind.zarr", tmp_path / "env.json"
    with EpisodeWriter(store) as writer:
        writer.add_episode({"action": np.linspace(-1, 1, 8).reshape(4, 2)})
    env_args.write_text(json.dumps({"env_name": "Mine", "type": 1, "env_version": "1", "env_kwargs": {}}))
    options = ConvertOptions(env_args=str(env_args), lerobot=AT_10)
    for name in ("blind.hdf5", "blind.lerobot", "blind-v0"):
        again = ZarrSource(convert(convert(store, tmp_path / name, options), tmp_path / f"{name}.zarr"))
        assert again.read("action", 0, 4).tolist() == ZarrSource(store).read("action", 0, 4).tolist()
