"""Measures against their definitions, written again here, and against laws that hold for any doses."""

import dataclasses
import itertools
import math
import operator
import re

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from toys import SHAPE, SITES, toy_case

from lib.cases.case import Case
from lib.cases.protocol import PROTOCOLS, Goal
from lib.errors import UserError
from lib.features.grid import Grid
from lib.features.samples import make_sample
from lib.metrics.dose import errors_gy, openkbp_dose_error_gy, region_errors, regions
from lib.metrics.dvh import (
    dose_at_cc_gy,
    dose_at_volume_gy,
    dvh_curve,
    goal_values,
    openkbp_dvh_metrics_gy,
    openkbp_dvh_points_gy,
    statistic,
    structure_mask,
)
from lib.metrics.statistics import SHARE_PCT, Difference, holm, mean_interval, paired_difference, verdict
from lib.metrics.uncertainty import EnsembleLaw, ensemble_law, mean_of_subsets, spread_gy
from lib.models.control import DEEPEST_MM, REACH_MM, control_dose, fit_falloff, targets_of
from lib.prediction.store import (
    load_prediction,
    predicted_cases,
    predicted_methods,
    prediction_path,
    save_prediction,
)

POINTS = [98, 95, 50, 2]


def openkbp_dvh_errors_gy(case, dose_gy):
    return {key: abs(a - b) for key, (a, b) in openkbp_dvh_points_gy(case, dose_gy).items()}


def noisy(case, seed=0, sd_gy=3.0):
    return (case.dose_gy + np.random.default_rng(seed).normal(0, sd_gy, case.shape)).astype(np.float32)


# --- DVH ---


@pytest.mark.parametrize("volume_pct", POINTS)
def test_in_a_uniform_dose_every_dose_point_is_that_dose(volume_pct):
    assert dose_at_volume_gy(np.full(200, 61.5), volume_pct) == 61.5
    assert dose_at_cc_gy(np.full(200, 61.5), 0.1, 0.04) == 61.5


def test_in_a_uniform_dose_all_volume_gets_it_and_none_gets_more():
    doses_gy = np.full(50, 60.0)
    assert statistic(Goal("A", "V", 60.0, ">=", 95, "%"), doses_gy, 0.1) == 100
    assert statistic(Goal("A", "V", 60.01, ">=", 95, "%"), doses_gy, 0.1) == 0
    assert statistic(Goal("A", "Vcc", 60.0, "<=", 195, "cc"), doses_gy, 0.1) == pytest.approx(5)
    assert statistic(Goal("A", "mean", None, "<=", 26, "Gy"), doses_gy, 0.1) == 60
    assert statistic(Goal("A", "max", None, "<=", 26, "Gy"), doses_gy, 0.1) == 60


def test_a_ramp_of_doses_has_the_percentiles_of_a_ramp():
    doses_gy = np.random.default_rng(0).permutation(np.arange(1001)) / 10  # 0, 0.1, .. 100 Gy
    for volume_pct in POINTS:
        assert dose_at_volume_gy(doses_gy, volume_pct) == pytest.approx(100 - volume_pct, abs=1e-9)
    assert statistic(Goal("A", "V", 50.0, "<=", 50, "%"), doses_gy, 1) == pytest.approx(100 * 501 / 1001)


def test_the_dvh_curve_is_counting_and_never_rises():
    case = toy_case()
    dose_gy, edges_gy = noisy(case), np.linspace(-20, 90, 111)
    for mask in case.masks.values():
        curve = dvh_curve(dose_gy, mask, edges_gy)
        counted = [100 * (dose_gy[mask] >= edge).sum() / mask.sum() for edge in edges_gy]
        assert np.allclose(curve, counted, atol=1e-9) and (np.diff(curve) <= 0).all()
        assert curve[0] == 100 and curve[-1] == 0


def test_a_dose_on_an_edge_of_the_curve_counts_as_reached():
    dose_gy = np.full(SHAPE, 50, np.float32)
    assert dvh_curve(dose_gy, np.ones(SHAPE, bool), [49.9, 50.0, 50.1]).tolist() == [100, 100, 0]


def test_the_curve_and_the_dose_points_speak_of_the_same_volume():
    case = toy_case()
    dose_gy, mask = noisy(case), case.masks["PTV56"]
    for volume_pct in (95, 50):
        at_gy = dose_at_volume_gy(dose_gy[mask], volume_pct)
        assert dvh_curve(dose_gy, mask, [at_gy])[0] == pytest.approx(
            volume_pct, abs=100 / mask.sum()
        )  # one voxel


@pytest.mark.parametrize("volume_pct, least", [(98, 50), (95, 20), (50, 2), (2, 50), (99, 100)])
def test_a_structure_of_too_few_voxels_has_no_dose_point(volume_pct, least):
    assert dose_at_volume_gy(np.ones(least - 1), volume_pct) is None
    assert dose_at_volume_gy(np.ones(least), volume_pct) == 1


def test_a_structure_smaller_than_a_tenth_of_a_cc_has_no_dose_at_it():
    assert dose_at_cc_gy(np.ones(2), 0.1, 0.0381) is None  # three voxels are needed
    assert dose_at_cc_gy(np.array([1.0, 2, 3]), 0.1, 0.0381) == 1
    assert dose_at_cc_gy(np.ones(1), 0.1, 5.0) == 1


def test_an_absent_structure_has_no_statistic_and_meets_no_goal():
    case = toy_case()
    without = dataclasses.replace(case, masks={n: m for n, m in case.masks.items() if n != "Rectum"})
    found = goal_values(without, case.dose_gy)
    assert {found[text] for text in found if text.startswith("Rectum")} == {(None, None)}
    assert set(found) == {goal.text for goal in PROTOCOLS["prostate"].goals}


@pytest.mark.parametrize("site", SITES)
def test_goals_are_met_exactly_when_their_inequality_holds(site):
    case = toy_case(site=site)
    found = goal_values(case, noisy(case))
    holds = {">=": operator.ge, "<=": operator.le}
    for goal in PROTOCOLS[site].goals:
        value, met = found[goal.text]
        assert met is None if value is None else met == holds[goal.sense](value, goal.limit)


def test_beyond_10_mm_is_measured_in_mm():
    case = toy_case()  # 12 x 10 x 14 mm
    far = structure_mask(case, "PTV56 beyond 10 mm of PTV70")
    near = case.masks["PTV70"].copy()
    for step in (-1, 1):
        near |= np.roll(case.masks["PTV70"], step, axis=1)  # 10 mm, not farther; 12 and 14 mm are
    assert np.array_equal(far, case.masks["PTV56"] & ~near)


# --- OpenKBP's scores, a second time from the definitions ---


def openkbp_case(seed, n=12, spacing_mm=(2.5, 3.906, 3.906), dtype=np.float64):
    """Random doses, structures of 0 to 300 voxels, dose only inside the mask; float64 as in the challenge."""
    rng = np.random.default_rng(seed)
    shape = (n, n, n)
    dose_mask = rng.random(shape) < 0.7
    dose_gy = np.where(dose_mask, rng.uniform(0, 75, shape), 0).astype(dtype)
    masks = {}
    for name in PROTOCOLS["head-and-neck"].structures:
        size = rng.choice([0, 1, 2, 3, 10, 300]) if name != "PTV70" else rng.choice([1, 300])
        if size:
            masks[name] = np.isin(np.arange(n**3), rng.choice(n**3, size, replace=False)).reshape(shape)
    prescription_gy = {name: rx for name, rx in PROTOCOLS["head-and-neck"].targets.items() if name in masks}
    ct_hu = np.zeros(shape, np.int16)
    case = Case(f"pt_{seed}", ct_hu, dose_gy, masks, dose_mask, spacing_mm, prescription_gy, "head-and-neck")
    return case, rng.uniform(-2, 80, shape).astype(dtype)


def linear_percentile(values, pct):
    """Numpy's default percentile, from its definition."""
    values = sorted(float(v) for v in values)
    position = (len(values) - 1) * pct / 100
    low = min(math.floor(position), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (position - low) * (values[high] - values[low])


def openkbp_again(case, dose_gy):
    """(structure, metric) -> Gy, as field.md 6.1 tells the challenge's evaluator."""
    found = {}
    n = max(1, round(100 / np.prod(case.spacing_mm)))
    for name in case.masks:
        values = [dose_gy[tuple(at)] for at in np.argwhere(case.masks[name])]
        if name.startswith("PTV"):
            for metric, pct in {"D99": 1, "D95": 5, "D1": 99}.items():
                found[name, metric] = linear_percentile(values, pct)
        else:
            found[name, "mean"] = sum(float(v) for v in values) / len(values)
            if len(values) >= n:
                found[name, "D0.1cc"] = linear_percentile(values, 100 - 100 * n / len(values))
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spacing_mm", [(2.5, 3.906, 3.906), (3.0, 4.625, 4.625), (10.0, 10.0, 10.0)])
def test_dvh_metrics_are_openkbps(seed, spacing_mm):
    case, dose_hat_gy = openkbp_case(seed, spacing_mm=spacing_mm)
    for dose_gy in (case.dose_gy, dose_hat_gy):
        assert openkbp_dvh_metrics_gy(case, dose_gy) == pytest.approx(openkbp_again(case, dose_gy), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_dvh_errors_are_openkbps_with_the_prediction_0_outside_the_mask(seed):
    case, dose_hat_gy = openkbp_case(seed)
    again, planned = openkbp_again(case, dose_hat_gy * case.dose_mask), openkbp_again(case, case.dose_gy)
    expected = {key: abs(again[key] - planned[key]) for key in planned}
    assert openkbp_dvh_errors_gy(case, dose_hat_gy) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_dose_error_is_openkbps_with_the_prediction_0_outside_the_mask(seed):
    case, dose_hat_gy = openkbp_case(seed)
    total = sum(abs(dose_hat_gy[tuple(at)] - case.dose_gy[tuple(at)]) for at in np.argwhere(case.dose_mask))
    assert openkbp_dose_error_gy(case, dose_hat_gy) == pytest.approx(total / case.dose_mask.sum(), abs=1e-9)


def test_scores_of_float32_doses_are_computed_in_double():
    case, dose_hat_gy = openkbp_case(5, dtype=np.float32)
    double = dataclasses.replace(case, dose_gy=case.dose_gy.astype(np.float64))
    hat = dose_hat_gy.astype(np.float64)
    assert openkbp_dose_error_gy(case, dose_hat_gy) == pytest.approx(
        openkbp_dose_error_gy(double, hat), abs=1e-6
    )
    expected = openkbp_dvh_errors_gy(double, hat)
    # the promise of experiment.md: equal to the challenge's evaluator to 1e-6
    assert openkbp_dvh_errors_gy(case, dose_hat_gy) == pytest.approx(expected, abs=1e-6)


def test_a_prediction_outside_the_mask_is_not_counted():
    case, dose_hat_gy = openkbp_case(1)
    wild = np.where(case.dose_mask, dose_hat_gy, 1000)
    assert openkbp_dose_error_gy(case, wild) == openkbp_dose_error_gy(case, dose_hat_gy)
    assert openkbp_dvh_errors_gy(case, wild) == openkbp_dvh_errors_gy(case, dose_hat_gy)


def test_planned_dose_outside_the_mask_is_counted_in_full():
    case, _ = openkbp_case(2)
    dose_gy = np.where(case.dose_mask, case.dose_gy, 7)
    outside = dataclasses.replace(case, dose_gy=dose_gy)
    expected = 7 * (~case.dose_mask).sum() / case.dose_mask.sum()
    assert openkbp_dose_error_gy(outside, dose_gy) == pytest.approx(expected)


def test_a_perfect_prediction_has_no_error():
    case, _ = openkbp_case(3)
    assert openkbp_dose_error_gy(case, case.dose_gy) == 0
    assert set(openkbp_dvh_errors_gy(case, case.dose_gy).values()) == {0.0}


def test_only_present_structures_weigh_in_the_dvh_score():
    case, dose_hat_gy = openkbp_case(4)
    assert {name for name, _ in openkbp_dvh_errors_gy(case, dose_hat_gy)} == set(case.masks)


# --- errors in Gy ---


def test_a_constant_error_is_its_own_mae_rmse_and_bias():
    dose_gy = np.linspace(0, 70, 64).reshape(4, 4, 4)
    region = np.ones((4, 4, 4), bool)
    assert errors_gy(dose_gy - 2, dose_gy, region) == pytest.approx(
        {"mae_gy": 2, "rmse_gy": 2, "bias_gy": -2}
    )


def test_errors_are_of_the_region_alone():
    case = toy_case()
    dose_hat_gy = case.dose_gy + np.where(case.masks["Rectum"], np.float32(3), np.float32(0))
    found = region_errors(case, dose_hat_gy)
    assert found["Rectum"] == pytest.approx({"mae_gy": 3, "rmse_gy": 3, "bias_gy": 3}, rel=1e-6)
    assert found["Femur_L"]["mae_gy"] == 0
    rectum = case.masks["Rectum"].sum()
    assert found["whole volume"]["mae_gy"] == pytest.approx(3 * rectum / case.dose_gy.size, rel=1e-6)
    assert found["dose mask"]["mae_gy"] == pytest.approx(3 * rectum / case.dose_mask.sum(), rel=1e-6)


def test_mae_is_never_above_rmse_and_bias_never_above_mae():
    case = toy_case()
    for errors in region_errors(case, noisy(case)).values():
        assert abs(errors["bias_gy"]) <= errors["mae_gy"] <= errors["rmse_gy"]


def test_regions_are_the_mask_the_volume_and_every_structure_with_voxels():
    case = toy_case()
    case = dataclasses.replace(case, masks=case.masks | {"Bowel": np.zeros(SHAPE, bool)})
    assert set(regions(case)) == {"dose mask", "whole volume"} | set(case.masks) - {"Bowel"}


# --- the law of averages ---


def members(n, voxels, bias=0.0, sd=1.0, seed=0):
    rng = np.random.default_rng(seed)
    dose_gy = rng.uniform(0, 70, voxels)
    return dose_gy + bias + sd * rng.standard_normal((n, voxels)), dose_gy


def test_members_of_known_bias_and_variance_have_that_floor_and_b():
    bias, sd, n, voxels = 1.5, 2.0, 8, 40_000
    law = ensemble_law(*members(n, voxels, bias, sd))
    # standard errors: b is a chi-square of (n - 1) voxels degrees;
    # floor mostly the mean's cross term with the bias
    assert abs(law.b_gy2 - sd**2) < 4 * sd**2 * math.sqrt(2 / ((n - 1) * voxels))
    floor_error = 2 * bias * sd / math.sqrt(n * voxels) + sd**2 / n * math.sqrt(2.3 / voxels)
    assert abs(law.floor_gy2 - bias**2) < 4 * floor_error


def test_for_an_exact_posterior_floor_equals_b():
    rng = np.random.default_rng(1)
    centre = rng.uniform(0, 70, 40_000)
    law = ensemble_law(
        centre + 3 * rng.standard_normal((6, 40_000)), centre + 3 * rng.standard_normal(40_000)
    )
    assert law.floor_gy2 / law.b_gy2 == pytest.approx(1, abs=0.04)  # four standard errors


@pytest.mark.parametrize("total", [2, 3, 5])
def test_floor_plus_b_over_n_is_the_mean_squared_error_over_all_subsets(total):
    members_gy, dose_gy = members(total, 30, bias=2, sd=5)
    members_gy[0] += 11  # the law is algebra: it needs no equal members
    law = ensemble_law(members_gy, dose_gy)
    for n in range(1, total + 1):
        subsets = itertools.combinations(range(total), n)
        mse_gy2 = np.mean([((members_gy[list(s)].mean(axis=0) - dose_gy) ** 2).mean() for s in subsets])
        assert law.mse_gy2(n) == pytest.approx(mse_gy2, abs=1e-9)


def test_equal_members_have_no_spread_and_a_floor_of_their_error():
    dose_gy = np.arange(5.0)
    members_gy = np.tile(dose_gy + 2, (4, 1))
    assert ensemble_law(members_gy, dose_gy) == EnsembleLaw(4, 0) and (spread_gy(members_gy) == 0).all()


def test_the_spread_is_the_standard_deviation_of_members_with_ddof_1():
    members_gy = np.array([[1.0, 5], [3, 5], [8, 5]])
    assert spread_gy(members_gy) == pytest.approx(np.array([math.sqrt((9 + 1 + 16) / 2), 0]))


def test_one_member_is_the_mean_over_members_and_all_members_are_one_subset():
    members_gy, dose_gy = members(5, 40)
    one = mean_of_subsets(members_gy, dose_gy, 1, 3, np.random.default_rng(0))
    whole = mean_of_subsets(members_gy, dose_gy, 5, 3, np.random.default_rng(0))
    assert one == pytest.approx(np.mean([np.abs(m - dose_gy).mean() for m in members_gy]))
    assert whole == pytest.approx(np.abs(members_gy.mean(axis=0) - dose_gy).mean())


@pytest.mark.parametrize("seed", range(5))
def test_averaging_members_never_makes_the_mean_error_larger(seed):
    members_gy, dose_gy = members(6, 25, bias=seed - 2, seed=seed)
    found = [mean_of_subsets(members_gy, dose_gy, n, 4000, np.random.default_rng(seed)) for n in (1, 2, 3, 6)]
    # convexity holds for the mean over all subsets; 4000 random ones leave it a little open
    assert all(a >= b - 0.01 for a, b in itertools.pairwise(found)) and found[0] >= found[-1]


def test_random_subsets_meet_the_mean_over_all_subsets():
    members_gy, dose_gy = members(6, 25)
    subsets = itertools.combinations(range(6), 3)
    every = np.mean([np.abs(members_gy[list(s)].mean(axis=0) - dose_gy).mean() for s in subsets])
    found = mean_of_subsets(members_gy, dose_gy, 3, 4000, np.random.default_rng(0))
    assert found == pytest.approx(every, abs=0.01)


# --- comparison ---


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_fewer_than_4_patients_there_is_no_interval(n):
    difference = paired_difference([9.0] * n, [1.0] * n)
    assert difference == Difference(n, 8.0) and difference.low is None
    assert verdict(difference, 0.1) == "cannot be said"


@pytest.mark.parametrize("n, said", [(4, "cannot be said"), (7, "cannot be said"), (8, "higher")])
def test_of_fewer_than_8_patients_there_is_no_verdict(n, said):
    first = np.random.default_rng(0).normal(5, 0.1, n)
    difference = paired_difference(first, np.zeros(n))
    assert difference.low > 4 and verdict(difference, 0.1) == said


@pytest.mark.parametrize(
    "low, high, said",
    [
        (0.11, 0.5, "higher"),
        (0.1, 0.5, "cannot be said"),
        (0.0, 0.5, "cannot be said"),
        (-0.5, -0.11, "lower"),
        (-0.5, -0.1, "cannot be said"),
        (-0.5, 0.5, "cannot be said"),
        (-0.1, 0.1, "equal"),
        (0.02, 0.08, "equal"),
        (-0.1001, 0.1, "cannot be said"),
    ],
)
def test_a_difference_is_called_so_only_beyond_the_margin(low, high, said):
    assert verdict(Difference(10, (low + high) / 2, low, high, 0.5, None), 0.1) == said


def test_a_constant_difference_is_its_own_interval():
    first = np.arange(8.0)
    difference = paired_difference(first + 0.5, first)
    assert (difference.mean, difference.low, difference.high) == (0.5, 0.5, 0.5)
    assert verdict(difference, 0.1) == "higher"
    assert verdict(paired_difference(first, first + 0.5), 0.1) == "lower"


def test_equal_lists_differ_by_nothing():
    difference = paired_difference(np.arange(8.0), np.arange(8.0))
    assert difference == Difference(8, 0, 0, 0, 1, None) and verdict(difference, 0.1) == "equal"


def test_a_nearly_constant_difference_has_an_interval_of_numbers():
    first = np.array([1.1, 2.2, 3.3, 4.4])
    difference = paired_difference(first + 0.1, first)  # equal but for rounding
    assert difference.low == pytest.approx(0.1) and difference.high == pytest.approx(0.1)
    assert 0 <= difference.p <= 1


def test_swapping_the_methods_turns_the_sign():
    first, second = np.random.default_rng(0).normal(0, 1, (2, 12))
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.mean == -back.mean and there.p == pytest.approx(back.p)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_the_interval_is_scipys_t_interval():
    values = np.random.default_rng(0).lognormal(0, 1, 11)
    by_scipy = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((by_scipy.low, by_scipy.high))


@pytest.mark.parametrize(
    "draw, mean, covered",
    [
        (lambda rng, size: rng.normal(0.5, 1, size), 0.5, {4: 0.95, 8: 0.95, 33: 0.95}),
        (lambda rng, size: rng.lognormal(0, 1, size), np.exp(0.5), {4: 0.82, 8: 0.83, 33: 0.89}),
    ],
    ids=["normal", "lognormal"],
)
def test_the_interval_covers_the_mean_as_often_as_its_docstring_says(draw, mean, covered):
    rng, repeats = np.random.default_rng(0), 6000  # a standard error of at most 0.5 %
    for n, share in covered.items():
        intervals = np.array([mean_interval(values) for values in draw(rng, (repeats, n))])
        inside = (intervals[:, 0] <= mean) & (mean <= intervals[:, 1])
        assert inside.mean() == pytest.approx(share, abs=0.015)


def test_the_interval_of_a_share_ends_at_nothing_and_at_all():
    shares, few = [100.0, 100.0, 100.0, 60.0], [0.0, 0.0, 2.0, 30.0]
    assert mean_interval(shares)[1] > 110 and mean_interval(few)[0] < -10
    assert mean_interval(shares, SHARE_PCT) == (mean_interval(shares)[0], 100.0)
    assert mean_interval(few, SHARE_PCT) == (0.0, mean_interval(few)[1])
    assert mean_interval([40.0, 50.0, 50.0, 60.0], SHARE_PCT) == mean_interval([40.0, 50.0, 50.0, 60.0])


def test_a_missing_value_is_not_taken_for_a_difference():
    with_gap = paired_difference([1.0, np.nan, 3.0, 4.0, 7.0], [0.0] * 5)
    assert with_gap == paired_difference([1.0, 3.0, 4.0, 7.0], [0.0] * 4) and with_gap.n == 4
    assert mean_interval([1.0, np.nan, 3.0, 4.0]) is None
    assert verdict(paired_difference([1.0, np.nan, 3.0], [0.0, 0.0, np.nan]), 0.1) == "cannot be said"


# --- the control without a network ---


def with_dose(sample, shares):
    """The sample whose targets each give their prescription x `shares` of the distance in mm, the highest."""
    prescriptions, distance_mm = targets_of(sample)
    dose = (prescriptions * shares(distance_mm)).amax(dim=0, keepdim=True) * (sample.mask > 0)
    return dataclasses.replace(sample, dose=dose)


@pytest.mark.parametrize("site", SITES)
def test_the_control_reproduces_a_dose_that_falls_with_the_distance_to_each_target(site):
    def shares(distance_mm):
        return 0.9 * torch.exp(-distance_mm.clamp(min=0) / REACH_MM)

    samples = [with_dose(make_sample(toy_case(site=site, seed=k), Grid(1)), shares) for k in range(4)]
    falloff = fit_falloff(samples)
    for sample in samples:
        assert len(set(sample.prescriptions)) == len(sample.channels.protocol.targets)
        assert torch.allclose(control_dose(falloff, sample), sample.dose, atol=0.02)


def test_the_controls_falloff_is_the_mean_dose_at_each_distance():
    case = toy_case()
    case = dataclasses.replace(case, masks={"PTV70": case.masks["PTV70"]}, prescription_gy={"PTV70": 70.0})
    sample = make_sample(case, Grid(1))
    mask = sample.mask.clone()
    mask[:, ::2] *= 0.5  # a voxel half inside the mask weighs half
    sample = dataclasses.replace(sample, mask=mask)
    falloff, (_, distance_mm) = fit_falloff([sample]), targets_of(sample)
    at, weight, dose = distance_mm[0].round().numpy(), mask[0].numpy(), sample.dose[0].numpy()
    for k, share in enumerate(falloff):
        where = (at == k - DEEPEST_MM) & (weight > 0)
        if where.any() and 0 < k < len(falloff) - 1:
            assert share == pytest.approx(np.average(dose[where], weights=weight[where]), abs=1e-4)
    deepest = (at <= -DEEPEST_MM) & (weight > 0)
    if deepest.any():
        assert falloff[0] == pytest.approx(np.average(dose[deepest], weights=weight[deepest]), abs=1e-4)


def test_a_constant_dose_is_the_controls_and_0_outside_the_mask():
    sample = make_sample(toy_case(), Grid(1))
    one = dataclasses.replace(sample, prescriptions=(1.0,) * len(sample.prescriptions))
    one = dataclasses.replace(one, dose=0.4 * (one.mask > 0))
    falloff = fit_falloff([one])
    assert set(falloff) == {0.4}  # also at distances that no voxel has
    assert torch.allclose(control_dose(falloff, one), one.dose) and (one.mask == 0).any()


def test_the_control_predicts_an_unseen_patient_better_than_no_dose_at_all():
    samples = [make_sample(toy_case(seed=k), Grid(1)) for k in range(5)]
    falloff, last = fit_falloff(samples[:4]), samples[4]
    error = float((control_dose(falloff, last) - last.dose).abs().mean())
    assert error < 0.25 * float(last.dose.mean())


# --- predictions on disk ---


@pytest.fixture
def volume():
    return np.random.default_rng(0).uniform(0, 80, (6, 7, 8)).astype(np.float32)


def test_a_stored_prediction_is_within_half_a_step(volume, tmp_path):
    path = prediction_path(tmp_path, "flow", "toy_1")
    save_prediction(path, volume, Grid(1), spread_gy=volume / 10)
    back = load_prediction(path, np.ones(volume.shape, bool))
    # half of 0.01 Gy, and the rounding of float32
    for found, stored in ((back.dose_gy, volume), (back.spread_gy, volume / 10)):
        assert np.abs(found - stored).max() <= 0.005 + 1e-5
    assert back.dose_gy.dtype == np.float32


def test_a_prediction_without_samples_has_no_spread(volume, tmp_path):
    save_prediction(tmp_path / "a.npz", volume, Grid(1))
    assert load_prediction(tmp_path / "a.npz", np.ones(volume.shape, bool)).spread_gy is None


def test_a_coarser_prediction_comes_back_on_the_cases_grid(tmp_path):
    save_prediction(tmp_path / "a.npz", np.full((3, 4, 5), 42.0), Grid(2))
    back = load_prediction(tmp_path / "a.npz", np.ones((6, 7, 9), bool))
    assert back.dose_gy.shape == (6, 7, 9) and np.allclose(back.dose_gy, 42, atol=1e-4)


def test_a_torch_tensor_can_be_stored_as_well(volume, tmp_path):
    save_prediction(tmp_path / "a.npz", torch.from_numpy(volume), Grid(1))
    assert np.allclose(
        load_prediction(tmp_path / "a.npz", np.ones(volume.shape, bool)).dose_gy, volume, atol=0.00501
    )


@pytest.mark.parametrize("value", [-0.3, -0.004, 700.0])
def test_a_dose_that_no_step_can_hold_is_not_turned_into_another(value, volume, tmp_path):
    volume[0, 0, 0] = value
    save_prediction(tmp_path / "a.npz", volume, Grid(1))
    nearest = min(max(value, 0), 655.35)
    assert load_prediction(tmp_path / "a.npz", np.ones(volume.shape, bool)).dose_gy[0, 0, 0] == pytest.approx(
        nearest, abs=0.0051
    )


def single_npy(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


DAMAGES = {
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not a prediction"),
    "a pickle inside": lambda p: np.savez(p, coarsen=np.array([{}], dtype=object)),
    "without a dose": lambda p: np.savez(p, coarsen=np.array(1)),
    "without coarsen": lambda p: np.savez(p, dose=np.zeros((6, 7, 8), np.uint16)),
    "of another grid": lambda p: np.savez(p, coarsen=np.array(1), dose=np.zeros((6, 7, 9), np.uint16)),
    "coarsen is a list": lambda p: np.savez(p, coarsen=np.array([1, 2]), dose=np.zeros((6, 7, 8), np.uint16)),
    "a single npy": single_npy,
    "a flat dose": lambda p: np.savez(p, coarsen=np.array(2), dose=np.zeros(5, np.uint16)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_prediction_ends_in_a_sentence_that_names_it(damage, volume, tmp_path):
    path = tmp_path / "toy_1.npz"
    save_prediction(path, volume, Grid(1))
    DAMAGES[damage](path)
    with pytest.raises(UserError, match=re.escape(str(path))):
        load_prediction(path, np.ones(volume.shape, bool))


def test_a_missing_prediction_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="toy_1.npz does not exist; run 04_comparison first"):
        load_prediction(tmp_path / "toy_1.npz", np.ones(SHAPE, bool))


def test_predicted_methods_and_cases_are_those_with_a_file(volume, tmp_path):
    assert predicted_methods(tmp_path) == [] and predicted_cases(tmp_path, "flow") == []
    for method, case_id in (("flow", "toy_2"), ("flow", "toy_1"), ("ddpm", "toy_1")):
        save_prediction(prediction_path(tmp_path, method, case_id), volume, Grid(1))
    assert predicted_methods(tmp_path) == ["ddpm", "flow"] and predicted_cases(tmp_path, "flow") == [
        "toy_1",
        "toy_2",
    ]


# --- several comparisons ---


def test_holms_correction_is_the_worked_example():
    assert [round(p, 10) if p is not None else None for p in holm([0.01, 0.04, 0.03, None, 0.005])] == [
        0.03,
        0.06,
        0.06,
        None,
        0.02,
    ]


def test_the_effect_size_is_mean_over_deviation_and_none_without_spread():
    difference = paired_difference([2.0, 4.0, 6.0, 4.0], [1.0] * 4)
    assert difference.effect == pytest.approx(3.0 / np.sqrt(8 / 3))
    assert paired_difference([2.0] * 4, [1.0] * 4).effect is None
