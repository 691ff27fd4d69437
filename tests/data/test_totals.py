"""Sums by which a training knows its data again."""

import numpy as np
import pytest

from shortcut_policy.data.totals import changed, totals


def blocks(rows: np.ndarray, size: int = 1000) -> list[tuple[int, np.ndarray]]:
    return [(start, rows[start : start + size]) for start in range(0, len(rows), size)]


def test_they_are_those_of_the_data_however_these_are_read_and_rounded():
    rows = np.random.default_rng(0).normal(100, 1, (5000, 3)).astype(np.float32)
    now = {"state": totals(blocks(rows))}
    assert changed({"state": totals(blocks(rows, 7))}, now) is None
    assert changed({"state": totals(blocks(np.nextafter(rows, np.float32(np.inf))))}, now) is None


@pytest.mark.parametrize("change", ["scale", "order", "columns", "sign", "row"])
def test_other_data_are_told(change: str):
    rows = np.random.default_rng(0).normal(0, 1, (5000, 3)).astype(np.float32)
    other = rows.copy()
    if change == "row":
        other[17] += 1
    else:
        other = {
            "scale": rows * 1.001,
            "order": rows[::-1],
            "columns": rows[:, [1, 0, 2]],
            "sign": -rows,
        }[change]
    now = {"same": [1.0, 1.0], "state": totals(blocks(other))}
    assert changed({"same": [1.0, 1.0], "state": totals(blocks(rows))}, now) == "state"


@pytest.mark.parametrize("before", [None, {}, {"state": None}, {"state": [1.0]}, {"state": ["a", 1]}, []])
def test_what_is_no_totals_says_nothing(before: object):
    assert changed(before, {"state": [1.0, 2.0]}) is None
