"""Batches against rows picked by hand, and everything that is refused before training."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from shortcut_policy.data import DemonstrationDataset, EpisodeWriter, Field, ZarrSource
from shortcut_policy.errors import InputError
from tests.data.own_source import OwnSource

LENGTHS = (30, 9, 41, 25)
ROWS = sum(LENGTHS)
OBS = {
    "keypoint": Field("keypoint", (3, 2)),
    "agent": Field("state", (2,), columns=(1, 0), normalize="gaussian"),
    "image": Field("image", (4, 4, 3), normalize="image"),
}
ACTION = Field("action", (2,))
SIZES = {"horizon": 8, "n_obs_steps": 2, "n_action_steps": 4}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "action": rng.normal(size=(ROWS, 2)),
        "keypoint": rng.normal(size=(ROWS, 3, 2)).astype(np.float32),
        "state": rng.normal(size=(ROWS, 5)).astype(np.float32),
        "image": rng.integers(0, 256, (ROWS, 4, 4, 3)).astype(np.float32),
    }


def store(folder: Path, **replaced: np.ndarray) -> ZarrSource:
    with EpisodeWriter(folder / "a.zarr", overwrite=True) as writer:
        data = arrays() | replaced
        for start, stop in zip(np.cumsum(LENGTHS) - LENGTHS, np.cumsum(LENGTHS), strict=True):
            writer.add_episode({key: values[start:stop] for key, values in data.items()})
    return ZarrSource(folder / "a.zarr")


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> ZarrSource:
    """For tests that change nothing in it."""
    return store(tmp_path_factory.mktemp("data"))


def spoil(folder: Path, key: str, row: int, value: float) -> ZarrSource:
    """The writer refuses what is not finite, so the value is put in behind its back."""
    store(folder)
    array = zarr.open_group(folder / "a.zarr", mode="r+")[f"data/{key}"]
    array[row] = value
    return ZarrSource(folder / "a.zarr")


def dataset(source: ZarrSource, **options: object) -> DemonstrationDataset:
    return DemonstrationDataset(
        source, **({"obs": OBS, "action": ACTION, "val_fraction": 0.25} | SIZES | options)
    )


IN_MEMORY = pytest.mark.parametrize("memory_limit_mb", [1024, 0], ids=["memory", "lazy"])


@IN_MEMORY
def test_batches_equal_rows_picked_by_hand(tmp_path: Path, memory_limit_mb: float) -> None:
    data = arrays()
    demonstrations = dataset(store(tmp_path), memory_limit_mb=memory_limit_mb)
    assert len(demonstrations.val) > 0
    for windows in (demonstrations.train, demonstrations.val):
        batch = demonstrations.batch(windows)
        start, lo, hi = windows.numpy()[:, :, None].transpose(1, 0, 2)
        rows = np.clip(start + np.arange(8), lo, hi - 1)
        np.testing.assert_array_equal(batch["action"], data["action"].astype(np.float32)[rows])
        np.testing.assert_array_equal(batch["obs"]["keypoint"], data["keypoint"][rows[:, :2]])
        np.testing.assert_array_equal(batch["obs"]["agent"], data["state"][:, [1, 0]][rows[:, :2]])
        np.testing.assert_array_equal(batch["obs"]["image"], data["image"][rows[:, :2]])
        assert batch["obs"]["image"].dtype == torch.uint8
        assert batch["action"].dtype == batch["obs"]["keypoint"].dtype == torch.float32
    assert set(batch["obs"]) == set(OBS)


@IN_MEMORY
def test_train_and_validation_share_no_episode(tmp_path: Path, memory_limit_mb: float) -> None:
    demonstrations = dataset(store(tmp_path), memory_limit_mb=memory_limit_mb, max_train_episodes=2)
    train, val = (set(table[:, 1].tolist()) for table in (demonstrations.train, demonstrations.val))
    assert len(train) == 2
    assert len(val) == 1
    assert not train & val


@IN_MEMORY
def test_statistics_come_from_training_episodes_alone(tmp_path: Path, memory_limit_mb: float) -> None:
    data = arrays()
    demonstrations = dataset(store(tmp_path), memory_limit_mb=memory_limit_mb)
    (lo, hi) = demonstrations.val[0, 1:].tolist()
    spoiled = {key: values.copy() for key, values in data.items()}
    spoiled["action"][lo:hi] *= 100
    spoiled["state"][lo:hi] += 100
    other = dataset(store(tmp_path, **spoiled), memory_limit_mb=memory_limit_mb)
    normalizer = other.fit_normalizer()
    for name, value in demonstrations.fit_normalizer().state_dict().items():
        assert torch.equal(value, normalizer.state_dict()[name]), name
    train = np.concatenate([data["action"][:lo], data["action"][hi:]]).astype(np.float32)
    y = normalizer.normalize("action", torch.from_numpy(train))
    assert y.amin() == pytest.approx(-1, abs=1e-6)
    assert y.amax() == pytest.approx(1, abs=1e-6)


def test_lazy_dataset_goes_to_workers(tmp_path: Path) -> None:
    demonstrations = dataset(store(tmp_path), memory_limit_mb=0)
    copy = pickle.loads(pickle.dumps(demonstrations))
    assert torch.equal(copy.batch(copy.train)["action"], demonstrations.batch(demonstrations.train)["action"])


def batches(demonstrations: DemonstrationDataset, **options: object) -> list[dict]:
    return list(DataLoader(demonstrations, batch_size=16, **options))


def assert_same(batch: dict, other: dict) -> None:
    assert batch.keys() == other.keys() == {"obs", "action"}
    for one, another in ((batch["obs"], other["obs"]), ({"": batch["action"]}, {"": other["action"]})):
        assert one.keys() == another.keys()
        for name, value in one.items():
            assert torch.equal(value, another[name]) and value.dtype == another[name].dtype


@IN_MEMORY
def test_items_are_windows_that_torch_collates_to_batches(whole_store: ZarrSource, memory_limit_mb) -> None:
    demonstrations = dataset(whole_store, memory_limit_mb=memory_limit_mb)
    assert isinstance(demonstrations, Dataset) and len(demonstrations) == len(demonstrations.train) > 16
    loaded = batches(demonstrations)
    assert sum(len(batch["action"]) for batch in loaded) == len(demonstrations)
    for number, batch in enumerate(loaded):
        assert_same(batch, demonstrations.batch(demonstrations.train[16 * number : 16 * (number + 1)]))
    assert_same(demonstrations[-1], demonstrations[np.int64(len(demonstrations) - 1)])
    last = {name: value[-1] for name, value in loaded[-1]["obs"].items()}
    assert_same(demonstrations[-1], {"obs": last, "action": loaded[-1]["action"][-1]})
    for number in (len(demonstrations), -len(demonstrations) - 1):
        with pytest.raises(IndexError, match=f"window {number} of {len(demonstrations)}"):
            demonstrations[number]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_open_the_store_for_themselves(tmp_path: Path, start: str, workers: int) -> None:
    """Even a zip, whose place in the file two processes would share otherwise."""
    store(tmp_path)
    path = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "a.zarr")
    demonstrations = dataset(ZarrSource(path), memory_limit_mb=0)
    expected = batches(demonstrations)
    found = batches(demonstrations, num_workers=workers, multiprocessing_context=start)
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        assert_same(batch, other)


def test_to_moves_tables_and_data(tmp_path: Path) -> None:
    """The meta device stands for any other device."""
    demonstrations = dataset(store(tmp_path)).to("meta")
    assert demonstrations.train.device == demonstrations.batch(demonstrations.train)["action"].device
    assert demonstrations.device.type == demonstrations.train.device.type == "meta"


def test_fields_come_from_a_yaml(tmp_path: Path) -> None:
    config = OmegaConf.create(
        """
        source: {_target_: shortcut_policy.data.ZarrSource, path: '???'}
        obs:
          agent: {_target_: shortcut_policy.data.Field, key: state, columns: [0, 1], shape: [2]}
        action: {_target_: shortcut_policy.data.Field, key: action, shape: [2]}
        """
    )
    config.source.path = store(tmp_path).path
    demonstrations = DemonstrationDataset(**instantiate(config, _convert_="all"), **SIZES)
    assert demonstrations.batch(demonstrations.train[:5])["obs"]["agent"].shape == (5, 2, 2)


def test_uint8_images_and_episodes_without_a_window(tmp_path: Path) -> None:
    source = store(tmp_path, image=arrays()["image"].astype(np.uint8))
    demonstrations = dataset(source, horizon=16, n_action_steps=2, val_fraction=0.0)
    assert set(demonstrations.train[:, 1].tolist()) == {0, 39, 80}
    assert demonstrations.val.shape == (0, 3)
    assert demonstrations.batch(demonstrations.val)["action"].shape == (0, 16, 2)
    assert demonstrations.batch(demonstrations.train[:1])["obs"]["image"].dtype == torch.uint8


@IN_MEMORY
@pytest.mark.parametrize(("key", "bad"), [("action", np.nan), ("keypoint", np.inf), ("state", -np.inf)])
def test_not_finite(tmp_path: Path, memory_limit_mb: float, key: str, bad: float) -> None:
    source = spoil(tmp_path, key, row=42, value=bad)
    with pytest.raises(InputError, match=rf"key '{key}' of .*a.zarr, row 42 \(episode 2, step 3\).*finite"):
        dataset(source, memory_limit_mb=memory_limit_mb)


def test_not_finite_in_a_column_that_is_not_used(tmp_path: Path) -> None:
    store(tmp_path)
    zarr.open_group(tmp_path / "a.zarr", mode="r+")["data/state"][3, 4] = np.nan
    dataset(ZarrSource(tmp_path / "a.zarr"))


@pytest.mark.parametrize("bad", [np.nan, 256.0, -1.0])
def test_pixels_out_of_range(tmp_path: Path, bad: float) -> None:
    with pytest.raises(
        InputError, match=r"key 'image' .* row 0 \(episode 0, step 0\) is not a pixel value in 0..255"
    ):
        dataset(spoil(tmp_path, "image", row=0, value=bad))


@IN_MEMORY
def test_corrupt_chunk(tmp_path: Path, memory_limit_mb: float) -> None:
    source = store(tmp_path)
    chunk = tmp_path / "a.zarr/data/keypoint/0.0.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(InputError, match=r"chunk file .*a\.zarr/data/keypoint/0\.0\.0 cannot be decoded"):
        dataset(source, memory_limit_mb=memory_limit_mb)


@IN_MEMORY
def test_missing_chunk(tmp_path: Path, memory_limit_mb: float) -> None:
    source = store(tmp_path)
    (tmp_path / "a.zarr/data/image/0.0.0.0").unlink()
    with pytest.raises(InputError, match=r"chunk file .*a\.zarr/data/image/0\.0\.0\.0 is missing"):
        dataset(source, memory_limit_mb=memory_limit_mb)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs": {"force": Field("force", (2,))}}, "no key 'force'; it holds action, image, keypoint, state"),
        (
            {"action": Field("action", (3,))},
            r"key 'action' .* shape \[2\] per step, but the task expects \[3\]",
        ),
        (
            {"obs": {"k": Field("keypoint", (9, 2))}},
            r"shape \[3, 2\] per step, but the task expects \[9, 2\]",
        ),
        (
            {"obs": {"s": Field("state", (1,), columns=(5,))}},
            r"shape \[5\] .* expects \[1\] with columns \[5\]",
        ),
        ({"action": Field("keypoint", (3, 2))}, "the action must have one axis"),
        ({"obs": {"action": ACTION}}, "no observation may be called 'action'"),
        ({"n_obs_steps": 0}, "n_obs_steps=0"),
        ({"n_obs_steps": 6}, "horizon=8 must hold n_obs_steps=6"),
        ({"horizon": 60}, "long enough for a window: the longest has 41 steps, horizon=60 needs 56"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"horizon": "16"}, r"^horizon='16' \(a text\) must be "),
        ({"max_train_episodes": 0}, "max_train_episodes=0"),
        *[
            ({name: value}, f"^{name}={value} must be ")
            for name, values in {
                "horizon": [None, 16.5, True],
                "val_fraction": ["abc", None, np.nan],
                "max_train_episodes": [1.5, "all"],
                "seed": [-1, 0.5, None],
                "memory_limit_mb": [None, np.nan, -1],
            }.items()
            for value in values
        ],
    ],
)
def test_settings_that_do_not_fit(whole_store: ZarrSource, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataset(whole_store, **options)


def test_text_cannot_be_learned(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("data/action", data=np.zeros((20, 2)))
    group.create_array("data/words", data=np.array([["push"]] * 20))
    group.create_array("meta/episode_ends", data=np.array([20]))
    with pytest.raises(InputError, match=r"key 'words' .*not a number"):
        dataset(ZarrSource(tmp_path / "a.zarr"), obs={"words": Field("words", (1,))})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shape": (2,), "normalize": "unit"},
            "normalize='unit' is not one of limits, gaussian, identity, image",
        ),
        *[({"shape": shape}, "whole numbers from 1 up") for shape in [(0,), ["a"], 2, None, [2.5], [np.nan]]],
        ({"shape": (2,), "columns": (-1, 0)}, "whole numbers from 0 up"),
        ({"shape": (3,), "columns": (0, 1)}, "2 columns are taken but its shape is"),
        ({"shape": (3,), "unscaled": (3,)}, r"unscaled=\[3\] must be numbers of elements of .* shape \[3\]"),
        ({"shape": (), "unscaled": (0,)}, r"unscaled=\[0\] must be"),
        ({"shape": (8, 8, 3), "unscaled": (0,), "normalize": "image"}, "and not of an image"),
    ],
)
def test_fields_that_contradict_themselves(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"field 'state': .*{message}"):
        Field("state", **arguments)


def test_a_path_in_place_of_a_source_and_obs_that_are_no_fields(demonstrations):
    action = Field("action", (2,))
    sizes = {"horizon": 16, "n_obs_steps": 2, "n_action_steps": 8}
    with pytest.raises(InputError, match=r"is a path: open it first, such as ZarrSource\("):
        DemonstrationDataset(demonstrations, {"state": Field("state", (5,))}, action, **sizes)
    with pytest.raises(InputError, match="must be a mapping of names to fields"):
        DemonstrationDataset(ZarrSource(demonstrations), ["state"], action, **sizes)


def test_a_cache_that_is_no_path_gets_a_sentence(whole_store: ZarrSource) -> None:
    with pytest.raises(InputError, match=r"^5 is given where the path of a file or folder has to be"):
        dataset(whole_store, cache=5)


def test_lazy_fields_are_read_from_files_in_the_cache(whole_store: ZarrSource, tmp_path: Path) -> None:
    lazy = dataset(whole_store, memory_limit_mb=0, cache=tmp_path)
    assert not lazy.in_memory and dataset(whole_store).in_memory
    assert len(list(tmp_path.rglob("*.rows"))) == len(OBS) + 1
    again = dataset(whole_store, memory_limit_mb=0, cache=tmp_path)
    assert_same(again.batch(again.train), dataset(whole_store).batch(again.train))
    for name, value in lazy.fit_normalizer().state_dict().items():
        assert torch.equal(value, dataset(whole_store).fit_normalizer().state_dict()[name])


def test_fields_of_the_same_values_share_them(whole_store: ZarrSource, tmp_path: Path) -> None:
    twice = {"a": Field("state", (5,)), "b": Field("state", (5,), normalize="gaussian")}
    lazy = dataset(whole_store, obs=twice, memory_limit_mb=0, cache=tmp_path)
    assert len(list(tmp_path.rglob("*.rows"))) == 2
    seen = lazy.batch(lazy.train)["obs"]
    assert torch.equal(seen["a"], seen["b"])


def test_elements_that_hardly_vary_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = arrays()["state"]
    still[:, 1] = 3 + 1e-6 * still[:, 1]
    source = store(tmp_path, state=still)
    normalizer = DemonstrationDataset(source, OBS, ACTION, **SIZES).fit_normalizer()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"agent (key 'state' of {source.path}): element [0] varies by ")
    assert "no more than min_range=0.0001, and counts as constant" in line
    assert normalizer.get_buffer("agent_scale")[0] == 0 < normalizer.get_buffer("agent_scale")[1]


def test_an_action_in_units_that_are_too_large_is_refused(tmp_path: Path) -> None:
    source = store(tmp_path, action=1e-6 * arrays()["action"])
    with pytest.raises(
        InputError, match=r"action \(key 'action'.*and so do all of them: give its field less"
    ):
        DemonstrationDataset(source, OBS, ACTION, **SIZES).fit_normalizer()
    fine = Field("action", (2,), min_range=1e-9)
    found = DemonstrationDataset(source, OBS, fine, **SIZES).fit_normalizer()
    assert (found.get_buffer("action_scale") > 1e-6).all()


def test_short_episodes_are_counted_and_can_be_padded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, sizes = store(tmp_path), {"horizon": 24, "n_obs_steps": 2, "n_action_steps": 4, "val_fraction": 0}
    left_out = DemonstrationDataset(source, OBS, ACTION, **sizes)
    err = capsys.readouterr().err
    assert (
        f"1 of 4 episodes of {source.path} have fewer than 20 steps, which a window of horizon=24 needs"
        in err
    )
    assert left_out.size["train_episodes"] == 3
    padded = DemonstrationDataset(source, OBS, ACTION, **sizes, pad_short_episodes=True)
    assert capsys.readouterr().err == ""
    # One window for each of the nine steps as the newest that is observed.
    assert padded.size == {"train_episodes": 4, "train_windows": len(left_out) + 9 + 1}
    own = padded.train[padded.train[:, 1] == LENGTHS[0]]
    last = padded.batch(own[-1:])["action"][0].numpy()
    np.testing.assert_array_equal(
        last, np.tile(arrays()["action"][LENGTHS[0] + 8].astype(np.float32), (24, 1))
    )
    with pytest.raises(InputError, match=r"data.pad_short_episodes=skip must be true or false"):
        DemonstrationDataset(source, OBS, ACTION, **sizes, pad_short_episodes="skip")


@pytest.mark.parametrize(("low", "high"), [(-2.0, 0.5), (0.0, 1.5)])
def test_the_range_of_the_actions(tmp_path: Path, low: float, high: float) -> None:
    actions = np.clip(arrays()["action"], low, high)
    demonstrations = DemonstrationDataset(
        store(tmp_path, action=actions), OBS, ACTION, **SIZES, val_fraction=0
    )
    found = demonstrations.value_range("action")
    np.testing.assert_allclose(found, (actions.min(0), actions.max(0)), rtol=1e-6)


def test_only_windows_that_begin_in_marked_rows_are_learned(tmp_path: Path) -> None:
    marks = np.zeros(ROWS, np.uint8)
    marks[[3, 4, 20]] = 1
    everything = dataset(store(tmp_path, intervention=marks), val_fraction=0)
    chosen = dataset(everything.source, val_fraction=0, only="intervention")
    before = everything.n_obs_steps - 1
    expected = [window for window in everything.train.tolist() if marks[window[0] + before]]
    assert len(expected) > 0 and chosen.train.tolist() == expected


@pytest.mark.parametrize("seed", range(4))
def test_of_episodes_with_marked_rows_some_are_held_out_and_some_trained_on(
    tmp_path: Path, seed: int
) -> None:
    """Whichever are drawn: corrections are in few episodes."""
    marks = np.zeros(ROWS, np.uint8)
    marks[[33, 68]] = 1
    chosen = dataset(store(tmp_path, intervention=marks), only="intervention", val_fraction=0.3, seed=seed)
    assert len(chosen.train) == len(chosen.val) == 1


@pytest.mark.parametrize(
    ("marks", "only", "message"),
    [
        (0, "correction", "data.only=correction: .* has no such key; it holds action, "),
        (2, "intervention", "must hold one 0 or 1 in each row"),
        (0, "intervention", r"begins in a row that 'intervention' marks \(0 of \d+ rows are marked\)"),
        (0, "state", "must hold one 0 or 1 in each row"),
    ],
)
def test_marks_that_choose_nothing_are_refused(tmp_path: Path, marks: int, only: str, message: str) -> None:
    source = store(tmp_path, intervention=np.full(ROWS, marks, np.uint8))
    with pytest.raises(InputError, match=message):
        dataset(source, only=only)


@IN_MEMORY
@pytest.mark.parametrize(
    ("times", "normalize", "sentence"),
    [
        (
            1.75e9 + 0.5 * np.arange(ROWS),
            "limits",
            "1750000000 to 1750000052, 52 apart, of which float32, in wh",
        ),
        (
            17 * 10**17 + 10**7 * np.arange(ROWS),
            "gaussian",
            "float32, in which it is learned, keeps 0: take a",
        ),
        (
            1.75e9 + 3.0 * np.arange(ROWS),
            "identity",
            "312 apart, of which float32, in which it is learned",
        ),
        (2**24 + np.arange(ROWS) % 2, "limits", "16777216 to 16777217, 1 apart"),
        (100 + 1e-4 * np.arange(ROWS), "limits", None),
        (2**30 + 2**20 * np.arange(ROWS), "limits", None),
        (np.full(ROWS, 1.75e9 + 0.3), "limits", None),
    ],
)
def test_numbers_that_float32_makes_one_are_said(
    tmp_path: Path, capsys, times: np.ndarray, normalize: str, sentence: str | None, memory_limit_mb: float
) -> None:
    """Seconds since 1970 are 64 or 128 s apart in float32: what was time in the data is a constant."""
    assert ROWS == 105
    rows = np.stack([np.zeros(ROWS), times], axis=1).astype(times.dtype)
    source = store(tmp_path, state=rows)
    obs = {"clock": Field("state", (2,), normalize=normalize)}
    dataset(source, obs=obs, memory_limit_mb=memory_limit_mb, cache=tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "of which float32" in line]
    assert len(said) == (sentence is not None)
    if sentence is not None:
        assert (
            said[0].startswith(f"key 'state' of {source.path}: element [1] lies in ") and sentence in said[0]
        )


class Reads(OwnSource):
    """A source whose rows are not what it says."""

    def __init__(self, change) -> None:
        super().__init__({"x": np.arange(40.0)[:, None] * [1, 2], "action": np.zeros((40, 2))}, [20, 40])
        self._change = change

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        rows = super().read(key, start, stop)
        return self._change(rows) if key == "x" else rows


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[:1], r"are float64 of shape \[1, 2\], and the source says float64 of \[40, 2\]"),
        (lambda rows: rows[:, :1], r"are float64 of shape \[40, 1\]"),
        (lambda rows: rows[:-1], r"are float64 of shape \[39, 2\]"),
        (lambda rows: rows + 1j, "are complex128 of"),
        (lambda rows: np.ma.masked_greater(rows, 30), "hold numbers that are masked"),
    ],
    ids=["one row", "one column", "a row too few", "complex", "masked"],
)
def test_rows_that_numpy_would_stretch_or_cut_are_refused(change, sentence: str) -> None:
    with pytest.raises(InputError, match=f"rows 0 to 40 of key 'x' of own {sentence}"):
        dataset(Reads(change), obs={"x": Field("x", (2,))}, val_fraction=0)


@pytest.mark.parametrize("ends", [[40, 20], []])
def test_ends_that_do_not_increase_are_refused(ends: list[int]) -> None:
    source = Reads(lambda rows: rows)
    source.episode_ends = np.array(ends, np.int64)
    with pytest.raises(InputError, match="the episode_ends of own must increase"):
        dataset(source, obs={"x": Field("x", (2,))}, val_fraction=0)
