"""Rows that lie so far from all others that scaling leaves these hardly any of its range."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from shortcut_policy.data.normalizer import ROUNDING, RunningStatistics
from shortcut_policy.data.source import Field

#: Rows that the range of nearly all of them is taken from; of smaller data all. The smallest and largest
#: value are those of all rows, so that what is far off need not be among them.
SAMPLED_ROWS = 20_000
FEWEST_SAMPLED = 1_000
#: Bytes of these rows: a field may have thousands of numbers.
SAMPLED_BYTES = 2**26
#: So many rows may be the outliers: a fault of a moment. In small data some, as one in a thousand is no row.
SHARE = 0.001
FEW, FEW_SHARE = 3, 0.01
#: Of fewer rows nothing is far off.
FEWEST_ROWS = 20
#: An element whose range is this many times that of nearly all rows has outliers. A value 1000 times as large
#: as all others makes it 500 or more. Measured on healthy data: positions, angles and commands of Push-T,
#: Meta-World and robomimic's tasks have at most 1.6, velocities of robosuite's joints 4.5, accelerations 5,
#: torques of constraints 10, and contact forces, which are nearly nothing until things meet, 33.
FAR = 100.0


class RowSample:
    """Rows drawn evenly from all that pass by, the same ones each time.

    Args:
        rows: Number of all rows.
        field: What they are of.
    """

    def __init__(self, rows: int, field: Field) -> None:
        fitting = SAMPLED_BYTES // (4 * max(1, int(np.prod(field.shape))))
        most = max(FEWEST_SAMPLED, min(SAMPLED_ROWS, fitting))
        random = np.random.default_rng(0)
        drawn = random.choice(rows, most, replace=False) if rows > most else np.arange(rows)
        self._drawn, self._passed, self._blocks = np.sort(drawn), 0, [np.empty((0, *field.shape), np.float32)]

    def update(self, rows: np.ndarray) -> None:
        """Let rows pass by, (N, *shape), and keep those that were drawn."""
        first, last = np.searchsorted(self._drawn, [self._passed, self._passed + len(rows)])
        self._blocks.append(rows[self._drawn[first:last] - self._passed])
        self._passed += len(rows)

    @property
    def rows(self) -> np.ndarray:
        """(N, *shape), those that were kept."""
        return np.concatenate(self._blocks)


@dataclass(frozen=True)
class Outlying:
    """An element with values far from nearly all others.

    Attributes:
        index: Of the element.
        low: Smallest value of all rows,
        high: and largest.
        most: Between these two are nearly all.
        width: What the range is large against: that of nearly all, or their size if they are constant.
    """

    index: tuple[int, ...]
    low: float
    high: float
    most: tuple[float, float]
    width: float

    def far(self, rows: np.ndarray) -> np.ndarray:
        """Which rows (N, *shape) are far off, (N,) bool."""
        at = int(np.ravel_multi_index(self.index, rows.shape[1:])) if self.index else 0
        values, reach = rows.reshape(len(rows), -1)[:, at], self.width * FAR / 4
        found: np.ndarray = (values < self.most[0] - reach) | (values > self.most[1] + reach)
        return found


def outlying(
    field: Field, statistics: RunningStatistics, sample: RowSample, constant: bool
) -> tuple[float, list[Outlying]]:
    """The part of the rows that are nearly all, and the elements with values far from theirs.

    Args:
        constant: Whether elements that are constant in nearly all rows count: those of actions, which play
            what the network is off by. Of an observation nothing is lost then, and it may be a rare event.
            They are measured by the largest size of the field's others: a button may be 1 once in a while.
    """
    rows = sample.rows.reshape(len(sample.rows), -1).astype(np.float64)
    if field.normalize in ("identity", "image") or not len(rows):
        return 1.0, []
    lows, highs = _narrowest(rows, left_out := _left_out(len(rows)))
    size = np.maximum(abs(lows), abs(highs))
    varies = highs - lows > np.maximum(ROUNDING * size, field.min_range)
    width = np.where(varies, highs - lows, size.max() if constant else np.inf)
    low, high = statistics.min.reshape(-1), statistics.max.reshape(-1)
    odd = (high - low > FAR * width) & (width > 0)
    shaped = odd.reshape(field.shape)
    if field.unscaled:
        shaped[..., list(field.unscaled)] = False
    found = [
        Outlying(
            tuple(map(int, np.unravel_index(n, field.shape))),
            float(low[n]),
            float(high[n]),
            (float(lows[n]), float(highs[n])),
            float(width[n]),
        )
        for n in np.flatnonzero(shaped)
    ]
    return 1 - left_out / len(rows), found


def say_outliers(
    found: tuple[float, list[Outlying]],
    where: str,
    blocks: Iterable[tuple[int, np.ndarray]],
    find: Callable[[int], tuple[int, int]],
) -> None:
    """On stderr, which elements of a field a few rows scale, which rows these are, and what to do.

    Args:
        found: What `outlying` has found.
        where: The field and its key, for the sentence.
        blocks: All rows of the field: number of the first, and rows (N, *shape).
        find: Row number to episode and step of it.
    """
    share, elements = found
    if not elements:
        return
    first = elements[0]
    rows = np.concatenate([start + np.flatnonzero(first.far(block)) for start, block in blocks])
    episode, step = find(int(rows[0]))
    place = f"step {step} of episode {episode}"
    place = f"a row is far off, {place}" if len(rows) == 1 else f"{len(rows)} rows are far off, first {place}"
    more = f" (and {len(elements) - 1} more)" if len(elements) > 1 else ""
    low, high = first.most
    part = 100 * (high - low) / (first.high - first.low)
    print(
        f"{where}: element {list(first.index)}{more} lies in {first.low:.6g} to {first.high:.6g}, and "
        f"{100 * share:.4g}% of the rows in {low:.6g} to {high:.6g}, {part:.2g}% of that range, so that the "
        f"network hardly sees them differ: {place}. If that is a fault, correct it in the data, or leave the "
        "episode out; if it is right, bring the element to a size of one in the data, and name it in its "
        "field's unscaled",
        file=sys.stderr,
    )


def _left_out(rows: int) -> int:
    """How many rows nearly all of so many leave out."""
    if rows < FEWEST_ROWS:
        return 0
    return max(int(SHARE * rows), min(FEW, int(FEW_SHARE * rows)), 1)


def _narrowest(rows: np.ndarray, left_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each element of (N, D), the ends of the narrowest range that holds all but so many rows."""
    ordered, kept = np.sort(rows, axis=0), len(rows) - left_out
    best, each = (ordered[kept - 1 :] - ordered[: left_out + 1]).argmin(axis=0), np.arange(rows.shape[1])
    return ordered[best, each], ordered[best + kept - 1, each]
