"""Ranges of elements, and what is flagged as odd."""

from pathlib import Path

import numpy as np
import pytest

from shortcut_policy.data import EpisodeWriter, ZarrSource, bundled, ranges
from shortcut_policy.data.ranges import element_ranges

STEPS = 500


def store(path: Path, *columns: np.ndarray) -> ZarrSource:
    """Two episodes whose key ``state`` has these columns."""
    values = np.stack(columns, axis=1).astype(np.float32)
    with EpisodeWriter(path) as writer:
        for part in np.split(values, 2):
            writer.add_episode({"state": part})
    return ZarrSource(path)


def usual(scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(0).normal(size=STEPS)


def with_glitch(values: np.ndarray, row: int, value: float) -> np.ndarray:
    values = values.copy()
    values[row] = value
    return values


@pytest.mark.parametrize("piece", [2**10, 2**24])
def test_odd_elements_are_flagged_and_others_are_not(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PIECE_BYTES", piece)
    switch = (np.arange(STEPS) % 100 < 50).astype(float)
    rare = (np.arange(STEPS) == 7).astype(float)
    columns = (
        usual(),
        np.full(STEPS, 3.0),
        100 + usual(1e-3),
        with_glitch(usual(), 300, -80.0),
        switch,
        rare,
    )
    found = element_ranges(store(tmp_path / "a.zarr", *columns), "state")
    assert [one.flag for one in found] == [
        *("", "constant", "hardly varies", "outliers", "", "rarely changes"),
    ]
    glitch = found[3]
    assert (glitch.outliers, glitch.low, glitch.low_at) == (1, -80.0, (1, 50))
    assert "1 value lies far off: 98 of 100 values take 6% of the range" in glitch.why
    assert found[5].high_at == (0, 7)
    for one, column in zip(found, columns, strict=True):
        exact = column.astype(np.float32).astype(np.float64)
        np.testing.assert_allclose([one.low, one.high], [exact.min(), exact.max()])
        np.testing.assert_allclose([one.mean, one.std], [exact.mean(), exact.std()], atol=1e-9)
        np.testing.assert_allclose(one.middle, np.quantile(exact, [0.01, 0.99]))


def test_quantiles_of_large_stores_come_from_some_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "SAMPLED_ROWS", 100)
    monkeypatch.setattr(ranges, "PIECE_BYTES", 64)
    (found,) = element_ranges(store(tmp_path / "a.zarr", np.arange(STEPS)), "state")
    np.testing.assert_allclose(found.middle, np.quantile(np.arange(0, STEPS, 5), [0.01, 0.99]))
    assert (found.low, found.high) == (0, STEPS - 1)


class Broken:
    """A store of somebody else's, with values that are no numbers."""

    path, keys = "broken.zarr", ("state",)
    shapes, dtypes = {"state": (2,)}, {"state": np.dtype(np.float32)}
    episode_ends = np.array([4])

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        return np.array([[0, 1], [np.nan, 2], [3, 3], [4, 5]], np.float32)[start:stop]


def test_values_that_are_no_numbers_are_named() -> None:
    first, second = element_ranges(Broken(), "state")
    assert (first.flag, first.why) == ("not finite", "1 values are NaN or Inf")
    assert (first.high, second.flag, second.low) == (4.0, "", 1.0)


def test_the_bundled_demonstrations_have_no_odd_element() -> None:
    source = bundled("pusht")
    assert not [one.why for key in source.keys for one in element_ranges(source, key) if one.flag]
