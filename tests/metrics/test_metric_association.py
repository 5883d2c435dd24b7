"""Correlations against scipy and closed forms; their bootstrap against enumeration and its coverage."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unrolling._checks import InputError
from unrolling.metrics.association import compare_correlations, correlate
from unrolling.seeding import stream_seed

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}


def normal(count, columns, seed=0, correlation=0.0):
    """Return columns of a Gaussian sample; the second has this correlation with the first."""
    table = np.random.default_rng(stream_seed(seed, "association")).standard_normal((columns, count))
    table[1] = correlation * table[0] + math.sqrt(1 - correlation**2) * table[1]
    return table


def ends(found):
    return found.low, found.high


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(3, 40), method=st.sampled_from(sorted(SCIPY)))
def test_values_are_scipys(seed, count, method):
    x, y = normal(count, 2, seed=seed)
    y[::2] = np.round(y[::2])  # ties
    if np.ptp(y):
        assert correlate(x, y, method=method, num_draws=40).value == pytest.approx(
            SCIPY[method](x, y).statistic, abs=1e-12
        )


@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(20, 40), method=st.sampled_from(sorted(SCIPY)))
def test_partial_correlation_is_that_of_the_closed_form(seed, count, method):
    x, y, z = normal(count, 3, seed=seed)
    x, y = x + z, y - z
    xy, xz, yz = (SCIPY[method](a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    found = correlate(x, y, given=z, method=method, num_draws=40).value
    assert found == pytest.approx(expected, abs=1e-9)


def test_partial_correlation_given_columns_is_that_of_least_squares_residuals():
    x, y, *controls = normal(30, 5)
    x, y = x + controls[0] - controls[1], y + 2 * controls[1] + controls[2]
    design = np.column_stack([np.ones(30), *controls])
    left = [v - design @ np.linalg.lstsq(design, v)[0] for v in (x, y)]
    columns = np.column_stack(controls)
    found = correlate(x, y, given=columns).value
    assert found == pytest.approx(stats.pearsonr(*left).statistic, abs=1e-12)
    repeated = np.column_stack([columns, controls[0] + 2 * controls[1]])  # says nothing new
    assert correlate(x, y, given=repeated).value == pytest.approx(found, abs=1e-9)


def test_conditioning_takes_away_what_a_common_cause_makes():
    x, y, cause = normal(4000, 3)
    assert correlate(x + 3 * cause, y + 3 * cause, num_draws=40).value == pytest.approx(0.9, abs=0.01)
    assert abs(correlate(x + 3 * cause, y + 3 * cause, given=cause, num_draws=40).value) < 0.03


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), slope=st.floats(0.1, 10), method=st.sampled_from(sorted(SCIPY)))
def test_order_and_units_do_not_matter_and_a_sign_turns_the_interval(seed, slope, method):
    x, y = normal(20, 2, seed=seed, correlation=0.5)
    base = correlate(x, y, method=method)
    for a, b in ((y, x), (slope * x + 7, y)):
        other = correlate(a, b, method=method)
        assert (other.value, *ends(other)) == pytest.approx((base.value, *ends(base)), abs=1e-9)
    turned = correlate(x, -y, method=method)
    assert (turned.value, *ends(turned)) == pytest.approx((-base.value, -base.high, -base.low), abs=1e-9)


def enumerated(units, method, control=False):
    """Return the correlations of all equally likely draws of these lists of points (x, y[, z])."""
    values = []
    for draw in itertools.product(units, repeat=len(units)):
        columns = np.concatenate(draw).T
        if control:  # residuals of a regression on z
            design = np.column_stack([np.ones(columns.shape[1]), columns[2]])
            columns = columns[:2] - columns[:2] @ np.linalg.pinv(design).T @ design.T
        if np.ptp(columns, axis=1).min() > 1e-9:
            values.append(SCIPY[method](*columns[:2]).statistic)
    return np.array(values)


POINTS = {
    "three": np.array([[0.0, 0.0], [1.0, 3.0], [2.0, 2.0]]),
    "four": np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0], [4.0, 3.0]]),
    "four with a tie": np.array([[0.0, 0.0], [1.0, 2.0], [1.0, 1.0], [3.0, 4.0]]),
}


@pytest.mark.parametrize("method", sorted(SCIPY))
@pytest.mark.parametrize("name", sorted(POINTS))
def test_interval_is_that_of_all_possible_draws(name, method):
    points = POINTS[name]
    values = enumerated([[point] for point in points], method)
    found = correlate(*points.T, method=method, num_draws=20_000)
    # The draws' quantile lies between neighbours of the exact one: one draw in a hundred either side.
    for end, share in zip(ends(found), (0.025, 0.975), strict=True):
        below, above = np.quantile(values, [max(share - 0.01, 0), min(share + 0.01, 1)])
        assert below - 1e-9 <= end <= above + 1e-9


def test_clustered_and_partial_interval_is_that_of_all_possible_draws():
    table = normal(10, 3, seed=3, correlation=0.7).T
    sizes = [1, 2, 3, 4]
    units = np.split(table, np.cumsum(sizes)[:-1])
    labels = np.repeat(list("abcd"), sizes)
    for control in (False, True):
        values = enumerated(units, "pearson", control)
        x, y, z = table.T
        found = correlate(x, y, clusters=labels.tolist(), given=z if control else None, num_draws=20_000)
        for end, share in zip(ends(found), (0.025, 0.975), strict=True):
            below, above = np.quantile(values, [max(share - 0.01, 0), min(share + 0.01, 1)])
            assert below - 1e-9 <= end <= above + 1e-9


def test_clusters_of_one_point_are_no_clusters():
    x, y = normal(12, 2, correlation=0.6)
    for method in SCIPY:
        plain = correlate(x, y, method=method)
        assert correlate(x, y, method=method, clusters=[("point", i) for i in range(12)]) == plain


def test_interval_of_repeated_points_needs_clusters():
    # Ten points, each of them twenty times: no more is known than from ten.
    x, y = normal(10, 2, seed=1, correlation=0.5)
    many_x, many_y = np.repeat(x, 20), np.repeat(y, 20)
    labels = np.repeat(np.arange(10), 20).tolist()
    clustered = correlate(many_x, many_y, clusters=labels)
    assert ends(clustered) == pytest.approx(ends(correlate(x, y)), abs=1e-9)
    naive = correlate(many_x, many_y)
    assert naive.high - naive.low < 0.4 * (clustered.high - clustered.low)


@pytest.mark.parametrize("method", sorted(SCIPY))
def test_intervals_cover_the_true_correlation_about_as_often_as_they_say(method):
    true = 0.6 if method == "pearson" else 6 / math.pi * math.asin(0.6 / 2)  # of a bivariate normal
    found = [
        correlate(*normal(60, 2, seed=seed, correlation=0.6), method=method, num_draws=400, seed=seed)
        for seed in range(300)
    ]
    coverage = np.mean([interval.low <= true <= interval.high for interval in found])
    assert 0.90 <= coverage <= 0.98


def test_clustered_intervals_cover_where_naive_ones_do_not():
    covered = {"clustered": [], "naive": []}
    labels = np.repeat(np.arange(30), 10).tolist()
    for seed in range(150):
        x, y = np.repeat(normal(30, 2, seed=seed), 10, axis=1)  # independent, but shared by ten points
        for name, clusters in (("clustered", labels), ("naive", None)):
            found = correlate(x, y, clusters=clusters, num_draws=200, seed=seed)
            covered[name].append(found.low <= 0 <= found.high)
    assert np.mean(covered["clustered"]) > 0.88
    assert np.mean(covered["naive"]) < 0.6


def test_comparison_is_the_difference_of_two_correlations():
    target, first = normal(40, 2, correlation=0.9)
    second = normal(40, 2, seed=1)[0]
    for method in SCIPY:
        one, other = (correlate(target, proxy, method=method).value for proxy in (first, second))
        found = compare_correlations(target, first, second, method=method)
        assert found.difference == pytest.approx(one - other, abs=1e-12)
        assert found.low > 0
        assert found.p == pytest.approx(2 / 2001)
        turned = compare_correlations(target, second, first, method=method)
        expected = (-found.difference, -found.high, -found.low, found.p)
        assert (turned.difference, *ends(turned), turned.p) == pytest.approx(expected)


def test_comparison_of_a_proxy_with_itself_finds_nothing():
    target, proxy = normal(20, 2, correlation=0.5)
    found = compare_correlations(target, proxy, 2 * proxy + 1)
    assert (found.difference, *ends(found)) == pytest.approx((0, 0, 0), abs=1e-12)
    assert compare_correlations(target, proxy, proxy).p == 1


def test_paired_interval_is_narrower_than_that_of_two_separate_ones():
    target, proxy = normal(40, 2, correlation=0.5)
    second = proxy + 0.1 * normal(40, 2, seed=1)[0]
    paired = compare_correlations(target, proxy, second)
    single = correlate(target, proxy)
    assert paired.high - paired.low < 0.3 * (single.high - single.low)


def test_p_is_small_about_as_often_as_it_says_where_two_proxies_are_equally_good():
    small = []
    for seed in range(300):
        target, one, other = normal(60, 3, seed=seed)
        found = compare_correlations(target, target + one, target + other, num_draws=400, seed=seed)
        small.append(found.p <= 0.05)
    assert 0.02 <= np.mean(small) <= 0.09


def test_draws_are_those_of_the_seed_and_leave_the_global_generator_alone():
    x, y = normal(12, 2, correlation=0.6)
    before = torch.get_rng_state()
    assert correlate(x, y, seed=1) == correlate(x, y, seed=1) != correlate(x, y, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_without_a_correlation_do_not_count():
    # One point stands apart: a third of the draws miss it, and there x is constant.
    found = correlate([0, 0, 0, 0, 1], [0, 1, 2, 3, 9])
    assert 0 < found.low < found.value < found.high <= 1


ONE, TWO = [1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 2.0, 5.0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: correlate([1, 2], [1, 2]), "`x` must hold one number.*at least 3 points.*\\(2,\\)"),
        (lambda: correlate(ONE, [ONE, TWO]), "`y` must hold one number"),
        (lambda: correlate(ONE, TWO[:3]), "equally long, got 4 and 3 points"),
        (lambda: correlate([1, 2, math.nan, 3], TWO), "`x` must be finite"),
        (lambda: correlate(ONE, [2, 2, 2, 2]), "`y` is 2 at all 4 points"),
        (lambda: correlate(ONE, TWO, given=[0, 0, 0, 0]), "`given` is 0 at all"),
        (lambda: correlate(ONE, TWO, given=[1, 2, 3]), "`given` must have shape \\(4,\\).*\\(3,\\)"),
        (lambda: correlate(ONE, TWO, given=[2, 4, 8, 6]), "linear function of `given`"),
        (lambda: correlate(ONE[:3], TWO[:3], given=[1, 0, 1]), "3 points are too few.*at least 4"),
        (lambda: correlate(ONE, TWO, method="kendall"), "unknown method 'kendall'"),
        (lambda: correlate(ONE, TWO, clusters=["a", "b"]), "for each of 4 points, got 2"),
        (lambda: correlate(ONE, TWO, clusters=["a", "b", "a", "b"]), "at least 3 different ones, got 2"),
        (lambda: correlate(ONE, TWO, clusters=5), "`clusters` must name one for each of 4 points, got 5"),
        (lambda: correlate("x", TWO), "`x` must be numbers, got a str"),
        (lambda: correlate(ONE, [1, 2, 3, object()]), "`y` must be numbers, got a list"),
        (lambda: correlate(ONE, TWO, given=["a"] * 4), "`given` must be numbers, got a list"),
        (lambda: correlate(ONE, TWO, num_draws=10), "num_draws must be at least 40"),
        (lambda: compare_correlations(ONE, TWO, TWO[:3]), "`target` and `second`.*got 4 and 3"),
    ],
)
def test_misuse_is_said_in_words(call, words):
    with pytest.raises(InputError, match=words):
        call()
