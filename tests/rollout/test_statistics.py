import numpy as np
import pytest
from scipy import stats

from shortcut_policy.rollout.statistics import (
    NO_TEST,
    bootstrap_interval,
    compare_methods,
    holm,
    paired_scores,
    paired_successes,
    success_interval,
    wilson_interval,
)


def test_wilson_interval_matches_the_textbook_values():
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(0, 50) == pytest.approx((0.0, 0.0713), abs=1e-4)
    assert wilson_interval(50, 50) == pytest.approx((0.9287, 1.0), abs=1e-4)


def test_bootstrap_agrees_with_scipy_on_one_axis():
    values = np.random.default_rng(0).beta(5, 1, size=60)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((expected.low, expected.high), abs=4e-3)


def test_bootstrap_is_repeatable_and_survives_degenerate_samples():
    values = np.random.default_rng(0).random(20)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(np.full(50, 0.1)) == pytest.approx((0.1, 0.1))
    assert bootstrap_interval(np.array([0.7])) == pytest.approx((0.7, 0.7))
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(np.array([]))


def test_one_start_tells_nothing_from_chance():
    for test in (paired_scores, paired_successes):
        assert test(np.array([1.0]), np.array([0.0]))[:2] == (1.0, 1.0)


def test_differences_between_training_seeds_widen_the_interval():
    starts = np.random.default_rng(0).normal(0.8, 0.02, size=50)
    seeds = np.stack([starts - 0.1, starts, starts + 0.1])
    low, high = bootstrap_interval(seeds)
    alone = bootstrap_interval(starts)
    assert high - low > 5 * (alone.high - alone.low)
    assert bootstrap_interval(np.stack([starts] * 3)) == pytest.approx(alone, abs=2e-3)


def test_two_training_seeds_spread_as_much_as_their_standard_error_says():
    starts = np.arange(1000)  # so many that they add little
    low, high = bootstrap_interval(np.stack([starts < 400, starts < 600]))
    assert (low, high) == pytest.approx((0.5 - 0.1 * 2**0.5, 0.5 + 0.1 * 2**0.5), abs=0.035)
    assert high - low > 0.28, "the means of the two seeds are 0.2 apart"


def test_success_interval_names_its_method():
    assert success_interval(np.array([1.0, 0.0, 1.0]))[1] == "Wilson"
    assert success_interval(np.array([1.0, 0.2, 1.0]))[1] == "bootstrap"
    assert success_interval(np.array([[1.0, 0.0, 1.0]] * 2))[1] == "bootstrap"


def test_success_interval_keeps_its_width_where_nothing_varies():
    assert success_interval(np.zeros((3, 50))) == (wilson_interval(0, 50), "Wilson")
    assert success_interval(np.ones((3, 50))) == (wilson_interval(50, 50), "Wilson")


def test_paired_scores_sees_a_small_difference_that_starts_would_hide():
    rng = np.random.default_rng(0)
    b = rng.random(50)
    a = b + rng.normal(0.02, 0.02, size=50)
    result = paired_scores(a, b)
    assert result.difference == pytest.approx((a - b).mean())
    assert result.p_value < 0.001
    assert stats.ttest_ind(a, b).pvalue > 0.5
    assert paired_scores(a, a) == (0.0, 1.0, "paired permutation")


def test_paired_scores_is_symmetric_and_exact_for_few_starts():
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4)
    # Of the 16 sign patterns only all-plus and all-minus are as extreme as the observed one.
    assert paired_scores(a, b).p_value == pytest.approx(2 / 16)
    assert paired_scores(b, a).p_value == pytest.approx(2 / 16)


def test_paired_successes_is_the_exact_mcnemar_test():
    a = np.array([1] * 9 + [0] + [1] * 20)
    b = np.array([0] * 9 + [1] + [1] * 20)
    result = paired_successes(a, b)
    assert result.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert result.difference == pytest.approx(8 / 30)
    assert result.method == "exact McNemar"
    assert paired_successes(a, a).p_value == 1.0
    assert paired_successes(a * 0.5, b).method == "paired permutation"


def played(rng: np.random.Generator, rates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Successes of (trainings, starts): each training has its rate, and starts are easier or harder."""
    return (rng.random((len(rates), len(starts))) < np.clip(rates[:, None] + starts, 0, 1)).astype(float)


def test_one_lucky_training_is_no_better_method():
    """0.80, 0.49, 0.59 against 0.50, 0.52, 0.51: twelve points that one training has brought."""
    rng = np.random.default_rng(0)
    starts = rng.uniform(-0.2, 0.2, 100)
    lucky = played(rng, np.array([0.80, 0.49, 0.59]), starts)
    other = played(rng, np.array([0.50, 0.52, 0.51]), starts)
    assert paired_scores(lucky.mean(0), other.mean(0)).p_value < 0.05, "starts alone would believe it"
    found = compare_methods(lucky, other)
    assert found.difference == pytest.approx(lucky.mean() - other.mean())
    assert found.p_value > 0.2
    assert found.interval.low < 0 < found.interval.high


def test_many_trainings_that_agree_are_a_better_method():
    rng = np.random.default_rng(1)
    starts = rng.uniform(-0.2, 0.2, 100)
    a, b = (played(rng, rate + rng.normal(0, 0.03, 6), starts) for rate in (0.7, 0.5))
    found, swapped = compare_methods(a, b), compare_methods(b, a)
    assert found.p_value < 0.001 and found.interval.low > 0.1
    assert (swapped.p_value, swapped.difference) == pytest.approx((found.p_value, -found.difference))
    assert swapped.interval == pytest.approx((-found.interval.high, -found.interval.low))


def test_without_starts_of_their_own_trainings_are_compared_by_welch():
    """Where all starts of a training have one value, its mean is all there is."""
    means = np.array([0.5, 0.6, 0.8]), np.array([0.3, 0.35, 0.2, 0.5])
    a, b = (np.repeat(own[:, None], 5, axis=1) for own in means)
    expected = stats.ttest_ind(*means, equal_var=False)
    found = compare_methods(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(expected.confidence_interval())
    together = compare_methods(a, a[[1, 0, 2]], same_trainings=True)
    assert together.p_value == pytest.approx(1.0), "the order of the trainings matters where they are paired"


def test_the_same_trainings_are_paired():
    """Six points more in every training are sure, though the trainings themselves differ by thirty."""
    rng = np.random.default_rng(2)
    one = played(rng, np.array([0.3, 0.4, 0.5, 0.6]), rng.uniform(-0.2, 0.2, 200))
    failed = [np.flatnonzero(training == 0)[:12] for training in one]
    four = one.copy()
    for training, places in zip(four, failed, strict=True):
        training[places] = 1.0
    assert compare_methods(four, one, same_trainings=True).p_value < 0.001
    assert compare_methods(four, one).p_value > 0.3
    with pytest.raises(ValueError, match="cannot be paired"):
        compare_methods(one, one[:3], same_trainings=True)
    with pytest.raises(ValueError, match="cannot be paired"):
        compare_methods(one, one[:, :9])


def test_one_training_has_no_test():
    several, one = np.ones((3, 50)), np.zeros(50)
    assert compare_methods(several, one) == (1.0, None, None, NO_TEST)
    assert compare_methods(one, several) == (-1.0, None, None, NO_TEST)
    assert compare_methods(np.ones((2, 1)), np.zeros((2, 1))).p_value is None


def test_methods_without_any_spread():
    always, never = np.ones((2, 50)), np.zeros((2, 50))
    assert compare_methods(always, never)[:3] == (1.0, (1.0, 1.0), pytest.approx(2.0**-49))
    assert compare_methods(always, always)[:3] == (0.0, (0.0, 0.0), 1.0)
    equal_rates = np.tile([1.0, 0.0], (2, 25)), np.tile([0.0, 1.0], (2, 25))
    assert compare_methods(*equal_rates).p_value == pytest.approx(1.0)


@pytest.mark.parametrize("trainings", [2, 3, 6])
@pytest.mark.parametrize("same", [False, True])
def test_identical_methods_are_told_apart_in_a_twentieth_of_cases(trainings: int, same: bool):
    """Trainings spread by 8 points, as on Push-T; 400 repetitions tell 5% from 9%."""
    rng = np.random.default_rng(trainings)
    found = []
    for _ in range(400):
        starts = rng.normal(0, 0.2, 100)
        sides = [played(rng, rng.normal(0.6, 0.08, trainings), starts) for _ in range(2)]
        found.append(compare_methods(*sides, same_trainings=same).p_value < 0.05)
    assert np.mean(found) < 0.09


def test_holm_is_the_textbook_case_and_leaves_out_what_has_no_test():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([None, None]) == [None, None]
    assert holm([]) == []
