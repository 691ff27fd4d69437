"""Files whose values are wrong in ways that the libraries below notice late or not: one sentence for each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortcut_policy.data import EpisodeWriter, RobomimicSource, ZarrSource
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.minari_source import MinariSource
from shortcut_policy.errors import InputError, TrainingError, reading
from tests.data.lerobot_folders import change_info, copy_of

h5py = pytest.importorskip("h5py")
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def demonstrations(path: Path, change: Callable[[Any], None]) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = '{"env_name": "Lift", "type": 1, "env_kwargs": {}}'
        for number, length in enumerate((3, 4)):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"] = np.zeros((length, 2))
            demo["obs/state"] = np.zeros((length, 3))
        change(file)
    return path


def replace(file: Any, name: str, make: Callable[[Any, str], None]) -> None:
    del file[name]
    make(file, name)


HURT: dict[str, Callable[[Any], None]] = {
    "a group in itself": lambda file: file.__setitem__("data/demo_0/obs/again", file["data/demo_0"]),
    "a link to nothing": lambda file: replace(
        file, "data/demo_1", lambda f, name: f.__setitem__(name, h5py.SoftLink("/nowhere"))
    ),
    "text for numbers": lambda file: replace(
        file, "data/demo_0/actions", lambda f, name: f.create_dataset(name, (3, 2), h5py.string_dtype())
    ),
    "numbers for a group": lambda file: replace(
        file, "data/demo_0", lambda f, name: f.create_dataset(name, data=np.zeros(3))
    ),
    "endless numbers for a group": lambda file: replace(
        file, "data/demo_0", lambda f, name: f.create_dataset(name, (2**40,), "u1", chunks=(64,))
    ),
    "endless data": lambda file: replace(
        file, "data", lambda f, name: f.create_dataset(name, (2**40,), "u1", chunks=(64,))
    ),
    "many samples": lambda file: file["data/demo_0"].attrs.__setitem__("num_samples", [1, 2]),
    "no data": lambda file: replace(file, "data", lambda f, name: f.create_dataset(name, data=1.0)),
}


@pytest.mark.parametrize("change", HURT.values(), ids=HURT)
def test_a_robomimic_file_that_is_none_is_refused_in_a_sentence(change: Callable, tmp_path: Path):
    path = demonstrations(tmp_path / "hurt.hdf5", change)
    for read in (RobomimicSource, lambda path: convert(path, tmp_path / "made.zarr")):
        with pytest.raises(InputError, match=r"hurt\.hdf5") as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "made.zarr").exists()


def test_masks_of_another_kind_are_told(tmp_path: Path):
    path = demonstrations(tmp_path / "hurt.hdf5", lambda file: file.__setitem__("mask/train", 3.0))
    with pytest.raises(InputError, match=r"mask of .*hurt\.hdf5 cannot be read"):
        RobomimicSource(path, filter_key="train")
    path = demonstrations(tmp_path / "array.hdf5", lambda file: file.__setitem__("mask", 3.0))
    with pytest.raises(InputError, match=r"array\.hdf5 has no filter key 'train'; it has none"):
        RobomimicSource(path, filter_key="train")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        writer.add_episode({"state": np.zeros((3, 2), np.float32), "action": np.zeros((3, 1), np.float32)})
    return tmp_path / "a.zarr"


@pytest.mark.parametrize("text", ["[]", "7", '{"zarr_format": []}', "null", '{"a": ' * 200 + "1" + "}" * 200])
@pytest.mark.parametrize("name", [".zgroup", "data/state/.zarray", "meta/episode_ends/.zarray", ".zattrs"])
def test_metadata_of_a_store_that_are_none_are_told(name: str, text: str, store: Path):
    (store / name).write_text(text)
    try:
        source = ZarrSource(store)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:  # attributes may hold anything, and the other key is still there
        assert "action" in source.keys


def test_a_chunk_that_is_a_link_to_nothing_is_told(store: Path):
    source = ZarrSource(store)
    (store / "data/state/0.0").unlink()
    (store / "data/state/0.0").symlink_to(store / "nowhere")
    with pytest.raises(InputError, match=r"data/state of .*a\.zarr cannot be read \(FileNotFoundError"):
        source.read("state", 0, 1)


def test_a_step_of_a_terabyte_is_not_made_room_for(store: Path, tmp_path: Path):
    metadata = store / "data/state/.zarray"
    told = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**told, "shape": [3, 2**38], "chunks": [3, 2**38]}))
    source = ZarrSource(store, absent_chunks="fill")
    assert source.keys == ("action",)
    assert "has 1.02e+03 GiB a step by its shape [274877906944]" in source.lacking["state"]
    path = demonstrations(
        tmp_path / "large.hdf5",
        lambda file: replace(
            file,
            "data/demo_0/obs/state",
            lambda f, name: f.create_dataset(name, (3, 2**38), "f4", chunks=(1, 64)),
        ),
    )
    assert "a step by its shape [274877906944]" in RobomimicSource(path).lacking["state"]


@pytest.mark.parametrize("metadata", [7, {"total_episodes": "all"}, {"total_episodes": None}])
def test_minari_metadata_of_another_kind_are_told(metadata: Any, tmp_path: Path):
    folder = copy_of(FIXTURES / "small-v0", tmp_path)
    (folder / "data/metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="copy"):
        MinariSource(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"data_path": "{episode_index.x}"},
        {"data_path": 3},
        {"features": {"action": {"dtype": "image", "shape": [2, 2, 3], "info": 3}}},
        {"codebase_version": []},
        {"total_frames": {}},
    ],
    ids=str,
)
def test_lerobot_info_of_another_kind_is_told(values: dict[str, Any], arm: Path, tmp_path: Path):
    from shortcut_policy.data.lerobot_source import LeRobotSource

    folder = copy_of(arm, tmp_path)
    change_info(folder, **values)
    with pytest.raises(InputError, match="copy") as caught:
        LeRobotSource(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_reading_keeps_what_is_meant_for_people():
    for kind in (InputError, TrainingError):
        with pytest.raises(kind, match=r"^as it was$"), reading("a file"):
            raise kind("as it was")
    with (
        pytest.raises(InputError, match=r"^a file cannot be read \(KeyError: 'x'\); copy it$") as caught,
        reading("a file", "copy it"),
    ):
        raise KeyError("x")
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(KeyboardInterrupt), reading("a file"):
        raise KeyboardInterrupt


def test_a_conversion_says_what_is_wrong_with_its_input(tmp_path: Path):
    path = demonstrations(tmp_path / "hurt.hdf5", HURT["a group in itself"])
    with pytest.raises(InputError, match=r"hurt\.hdf5 cannot be read \(Recursion"):
        convert(path, tmp_path / "made.zarr", ConvertOptions(lossy=True))
