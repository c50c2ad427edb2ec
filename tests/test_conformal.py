"""Conformal intervals keep their promise, counted exactly over all ways in which patients could swap."""

from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm, uniform

from lib.errors import UserError
from lib.metrics.conformal import (
    can_promise,
    chance_of_so_few,
    clopper_pearson,
    coverage_of_draws,
    interval,
    interval_score,
    least_patients,
    percentile,
    promise,
    quantile,
    rank,
)

LEVELS_PCT = (10, 50, 60, 75, 80, 90)
RANDOM = np.random.default_rng(7)


def others(values):
    """Each value as the new patient's, with the rest as calibration patients': all that swapping can do."""
    return [(values[i], np.delete(values, i)) for i in range(len(values))]


@pytest.mark.parametrize("level_pct", range(1, 100))
def test_the_rank_is_that_of_exact_fractions(level_pct):
    for n in range(1, 200):
        exact = max(1, ceil(Fraction(level_pct * (n + 1), 100)))
        if exact <= n and n > 1:  # one patient does not say how plans differ
            assert rank(n, level_pct) == exact and can_promise(n, level_pct)
        else:
            assert not can_promise(n, level_pct) and n < least_patients(level_pct)
    assert rank(19, 100 * (0.1 + 0.2) / 0.3 * 0.95) == 19  # 95.00000000000001


@pytest.mark.parametrize("level_pct", LEVELS_PCT)
@pytest.mark.parametrize("n", [2, 4, 9, 10, 25])
def test_of_all_swaps_just_the_promised_share_lies_inside(n, level_pct):
    if not can_promise(n, level_pct):
        return
    k = rank(n, level_pct)
    for values in (
        RANDOM.normal(size=n + 1),
        RANDOM.lognormal(sigma=2, size=n + 1),
        40 + np.arange(n + 1.0) ** 3,
    ):
        below = sum(new <= quantile(known, level_pct) for new, known in others(values))
        assert below == k  # the share is k / (n + 1) exactly, for distinct scores
        ends = [(new, *interval(known, level_pct)) for new, known in others(values)]
        assert sum(low <= new <= high for new, low, high in ends) == k
    assert level_pct / 100 <= k / (n + 1) < level_pct / 100 + 1 / (n + 1) + 1e-12


def test_ties_only_hold_more():
    values = np.array([1.0, 1, 1, 2, 2, 3, 3, 3, 9, 9])
    for level_pct in LEVELS_PCT:
        if can_promise(9, level_pct):
            ends = [(new, *interval(known, level_pct)) for new, known in others(values)]
            held = sum(low - 1e-9 <= new <= high + 1e-9 for new, low, high in ends)
            assert held >= rank(9, level_pct)
            assert sum(new <= quantile(known, level_pct) for new, known in others(values)) >= rank(
                9, level_pct
            )


def test_the_closed_form_is_what_its_definition_says():
    scores = RANDOM.gamma(2, size=11)
    for level_pct in (50, 80, 90):
        low, high = interval(scores, level_pct)
        for new in np.linspace(low - 3, high + 3, 301):
            everyone = np.append(scores, new)
            off = np.abs(everyone - everyone.mean())
            defined = (off[:-1] < off[-1]).sum() < rank(11, level_pct)
            assert defined == (low <= new <= high)


def test_intervals_move_and_grow_with_the_scores_and_do_not_know_their_order():
    scores = RANDOM.normal(size=20)
    low, high = interval(scores, 80)
    assert interval(scores[::-1], 80) == pytest.approx((low, high))
    assert interval(5 + 3 * scores, 80) == pytest.approx((5 + 3 * low, 5 + 3 * high))
    assert interval(-scores, 80) == pytest.approx((-high, -low))
    assert interval(np.full(9, 4.0), 80) == (4.0, 4.0)
    assert quantile(5 + 3 * scores, 80) == pytest.approx(5 + 3 * quantile(scores, 80))


def test_a_higher_level_holds_the_lower_ones_interval():
    scores = RANDOM.normal(size=25)
    ends = [interval(scores, level_pct) for level_pct in range(2, 97, 2)]
    assert all(b[0] <= a[0] <= a[1] <= b[1] for a, b in pairwise(ends))
    bounds = [quantile(scores, level_pct) for level_pct in range(2, 97, 2)]
    assert bounds == sorted(bounds)


def test_a_bias_that_all_share_costs_no_width():
    scores = RANDOM.normal(size=25)
    widths = [np.diff(interval(scores + bias, 80))[0] for bias in (0, 14)]
    assert widths[0] == pytest.approx(widths[1])


def test_too_few_patients_promise_nothing():
    with pytest.raises(
        UserError, match="no interval of 80 % can be promised from 3 calibration patients; it takes 4"
    ):
        quantile([1, 2, 3], 80)
    with pytest.raises(UserError, match="from 1 calibration patient; it takes 9"):
        interval([1], 90)
    with pytest.raises(UserError, match="from 0 calibration patients"):
        quantile([], 50)
    with pytest.raises(UserError, match="between 0 and 100"):
        rank(10, 100)
    assert [least_patients(level) for level in (50, 80, 90, 95, 99)] == [2, 4, 9, 19, 99]


def test_every_place_among_patients_is_as_likely():
    places = [percentile(new, known) for new, known in others(RANDOM.normal(size=10))]
    assert sorted(places) == pytest.approx([5, 15, 25, 35, 45, 55, 65, 75, 85, 95])
    assert percentile(2, [1, 2, 3]) == 50 and percentile(9, [1, 2, 3]) == 87.5


def test_shares_have_the_exact_intervals_of_scipy():
    for hits, n in ((0, 5), (3, 16), (16, 16), (31, 33)):
        theirs = binomtest(hits, n).proportion_ci(0.95, "exact")
        assert clopper_pearson(hits, n) == pytest.approx((100 * theirs.low, 100 * theirs.high))


def test_one_draw_of_calibration_patients_is_beta_distributed():
    draws = uniform.rvs(size=(4000, 25), random_state=1)
    covered = np.sort(draws, axis=1)[:, rank(25, 90) - 1]  # of uniform scores, the bound is the coverage
    low, high = coverage_of_draws(25, 90)
    assert ((100 * covered >= low) & (100 * covered <= high)).mean() == pytest.approx(0.9, abs=0.015)
    assert covered.mean() == pytest.approx(24 / 26, abs=0.003)
    assert (low, high) == pytest.approx(tuple(100 * beta(24, 2).ppf([0.05, 0.95])))
    words = promise(25, 90)
    assert (
        "25 calibration patients" in words
        and "(24 of 26, 92 %)" in words
        and f"{low:.0f} to {high:.0f} %" in words
    )


def test_the_true_interval_has_the_best_score():
    dose = RANDOM.normal(size=20000)
    half = norm.ppf(0.9)
    scores = {f: interval_score(-f * half, f * half, dose, 80).mean() for f in (0.5, 0.8, 1.0, 1.25, 2)}
    assert min(scores, key=scores.get) == 1.0
    assert interval_score(1.0, 3.0, np.array([0.5, 2.0, 4.0]), 80) == pytest.approx([2 + 5, 2, 2 + 10])


def test_how_likely_so_few_are_inside_by_closed_form_and_by_drawing():
    for n, level_pct in ((9, 80), (15, 80), (25, 90)):
        k = rank(n, level_pct)
        assert chance_of_so_few(0, 1, n, level_pct) == pytest.approx(1 - k / (n + 1))
        assert chance_of_so_few(7, 7, n, level_pct) == pytest.approx(1)
    random = np.random.default_rng(5)
    drawn = random.normal(size=(20_000, 15 + 23))
    edges = np.sort(drawn[:, :15], axis=1)[:, rank(15, 80) - 1]
    inside = (drawn[:, 15:] <= edges[:, None]).sum(axis=1)
    for hits in (11, 15, 19):
        assert chance_of_so_few(hits, 23, 15, 80) == pytest.approx((inside <= hits).mean(), abs=0.01)
