"""What is played at which step, when chunks come late."""

import numpy as np
import pytest

from shortcut_policy.errors import InputError
from shortcut_policy.rollout.chunk_joins import Joining, Plan, join

LATE = 2


def chunk(start: float, length: int = 6) -> np.ndarray:
    """Actions start, start + 1, ..., (length, 1)."""
    return (start + np.arange(length, dtype=np.float32))[:, None]


def joined(executor: str, late: int = LATE, old: Plan | None = None, **settings) -> list[float]:
    plan = join(old or Plan.of(chunk(0)), chunk(100), late, Joining(executor, **settings))
    return plan.actions[:, 0].tolist()


def test_a_late_chunk_is_played_from_where_its_time_has_come():
    for executor in ("switch", "prefix"):
        assert joined(executor) == [0, 1, 102, 103, 104, 105]
        assert joined(executor, late=0) == [100, 101, 102, 103, 104, 105]


def test_naive_plays_a_late_chunk_from_its_start():
    assert joined("naive") == [0, 1, 100, 101, 102, 103, 104, 105]
    assert joined("naive", late=7) == [*range(6), 5, *range(100, 106)], "even when all of it has passed"


def test_a_crossfade_goes_over_in_equal_parts_and_ends_at_the_new_chunk():
    found = joined("crossfade", fade=3)
    assert found[:2] == [0, 1] and found[5] == 105
    np.testing.assert_allclose(found[2:5], [2 + 25, 3 + 50, 4 + 75])
    assert joined("crossfade", fade=0) == joined("switch")
    ended = Plan.of(chunk(0, length=3))
    assert joined("crossfade", fade=3, old=ended)[3:] == [103, 104, 105], "nothing is left to fade from"


def test_an_ensemble_is_that_of_act_whatever_the_order_of_arrival():
    """Against the weighted mean over all chunks, oldest first, with weights exp(-m i)."""
    rng = np.random.default_rng(0)
    chunks, decay = rng.normal(size=(4, 6, 2)).astype(np.float32), 0.3
    plan = Plan.of(chunks[0])
    for number in range(1, 4):
        plan = join(plan.window(1, 6), chunks[number], 0, Joining("ensemble", decay=decay))
    for step in range(6):
        known = [(one, step + 3 - number) for number, one in enumerate(chunks)]
        said = np.array([one[place] for one, place in known if place < 6])
        weights = np.exp(-decay * np.arange(len(said)))
        np.testing.assert_allclose(plan.actions[step], weights @ said / weights.sum(), rtol=1e-5)
        assert plan.votes[step] == len(said)


@pytest.mark.parametrize("executor", ["switch", "crossfade", "ensemble", "prefix"])
def test_a_chunk_that_comes_after_its_end_changes_nothing(executor: str):
    assert joined(executor, late=6) == [*range(6)]


def test_behind_its_end_a_plan_holds_its_last_action_and_says_so():
    plan = Plan.of(chunk(0)).window(4, 4)
    assert plan.actions[:, 0].tolist() == [4, 5, 5, 5]
    assert plan.votes.tolist() == [1, 1, 0, 0]
    again = plan.window(3, 2)
    assert again.actions[:, 0].tolist() == [5, 5] and not again.votes.any()


@pytest.mark.parametrize("executor", ["switch", "crossfade", "prefix", "ensemble", "naive"])
def test_many_robots_are_as_each_alone(executor: str):
    """Bit for bit, each with a lateness of its own."""
    rng = np.random.default_rng(0)
    old = Plan(rng.normal(size=(5, 6, 2)).astype(np.float32), rng.integers(0, 3, (5, 6)))
    new, late = rng.normal(size=(5, 6, 2)).astype(np.float32), np.array([0, 1, 3, 5, 2])
    together = join(old, new, late, Joining(executor))
    for robot in range(5):
        alone = join(Plan(old.actions[robot], old.votes[robot]), new[robot], late[robot], Joining(executor))
        length = len(alone.votes)
        assert np.array_equal(together.actions[robot, :length], alone.actions)
        assert np.array_equal(together.votes[robot, :length], alone.votes)
    assert together.actions.dtype == np.float32


def test_a_join_that_is_none_is_refused():
    with pytest.raises(InputError, match="executor=blend must be switch, crossfade, prefix"):
        Joining("blend")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fade=-1"):
        Joining("crossfade", fade=-1)
