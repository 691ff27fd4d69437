import numpy as np
import pytest
from scipy import stats

from shortcut_policy.rollout.statistics import (
    bootstrap_interval,
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
