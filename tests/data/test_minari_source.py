"""A dataset that Minari 0.5.4 wrote, read without it; and what is refused."""

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shortcut_policy.data import MinariSource
from shortcut_policy.data.source import Field
from shortcut_policy.errors import InputError

#: Two episodes of 4 and 5 steps; observations state, goal/xy, image (JPEG) and a pair, infos of T + 1 rows.
FIXTURE = Path(__file__).parents[1] / "fixtures" / "small-v0"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "small-v0")
    return tmp_path / "small-v0"


def change(path: Path, edit: Any) -> Path:
    with h5py.File(path / "data/main_data.hdf5", "a") as opened:
        edit(opened)
    return path


def test_rows_are_the_observations_before_their_actions():
    source = MinariSource(FIXTURE)
    assert source.episode_ends.tolist() == [4, 9]
    assert source.read("state", 0, 9)[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert source.read("rewards", 3, 6).tolist() == [4, 1, 2]
    assert source.last("state")[:, 0].tolist() == [4, 5] and source.last("actions") is None
    assert np.array_equal(
        pickle.loads(pickle.dumps(source)).read("goal/xy", 2, 6), source.read("goal/xy", 2, 6)
    )
    assert source.shapes["pair/_index_1"] == (2,) and source.read("infos/success", 0, 9).sum() == 0
    Field("state", (3,)).check(source)
    assert MinariSource(FIXTURE / "data").keys == source.keys


def test_jpegs_are_pictures():
    source = MinariSource(FIXTURE)
    assert source.shapes["image"] == (32, 32, 3) and source.dtypes["image"] == np.uint8
    images = source.read("image", 0, 4)
    assert abs(images[3, 20, 5].astype(int) - 24).max() <= 2


def test_a_single_array_of_observations_has_its_own_name(copy):
    def edit(opened: h5py.File) -> None:
        for episode in opened.values():
            rows = episode["observations/state"][()]
            del episode["observations"]
            episode["observations"] = rows

    source = MinariSource(change(copy, edit))
    assert source.shapes["observations"] == (3,) and "state" not in source.keys


def set_rows(name: str, values: Any) -> Any:
    def edit(opened: h5py.File) -> None:
        del opened[name]
        opened[name] = values

    return edit


def drop(name: str) -> Any:
    return lambda opened: opened.__delitem__(name)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            set_rows("episode_0/observations/state", np.zeros((4, 3))),
            "one more than its 4 actions.*as many as",
        ),
        (
            set_rows("episode_1/rewards", np.zeros(6)),
            "rewards in episode_1 .* as many as its 5 actions, not 6",
        ),
        (
            set_rows("episode_0/actions", np.full((4, 2), np.nan, "f4")),
            "action 0 of episode_0 .* not a finite number",
        ),
        (drop("episode_1/actions"), "episode_1 of .* has no actions"),
        (drop("episode_1"), "counts 2 episodes, and main_data.hdf5 holds 1: it is being written"),
        (lambda opened: opened.move("episode_1", "other"), "'other' is not called so"),
        (
            lambda opened: (
                opened.move("episode_0/actions", "episode_0/a/x")
                or opened.move("episode_0/a", "episode_0/actions")
            ),
            "are a dictionary or a tuple",
        ),
    ],
)
def test_bad_datasets_get_a_sentence(copy, edit, sentence):
    with pytest.raises(InputError, match=sentence):
        MinariSource(change(copy, edit))


def test_choices_are_no_actions(copy):
    def edit(opened: h5py.File) -> None:
        for episode in opened.values():
            length = len(episode["actions"])
            del episode["actions"]
            episode["actions"] = np.zeros(length, int)

    with pytest.raises(InputError, match=r"int64 of shape .. per step, .* choices out of a set"):
        MinariSource(change(copy, edit))


def test_what_only_some_episodes_have_is_said_by_who_needs_it(copy):
    source = MinariSource(change(copy, drop("episode_1/observations/state")))
    sentence = "observations/state is missing in episode_1 of the 2 episodes"
    for use in (lambda: Field("state", (3,)).check(source), lambda: source.read("state", 0, 1)):
        with pytest.raises(InputError, match=sentence):
            use()
    with pytest.raises(InputError, match=r"has no key 'position'; it holds actions, "):
        source.read("position", 0, 1)


def test_observations_of_another_length_are_said_by_who_needs_them(copy):
    """A sentence as numbers, once an episode: others are read."""

    def edit(opened: h5py.File) -> None:
        for episode in opened.values():
            episode["observations/words"] = np.zeros((1, 512))

    source = MinariSource(change(copy, edit))
    assert "state" in source.keys and len(source.read("state", 0, 9)) == 9
    sentence = "observations/words in episode_0 .* one more than its 4 actions, .* there are 1 of them"
    with pytest.raises(InputError, match=sentence):
        source.read("words", 0, 1)


def test_other_mistakes_get_a_sentence(copy, tmp_path):
    with pytest.raises(InputError, match=r"has no data/main_data.hdf5; a Minari dataset is"):
        MinariSource(tmp_path / "none")
    cut = copy / "data/main_data.hdf5"
    cut.write_bytes(cut.read_bytes()[:-4000])
    with pytest.raises(InputError, match=r"was cut short or is being written"):
        MinariSource(copy)
    cut.unlink()
    (copy / "data/metadata.json").write_text(json.dumps({"data_format": "arrow"}))
    with pytest.raises(InputError, match=r'is stored as Arrow, .* data_format="hdf5"'):
        MinariSource(copy)


def test_a_file_of_git_lfs_is_told(copy):
    (copy / "data/main_data.hdf5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match="is a pointer of git LFS"):
        MinariSource(copy)


@pytest.mark.parametrize("why", ["differ in shape", "differ in type", "filter"])
def test_an_array_that_nobody_can_read_hinders_no_other(copy, monkeypatch, why):
    """The whole dataset was refused."""

    def edit(opened: h5py.File) -> None:
        for number, name in enumerate(sorted(opened)):
            rows = len(opened[name]["actions"])
            values = np.zeros((rows, 2 + number)) if "shape" in why else np.zeros(rows, ("f4", "f8")[number])
            packing = {"compression": "lzf"} if why == "filter" else {}
            opened[name].create_dataset("infos/odd", data=values, **packing)

    change(copy, edit)
    if why == "filter":
        monkeypatch.setattr("h5py.h5z.filter_avail", lambda number: number != h5py.h5z.FILTER_LZF)
        monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    source = MinariSource(copy)
    assert "infos/odd" not in source.keys and source.read("state", 0, 9).shape == (9, 3)
    said = "compressed with the HDF5 filter lzf" if why == "filter" else "is it of another robot"
    with pytest.raises(InputError, match=said):
        Field("infos/odd", ()).check(source)
