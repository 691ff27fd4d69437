"""Recordings in MCAP files, written by mcap-ros2-support, as demonstrations."""

import io
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image

from shortcut_policy.commands.import_mcap import read_recording
from shortcut_policy.commands.import_mcap import run as import_mcap
from shortcut_policy.data import ZarrSource
from shortcut_policy.data.import_mcap import import_mcap as import_files
from shortcut_policy.data.mcap_reader import Recording, TopicKey, read_episodes
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.settings import parse

pytest.importorskip("mcap_ros2")

SECOND = 1_000_000_000
BEGIN = 1_800_000_000 * SECOND
TIME = "int32 sec\nuint32 nanosec\n"
HEADER = f"builtin_interfaces/Time stamp\nstring frame_id\n{'=' * 80}\nMSG: builtin_interfaces/Time\n{TIME}"
HEADED = f"{'=' * 80}\nMSG: std_msgs/Header\n{HEADER}"
DEFINITIONS = {
    "sensor_msgs/msg/JointState": f"std_msgs/Header header\nstring[] name\nfloat64[] position\n{HEADED}",
    "geometry_msgs/msg/PoseStamped": (
        f"std_msgs/Header header\ngeometry_msgs/Pose pose\n{HEADED}"
        f"{'=' * 80}\nMSG: geometry_msgs/Pose\ngeometry_msgs/Point position\n"
        f"geometry_msgs/Quaternion orientation\n{'=' * 80}\nMSG: geometry_msgs/Point\n"
        f"float64 x\nfloat64 y\nfloat64 z\n{'=' * 80}\nMSG: geometry_msgs/Quaternion\n"
        "float64 x\nfloat64 y\nfloat64 z\nfloat64 w\n"
    ),
    "sensor_msgs/msg/CompressedImage": f"std_msgs/Header header\nstring format\nuint8[] data\n{HEADED}",
    "sensor_msgs/msg/Image": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\n"
        f"uint32 step\nuint8[] data\n{HEADED}"
    ),
    "trajectory_msgs/msg/JointTrajectory": (
        "string[] joint_names\ntrajectory_msgs/JointTrajectoryPoint[] points\n"
        f"{'=' * 80}\nMSG: trajectory_msgs/JointTrajectoryPoint\nfloat64[] positions\n"
    ),
    "tf2_msgs/msg/TFMessage": (
        f"my_msgs/Moved[] transforms\n{'=' * 80}\nMSG: my_msgs/Moved\nstring child_frame_id\n"
        f"geometry_msgs/Vector3 translation\n{'=' * 80}\nMSG: geometry_msgs/Vector3\n"
        "float64 x\nfloat64 y\nfloat64 z\n"
    ),
    "my_msgs/msg/Moved": (
        "string child_frame_id\ngeometry_msgs/Vector3 translation\n"
        f"{'=' * 80}\nMSG: geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z\n"
    ),
    "std_msgs/msg/Float64": "float64 data\n",
    "std_msgs/msg/Bool": "bool data\n",
    "std_msgs/msg/String": "string data\n",
}
JOINTS, POSE = "sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped"
TRAJECTORY, TRANSFORMS = "trajectory_msgs/msg/JointTrajectory", "tf2_msgs/msg/TFMessage"
MOVED = "my_msgs/msg/Moved"
JPEG, RAW = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"


def at(seconds: float) -> int:
    return BEGIN + round(seconds * SECOND)


def header(seconds: float) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=at(seconds) // SECOND, nanosec=at(seconds) % SECOND)
    return SimpleNamespace(stamp=stamp, frame_id="")


def joints(seconds: float, *position: float) -> tuple[str, str, float, Any]:
    """Topic, type, the time of the log, message."""
    message = SimpleNamespace(header=header(seconds), name=["a"], position=list(position))
    return "/joints", JOINTS, seconds + 0.05, message


def pose(seconds: float, x: float, angle: float = 0.0) -> tuple[str, str, float, Any]:
    position = SimpleNamespace(x=x, y=2 * x, z=0.0)
    orientation = SimpleNamespace(x=0.0, y=0.0, z=math.sin(angle / 2), w=math.cos(angle / 2))
    held = SimpleNamespace(position=position, orientation=orientation)
    return "/pose", POSE, seconds, SimpleNamespace(header=header(seconds), pose=held)


def colours(value: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.full((height, width, 3), (value, 10, 200), np.uint8)


def compressed(seconds: float, pixels: np.ndarray, form: str = "PNG") -> tuple[str, str, float, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    message = SimpleNamespace(header=header(seconds), format=form.lower(), data=file.getvalue())
    return "/camera", JPEG, seconds, message


def raw(seconds: float, pixels: np.ndarray, encoding: str, padding: int = 0) -> tuple[str, str, float, Any]:
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)))
    message = SimpleNamespace(
        header=header(seconds),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.tobytes(),
    )
    return "/raw", RAW, seconds, message


def plain(topic: str, kind: str, seconds: float, data: Any) -> tuple[str, str, float, Any]:
    return topic, f"std_msgs/msg/{kind}", seconds, SimpleNamespace(data=data)


def write(path: Path, messages: list[tuple[str, str, float, Any]]) -> Path:
    from mcap_ros2.writer import Writer

    with path.open("wb") as file, Writer(file, chunk_size=2000) as writer:
        schemas: dict[str, Any] = {}
        for topic, kind, seconds, message in messages:
            if kind not in schemas:
                schemas[kind] = writer.register_msgdef(kind, DEFINITIONS[kind])
            writer.write_message(topic, schemas[kind], message, log_time=at(seconds))
    return path


def recording(keys: dict[str, dict[str, Any]], rate: float = 10, **settings: Any) -> Recording:
    return parse(Recording, {"rate": rate, "keys": keys, **settings}, "a test")


STATE = {"state": {"topic": "/joints", "field": "position[0:2]"}}


def episodes(path: Path, *args: Any, **settings: Any) -> list[dict[str, np.ndarray]]:
    return list(read_episodes(path, recording(*args, **settings)))


def test_the_latest_message_at_or_before_a_tick_counts(tmp_path: Path) -> None:
    """Joints at 20 Hz and a command that comes late: ticks begin with it."""
    path = write(
        tmp_path / "a.mcap",
        [joints(i / 20, i, -i, 9) for i in range(41)]
        + [plain("/command", "Float64", 0.13 + i / 10, i) for i in range(19)],
    )
    keys = STATE | {"action": {"topic": "/command", "field": "data", "stamp": "log"}}
    (episode,) = episodes(path, keys)
    assert {key: (x.shape, x.dtype) for key, x in episode.items()} == {
        "state": ((19, 2), np.float32),
        "action": ((19, 1), np.float32),
    }
    np.testing.assert_array_equal(episode["action"][:, 0], np.arange(19))
    np.testing.assert_array_equal(episode["state"], [[2 + 2 * i, -2 - 2 * i] for i in range(19)])
    (logged,) = episodes(path, keys, stamp="log")  # joints are logged 0.05 s late
    np.testing.assert_array_equal(logged["state"][:, 0], [1 + 2 * i for i in range(19)])


def test_messages_are_sorted_by_the_stamp_that_counts(tmp_path: Path) -> None:
    """They come in the order of the log, here with pairs swapped."""
    times = [i ^ 1 for i in range(20)]
    messages = [("/joints", JOINTS, i / 10, joints(t / 10, t, 0)[3]) for i, t in enumerate(times)]
    (episode,) = episodes(write(tmp_path / "a.mcap", messages), STATE)
    np.testing.assert_array_equal(episode["state"][:, 0], np.arange(20))


def test_numbers_are_interpolated_and_turns_on_the_sphere(tmp_path: Path) -> None:
    messages = [pose(0.25 * i, i, angle=2.0 * i) for i in range(9)]  # turns by more than half a circle
    path = write(tmp_path / "a.mcap", messages)
    keys: dict[str, dict[str, Any]] = {
        "position": {"topic": "/pose", "field": "pose.position", "resample": "interpolate"},
        "turn": {"topic": "/pose", "field": "pose.orientation", "resample": "slerp"},
        "held": {"topic": "/pose", "field": "pose"},
    }
    (episode,) = episodes(path, keys)
    times = np.arange(21) / 10
    np.testing.assert_allclose(episode["position"][:, 0], times * 4, atol=1e-6)
    np.testing.assert_allclose(episode["position"][:, 1], times * 8, atol=1e-6)
    angles = times * 8
    expected = np.stack([0 * times, 0 * times, np.sin(angles / 2), np.cos(angles / 2)], axis=1)
    np.testing.assert_allclose(episode["turn"], expected, atol=1e-6)
    assert episode["held"].shape == (21, 7)
    keys["held"]["resample"] = "interpolate"
    with pytest.raises(InputError, match=r"key 'held' .* holds a quaternion, .* with resample: slerp"):
        episodes(path, keys)
    keys["held"] |= {"resample": "slerp", "field": "pose.position"}
    with pytest.raises(InputError, match=r"key 'held' .*slerp is for quaternions, 4 numbers, not \[3\]"):
        episodes(path, keys)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_compressed_pictures(tmp_path: Path, form: str) -> None:
    messages = [compressed(i / 10, colours(20 * i), form) for i in range(10)]
    path = write(tmp_path / "a.mcap", messages + [joints(i / 10, i, 0) for i in range(10)])
    (episode,) = episodes(path, STATE | {"image": {"topic": "/camera"}}, rate=5)
    assert episode["image"].shape == (5, 6, 5, 3) and episode["image"].dtype == np.uint8
    expected = np.stack([colours(40 * i) for i in range(5)]).astype(int)
    assert np.abs(episode["image"] - expected).max() <= (0 if form == "PNG" else 6)
    (small,) = episodes(path, {"image": {"topic": "/camera", "size": [3, 4]}}, rate=5)
    assert small["image"].shape == (5, 3, 4, 3)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_raw_pictures_with_rows_that_are_longer_than_their_pixels(tmp_path: Path, encoding: str) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8) for i in range(3)]
    stored = {
        "rgb8": pictures,
        "bgr8": [p[:, :, ::-1] for p in pictures],
        "mono8": [p[:, :, :1] for p in pictures],
    }
    path = write(tmp_path / "a.mcap", [raw(i / 10, p, encoding, 3) for i, p in enumerate(stored[encoding])])
    (episode,) = episodes(path, {"image": {"topic": "/raw"}})
    expected = np.stack(stored["mono8"] if encoding == "mono8" else pictures)
    np.testing.assert_array_equal(episode["image"], expected)


def test_episodes_are_split_by_gaps_or_by_a_topic(tmp_path: Path) -> None:
    seconds = [*np.arange(0, 1.01, 0.1), *np.arange(5, 6.51, 0.1)]
    marks = [(0.15, 1), (0.85, 0), (5.05, 2), (5.55, 3), (6.05, 0), (6.25, 1)]
    messages = [joints(s, s, 0) for s in seconds] + [compressed(s, colours(round(10 * s))) for s in seconds]
    path = write(
        tmp_path / "a.mcap", messages + [plain("/episode", "Float64", s, float(mark)) for s, mark in marks]
    )
    keys = STATE | {"image": {"topic": "/camera"}}
    with pytest.raises(InputError, match=r"key 'state' \(/joints\) has a gap of .* split the episodes there"):
        episodes(path, keys)
    for split, expected in (
        ({"split_gap": 2}, [(0, 1), (5, 6.5)]),
        ({"split_topic": "/episode"}, [(0.2, 0.8), (5.1, 5.5), (5.6, 6), (6.3, 6.5)]),
    ):
        found = episodes(path, keys, **split)
        for episode, (first, last) in zip(found, expected, strict=True):
            states = episode["state"][:, 0]
            np.testing.assert_allclose([states[0], states[-1]], [first, last], atol=1e-6)
            np.testing.assert_allclose(episode["image"][:, 0, 0, 0], np.round(10 * states))
    with pytest.raises(InputError, match="split_topic /joints, field data: there is no field 'data'"):
        episodes(path, keys, split_topic="/joints")


def nan(messages: list) -> None:
    messages[7] = joints(0.7, 1, math.nan)


def backwards(messages: list) -> None:
    messages[7] = (*messages[7][:3], joints(-5, 1, 2)[3])


def unset(messages: list) -> None:
    for _, _, _, message in messages:
        message.header = header(-BEGIN / SECOND)


def gap(messages: list) -> None:
    del messages[4:12]


def other_length(messages: list) -> None:
    messages[7] = joints(0.7, 1)


@pytest.mark.parametrize(
    ("edit", "keys", "sentence"),
    [
        (nan, {}, r"key 'state' \(/joints\): message 7 holds a number that is not finite"),
        (backwards, {}, r"the stamp of message 7 is 5\.\d+ s earlier than one before it: a clock was set"),
        (unset, {}, "no stamp was set in the headers; take the log's times, with stamp: log"),
        (
            gap,
            {},
            r"has a gap of 0\.900 s after 1800000000300000000 ns, and max_gap allows 0\.500 s; raise max_gap",
        ),
        (other_length, {}, r"field position\[0:2\], message 7: 'position' has 1 values, and number 1 is"),
        (None, {"topic": "/arm"}, "a.mcap has no topic /arm, which key 'state' names; it has /camera, /dam"),
        (
            None,
            {"field": "velocity"},
            r"message 0: there is no field 'velocity' \(there are header, name, pos",
        ),
        (None, {"field": "name"}, "it holds the text 'a' and no number"),
        (None, {"field": "position[2:"}, r"field: 'position\[2:' is no path of a field, such as"),
        (None, {"field": None}, "/joints of type sensor_msgs/msg/JointState needs field"),
        (None, {"topic": "/camera"}, "CompressedImage is a picture: leave out field"),
        (
            None,
            {"topic": "/number", "field": "data"},
            "have no header; take the log's times, with stamp: log",
        ),
        (None, {"topic": "/camera", "field": None, "resample": "interpolate"}, "cannot be interpolated"),
        (None, {"resample": "nearest"}, "keys.state.resample"),
        (
            None,
            {"topic": "/damaged", "field": None},
            "message 0 of /damaged: .* cannot be decoded as JPEG or",
        ),
        (
            None,
            {"topic": "/depth", "field": None},
            "encoding '16UC1' is not supported; rgb8, bgr8, mono8, JPEG",
        ),
    ],
)
def test_mistakes_get_a_sentence(
    tmp_path: Path, edit: Callable[[list], None] | None, keys: dict[str, Any], sentence: str
) -> None:
    messages = [joints(i / 10, i, i + 1) for i in range(20)]
    if edit is not None:
        edit(messages)
    damaged = compressed(0, colours(1))[3]
    damaged.data = damaged.data[:40]
    others = [
        compressed(0, colours(1)),
        plain("/number", "Float64", 0, 1.0),
        ("/damaged", JPEG, 0, damaged),
        ("/depth", RAW, 0, raw(0, colours(1)[:, :, :2], "16UC1")[3]),
    ]
    path = write(tmp_path / "a.mcap", messages + others)
    with pytest.raises(InputError, match=sentence) as caught:
        episodes(path, {"state": STATE["state"] | keys})
    assert "\n" not in str(caught.value)


def test_a_value_may_hold_as_long_as_it_is_said_to(tmp_path: Path) -> None:
    messages = [joints(i / 10, i, 0) for i in range(30)] + [plain("/grip", "Bool", 0.0, True)]
    keys = STATE | {"grip": {"topic": "/grip", "field": "data", "stamp": "log", "max_gap": 0}}
    (episode,) = episodes(write(tmp_path / "a.mcap", messages), keys)
    assert episode["grip"].shape == (30, 1) and (episode["grip"] == 1).all()


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcap.writer import Writer

    whole = write(tmp_path / "a.mcap", [joints(i / 10, i, 0) for i in range(200)])
    (tmp_path / "cut.mcap").write_bytes(whole.read_bytes()[:-700])
    (tmp_path / "text.mcap").write_text("no MCAP file at all: " * 10)
    (tmp_path / "short.mcap").write_bytes(whole.read_bytes()[:7])
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "begun.mcap").write_bytes(whole.read_bytes()[:60])
    with (tmp_path / "json.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("Joints", "jsonschema", b"{}")
        channel = writer.register_channel("/joints", "json", schema)
        writer.add_message(channel, log_time=1, data=b"{}", publish_time=1)
        writer.finish()
    for name, sentence in (
        ("none", "does not exist"),
        ("cut", "mcap recover"),
        ("text", "cannot be read as MCAP"),
        ("short", "has 7 bytes, which is no MCAP file"),
        ("empty", "has 0 bytes, which is no MCAP file"),
        ("begun", "mcap recover"),
        (
            "json",
            "/joints in .* are stored as json with a schema of jsonschema; only those of ROS 2 are read",
        ),
    ):
        with pytest.raises(InputError, match=rf"{name}\.mcap.*{sentence}|{sentence}"):
            episodes(tmp_path / f"{name}.mcap", STATE)
    monkeypatch.setitem(sys.modules, "mcap_ros2.decoder", None)
    with pytest.raises(InputError, match=r"pip install 'shortcut-policy\[mcap\]'"):
        episodes(whole, STATE)


def test_what_is_read_is_a_copy_and_pictures_are_read_where_they_are_needed(tmp_path: Path) -> None:
    """Of a hundred pictures only those of the ticks are decoded."""
    messages = [compressed(i / 100, colours(i)) for i in range(100)]
    for number in range(100):
        if number % 10:
            messages[number][3].data = b"not a picture"
    (episode,) = episodes(write(tmp_path / "a.mcap", messages), {"image": {"topic": "/camera"}})
    np.testing.assert_array_equal(episode["image"][:, 0, 0, 0], np.arange(0, 100, 10))
    assert episode["image"].flags.writeable and episode["image"].base is None


def test_a_folder_of_files_becomes_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "files").mkdir()
    for number, length in enumerate((10, 20)):
        write(tmp_path / "files" / f"{number}.mcap", [joints(i / 10, number, i) for i in range(length)])
    settings = tmp_path / "robot.yaml"
    settings.write_text("rate: 10\nkeys:\n  state: {topic: /joints, field: 'position[0:2]'}\n")

    def command(output: str, **changed: object) -> None:
        values = {"input": tmp_path / "files", "recording": settings, "output": tmp_path / output} | changed
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            import_mcap(compose("import_mcap", [f"{key}={value}" for key, value in values.items()]))

    command("demos.zarr")
    source = ZarrSource(tmp_path / "demos.zarr")
    assert source.episode_ends.tolist() == [10, 30] and source.keys == ("state",)
    assert source.read("state", 9, 11).tolist() == [[0, 9], [1, 0]]
    assert source.attributes["mcap"]["files"] == ["0.mcap", "1.mcap"]
    with pytest.raises(InputError, match=r"demos\.zarr is there already"):
        command("demos.zarr")
    with pytest.raises(InputError, match="is a folder without MCAP files"):
        command("other.zarr", input=tmp_path)
    with pytest.raises(InputError, match=r"recording=.*none.yaml cannot be read .* give the name of a file"):
        command("other.zarr", recording=tmp_path / "none.yaml")
    write(tmp_path / "files" / "3.mcap", [pose(0, 1)])
    with pytest.raises(InputError, match=r"3\.mcap has no topic /joints"):
        command("other.zarr")
    (tmp_path / "files" / "3.mcap").unlink()
    write(tmp_path / "files" / "2.mcap", [joints(i / 10, 1, math.inf) for i in range(3)])
    with pytest.raises(InputError, match=r"2\.mcap: key 'state' .* not finite"):
        command("other.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos.zarr", "files", "robot.yaml"]


def test_the_recording_of_the_page_can_be_read() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/mcap.md"
    (block,) = re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), flags=re.S)
    keys = parse(Recording, yaml.safe_load(block), "the page").keys
    assert keys["front"].size == (96, 96) and keys["turn"].resample == "slerp"


def test_settings_from_python() -> None:
    with pytest.raises(InputError, match="split_gap and split_topic: give one of the two"):
        Recording(10, {"a": TopicKey("/a", "data")}, split_gap=1.0, split_topic="/b")
    with pytest.raises(InputError, match="name at least one key"):
        Recording(10, {})


def test_joints_of_two_publishers_are_not_mixed(tmp_path: Path) -> None:
    messages = [joints(i / 20, i, -i, 9) for i in range(10)]
    path = write(tmp_path / "one.mcap", messages)
    assert len(episodes(path, STATE)) == 1
    *start, message = joints(0.225, 5, 6, 7)
    message.name = [f"finger_{i}" for i in range(len(message.position))]
    path = write(tmp_path / "two.mcap", [*messages[:5], (*start, message), *messages[5:]])
    with pytest.raises(
        InputError, match=r"message 5 is of finger_0, .*and those before of .*pick those of the key by name"
    ):
        episodes(path, STATE)


def named(seconds: float, names: list[str], *position: float) -> tuple[str, str, float, Any]:
    *start, message = joints(seconds, *position)
    message.name = names
    return (*start, message)  # type: ignore[return-value]


def test_joints_in_another_order_are_brought_to_that_of_the_first_file(tmp_path: Path, capsys) -> None:
    """Their order is not kept from one start of a robot to the next."""
    first = write(tmp_path / "a.mcap", [named(i / 10, ["a", "b", "c"], 1, 2, 3) for i in range(4)])
    other = write(tmp_path / "b.mcap", [named(i / 10, ["c", "a", "b"], 3, 1, 2) for i in range(4)])
    store = import_files([str(first), str(other)], str(tmp_path / "demos.zarr"), recording(STATE))
    assert ZarrSource(store).read("state", 0, 8).tolist() == [[1, 2]] * 8
    assert capsys.readouterr().err.count("another order than those before, and is brought to theirs: a") == 1
    third = write(tmp_path / "c.mcap", [named(i / 10, ["a", "d", "c"], 1, 2, 3) for i in range(4)])
    with pytest.raises(InputError, match=r"message 0 is of a, d, c, and those before of a, b, c"):
        import_files([str(first), str(third)], str(tmp_path / "none.zarr"), recording(STATE))
    short = write(tmp_path / "d.mcap", [named(0, ["a", "b"], 1, 2, 3), named(0.1, ["b", "a"], 2, 1, 3)])
    with pytest.raises(InputError, match=r"message 1 is of b, a, and those before of a, b"):
        episodes(short, STATE)


@pytest.mark.parametrize(
    ("names", "position"),
    [(["a", "b", "d"], (1, 2, 3)), (["d", "b", "a", "c"], (4, 2, 1, 3)), (["b", "a"], (2, 1))],
)
def test_joints_that_a_path_leaves_out_may_be_any(
    tmp_path: Path, names: list[str], position: tuple[float, ...]
) -> None:
    """As those of another gripper on the same arm: the others are found by their names."""
    first = write(tmp_path / "a.mcap", [named(i / 10, ["a", "b", "c"], 1, 2, 3) for i in range(4)])
    other = write(tmp_path / "b.mcap", [named(i / 10, names, *position) for i in range(4)])
    files = [str(first), str(other)]
    for number, (index, expected) in enumerate((("0:2", [1, 2]), ("1", [2]))):
        keys = {"state": {"topic": "/joints", "field": f"position[{index}]"}}
        store = import_files(files, str(tmp_path / f"{number}.zarr"), recording(keys))
        assert ZarrSource(store).read("state", 0, 8).tolist() == [expected] * 8
    for number, field in enumerate(("position", "position[1:]")):
        keys = {"state": {"topic": "/joints", "field": field}}
        with pytest.raises(InputError, match=r"message 0 is of .*, and those before of a, b, c"):
            import_files(files, str(tmp_path / f"all_{number}.zarr"), recording(keys))


def test_joints_of_two_publishers_are_picked_by_name(tmp_path: Path) -> None:
    """An arm and its gripper often share a topic; each sends its own joints."""
    arm = [named(i / 20, ["b", "a"], -i, i) for i in range(8)]
    hand = [named(i / 20 + 0.01, ["finger"], 10 * i) for i in range(8)]
    mixed = [message for pair in zip(arm, hand, strict=True) for message in pair]
    path = write(tmp_path / "a.mcap", mixed)

    def keys(joints: list[str], field: str = "position", **more: Any) -> dict[str, Any]:
        return {"state": {"topic": "/joints", "field": field, "joints": joints, **more}}

    (both,) = episodes(path, keys(["a", "b"]) | {"hand": keys(["finger"])["state"]})
    # Rows are a tenth of a second apart, and begin with the first message of the hand.
    assert both["state"].tolist() == [[0, 0], [2, -2], [4, -4], [6, -6]]
    assert both["hand"].tolist() == [[0], [20], [40], [60]]
    for given, match in (
        (keys(["a", "c"]), r"field position, message 0: joint c is there 0 times, beside b, a"),
        (keys(["d"]), r"has no message of d"),
        (keys(["a"], field="effort"), r"message 0: there is no field 'effort'"),
        (keys(["a"], field="header"), r"'header' has no values for 2 joints"),
        (keys(["a"], field="header.stamp"), r"joints: 'stamp' comes without the names of joints"),
    ):
        with pytest.raises(InputError, match=match):
            episodes(path, given)
    odd = write(tmp_path / "b.mcap", [named(0, ["a", "b"], 1, 2, 3)])
    with pytest.raises(InputError, match="'position' has 3 values for 2 joints"):
        episodes(odd, keys(["a"]))
    for given, match in (
        (keys(["a"], field="position[0]"), r"picked by name out of a whole list, .*field is position\[0\]"),
        (keys([]), "picked by name out of a whole list"),
        (keys(["a", "a"]), "a, a names one of them twice"),
        ({"state": {"topic": "/joints", "joints": ["a"]}}, "field is not given"),
        ({"state": {"topic": "/joints", "field": "position", "joints": "a"}}, "joints"),
    ):
        with pytest.raises(InputError, match=match):
            recording(given)


def test_joints_of_commands_have_names_too(tmp_path: Path) -> None:
    def command(seconds: float, names: list[str], *positions: float) -> tuple[str, str, float, Any]:
        points = [SimpleNamespace(positions=list(positions))]
        return "/command", TRAJECTORY, seconds, SimpleNamespace(joint_names=names, points=points)

    path = write(tmp_path / "a.mcap", [command(0, ["a", "b"], 1, 2), command(0.1, ["b", "a"], 2, 1)])
    keys = {"action": {"topic": "/command", "field": "points[0].positions", "stamp": "log"}}
    assert episodes(path, keys)[0]["action"].tolist() == [[1, 2], [1, 2]]


def test_transforms_of_two_frames_are_not_mixed(tmp_path: Path) -> None:
    def transform(seconds: float, frame: str, x: float) -> tuple[str, str, float, Any]:
        moved = SimpleNamespace(x=x, y=0.0, z=0.0)
        held = SimpleNamespace(child_frame_id=frame, translation=moved)
        return "/tf", TRANSFORMS, seconds, SimpleNamespace(transforms=[held])

    keys = {"tool": {"topic": "/tf", "field": "transforms[0].translation", "stamp": "log"}}
    path = write(tmp_path / "a.mcap", [transform(i / 10, "tool", i) for i in range(4)])
    assert episodes(path, keys)[0]["tool"][:, 0].tolist() == [0, 1, 2, 3]
    path = write(tmp_path / "b.mcap", [transform(i / 10, ("tool", "camera")[i % 2], i) for i in range(4)])
    with pytest.raises(InputError, match="message 1 is of camera, and those before of tool"):
        episodes(path, keys)


def test_poses_in_another_frame_are_said_once(tmp_path: Path, capsys) -> None:
    messages = [pose(i / 10, i) for i in range(6)]
    for number, (*_, message) in enumerate(messages):
        message.header.frame_id = "odom" if number > 3 else "map"
    episodes(write(tmp_path / "a.mcap", messages), {"state": {"topic": "/pose", "field": "pose.position"}})
    assert (
        capsys.readouterr().err.count("message 4 is in the frame 'odom', and those before are in 'map'") == 1
    )


def test_frames_that_are_none_or_are_called_otherwise_are_not_said(tmp_path: Path, capsys) -> None:
    """Joints are in no frame, whatever their header says; older versions of ROS put a slash first."""
    poses, moved = [pose(i / 10, i) for i in range(6)], [joints(i / 10, i, -i, 9) for i in range(6)]
    for number, (one, other) in enumerate(zip(poses, moved, strict=True)):
        one[3].header.frame_id = ("", "map", "/map")[number % 3]
        other[3].header.frame_id = ("base", "base_link")[number % 2]
    keys = STATE | {"pose": {"topic": "/pose", "field": "pose.position"}}
    episodes(write(tmp_path / "a.mcap", [*poses, *moved]), keys)
    assert not capsys.readouterr().err


def test_what_moves_may_be_called_otherwise_in_another_file(tmp_path: Path, capsys) -> None:
    """As the bases of two robots; of a list of several it would be another one."""

    def odometry(seconds: float, frame: str, x: float) -> tuple[str, str, float, Any]:
        moved = SimpleNamespace(x=x, y=0.0, z=0.0)
        return "/odom", MOVED, seconds, SimpleNamespace(child_frame_id=frame, translation=moved)

    files = [
        str(write(tmp_path / f"{n}.mcap", [odometry(i / 10, frame, i) for i in range(4)]))
        for n, frame in enumerate(("", "a/base", "a/base", "b/base"))
    ]
    keys = {"base": {"topic": "/odom", "field": "translation", "stamp": "log"}}
    import_files(files[:3], str(tmp_path / "quiet.zarr"), recording(keys))
    assert "frame" not in capsys.readouterr().err
    store = import_files(files, str(tmp_path / "demos.zarr"), recording(keys))
    assert ZarrSource(store).read("base", 0, 16)[:, 0].tolist() == [0, 1, 2, 3] * 4
    assert capsys.readouterr().err.count("is in the frame 'b/base', and those before are in 'a/base'") == 1


@pytest.mark.parametrize(
    ("shift", "said"),
    [(0.0, ""), (-0.4, ""), (-1.5, "1.500 s before it"), (0.3, "0.300 s after it was logged")],
)
def test_clocks_that_differ_are_said(tmp_path: Path, capsys, shift: float, said: str) -> None:
    """A picture may come late, but neither very late nor before it was taken."""
    poses = [(*pose(i / 20, i)[:3], pose(i / 20 + shift, i)[3]) for i in range(60)]
    path = write(tmp_path / "a.mcap", [*poses, *(joints(i / 20, i, -i, 9) for i in range(60))])
    keys = STATE | {"pose": {"topic": "/pose", "field": "pose.position"}}
    episodes(path, keys)
    err = capsys.readouterr().err
    assert said in err if said else not err
    keys = {key: value | {"stamp": "log"} for key, value in keys.items()}
    episodes(path, keys)
    assert not capsys.readouterr().err


def test_the_clock_of_a_simulation_that_is_slower_is_no_clock_that_differs(tmp_path: Path, capsys) -> None:
    """All fall behind the log alike; what begins later is further behind in the middle of its messages."""

    def slow(message: tuple[str, str, float, Any]) -> tuple[str, str, float, Any]:
        topic, kind, seconds, held = message
        return topic, kind, 2 * seconds, held

    poses = [slow(pose(i / 20, i)) for i in range(60, 120)]
    path = write(tmp_path / "a.mcap", [*(slow(joints(i / 20, i, -i, 9)) for i in range(120)), *poses])
    episodes(path, STATE | {"pose": {"topic": "/pose", "field": "pose.position"}})
    assert not capsys.readouterr().err


def write_bytes(path: Path, messages: list[tuple[str, str, str, bytes]], **settings: Any) -> Path:
    """Topic, type, its definition, the bytes of a message; one every tenth of a second."""
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer, channels = Writer(file, **settings), {}
        writer.start()
        for number, (topic, kind, definition, data) in enumerate(messages):
            if (topic, kind) not in channels:
                schema = writer.register_schema(kind, "ros2msg", definition.encode())
                channels[topic, kind] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic, kind], at(number / 10), data, at(number / 10))
        writer.finish()
    return path


CDR = b"\0\1\0\0" + bytes(8)
NUMBER = {"state": {"topic": "/a", "field": "data", "stamp": "log"}}


def test_messages_that_are_compressed_are_no_numbers(tmp_path: Path) -> None:
    """As ``ros2 bag record --compression-mode message`` leaves them; decoded they would be zeros."""
    messages = [("/a", "std_msgs/msg/Float64", "float64 data\n", CDR)]
    assert episodes(write_bytes(tmp_path / "a.mcap", messages), NUMBER)[0]["state"].tolist() == [[0]]
    for first, sentence in ((b"\x28\xb5\x2f\xfd", "compressed one by one with zstd"), (b"{}", "not in CDR")):
        messages = [("/a", "std_msgs/msg/Float64", "float64 data\n", first + CDR)]
        with pytest.raises(InputError, match=sentence):
            episodes(write_bytes(tmp_path / "b.mcap", messages), NUMBER)


def test_a_topic_of_two_types_and_a_summary_without_topics_are_told(tmp_path: Path) -> None:
    one, other = (("/a", f"std_msgs/msg/{kind}", "float64 data\n", CDR) for kind in ("Float64", "Float"))
    with pytest.raises(InputError, match=r"has messages of several types, std_msgs/msg/Float and std_msgs/"):
        episodes(write_bytes(tmp_path / "a.mcap", [one, other]), NUMBER)
    path = write_bytes(tmp_path / "b.mcap", [one], repeat_channels=False, repeat_schemas=False)
    with pytest.raises(InputError, match="leaves out its 1 topics: write the file again with them"):
        episodes(path, NUMBER)


@pytest.mark.parametrize(
    ("name", "begins", "sentence"),
    [
        ("a.db3", b"SQLite format 3\0", "recording of ROS 2 in SQLite"),
        ("a.mcap.zstd", b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it"),
        ("a.bag", b"#ROSBAG V2.0\n", "is a recording of ROS 1"),
    ],
)
def test_other_recordings_are_called_what_they_are(
    tmp_path: Path, name: str, begins: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(begins + bytes(100))
    with pytest.raises(InputError, match=sentence):
        episodes(tmp_path / name, STATE)
    if name != "a.bag":
        with pytest.raises(InputError, match=r"folder without MCAP files \(.mcap\), but with"):
            import_files([str(tmp_path)], str(tmp_path / "demos.zarr"), recording(STATE))


@pytest.mark.parametrize("split", [{"split_gap": 2}, {"split_topic": "/episode"}])
def test_a_value_that_holds_as_long_as_no_other_comes_holds_in_the_next_episode(tmp_path, split) -> None:
    seconds = [*np.arange(0, 1.01, 0.1), *np.arange(5, 6.01, 0.1)]
    grips = [(0.0, True), (0.8, False), (5.5, True)]
    messages = [joints(s, s, 0) for s in seconds]
    messages += [plain("/grip", "Bool", s, closed) for s, closed in grips]
    messages += [plain("/episode", "Float64", s, mark) for s, mark in ((0.0, 1.0), (1.0, 0.0), (5.0, 2.0))]
    path = write(tmp_path / "a.mcap", sorted(messages, key=lambda message: message[2]))
    grip = {"topic": "/grip", "field": "data", "stamp": "log", "max_gap": 0}
    first, second = episodes(path, STATE | {"grip": grip}, stamp="log", **split)
    np.testing.assert_allclose(second["state"][0, 0], 5, atol=0.06)
    assert first["grip"][:, 0].tolist() == [1] * 8 + [0] * (len(first["grip"]) - 8)
    closed = second["grip"][:, 0].tolist()
    assert closed[0] == 0 and closed[-1] == 1 and len(closed) >= 10, "from its first moment on"
    # What may be old by so many ticks, or lies between two messages, is of its own episode alone.
    held = grip | {"max_gap": 60}
    assert len(episodes(path, STATE | {"grip": held}, stamp="log", split_gap=2)[1]["grip"]) < len(closed)
    between = grip | {"resample": "interpolate"}
    assert len(episodes(path, STATE | {"grip": between}, stamp="log", split_gap=2)[1]["grip"]) < len(closed)


def test_exponents_without_a_dot_are_numbers_in_the_recording(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e1 for a text."""
    settings = tmp_path / "robot.yaml"
    settings.write_text(
        "rate: 1e1\nmax_gap: 5e-1\nkeys: {state: {topic: /joints, field: data, max_gap: 2E0}}\n"
    )
    read = read_recording(str(settings))
    assert (read.rate, read.max_gap, read.keys["state"].max_gap) == (10, 0.5, 2)
    settings.write_text("rate: 1e-\nkeys: {state: {topic: /joints, field: data}}\n")
    with pytest.raises(InputError, match="rate=1e- must be a number above 0"):
        read_recording(str(settings))


def test_numbers_that_float32_does_not_hold_are_said_to_be_rounded(tmp_path: Path, capsys) -> None:
    """Seconds of the year 2025 are kept to 64 s: what comes of them never changes."""
    ticking = [joints(i / 20, 1.75e9 + i / 20, i) for i in range(41)]
    keys = {"state": {"topic": "/joints", "field": "position[0:2]"}}
    (episode,) = episodes(write(tmp_path / "a.mcap", ticking), keys)
    assert np.ptp(episode["state"][:, 0]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("key 'state' (/joints): element [0] lies in 1750000000 to 1750000002, which the")
    episodes(write(tmp_path / "b.mcap", [joints(i / 20, 100 + i / 1000, 0.1) for i in range(41)]), keys)
    assert not capsys.readouterr().err
