"""Windows against a literal, one-at-a-time construction, and the split of episodes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortcut_policy.data import EpisodeWriter, ZarrSource
from shortcut_policy.data.windows import create_windows, split_episodes, tasks_of_episodes
from shortcut_policy.errors import InputError


def literal_windows(lengths: list[int], horizon: int, before: int, after: int) -> list[list[int]]:
    """Row numbers of every window, made by padding each episode's rows and sliding over them."""
    windows, first = [], 0
    for length in lengths:
        rows = list(range(first, first + length))
        first += length
        padded = [rows[0]] * before + rows + [rows[-1]] * after
        windows += [padded[i : i + horizon] for i in range(len(padded) - horizon + 1)]
    return windows


def row_numbers(windows: np.ndarray, horizon: int) -> list[list[int]]:
    start, lo, hi = windows[:, :1], windows[:, 1:2], windows[:, 2:]
    return np.clip(start + np.arange(horizon), lo, hi - 1).tolist()


@st.composite
def settings(draw: st.DrawFn) -> tuple[list[int], int, int, int]:
    horizon = draw(st.integers(1, 20))
    padding = st.integers(0, horizon - 1)
    return draw(st.lists(st.integers(1, 30), min_size=1, max_size=6)), horizon, draw(padding), draw(padding)


@given(settings())
def test_windows_equal_the_literal_construction(setting: tuple[list[int], int, int, int]) -> None:
    lengths, horizon, before, after = setting
    windows = create_windows(np.cumsum(lengths), horizon, before, after)
    assert windows.dtype == np.int64
    assert windows.shape[1:] == (3,)
    assert row_numbers(windows, horizon) == literal_windows(lengths, horizon, before, after)


def test_padding_is_clipped_to_the_horizon() -> None:
    ends = np.array([5, 9])
    clipped = create_windows(ends, 4, 3, 3)
    np.testing.assert_array_equal(create_windows(ends, 4, 10, 10), clipped)
    np.testing.assert_array_equal(create_windows(ends, 4, -2, 0), create_windows(ends, 4, 0, 0))


def test_settings_of_the_baseline() -> None:
    """Horizon 16, two observations, eight actions: L steps give L - 7 windows, the first from step -1 on."""
    windows = create_windows(np.array([100, 107, 115]), 16, 1, 7)
    assert len(windows) == 93 + 0 + 1
    assert windows[0].tolist() == [-1, 0, 100]
    assert windows[-1].tolist() == [106, 107, 115]
    assert row_numbers(windows, 16)[-1] == [107, *range(107, 115), *[114] * 7]


def test_mask_keeps_the_rows_of_the_chosen_episodes() -> None:
    ends = np.array([30, 50, 90])
    everything = create_windows(ends, 4, 1, 1)
    chosen = create_windows(ends, 4, 1, 1, mask=np.array([False, True, True]))
    np.testing.assert_array_equal(chosen, everything[everything[:, 1] >= 30])


@pytest.mark.parametrize(
    ("episodes", "fraction", "n_val"),
    [(206, 0.02, 4), (206, 0.0, 0), (206, 1e-6, 1), (10, 0.99, 9), (1, 0.5, 0), (2, 0.5, 1)],
)
def test_size_of_the_split(episodes: int, fraction: float, n_val: int) -> None:
    train, val = split_episodes(np.ones(episodes, bool), fraction, None, seed=42)
    assert val.sum() == n_val
    np.testing.assert_array_equal(train, ~val)


def test_split_depends_on_the_seed_alone() -> None:
    train, val = split_episodes(np.ones(50, bool), 0.2, 20, seed=1)
    again = split_episodes(np.ones(50, bool), 0.2, 20, seed=1)
    np.testing.assert_array_equal([train, val], again)
    other_train, other_val = split_episodes(np.ones(50, bool), 0.2, 20, seed=2)
    assert (val != other_val).any()
    assert (train != other_train).any()


def test_training_episodes_are_limited_after_the_split() -> None:
    _, val_of_all = split_episodes(np.ones(50, bool), 0.2, None, seed=3)
    train, val = split_episodes(np.ones(50, bool), 0.2, 7, seed=3)
    np.testing.assert_array_equal(val, val_of_all)
    assert train.sum() == 7
    assert not (train & val).any()
    assert split_episodes(np.ones(50, bool), 0.2, 1000, seed=3)[0].sum() == 40


def test_episodes_without_a_window_take_no_place_in_the_split() -> None:
    long_enough = np.array([False] * 9 + [True, True])
    for seed in range(20):
        train, val = split_episodes(long_enough, 0.2, None, seed=seed)
        assert val.sum() == 1 and (train & long_enough).sum() == 1 and not (val & ~long_enough).any()
        limited, _ = split_episodes(long_enough, 0.0, 1, seed=seed)
        assert (limited & long_enough).sum() == 1
    assert not split_episodes(long_enough[:10], 0.2, None, seed=0)[1].any()
    assert not split_episodes(np.zeros(3, bool), 0.2, None, seed=0)[1].any()


@given(settings(), st.data())
def test_marked_rows_choose_windows_by_the_step_behind_the_padding(
    setting: tuple[list[int], int, int, int], data: st.DataObject
) -> None:
    lengths, horizon, before, after = setting
    rows = sum(lengths)
    marked = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
    everything = literal_windows(lengths, horizon, before, after)
    windows = create_windows(np.cumsum(lengths), horizon, before, after, marked=marked)
    assert row_numbers(windows, horizon) == [window for window in everything if marked[window[before]]]


def test_a_number_of_each_task_is_drawn_where_tasks_are_told():
    tasks = np.array([0] * 20 + [1] * 10 + [2] * 3)
    train, val = split_episodes(np.ones(33, bool), 0.1, 4, seed=0, tasks=tasks)
    left = np.bincount(tasks[~val], minlength=3)
    assert np.bincount(tasks[train], minlength=3).tolist() == [4, 4, min(4, left[2])]
    assert not (train & val).any()
    again = split_episodes(np.ones(33, bool), 0.1, 4, seed=0, tasks=tasks)[0]
    other = split_episodes(np.ones(33, bool), 0.1, 4, seed=1, tasks=tasks)[0]
    assert np.array_equal(train, again) and not np.array_equal(train, other)
    assert np.array_equal(val, split_episodes(np.ones(33, bool), 0.1, None, seed=0)[1])


def test_episodes_of_a_task_are_those_with_its_values(tmp_path: Path):
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        for number in (2, 0, 2, 1):
            writer.add_episode({"task": np.tile(np.eye(3)[number], (5, 1)), "step": np.arange(5.0)})
    source = ZarrSource(tmp_path / "a.zarr")
    found = tasks_of_episodes(source, "task")
    assert found[0] == found[2] and len(set(found.tolist())) == 3
    with pytest.raises(InputError, match=r"data\.per_task=step: key 'step' .* at row 1, so it does not"):
        tasks_of_episodes(source, "step")
    with pytest.raises(InputError, match=r"data\.per_task=skill: .* it holds step, task: name one"):
        tasks_of_episodes(source, "skill")
