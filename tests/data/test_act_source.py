"""ACT's files: read by rows across them; what is refused."""

import pickle
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from shortcut_policy.data import ActSource
from shortcut_policy.data.formats import open_demonstrations
from shortcut_policy.data.source import EpisodeSource
from shortcut_policy.errors import InputError

LENGTHS = {0: 5, 2: 3, 10: 4}


def write(folder: Path, number: int, rows: int, **more: np.ndarray) -> Path:
    """An episode whose numbers say where they are from."""
    folder.mkdir(exist_ok=True)
    numbers = 100 * number + np.arange(rows)
    with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
        file.attrs["sim"] = True
        file["action"] = np.repeat(numbers[:, None], 14, 1).astype(np.float32)
        file["observations/qpos"] = np.repeat(numbers[:, None], 14, 1).astype(np.float64)
        file["observations/images/top"] = np.tile(numbers[:, None, None, None] % 256, (1, 4, 6, 3)).astype(
            np.uint8
        )
        for path, values in more.items():
            file[path] = values
    return folder / f"episode_{number}.hdf5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, rows in LENGTHS.items():
        write(tmp_path / "act", number, rows)
    return tmp_path / "act"


def test_rows_run_through_the_files_in_the_order_of_their_numbers(folder: Path):
    source: EpisodeSource = ActSource(folder)
    assert source.episode_ends.tolist() == [5, 8, 12]
    assert source.keys == ("action", "images/top", "qpos")
    assert source.shapes == {"action": (14,), "images/top": (4, 6, 3), "qpos": (14,)}
    whole = [*range(5), *range(200, 203), *range(1000, 1004)]
    assert source.read("qpos", 0, 12)[:, 3].tolist() == whole
    for start, stop in ((0, 0), (4, 6), (5, 8), (3, 99), (11, 12)):
        rows = source.read("images/top", start, stop)
        assert rows.dtype == np.uint8 and rows[:, 1, 2, 0].tolist() == [n % 256 for n in whole[start:stop]]
    again = pickle.loads(pickle.dumps(source))
    assert again.read("action", 7, 9)[:, 0].tolist() == [202, 1000]


def test_it_is_known_by_its_files(folder: Path):
    source = open_demonstrations(folder)
    assert isinstance(source, ActSource) and source.episode_ends.tolist() == [5, 8, 12]
    with pytest.raises(InputError, match=r"episode_ends is a setting for zarr stores, and .* is none"):
        open_demonstrations(folder, episode_ends="meta/cuts")


def test_what_some_files_lack_is_no_key(folder: Path):
    write(folder, 11, 2, effort=np.zeros((2, 14)))
    source = ActSource(folder)
    assert "effort" not in source.keys
    with pytest.raises(
        InputError, match=r"effort is missing in 3 of the 4 files of .*act: record it there too"
    ):
        source.read("effort", 0, 1)


def test_what_an_episode_holds_once_blocks_nothing(folder: Path):
    """A sentence as numbers, sizes of pictures: not all that lies in a file is of its steps."""
    write(folder, 11, 3, words=np.zeros((1, 512), np.float32), sizes=np.zeros((2, 3)), other=np.zeros((3, 2)))
    source = ActSource(folder)
    assert source.keys == ("action", "images/top", "qpos")
    assert "words of" in source.lacking["words"] and "has 1 rows, and 3 actions" in source.lacking["words"]
    assert source.lacking.keys() == {"words", "sizes", "other"}
    with pytest.raises(InputError, match="needs a row for each step"):
        source.read("words", 0, 1)


def test_what_an_observation_holds_once_blocks_nothing(folder: Path):
    for number, rows in LENGTHS.items():
        write(folder, number, rows, **{"observations/words": np.zeros((1, 512), np.float32)})
    source = ActSource(folder)
    assert source.keys == ("action", "images/top", "qpos")
    with pytest.raises(InputError, match=r"observations/words of .*hdf5 has 1 rows, and \d actions"):
        source.read("words", 0, 1)


def test_arrays_whose_names_begin_like_stepwise_ones_block_nothing(folder: Path):
    for number, rows in LENGTHS.items():
        once = np.zeros((1, 3), np.float32)
        write(folder, number, rows, action_limits=once, **{"observations/qpos_limits": once})
    source = ActSource(folder)
    assert source.keys == ("action", "images/top", "qpos")
    assert source.lacking.keys() == {"action_limits", "qpos_limits"}


def test_an_episode_of_no_step_is_called_so(folder: Path):
    write(folder, 11, 0)
    with pytest.raises(InputError, match=r"_11\.hdf5 holds no step, as its action is empty; leave the file"):
        ActSource(folder)


def test_an_array_that_nobody_can_read_blocks_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write(folder, 11, 2, **{"observations/force": np.zeros((2, 3)), "observations/touch": np.zeros((2, 3))})
    write(folder, 12, 2, **{"observations/force": np.zeros((2, 6))})
    with h5py.File(folder / "episode_12.hdf5", "a") as file:
        file.create_dataset("observations/touch", data=np.zeros((2, 3)), compression="lzf")
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda number: number != h5py.h5z.FILTER_LZF)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    source = ActSource(folder)
    assert source.keys == ("action", "images/top", "qpos") and len(source.read("qpos", 0, 99)) == 16
    assert "is it of another robot" in source.lacking["force"] and "filter lzf" in source.lacking["touch"]


def test_a_file_of_git_lfs_is_told(folder: Path):
    (folder / "episode_2.hdf5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match=r"episode_2.hdf5 is a pointer of git LFS"):
        ActSource(folder)


def test_what_cannot_be_used_is_told(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"none has no episode_<number>\.hdf5; a dataset of ACT is a folder"):
        ActSource(tmp_path / "none")
    uneven = write(folder, 12, 2, **{"observations/qvel": np.zeros((3, 14))})
    with pytest.raises(
        InputError, match=r"observations/qvel of .*episode_12\.hdf5 has 3 rows, and 2 actions"
    ):
        ActSource(folder)
    with h5py.File(uneven, "w") as file:
        file["action"] = np.zeros((2, 7), np.float32)
    with pytest.raises(InputError, match=r"action of .*_12\.hdf5 is float32 of shape \[7\] .* another robot"):
        ActSource(folder)
    with h5py.File(uneven, "w") as file:
        file["qpos"] = np.zeros((2, 7))
    with pytest.raises(InputError, match=r"_12\.hdf5 has no actions \(it holds qpos\)"):
        ActSource(folder)
    with h5py.File(write(folder, 12, 2), "a") as file:
        file.attrs["compress"] = True
    with pytest.raises(InputError, match="holds its pictures as JPEG"):
        ActSource(folder)
    uneven.write_bytes(uneven.read_bytes()[:300])
    with pytest.raises(InputError, match=r"_12\.hdf5 cannot be opened"):
        ActSource(folder)
