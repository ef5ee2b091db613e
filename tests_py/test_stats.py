"""Means, intervals and t tests: against SciPy's own, published figures, and cases too small to say anything."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytegolf import stats
from bytegolf.stats import summarise, welch_test

scipy_stats = pytest.importorskip("scipy.stats", reason="what they are compared with")

# Published with the four seeds of a byte-level run: mean, interval, and both tests.
PUBLISHED = [1.21456865, 1.21197405, 1.21744342, 1.21660625]
groups = st.lists(st.floats(0.5, 3.0).map(lambda x: round(x, 6)), min_size=2, max_size=8)


def test_the_published_summary():
    got = stats.summarise(PUBLISHED, 0.99)
    assert got.n == 4
    assert round(got.mean, 8) == 1.21514809
    assert (round(got.low, 4), round(got.high, 4)) == (1.2080, 1.2223)


@pytest.mark.parametrize(("baseline", "t", "p"), [(1.2244, -7.60, 0.0024), (1.2269, -9.65, 0.0012)])
def test_the_published_tests(baseline, t, p):
    got = stats.t_test(PUBLISHED, baseline)
    assert (round(got.t, 2), round(got.p, 4), got.df) == (t, p, 3)


@given(groups, st.floats(0.5, 3.0), st.sampled_from([0.0, 0.01]), st.sampled_from([0.9, 0.95, 0.99]))
def test_one_sample_agrees_with_scipy(values, baseline, margin, confidence):
    got, summary = stats.t_test(values, baseline, margin=margin, confidence=confidence), stats.summarise(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if len(set(values)) == 1:
        assert (got.t, got.p, got.low, got.high) == (None,) * 4
        return
    want = scipy_stats.ttest_1samp(values, baseline - margin, alternative="less")
    assert (got.t, got.p, got.df) == pytest.approx((want.statistic, want.pvalue, want.df), rel=1e-6)
    bounds = scipy_stats.ttest_1samp(values, baseline).confidence_interval(confidence)
    assert (got.low, got.high) == pytest.approx((bounds.low - baseline, bounds.high - baseline), rel=1e-6, abs=1e-9)


@given(groups, groups, st.sampled_from([0.0, 0.01]))
def test_welch_agrees_with_scipy(values, others, margin):
    got = stats.welch_test(values, others, margin=margin, confidence=0.95)
    assert got.difference == pytest.approx(np.mean(values) - np.mean(others), abs=1e-12)
    if len(set(values)) == len(set(others)) == 1:
        assert got.t is None
        return
    shifted = [value + margin for value in values]
    want = scipy_stats.ttest_ind(shifted, others, equal_var=False, alternative="less")
    assert (got.t, got.p, got.df) == pytest.approx((want.statistic, want.pvalue, want.df), rel=1e-5)
    bounds = scipy_stats.ttest_ind(values, others, equal_var=False).confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((bounds.low, bounds.high), rel=1e-5, abs=1e-9)


def test_one_value_has_a_mean_and_nothing_else():
    assert stats.summarise([1.5]) == stats.Summary(1, 1.5, None, None, None)
    assert stats.t_test([1.5], 2.0).difference == -0.5
    assert stats.t_test([1.5], 2.0).p is None
    assert stats.welch_test([1.5], [2.0, 2.1]).p is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="value"):
        stats.summarise(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 99.0])
def test_an_impossible_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        stats.summarise([1.0, 2.0], confidence)


def test_values_too_large_for_squares_are_refused_and_tiny_spreads_are_compared():
    for values in ([1e308, 1e308], [1.0, -1e101], [1e200]):
        with pytest.raises(ValueError, match="too large"):
            summarise(values)
    # The degrees of freedom do not depend on the unit: those of spreads of 1e-100 are those of spreads of 1.
    small = welch_test([1e-100, 2e-100, 4e-100], [5e-100, 6e-100])
    usual = welch_test([1.0, 2.0, 4.0], [5.0, 6.0])
    assert (small.df, small.t, small.p) == pytest.approx((usual.df, usual.t, usual.p))
