"""Doses on points within the voxels against closed forms, and a data set that ends within structures."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import betaincinv
from toys import toy_case

from lib.cases.protocol import PROTOCOLS, Goal
from lib.metrics.dvh import (
    dose_at_volume_gy,
    goal_values,
    hottest_gy,
    openkbp_dvh_metrics_gy,
    organ_points_inside_gy,
    statistic,
)
from lib.metrics.points import dose_points
from lib.report import tables
from lib.studies.checks import describe_case
from lib.studies.comparison import dose_rows
from lib.studies.results import Results, make_frame

SLOPE = 1.0  # Gy per mm
SPACINGS = [(2.5, 3.9, 3.9), (3.0, 3.0, 3.0), (2.0, 1.2, 1.2)]
VOLUMES_CC = [0.05, 0.15, 0.5, 2.0, 10.0, 50.0]


def grid_mm(half_mm, spacing_mm, rng):
    """z, y, x in mm from a centre anywhere between voxel centres."""
    sizes = np.ceil(2 * np.array(half_mm) / spacing_mm).astype(int) + 6
    off = rng.uniform(-0.5, 0.5, 3)
    axes = [(np.arange(n) - n // 2 - o) * s for n, s, o in zip(sizes, spacing_mm, off)]
    return np.meshgrid(*axes, indexing="ij")


def sphere(cc, spacing_mm, rng):
    """(mask, z, y, x) and the height in mm above which a share of the volume lies."""
    radius = (3000 * cc / (4 * np.pi)) ** (1 / 3)
    z, y, x = grid_mm((radius,) * 3, spacing_mm, rng)
    # the height of a point in a ball, over the diameter, is of the beta distribution (2, 2)
    return (
        z**2 + y**2 + x**2 <= radius**2,
        (z, y, x),
        lambda share: radius * (1 - 2 * betaincinv(2, 2, share)),
    )


def cylinder(cc, spacing_mm, rng):
    """As sphere, upright and twice as high as wide."""
    radius = (1000 * cc / (4 * np.pi)) ** (1 / 3)
    z, y, x = grid_mm((2 * radius, radius, radius), spacing_mm, rng)
    mask = (abs(z) <= 2 * radius) & (y**2 + x**2 <= radius**2)
    return mask, (z, y, x), lambda share: radius * 2 * (1 - 2 * share)


def errors_gy(shape, cc, spacing_mm, share, by_points=True, repeats=12):
    """Errors of the dose that a share of the volume gets at least, in a dose that rises along z."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(repeats):
        mask, (z, _, _), height_mm = shape(cc, spacing_mm, rng)
        dose_gy, known = 40 + SLOPE * z, np.ones(mask.shape, bool)
        doses_gy = dose_points(dose_gy, mask, known)[0] if by_points else dose_gy[mask]
        if len(doses_gy):
            value_gy = float(np.percentile(doses_gy, 100 - 100 * share))
            errors.append(value_gy - 40 - SLOPE * height_mm(share))
    return np.array(errors)


def rms(errors):
    return np.sqrt(np.square(errors).mean())


@pytest.mark.parametrize("spacing_mm", SPACINGS, ids=str)
@pytest.mark.parametrize("cc", VOLUMES_CC)
@pytest.mark.parametrize("shape", [sphere, cylinder])
def test_doses_of_a_share_are_within_half_a_voxel_of_the_closed_form(shape, cc, spacing_mm):
    for share in (0.02, 0.5, 0.98, min(1.0, 0.1 / cc) * 0.999):
        assert rms(errors_gy(shape, cc, spacing_mm, share)) < SLOPE * spacing_mm[0] / 2


def test_points_are_nearer_to_the_closed_form_than_voxels():
    cases = [(shape, cc, s) for shape in (sphere, cylinder) for cc in VOLUMES_CC[1:-1] for s in SPACINGS]
    points, voxels = ([rms(errors_gy(*case, 0.1 / case[1], by)) for case in cases] for by in (True, False))
    assert np.mean(points) < 0.7 * np.mean(voxels)


@pytest.mark.parametrize("n", [1, 2, 5, 40, 1000])
def test_the_points_fill_the_volume_of_the_voxels_and_are_symmetric(n):
    mask = np.zeros((12, 12, 12), bool)
    mask.ravel()[np.random.default_rng(n).choice(12**3, n, replace=False)] = True
    dose_gy = np.random.default_rng(0).uniform(0, 70, mask.shape)
    doses_gy, voxels = dose_points(dose_gy, mask, np.ones_like(mask))
    assert len(doses_gy) * voxels == pytest.approx(n)
    turned = dose_points(dose_gy.transpose(2, 0, 1)[::-1], mask.transpose(2, 0, 1)[::-1], np.ones_like(mask))[
        0
    ]
    assert np.allclose(np.sort(turned), np.sort(doses_gy), atol=1e-4)


def test_a_slab_of_slices_counts_with_its_whole_thickness():
    mask, z = np.zeros((9, 6, 6), bool), np.arange(9.0)[:, None, None]
    mask[3:6] = True
    doses_gy, voxels = dose_points(np.broadcast_to(z, mask.shape), mask, np.ones_like(mask))
    assert len(doses_gy) * voxels == mask.sum()
    assert (doses_gy.min(), doses_gy.max()) == pytest.approx(
        (2.5, 5.5), abs=0.2
    )  # half a slice beyond the ends


def test_zeros_beyond_the_known_dose_do_not_pull_it_down():
    known = np.zeros((8, 8, 8), bool)
    known[2:] = True
    doses_gy, _ = dose_points(np.where(known, 60.0, 0.0), known, known)
    assert np.allclose(doses_gy, 60)


def test_of_exactly_its_volume_a_structure_gives_its_minimum_and_of_less_nothing():
    doses_gy = np.arange(10.0)
    assert hottest_gy(doses_gy, 10) == 0 and hottest_gy(doses_gy, 10.1) is None
    assert hottest_gy(doses_gy, 5) == pytest.approx(4.5)  # half of the volume has more
    goal = Goal("A", "Dcc", 0.1, "<=", 45, "Gy")
    assert statistic(goal, doses_gy, 0.009) is None and statistic(goal, doses_gy, 0.01) == 0


def test_a_volume_between_whole_voxels_has_a_dose_between_theirs():
    mask, dose_gy = np.zeros((5, 5, 40), bool), np.broadcast_to(np.arange(40.0), (5, 5, 40))
    mask[2, 2, 5:35] = True
    doses_gy, voxels = dose_points(dose_gy, mask, np.ones_like(mask))
    values = [hottest_gy(doses_gy, n / voxels) for n in (2, 2.3, 2.6, 3)]
    assert (np.diff(values) < -0.15).all()


# --- a dose that ends within a structure ---


@pytest.fixture(scope="module")
def half():
    """A patient whose dose ends at a height, as OpenKBP's do: 0 stands outside the dose mask."""
    case = toy_case(site="head-and-neck", shape=(24, 24, 24))
    mask = case.dose_mask & (np.arange(24) < 16)[:, None, None]
    return dataclasses.replace(case, dose_mask=mask, dose_gy=np.where(mask, case.dose_gy, 0))


def test_shares_with_a_known_dose_are_counted_and_less_than_half_is_not_judged(half):
    shares = {name: 100 * half.dose_mask[mask].mean() for name, mask in half.masks.items()}
    assert half.inside_pct == pytest.approx({name: share for name, share in shares.items() if share < 100})
    assert set(half.judged_masks) == {name for name, share in shares.items() if share >= 50}
    assert min(shares.values()) < 50 and any(50 < share < 100 for share in shares.values())
    assert all(not (mask & ~half.dose_mask).any() for mask in half.judged_masks.values())


def test_a_goal_of_an_organ_half_outside_is_not_judged(half):
    for text, (value, _) in goal_values(half, half.dose_gy).items():
        assert (value is None) == (text.split()[0] not in half.judged_masks)


def test_organ_points_are_given_as_the_challenge_has_them_and_inside(half):
    scored, inside = openkbp_dvh_metrics_gy(half, half.dose_gy), organ_points_inside_gy(half, half.dose_gy)
    assert {name for name, _ in scored} == set(half.masks)
    organs = set(PROTOCOLS["head-and-neck"].organs) & set(half.judged_masks) & set(half.inside_pct)
    assert {name for name, _ in inside} == organs != set()
    for name in organs:
        dose_gy = half.dose_gy[half.masks[name]]
        assert scored[name, "mean"] == pytest.approx(dose_gy.mean())
        assert inside[name, "mean"] == pytest.approx(dose_gy[dose_gy > 0].mean())
    rows = pd.DataFrame(dose_rows(half, half.dose_gy + 1))
    shown = rows[rows["measure"] == "mean_inside_gy"].set_index("structure")
    assert set(shown.index) == organs and shown["value"].to_numpy() == pytest.approx(shown["planned"] + 1)


def test_the_reports_table_has_organ_points_both_ways_for_the_same_patients(half):
    about = {"training": "flow", "method": "flow", "group": "flow", "averaged_over": "none", "members": 1}
    rows = [about | {"case_id": "a"} | row for row in dose_rows(half, half.dose_gy + 2)]
    whole = dataclasses.replace(half, dose_mask=np.ones_like(half.dose_mask), dose_gy=half.dose_gy + 1)
    rows += [about | {"case_id": "b"} | row for row in dose_rows(whole, whole.dose_gy)]
    table = tables.organ_points(make_frame("04_comparison", rows))
    organs = {name for name, _ in organ_points_inside_gy(half, half.dose_gy)}
    assert {name.split(",")[0] for name in table.index} == organs and set(table["patients"]) == {1}
    # the hottest 0.1 cc lie where a dose is known, so that both ways tell the same
    assert not table.index.str.contains("D0.1cc").any()
    for name in organs:
        share = half.dose_mask[half.masks[name]].mean()
        beyond, inside = (table.loc[f"{name}, mean, {part}"] for part in ("whole", "known dose"))
        assert inside["flow"] == pytest.approx(2) and beyond["flow"] == pytest.approx(2 * share)
        assert beyond["planned / Gy"] == pytest.approx(share * inside["planned / Gy"])


def test_the_cohorts_table_says_what_is_left_out(half):
    other = dataclasses.replace(toy_case(site="head-and-neck", seed=1, shape=(24, 24, 24)), ct_hu=half.ct_hu)
    rows = [
        {"part": "test", "case_id": case_id} | row
        for case_id, case in (("a", half), ("b", other))
        for row in describe_case(case)
    ]
    frame = make_frame("00_cohort", rows)
    said = tables.cohort(Results({}, {"00_cohort": frame})).iloc[:, 0]
    assert said["voxel sizes"] == "one"
    assert said["CT stored"] == f"{half.ct_hu.min()} to {half.ct_hu.max()} HU"
    low = [100 * (case.dose_gy[case.dose_mask] < 1).mean() for case in (half, other)]
    assert said["dose mask below 1 Gy"] == f"{min(low):.0f} to {max(low):.0f} %, median {np.mean(low):.0f} %"
    for name, share in half.inside_pct.items():
        patients, _, rest = said[f"{name} beyond the dose"].partition(" patient")
        assert f"{share:.4g} " in rest and int(patients) == 1 + (name in other.inside_pct)
        assert rest.endswith(f"not judged: {(share < 50) + (other.inside_pct.get(name, 100) < 50)}")
    table = tables.overlaps(frame)
    shared = [(case.masks["PTV70"] & case.masks["PTV63"]).sum() * case.voxel_cc for case in (half, other)]
    assert tuple(table.loc["PTV70 and PTV63"]) == pytest.approx((2, 2, np.median(shared)))
    disjoint = [
        n for n in half.masks if not any((c.masks["PTV70"] & c.masks[n]).any() for c in (half, other))
    ]
    assert disjoint and not table.loc[[f"PTV70 and {name}" for name in disjoint], "overlapping"].any()


def test_a_share_of_a_few_voxels_has_no_dose():
    assert dose_at_volume_gy(np.ones(49), 2) is None and dose_at_volume_gy(np.ones(50), 2) == 1
