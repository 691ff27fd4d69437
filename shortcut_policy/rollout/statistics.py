"""Intervals and tests for success rates and scores.

Everything here starts from values *per start* (one initial state of the environment). Two methods are
compared by `compare_methods`: its unit is the training, because another training of a method gives another
policy. Two policies, which say nothing of their methods, are compared by `paired_scores` and
`paired_successes`: their unit is the start. `holm` corrects for the number of comparisons.
"""

import math
from collections.abc import Sequence
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


class Comparison(NamedTuple):
    """Two methods: ``difference`` is mean(a) - mean(b); ``p_value`` is two-sided.

    ``interval`` and ``p_value`` are None where there is no test, and ``method`` says why.
    """

    difference: float
    interval: Interval | None
    p_value: float | None
    method: str


class Component(NamedTuple):
    """A part of the variance of a difference, and the degrees of freedom that it was estimated with."""

    variance: float
    freedom: int


#: What the tables say where a side of a comparison has one training.
NO_TEST = "one training: no test"
INDEPENDENT, PAIRED = "t, independent trainings", "t, paired trainings"


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
    their weights are rescaled for it (Rao and Wu 1988). Measured on success rates of 100 starts, it holds the
    mean of a method whose trainings spread by 8 points in 91%, 95% and 96% of cases with 2, 3 and 6 of them,
    at 14 points in 86%, 87% and 95%. One training says nothing of another: 69% and 44%.
    `scipy.stats.bootstrap` resamples one axis only, hence the few lines here.

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


def compare_methods(
    a: np.ndarray, b: np.ndarray, same_trainings: bool = False, level: float = 0.95
) -> Comparison:
    """Compare two methods by their trainings, which all met the same starts.

    The variance of the difference has a part from the trainings of each method and one from the starts.
    Starts are paired: a start's part is that of the difference between the methods. Trainings are
    independent, even those of equal seeds. These share the order of the windows and the first weights, but
    their results on Push-T do not go together: correlations over six seeds have either sign. If they did go
    together, the test would be conservative. With ``same_trainings`` the two sides are the same policies used
    in two ways, such as at one and four steps: then trainings are paired, too.

    The parts come from the mean squares of the two-way table of trainings and starts. The sum is a t
    statistic with the degrees of freedom of Satterthwaite (1946), as radiology compares two imaging methods
    with readers of their own on the same patients (Hillis 2007, 2014: readers are our trainings, patients
    our starts). The variance is never taken to be smaller than what the chance of single episodes makes of
    it.

    Why not a hierarchical bootstrap: two identical methods, 100 common starts, 1,000 to 3,000 repetitions,
    share of p < 0.05, by trainings of each method and their spread in success rate
    (``benchmarks/false_positives.py``):

    ==================  ======  ======  ======  ======  ======  ======
    spread (points)     0       0       8       8       14      14
    trainings           2       6       2       6       2       6
    ==================  ======  ======  ======  ======  ======  ======
    this test           0.01    0.04    0.02    0.05    0.02    0.05
    bootstrap           0.01    0.00    0.08    0.04    0.18    0.08
    the same, rescaled  0.00    0.00    0.05    0.02    0.10    0.06
    starts alone        0.05    0.06    0.34    0.32    0.53    0.54
    ==================  ======  ======  ======  ======  ======  ======

    *Bootstrap* resamples the trainings of each method and the common starts, *rescaled* as in
    `bootstrap_interval`, *starts alone* is a paired t-test over starts of the mean over trainings. With
    three trainings this test has 0.01 to 0.04, with six against three 0.02 to 0.06. Six against two are its
    weak spot: 0.07 and 0.08 at spreads of 8 and 14 points. With paired trainings it has 0.01 to 0.05.

    Args:
        a: (trainings, starts), values of a start in [0, 1].
        b: The same starts; with ``same_trainings`` the same trainings in the same order.
        same_trainings: Whether both sides are the same trained policies.
        level: Of the interval.

    Raises:
        ValueError: the starts, or with ``same_trainings`` the trainings, are not equally many.
    """
    a, b = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (a, b))
    if a.shape[1] != b.shape[1] or (same_trainings and len(a) != len(b)):
        raise ValueError(f"values of shapes {a.shape} and {b.shape} cannot be paired")
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) == 1 or a.shape[1] == 1:
        return Comparison(difference, None, None, NO_TEST if a.shape[1] > 1 else "one start: no test")
    method = PAIRED if same_trainings else INDEPENDENT
    error, freedom = _standard_error([a - b] if same_trainings else [a, b], a.mean(0) - b.mean(0))
    if error == 0:  # every episode of a side ended alike: all that is left is the sign of each start
        p_value = 2.0 ** (1 - a.shape[1]) if difference else 1.0
        return Comparison(difference, Interval(difference, difference), p_value, method)
    p_value = float(2 * stats.t.sf(abs(difference) / error, freedom))
    width = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    ends = np.clip([difference - width, difference + width], -1.0, 1.0)
    return Comparison(difference, Interval(float(ends[0]), float(ends[1])), p_value, method)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number (Holm 1979), in their order; None, no test, is not counted."""
    from statsmodels.stats.multitest import multipletests  # slow to import, and only tables need it

    known = [value for value in p_values if value is not None]
    if not known:
        return list(p_values)
    adjusted = iter(multipletests(known, method="holm")[1])
    return [None if value is None else float(next(adjusted)) for value in p_values]


def _standard_error(groups: Sequence[np.ndarray], differences: np.ndarray) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean of ``differences``, one for each start.

    Args:
        groups: (trainings, starts) each; the trainings of one are independent of those of the other.
        differences: (starts,), between the groups' means over trainings.
    """
    starts = len(differences)
    spreads, chances = zip(*(_spread_and_chance(group) for group in groups), strict=True)
    # The spread of differences over starts holds the chance of single episodes, which trainings hold, too.
    common = max(0.0, float(differences.var(ddof=1)) / starts - sum(chances))
    parts = [*spreads, Component(common, starts - 1)]
    variance = sum(part.variance for part in parts)
    if variance == 0:
        return math.sqrt(sum(chances)), min(part.freedom for part in parts)
    freedom = variance**2 / sum(part.variance**2 / part.freedom for part in parts)
    return math.sqrt(max(variance, sum(chances))), freedom


def _spread_and_chance(values: np.ndarray) -> tuple[Component, float]:
    """Variance of the mean of (trainings, starts) from the spread of trainings; how much of it is chance.

    Chance is what single episodes differ in beyond the differences of trainings and those of starts.
    """
    trainings, starts = values.shape
    means = values.mean(axis=1)
    residuals = values - values.mean(axis=0) - means[:, None] + values.mean()
    chance = float((residuals**2).sum()) / ((trainings - 1) * (starts - 1)) / (trainings * starts)
    return Component(float(means.var(ddof=1)) / trainings, trainings - 1), chance


def paired_scores(a: np.ndarray, b: np.ndarray, seed: int = 0) -> PairedTest:
    """Paired permutation test (swaps within a start) of the mean of ``a`` - ``b``, (starts,) each.

    For two policies; for methods see `compare_methods`.
    """
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
    """Exact McNemar test for successes on the same starts; for fractions the paired permutation test.

    For two policies; for methods see `compare_methods`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
        return paired_scores(a, b, seed)
    only_a, only_b = int((a > b).sum()), int((a < b).sum())
    p_value = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return PairedTest(float((a - b).mean()), float(p_value), "exact McNemar")
