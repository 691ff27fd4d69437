"""How the numbers of a store lie: the range of each element, and what training would find odd in it."""

from dataclasses import dataclass

import numpy as np

from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.data.source import EpisodeSource, find_row, pieces, row_bytes

#: Rows of a key that quantiles are taken from, evenly spread over the store; of smaller stores all.
SAMPLED_ROWS = 20_000
#: The middle of the values: between these quantiles.
MIDDLE = 0.01, 0.99
#: An element whose range is smaller than this part of its largest value, or of the largest range of its key.
HARDLY = 1e-3
#: What `Normalizer` takes for constant.
CONSTANT = 1e-6
#: Bytes of a key that are read at a time.
PIECE_BYTES = 2**24


@dataclass(frozen=True)
class ElementRange:
    """One element of a key over all steps of a store.

    Attributes:
        low: Smallest value,
        high: and largest; ``limits`` scaling maps them to -1 and 1.
        mean: Mean,
        std: and standard deviation.
        middle: Between these two lie 98 of 100 values.
        low_at: Episode and step of the smallest value,
        high_at: and of the largest.
        outliers: Values that lie further from the middle than it is wide.
        flag: What is odd in one word: ``constant``, ``hardly varies``, ``rarely changes``, ``outliers``,
            ``not finite``; "" if nothing is.
        why: The same as a sentence.
    """

    low: float
    high: float
    mean: float
    std: float
    middle: tuple[float, float]
    low_at: tuple[int, int]
    high_at: tuple[int, int]
    outliers: int
    flag: str
    why: str


def element_ranges(source: EpisodeSource, key: str) -> list[ElementRange]:
    """The ranges of all elements of a key, in the order of its values; the store is read twice, by pieces.

    Args:
        source: The store.
        key: A numeric key.
    """
    rows, numbers = int(source.episode_ends[-1]), int(np.prod(source.shapes[key]))
    statistics, sample = RunningStatistics(), []
    low, high = np.full(numbers, np.inf), np.full(numbers, -np.inf)
    low_row, high_row, broken = (np.zeros(numbers, np.int64) for _ in range(3))
    every = -(-rows // SAMPLED_ROWS)
    for part in pieces(0, rows, row_bytes(source, key), PIECE_BYTES, multiple=every):
        values, whole = _values(source, key, part)
        broken += (~np.isfinite(values)).sum(axis=0)
        numbered = np.flatnonzero(whole)
        if not len(numbered):
            continue
        finite = values[numbered]
        statistics.update(finite)
        smallest, largest = finite.argmin(axis=0), finite.argmax(axis=0)
        columns = np.arange(numbers)
        for best, at, found, better in (
            (low, low_row, smallest, finite[smallest, columns] < low),
            (high, high_row, largest, finite[largest, columns] > high),
        ):
            best[better] = finite[found, columns][better]
            at[better] = part.start + numbered[found[better]]
        sample.append(values[::every][whole[::every]])
    if not statistics.count:
        nothing = (0, 0)
        why = "no step is free of NaN and Inf"
        unknown = (np.nan, np.nan, np.nan, np.nan, (np.nan, np.nan), nothing, nothing, 0)
        return [ElementRange(*unknown, flag="not finite", why=why) for _ in range(numbers)]
    middle = np.quantile(np.concatenate(sample), MIDDLE, axis=0)
    outliers = _outliers(source, key, middle)
    widest = float((high - low).max())
    found = []
    for n in range(numbers):
        limits, between = (float(low[n]), float(high[n])), (float(middle[0, n]), float(middle[1, n]))
        flag, why = _flag(limits, between, widest, int(outliers[n]), int(broken[n]))
        found.append(
            ElementRange(
                *limits,
                float(statistics.mean[n]),
                float(statistics.std[n]),
                between,
                find_row(source, int(low_row[n])),
                find_row(source, int(high_row[n])),
                int(outliers[n]),
                flag,
                why,
            )
        )
    return found


def _values(source: EpisodeSource, key: str, part: range) -> tuple[np.ndarray, np.ndarray]:
    """Rows as (N, numbers) float64, and which of them are finite throughout, (N,)."""
    values = source.read(key, part.start, part.stop).reshape(len(part), -1).astype(np.float64)
    return values, np.asarray(np.isfinite(values).all(axis=1))


def _outliers(source: EpisodeSource, key: str, middle: np.ndarray) -> np.ndarray:
    """How many values of each element lie further from the ``middle`` (2, numbers) than it is wide."""
    width = middle[1] - middle[0]
    count = np.zeros(middle.shape[1], np.int64)
    for part in pieces(0, int(source.episode_ends[-1]), row_bytes(source, key), PIECE_BYTES):
        values, whole = _values(source, key, part)
        far = (values[whole] < middle[0] - width) | (values[whole] > middle[1] + width)
        count += far.sum(axis=0)
    return count


def _flag(
    limits: tuple[float, float], middle: tuple[float, float], widest: float, outliers: int, broken: int
) -> tuple[str, str]:
    """What is odd about an element, in a word and in a sentence."""
    low, high = limits
    reach, largest, width = high - low, max(abs(low), abs(high)), middle[1] - middle[0]
    if broken:
        return "not finite", f"{broken} values are NaN or Inf"
    if reach <= CONSTANT * largest:
        return "constant", "it never varies: training leaves it out"
    if width <= CONSTANT * largest:
        return "rarely changes", "98 of 100 values are the same"
    if reach < HARDLY * max(largest, widest):
        return "hardly varies", f"it varies by {reach:.3g}, which scaling blows up to the full range"
    if outliers:
        share = 100 * width / reach
        values = "value lies" if outliers == 1 else "values lie"
        return "outliers", f"{outliers} {values} far off: 98 of 100 values take {share:.0f}% of the range"
    return "", ""
