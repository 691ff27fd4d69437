"""Times of steps tell the rate of demonstrations, and steps and episodes of another one are said."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from shortcut_policy.data import EpisodeWriter, RobomimicSource, ZarrSource
from shortcut_policy.data.agreement import recorded_rate
from shortcut_policy.data.time_stamps import find_stamps
from shortcut_policy.errors import InputError
from tests.data.own_source import OwnSource

LENGTHS = [40, 60, 50]
ENDS = np.cumsum(LENGTHS)
STEPS = np.concatenate([np.arange(length) for length in LENGTHS])


class Source(OwnSource):
    def __init__(self, arrays: dict[str, np.ndarray], **attributes: object) -> None:
        super().__init__(arrays, ENDS.tolist())
        self.attributes = attributes


def told(capsys, times: np.ndarray, key: str = "timestamp", **attributes: object) -> tuple[float | None, str]:
    """The rate of a source with these times, and what is said of them."""
    rate = recorded_rate(Source({"action": np.zeros((150, 2)), key: times}, **attributes))
    return rate, capsys.readouterr().err


def jittering(part: float) -> np.ndarray:
    return 0.05 * (STEPS + np.random.default_rng(0).uniform(-part / 2, part / 2, 150))


@pytest.mark.parametrize("key", ["timestamp", "obs/time", "recorded.timestamp", "T", "meta.timestamps"])
def test_even_times_in_seconds_are_a_rate(capsys, key: str) -> None:
    assert told(capsys, 0.05 * STEPS, key) == (20, "")
    assert told(capsys, 1.7e9 + 0.05 * np.arange(150)[:, None], key) == (20, "")
    assert told(capsys, 0.05 * STEPS, "seen_at") == (None, "")
    assert told(capsys, 0.05 * STEPS, key, fps=21) == (21, "")


def test_a_clock_of_a_real_loop_is_even(capsys) -> None:
    rate, err = told(capsys, jittering(0.4))
    assert rate == pytest.approx(20, rel=0.02) and not err


@pytest.mark.parametrize(("unit", "kind"), [(1e3, np.int64), (1e9, np.uint64), (1e6, np.float64)])
def test_other_units_tell_no_rate_and_are_compared_all_the_same(capsys, unit: float, kind: type) -> None:
    times = (unit * (1.7e9 + 0.05 * np.arange(150))).astype(kind)
    assert told(capsys, times) == (None, "")
    assert told(capsys, times, fps=20) == (20, "")
    rate, err = told(capsys, times, fps=30)
    assert rate == 30 and "and the attributes say 30 steps a second: correct one of the two" in err
    times[70:100] += np.array(0.5 * unit).astype(kind)
    assert "1 of 147 steps take more than 0.5 of a step" in told(capsys, times)[1]


def test_steps_of_another_length_are_said(capsys) -> None:
    times = 0.05 * STEPS
    times[63:100] += 0.2
    times[120:] += 0.05
    rate, err = told(capsys, times)
    assert rate == 20 and err == (
        "key 'timestamp' of own: 2 of 147 steps take more than 0.5 of a step more or less than the 0.05 of "
        "the others, first step 22 of episode 1, 0.25: a policy takes all steps for one time apart; bring "
        "the rows to one rate, or cut the episode there\n"
    )
    times = 0.05 * STEPS
    times[63] = times[62]
    assert "2 of 147 steps take" in told(capsys, times)[1], "a row is there twice"


def test_episodes_of_another_rate_are_said(capsys) -> None:
    times = np.where(np.arange(150) < 100, 0.05, 0.06) * STEPS
    rate, err = told(capsys, times)
    assert rate == 20 and err == (
        "key 'timestamp' of own: in 1 of 3 episodes a step takes another time than the 0.05 of most, first "
        "in episode 2, 0.06: a policy takes all steps for one time apart; bring the episodes to one rate\n"
    )


@pytest.mark.parametrize(
    "times",
    [
        STEPS,
        STEPS.astype(float),
        np.concatenate([np.linspace(0, 1, length) for length in LENGTHS]),
        np.repeat([1.0, 2.0, 3.0], LENGTHS),
        np.random.default_rng(0).normal(size=150),
        np.concatenate([np.arange(length)[::-1] / 20 for length in LENGTHS]),
        (1.7e9 + 0.05 * np.arange(150)).astype(np.float32),
        np.where(STEPS == 30, np.nan, 0.05 * STEPS),
        np.zeros((150, 2)),
        np.full(150, b"12:01"),
    ],
    ids=["count", "floats", "progress", "begin", "noise", "left", "float32", "nan", "two", "text"],
)
def test_what_only_is_called_so_is_left_alone(capsys, times: np.ndarray) -> None:
    for key in ("t", "time"):
        assert told(capsys, times, key) == (None, "")


@pytest.mark.parametrize(
    "times",
    [STEPS, 7000 + np.arange(150), STEPS.astype(np.float32), 5 * STEPS, 5.0 * STEPS, 40 * np.arange(150)],
    ids=["of_episode", "of_all", "float", "skipped", "skipped_float", "simulated"],
)
def test_numbers_that_count_contradict_no_rate_and_are_none(capsys, times: np.ndarray) -> None:
    assert told(capsys, times, "t", control_freq=20) == (20, "")
    assert told(capsys, times, "t") == (None, "")


@pytest.mark.parametrize("begins", [0, 1])
def test_the_part_of_an_episode_that_is_over_is_no_time(capsys, begins: int) -> None:
    parts = np.concatenate([(np.arange(length) + begins) / length for length in LENGTHS])
    assert told(capsys, parts, "t") == (None, "")
    alike = Source({"action": np.zeros((150, 2)), "t": np.tile((np.arange(50) + begins) / 50, 3)})
    alike.episode_ends = np.array([50, 100, 150])
    assert recorded_rate(alike) is None
    alike.arrays["t"] = np.tile(np.linspace(0, 1, 50), 3)
    assert recorded_rate(alike) is None


def test_the_stamps_of_slower_sensors_are_none_of_the_steps(capsys) -> None:
    camera = np.floor(0.02 * STEPS * 30) / 30
    assert told(capsys, camera, fps=50) == (50, "")
    arrays = {"obs/camera/timestamp": camera + 0.1 * STEPS, "timestamp": 0.02 * STEPS}
    assert recorded_rate(Source({"action": np.zeros((150, 2)), **arrays})) == 50
    assert capsys.readouterr().err == ""


def test_stamps_of_few_digits_tell_the_rate(capsys) -> None:
    assert told(capsys, (1e5 + 0.05 * np.arange(150)).astype(np.float32)) == (20, "")


def test_an_episode_whose_clock_stands_still_is_said_in_sentences_alone(capsys, recwarn) -> None:
    times = 0.05 * STEPS
    times[:] = np.where(np.arange(150) < 140, times, times[139])
    source = Source({"action": np.zeros((150, 2)), "timestamp": times})
    source.episode_ends = np.array([40, 100, 140, 150])
    assert recorded_rate(source) == 20
    err = capsys.readouterr().err
    assert "in 1 of 4 episodes a step takes another time than the 0.05 of most, first in episode 3, 0" in err
    times[5:7] = np.inf
    assert recorded_rate(source) is None and not recwarn.list


def test_episodes_without_number_are_looked_at_together(monkeypatch) -> None:
    episodes = 1000
    source = Source({"action": np.zeros((10_000, 1)), "t": np.tile(0.05 * np.arange(10), episodes)})
    source.episode_ends = 10 * np.arange(1, episodes + 1)
    asked, median = [], np.median
    monkeypatch.setattr(np, "median", lambda values: asked.append(1) or median(values))
    assert recorded_rate(source) == 20
    assert len(asked) < 10, "one of each of 10^5 episodes takes longer than all else"


def test_arrays_that_cannot_be_read_block_nothing() -> None:
    class Broken(Source):
        def read(self, key: str, start: int, stop: int) -> np.ndarray:
            raise InputError("its codec is not installed")

    assert find_stamps(Broken({"timestamp": 0.05 * STEPS})) is None


def test_stores_and_files_of_hdf5_tell_their_times(tmp_path: Path, capsys) -> None:
    uneven = [np.arange(8) / 10, np.delete(np.arange(9) / 10, 4)]
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        for times in uneven:
            writer.add_episode({"action": np.zeros((8, 2), np.float32), "timestamp": times})
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for number, times in enumerate(uneven):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = 8
            demo["actions"], demo["obs/time"] = np.zeros((8, 2)), times
    for source in (ZarrSource(tmp_path / "a.zarr"), RobomimicSource(tmp_path / "a.hdf5")):
        assert recorded_rate(source) == 10
        assert "1 of 14 steps take more than 0.5 of a step" in (err := capsys.readouterr().err)
        assert f"of {source.path}" in err and "first step 3 of episode 1, 0.2" in err
