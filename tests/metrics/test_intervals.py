"""Intervals against scipy, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unrolling._checks import InputError
from unrolling.metrics.intervals import fisher_interval, mean_correlation, t_interval


def test_t_interval_is_scipys():
    values = [1.0, 4.0, 2.5, 3.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((2.625, *expected))


def test_of_ratios_it_is_that_of_the_logarithms_turned_back():
    values = [0.5, 2.0, 4.0]
    logs = np.log2(values)  # -1, 1, 2
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert t_interval(values, log=True) == pytest.approx((2 ** (2 / 3), *(2.0**end for end in expected)))


@pytest.mark.parametrize("log", [False, True])
def test_one_seed_has_no_interval(log):
    mean, low, high = t_interval([3.0], log=log)
    assert mean == pytest.approx(3)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("values", "log"), [([], False), ([1.0, float("nan")], False), ([1.0, 0.0], True)])
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_has_no_mean_is_refused(values, log):
    with pytest.raises(InputError, match="finite numbers"):
        t_interval(values, log=log)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(5, 60), level=st.sampled_from([0.8, 0.95]))
def test_fisher_interval_is_scipys(seed, count, level):
    found = stats.pearsonr(*np.random.default_rng(seed).standard_normal((2, count)))
    expected = found.confidence_interval(level)
    assert fisher_interval(found.statistic, count, level) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("count", [2, 3, 4, 9])
@pytest.mark.parametrize("line", [1, -1, None])
def test_fisher_interval_is_scipys_at_the_edges(count, line):
    x = np.arange(count, dtype=float)
    y = np.random.default_rng(0).standard_normal(count) if line is None else line * x
    found = stats.pearsonr(x, y)
    expected = tuple(found.confidence_interval())
    # A line's correlation is one up to rounding, of which the interval makes less than its square root.
    r = found.statistic if line is None else line
    assert fisher_interval(r, count) == pytest.approx(expected, abs=1e-6)
    assert fisher_interval(line or 0.5, 3) == (-1, 1)


@pytest.mark.parametrize(
    "bad", [(1.1, 9), (float("nan"), 9), (0.5, 1), (0.5, 2.5), (0.5, 9, 1.0), (0.5, 9, 0)]
)
def test_what_has_no_fisher_interval_is_named(bad):
    with pytest.raises(InputError, match=r"correlation|count"):
        fisher_interval(*bad)


def test_mean_correlation_stays_between_its_bounds():
    values = [-0.79, -0.95, -0.87]
    z = np.arctanh(values)
    expected = stats.t.interval(0.95, 2, loc=z.mean(), scale=stats.sem(z))
    assert mean_correlation(values) == pytest.approx(np.tanh([z.mean(), *expected]))
    assert mean_correlation([1.0, 1.0, 1.0]) == pytest.approx((1, 1, 1))
    assert mean_correlation([0.9, 0.2, -0.9])[2] < 1
