"""Intervals and paired tests for success rates and scores.

Everything here starts from values *per start* (one initial state of the environment). Two policies that were
rolled out on the same starts are compared start by start, which removes the spread between easy and hard
starts from the comparison.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 9999


class Interval(NamedTuple):
    """The two ends of a confidence interval."""

    low: float
    high: float


class PairedTest(NamedTuple):
    """``difference`` is mean(a - b) over the starts; ``p_value`` is two-sided."""

    difference: float
    p_value: float
    method: str


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a success rate (Wilson 1927), sound at 0 and at ``trials`` successes too.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    interval = stats.binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def bootstrap_interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap interval for the mean of ``values``, (starts,) or (training seeds, starts).

    Every seed meets every start, so seeds and starts are resampled independently of each other and crossed
    (the "pigeonhole" bootstrap, Owen 2007); with one seed this is the ordinary bootstrap over starts.
    Resamples of K seeds vary less than seeds do, by (K - 1) / K, which for two or three of them is much:
    their weights are rescaled for it (Rao and Wu 1988). Seeds that differ much get too narrow an interval
    still. `scipy.stats.bootstrap` resamples one axis only, hence the few lines here.

    Raises:
        ValueError: there are no values.
    """
    matrix = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if matrix.size == 0:
        raise ValueError("a bootstrap needs at least one value")
    rng = np.random.default_rng(seed)
    seeds, starts = matrix.shape
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    if seeds > 1:
        seed_weights = 1 / seeds + math.sqrt(seeds / (seeds - 1)) * (seed_weights - 1 / seeds)
    start_weights = rng.multinomial(starts, np.full(starts, 1 / starts), size=RESAMPLES) / starts
    means = np.einsum("rk,kn,rn->r", seed_weights, matrix, start_weights, optimize=True)
    low, high = np.quantile(means.clip(matrix.min(), matrix.max()), [(1 - level) / 2, (1 + level) / 2])
    # Rounding must not push the ends of a constant sample past each other or past its value.
    return Interval(float(min(low, matrix.mean())), float(max(high, matrix.mean())))


def success_interval(successes: np.ndarray, seed: int = 0) -> tuple[Interval, str]:
    """Interval for a success rate from (training seeds, starts) values in [0, 1], and the method's name.

    One evaluation a start gives plain successes: Wilson. Means over checkpoints are fractions, and several
    seeds share their starts: no longer independent trials, so the crossed bootstrap takes over. It has no
    width where every start has the same outcome; Wilson's interval over the starts alone does.
    """
    matrix = np.atleast_2d(np.asarray(successes, dtype=np.float64))
    rates = matrix.mean(axis=0)
    if np.isin(rates, (0.0, 1.0)).all() and (len(matrix) == 1 or np.ptp(rates) == 0):
        return wilson_interval(int(rates.sum()), len(rates)), "Wilson"
    return bootstrap_interval(matrix, seed=seed), "bootstrap"


def paired_scores(a: np.ndarray, b: np.ndarray, seed: int = 0) -> PairedTest:
    """Paired permutation test (swaps within a start) of the mean of ``a`` - ``b``, (starts,) each."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if not difference.any() or len(difference) == 1:  # one difference has one sign or the other
        return PairedTest(float(difference.mean()), 1.0, "paired permutation")
    # With one sample, "samples" flips the sign of each difference: the same as swapping the pair.
    result = stats.permutation_test(
        (difference,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return PairedTest(float(difference.mean()), float(result.pvalue), "paired permutation")


def paired_successes(a: np.ndarray, b: np.ndarray, seed: int = 0) -> PairedTest:
    """Exact McNemar test for successes on the same starts; for fractions the paired permutation test."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        return paired_scores(a, b, seed)
    only_a, only_b = int((a > b).sum()), int((a < b).sum())
    p_value = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return PairedTest(float((a - b).mean()), float(p_value), "exact McNemar")
