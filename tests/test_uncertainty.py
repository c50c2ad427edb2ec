"""Measures of an ensemble on draws of known truth, and the choice of a setting on validation patients."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from lib.diffusion.samplers import DDIM, REFERENCE, Midpoint, as_dict
from lib.errors import UserError
from lib.metrics.uncertainty import coverage_pct, crps_gy, spread_skill, spread_skill_ratio
from lib.studies.comparison import best_sampler, choose_samplers
from lib.studies.ensembles import BIN_EDGES_GY, recalibrations, skill_rows
from lib.studies.results import make_frame

EDGES_GY = (0.0, 1.0, 2.0, 4.0)


def draws(members=8, voxels=40_000, factor=1.0, bias=0.0, seed=0):
    """Members [N,V] and planned dose [V]: draws from a Gaussian per voxel, members' sigma times `factor`."""
    rng = np.random.default_rng(seed)
    mean, deviation = rng.uniform(0, 60, voxels), rng.uniform(0.5, 4, voxels)
    return mean + bias + factor * deviation * rng.normal(
        size=(members, voxels)
    ), mean + deviation * rng.normal(size=voxels)


def test_the_crps_of_one_member_is_its_error_and_of_many_the_closed_form_of_a_gaussian():
    one = np.array([[1.0, 5.0]])
    assert crps_gy(one, np.array([2.0, 2.0])) == pytest.approx(2.0)
    members = norm(3, 2).ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    z = (4.0 - 3) / 2
    closed = 2 * (
        z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    )  # Gneiting & Raftery 2007, Eq. 21
    assert crps_gy(members, np.array([4.0])) == pytest.approx(closed, rel=2e-3)


def test_the_crps_is_that_of_scoringrules():
    scoringrules = pytest.importorskip("scoringrules")
    for members in (2, 5, 8):
        drawn, planned = draws(members=members, voxels=500, factor=0.7, bias=0.4)
        theirs = scoringrules.crps_ensemble(planned, drawn, m_axis=0, estimator="nrg").mean()
        assert crps_gy(drawn, planned) == pytest.approx(theirs, rel=1e-9)


def test_few_members_score_as_much_worse_as_theory_says_and_the_true_spread_scores_best():
    """N honest draws score sigma / (N sqrt(pi)) more than infinitely many: 2.25 Gy is the mean sigma here."""
    few, many = (crps_gy(*draws(members=n)) for n in (3, 30))
    assert few - many == pytest.approx((1 / 3 - 1 / 30) * 2.25 / np.sqrt(np.pi), rel=0.1)
    honest = crps_gy(*draws())
    assert honest < crps_gy(*draws(factor=0.3)) and honest < crps_gy(*draws(factor=3))


@pytest.mark.parametrize("level", [50, 80, 95])
@pytest.mark.parametrize("members", [2, 5, 20])
def test_intervals_of_exchangeable_members_hold_their_share(level, members):
    assert coverage_pct(*draws(members), level) == pytest.approx(level, abs=1.0)
    assert coverage_pct(*draws(members, factor=0.3), level) < level - 5


def ratio(members, dose):
    table = spread_skill(members, dose, EDGES_GY)
    return spread_skill_ratio(table["spread_gy2"].sum(), table["error_gy2"].sum())


def test_of_exchangeable_members_the_error_grows_with_the_spread_and_the_ratio_is_1():
    members, dose = draws(members=20, voxels=200_000)
    table = spread_skill(members, dose, EDGES_GY)
    assert table["voxels"].sum() == 200_000
    assert (np.diff(table["error_gy2"] / table["voxels"]) > 0).all()
    assert ratio(members, dose) == pytest.approx(1, abs=0.02)
    assert ratio(*draws(factor=0.4)) == pytest.approx(0.4, abs=0.03)


def test_of_equal_members_no_factor_mends_the_spread():
    members, dose = draws()
    equal = np.repeat(members[:1], 3, axis=0)
    of = {"training": "baseline", "source": "seeds"}
    rows = [of | row for row in skill_rows(spread_skill(equal, dose, BIN_EDGES_GY))]
    assert recalibrations(make_frame("03_spread_skill", rows)) == [of | {"factor": 1.0}]


def test_one_factor_mends_a_spread_that_is_too_narrow_everywhere():
    members, dose = draws(factor=0.4)
    of = {"training": "flow", "source": "samples"}
    rows = [of | row for row in skill_rows(spread_skill(members, dose, BIN_EDGES_GY))]
    [found] = recalibrations(make_frame("03_spread_skill", rows))
    assert found == of | {"factor": pytest.approx(1 / ratio(members, dose))}
    factor = found["factor"]
    mean = members.mean(axis=0)
    mended = mean + factor * (members - mean)
    assert factor == pytest.approx(2.5, rel=0.15)
    pair = members[:2].mean(axis=0) + 100 * (members[:2] - members[:2].mean(axis=0))
    assert crps_gy(pair, dose) > crps_gy(
        members[:2], dose
    )  # two members blown up beyond sense do not score well
    assert coverage_pct(mended, dose, 80) == pytest.approx(80, abs=3) and crps_gy(mended, dose) < crps_gy(
        members, dose
    )


def steps(training, weights, sampler, error_gy):
    columns = {"training": training, "weights": weights, "nfe": sampler.nfe} | as_dict(sampler)
    columns |= {"window": 0}
    return [
        columns | {"case_id": f"p{i}", "measure": measure, "value": value + i}
        for i in range(3)
        for measure, value in (("mae_gy", error_gy), ("rmse_gy", 1 - error_gy))
    ]


def test_the_setting_is_the_best_of_the_trainings_own_and_of_its_final_weights():
    best = DDIM(25, grid="leading", clamp="none", eta=0.5)
    rows = steps("ddpm", "weights", replace(best, n_steps=10), 5.0) + steps("ddpm", "weights", best, 4.0)
    rows += steps("ddpm", "weights-50pct", replace(best, n_steps=1), 1.0)
    rows += steps("flow", "weights", Midpoint(2), 0.5) + steps("baseline", "weights", best, 3.0)[:0]
    frame, split = make_frame("02_steps", rows), {"test": ["p7"]}
    assert best_sampler(frame, "ddpm") == best and best_sampler(frame, "flow") == Midpoint(2)
    assert best_sampler(frame, "refine") is None
    run = SimpleNamespace(
        open_cohort=lambda: SimpleNamespace(split=split),
        config=lambda name: SimpleNamespace(method=name.split("-")[0], zero_snr=False),
        columns=lambda name: {"group": name.removesuffix("-seed43")},
    )
    chosen = choose_samplers(run, frame, ["ddpm-seed43", "flow", "baseline", "ddpm_v"], 9)
    assert chosen == {
        "ddpm-seed43": best, "flow": Midpoint(2), "baseline": None, "ddpm_v": replace(REFERENCE, n_steps=9)
    }  # fmt: skip
    split["test"].append("p2")
    with pytest.raises(UserError, match="hold p2, a test patient"):
        choose_samplers(run, frame, ["ddpm-seed43"], 9)
