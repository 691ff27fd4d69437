"""How often tests tell two identical methods apart: the table in the docstring of `compare_methods`.

Trainings of a method differ in their success rate by a normal amount on the scale of the logit, starts are
easier or harder, and each method finds some of them easier than the other does. A row is a spread of the
trainings and their number on both sides; a column the share of p < 0.05 of a test.

    OMP_NUM_THREADS=1 python benchmarks/false_positives.py --repetitions 1000
"""

import argparse

import numpy as np
from scipy import stats
from scipy.special import expit

from shortcut_policy.rollout.statistics import compare_methods

STARTS, RESAMPLES = 100, 499
#: Spread on the scale of the logit -> in points of success.
SPREADS = {0.0: 0, 0.46: 8, 0.8: 14}
TRAININGS = ((2, 2), (3, 3), (6, 6), (6, 3), (6, 2))


def play(rng: np.random.Generator, trainings: int, spread: float, starts: np.ndarray) -> np.ndarray:
    """Successes of one method, (trainings, starts)."""
    own = starts + 0.5 * rng.standard_normal(STARTS)
    rates = expit(own + spread * rng.standard_normal(trainings)[:, None])
    return rng.binomial(1, rates).astype(float)


def bootstrap(rng: np.random.Generator, a: np.ndarray, b: np.ndarray, rescaled: bool) -> float:
    """p-value of the hierarchical bootstrap: trainings of each method, and common starts."""
    starts = rng.multinomial(STARTS, np.full(STARTS, 1 / STARTS), size=RESAMPLES) / STARTS

    def means(values: np.ndarray) -> np.ndarray:
        count = len(values)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
        if rescaled:
            weights = 1 / count + np.sqrt(count / (count - 1)) * (weights - 1 / count)
        return np.einsum("rk,rk->r", weights, starts @ values.T)

    difference = means(a) - means(b)
    beyond = min((difference <= 0).sum(), (difference >= 0).sum())
    return min(1.0, 2 * (1 + beyond) / (RESAMPLES + 1))


def p_values(rng: np.random.Generator, sides: tuple[int, int], spread: float) -> list[float | None]:
    """Of one repetition: this test, bootstrap, the same rescaled, starts alone."""
    starts = 0.6 + 1.2 * rng.standard_normal(STARTS)
    a, b = (play(rng, count, spread, starts) for count in sides)
    alone = stats.ttest_rel(a.mean(0), b.mean(0)).pvalue
    boots = [bootstrap(rng, a, b, rescaled) for rescaled in (False, True)]
    return [compare_methods(a, b).p_value, *boots, alone]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    repetitions = parser.parse_args().repetitions
    rng = np.random.default_rng(0)
    print("points  trainings  this test  bootstrap  rescaled  starts alone")
    for spread, points in SPREADS.items():
        for sides in TRAININGS:
            found = np.array([p_values(rng, sides, spread) for _ in range(repetitions)], dtype=float)
            shares = "  ".join(f"{share:9.3f}" for share in (found < 0.05).mean(axis=0))
            print(f"{points:6d}  {sides[0]:4d}, {sides[1]:3d}  {shares}", flush=True)


if __name__ == "__main__":
    main()
