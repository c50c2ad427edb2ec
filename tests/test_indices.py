"""Conformity, homogeneity and isodose overlap against their closed forms."""

import numpy as np
import pytest

from lib.metrics.indices import conformity_index, homogeneity_index, isodose_dice

TARGET = np.zeros((10, 10, 10), bool)
TARGET[2:6, 2:6, 2:6] = True  # 64 voxels


def dose_in(mask, inside_gy=70.0, outside_gy=10.0):
    return np.where(mask, inside_gy, outside_gy)


# --- conformity ---


def test_an_isodose_that_is_the_target_has_conformity_1():
    assert conformity_index(dose_in(TARGET), TARGET, 70.0) == 1.0


@pytest.mark.parametrize("extra, missing", [(0, 0), (10, 0), (0, 10), (20, 30), (64, 32), (936, 0)])
def test_conformity_is_the_product_of_coverage_and_selectivity(extra, missing):
    covered = TARGET.ravel().copy()
    covered[np.nonzero(TARGET.ravel())[0][:missing]] = False
    covered[np.nonzero(~TARGET.ravel())[0][:extra]] = True
    both = 64 - missing
    expected = both / 64 * both / (both + extra)
    assert conformity_index(dose_in(covered.reshape(TARGET.shape)), TARGET, 70.0) == pytest.approx(expected)


def test_conformity_is_0_where_nothing_meets_and_none_without_a_target():
    assert conformity_index(dose_in(~TARGET), TARGET, 70.0) == 0.0
    assert conformity_index(dose_in(TARGET, 60.0), TARGET, 70.0) == 0.0
    assert conformity_index(dose_in(TARGET), np.zeros_like(TARGET), 70.0) is None


def test_a_dose_equal_to_the_prescription_is_covered_also_in_float32():
    assert conformity_index(dose_in(TARGET).astype(np.float32), TARGET, 70.0) == 1.0


def test_conformity_is_at_most_1_and_symmetric_in_target_and_isodose():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random((2, 6, 6, 6)) < rng.uniform(0.1, 0.9, (2, 1, 1, 1))
        forth, back = conformity_index(dose_in(a), b, 70.0), conformity_index(dose_in(b), a, 70.0)
        assert forth == pytest.approx(back) and 0 <= forth <= 1


# --- homogeneity ---


def test_a_uniform_dose_has_homogeneity_0():
    assert homogeneity_index(dose_in(TARGET), TARGET) == 0.0


def test_a_linear_dose_has_the_closed_form():
    target = np.ones(1001, bool)
    dose_gy = np.linspace(60.0, 80.0, 1001)  # D2 79.6, D98 60.4, D50 70
    assert homogeneity_index(dose_gy, target) == pytest.approx(19.2 / 70)


def test_homogeneity_does_not_depend_on_the_unit_or_the_rest_of_the_dose():
    rng = np.random.default_rng(1)
    dose_gy = rng.normal(70, 2, TARGET.shape)
    expected = homogeneity_index(dose_gy, TARGET)
    assert expected > 0
    assert homogeneity_index(100 * dose_gy, TARGET) == pytest.approx(expected)
    assert homogeneity_index(np.where(TARGET, dose_gy, 500.0), TARGET) == expected


def test_too_few_voxels_or_no_dose_give_no_homogeneity():
    few = np.zeros_like(TARGET)
    few[0, 0, :10] = True
    assert homogeneity_index(dose_in(TARGET), few) is None
    assert homogeneity_index(dose_in(TARGET), np.zeros_like(TARGET)) is None
    assert homogeneity_index(np.zeros(TARGET.shape), TARGET) is None


# --- isodose overlap ---


def test_equal_doses_overlap_wholly_and_disjoint_ones_not_at_all():
    dose_gy = dose_in(TARGET)
    assert isodose_dice(dose_gy, dose_gy, [5.0, 10.0, 35.0, 70.0]) == {
        5.0: 1.0,
        10.0: 1.0,
        35.0: 1.0,
        70.0: 1.0,
    }
    assert isodose_dice(dose_gy, dose_in(~TARGET), [35.0]) == {35.0: 0.0}


def test_a_level_that_neither_reaches_has_no_overlap_and_one_that_one_reaches_has_0():
    assert isodose_dice(dose_in(TARGET), dose_in(TARGET, 60.0), [65.0, 75.0]) == {65.0: 0.0, 75.0: None}


@pytest.mark.parametrize("shift", range(5))
def test_a_moved_box_overlaps_in_the_share_that_is_left(shift):
    moved = np.roll(TARGET, shift, axis=0)
    found = isodose_dice(dose_in(TARGET), dose_in(moved), [50.0])
    assert found[50.0] == pytest.approx((4 - shift) / 4)


def test_overlap_is_symmetric():
    rng = np.random.default_rng(2)
    a, b = rng.uniform(0, 70, (2, 8, 8, 8))
    assert isodose_dice(a, b, [20.0, 50.0]) == isodose_dice(b, a, [20.0, 50.0])
