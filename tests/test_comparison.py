"""The table of gamma pass rates on patients whose gamma is known by construction."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.cases.case import Case
from lib.features.grid import Grid
from lib.features.samples import make_sample
from lib.studies.comparison import compare, planned_on_grid, study_gamma
from lib.studies.predictions import Prediction
from lib.studies.results import select

SHAPE, RX_GY = (6, 8, 10), 70.0
TARGET = (slice(2, 4), slice(3, 6), slice(4, 7))  # 18 of 480 voxels


def flat_case(case_id, dose_gy):
    """A patient of one planned dose everywhere; voxels of 20 mm, farther apart than gamma looks."""
    dose_gy, target = np.full(SHAPE, dose_gy, np.float32), np.zeros(SHAPE, bool)
    target[TARGET] = True
    return Case(
        case_id=case_id,
        ct_hu=np.zeros(SHAPE, np.int16),
        dose_gy=dose_gy,
        masks={"PTV70": target},
        dose_mask=np.ones(SHAPE, bool),
        spacing_mm=(20.0, 20.0, 20.0),
        prescription_gy={"PTV70": RX_GY},
        site="prostate",
    )


def rates(planned_gy=RX_GY, **doses_gy):
    """(training, region, criterion in % and mm) -> pass rate / %, the same for both patients."""
    cases = {case_id: flat_case(case_id, planned_gy) for case_id in ("p0", "p1")}
    run = SimpleNamespace(load_case=cases.get, grid=Grid(1))
    dose = {name: torch.from_numpy(gy / RX_GY)[None, None].float() for name, gy in doses_gy.items()}
    answers = [Prediction({"training": name}, [of, of], 1.0, 1) for name, of in dose.items()]
    frame = study_gamma(run, answers, [SimpleNamespace(case_id=case_id) for case_id in cases])
    first, second = (select(frame, case_id=case_id).reset_index(drop=True) for case_id in cases)
    assert first["value"].equals(second["value"])
    criteria = first["measure"].str.extract(r"gamma_(\d)pct_\1mm_pass_pct")[0].astype(int)
    return dict(zip(zip(first["training"], first["region"], criteria), first["value"]))


def test_the_plan_on_the_grid_loses_what_lies_within_blocks_and_nothing_in_voxels():
    """Of a dose that is 60 and 40 Gy in turn along x, blocks know the mean: 10 Gy off everywhere."""
    striped = replace(
        flat_case("p0", 50.0), dose_gy=np.where(np.arange(10) % 2, 40.0, 60.0) + np.zeros(SHAPE)
    )
    errors = {}
    for grid in (Grid(2), Grid(2, 2)):
        sample = make_sample(striped, grid)
        run = SimpleNamespace(load_case=lambda _: striped, grid=grid)
        frame = compare(run, [planned_on_grid([sample])], [sample])
        errors[grid] = float(select(frame, measure="mae_gy", region="dose mask")["value"].iloc[0])
    assert errors[Grid(2)] == pytest.approx(10.0, rel=0.05) and errors[Grid(2, 2)] < 0.02


def test_equal_doses_pass_everywhere_and_a_scaled_one_where_the_criterion_allows_it():
    planned = np.full(SHAPE, RX_GY)
    regions = ("body", "targets")
    assert rates(equal=planned, a_little=1.025 * planned, more=1.035 * planned) == {
        **{("equal", region, size): 100 for region in regions for size in (3, 2)},
        **{("a_little", region, size): {3: 100, 2: 0}[size] for region in regions for size in (3, 2)},
        **{("more", region, size): 0 for region in regions for size in (3, 2)},
    }


@pytest.mark.parametrize("size", [3, 2])
def test_a_dose_wrong_in_the_target_alone_fails_there_and_only_there(size):
    """Halfway to a neighbour the dose is halfway too: 10 % too much is still 8.5 % at 3 mm of 20."""
    dose_gy = np.full(SHAPE, RX_GY)
    dose_gy[TARGET] *= 1.1
    passed = rates(hot=dose_gy)
    assert passed["hot", "targets", size] == 0
    assert passed["hot", "body", size] == pytest.approx(100 * (480 - 18) / 480)


def test_what_is_planned_below_a_tenth_of_the_prescription_is_not_judged():
    assert rates(7.1, cold=np.full(SHAPE, 14.0))["cold", "body", 3] == 0
    assert rates(6.9, cold=np.full(SHAPE, 14.0)) == {}
