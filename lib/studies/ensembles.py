"""Ensembles: what averaging samples does, how wide they spread, whether the spread is calibrated, and its
cheap rivals.

A source of members is a sampled method ("samples"), several trainings of a regression ("seeds"), or one
regression on the patient and the mirror image ("sides"); "none" is that regression alone, "control" no
network. All are judged alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd

from lib.cases.case import Case
from lib.features.samples import Sample
from lib.metrics import uncertainty
from lib.metrics.dose import errors_gy
from lib.metrics.dvh import dvh_curve
from lib.prediction.predict import usual_sampler
from lib.seeds import generator_for
from lib.studies.experiment import Experiment
from lib.studies.predictions import (
    Prediction,
    Row,
    in_dose_mask,
    judged_rows,
    pool,
    predict_both_sides,
    predict_members,
    predict_naive,
)
from lib.studies.results import make_frame, make_rows

LEVELS_PCT = (50, 80, 95)
# of the spread, for the spread-skill curve
BIN_EDGES_GY = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
DVH_EDGES_GY = np.arange(0.0, 80.0, 1.0)
Factors = dict[tuple[str, str], float]  # (training, source) -> on the spread


def predict_sources(
    run: Experiment,
    samples: list[Sample],
    sampled: Iterable[str],
    regression: str,
    deep: list[str],
    members: int,
    n_steps: int,
) -> Iterator[Prediction]:
    """The members of every source, each `sampled` method as usual, the regression and the control; each made
    when it is asked for, as the doses of many patients are large."""
    yield predict_members(run, regression, samples).named(source="none")
    yield predict_naive(run, samples).named(source="control")
    for name in sampled:
        sampler = usual_sampler(run.config(name), n_steps)
        yield predict_members(run, name, samples, sampler, members).named(source="samples")
    if len(deep) > 1:
        yield pool([predict_members(run, name, samples) for name in deep]).named(source="seeds")
    yield predict_both_sides(run, regression, samples).named(source="sides")


def judge(
    run: Experiment,
    samples: list[Sample],
    predictions: list[Prediction],
    sizes: Sequence[int],
    factors: Sequence[Row] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames 03_ensemble and 03_spread_skill; with `factors` also of the spread times its factor."""
    chosen = {(row["training"], row["source"]): row["factor"] for row in factors}
    of_patient = partial(member_rows, run.seed, sizes, chosen)
    rows = judged_rows(run, of_patient, predictions, samples, "judging members")
    skill = [{k: v for k, v in row.items() if k not in ("n_steps", "nfe")} for row in rows if "bin_gy" in row]
    rows = [row for row in rows if "bin_gy" not in row]
    return make_frame("03_ensemble", rows), make_frame("03_spread_skill", skill)


def member_rows(
    seed: int, sizes: Sequence[int], factors: Factors, one: Prediction, case: Case, all_gy: np.ndarray
) -> list[Row]:
    """Rows of 03_ensemble of one patient's members and, those with a bin, of 03_spread_skill."""
    members_gy, dose_gy = in_dose_mask(case, all_gy)
    generator = np.random.default_rng(generator_for(seed, "subsets", case.case_id).initial_seed())
    n, of_mask = len(all_gy), {"region": "dose mask"}
    rows = make_rows(one.cost(1), {"seconds": one.seconds_of(1)})
    for size in sorted({1, n, *(size for size in sizes if size < n)}):
        mae_gy = uncertainty.mean_of_subsets(members_gy, dose_gy, size, 20, generator)
        rows += make_rows(of_mask | one.cost(size), {"mae_gy": mae_gy})
    measures = errors_gy(members_gy.mean(axis=0), dose_gy, np.ones(len(dose_gy), bool))
    del measures["mae_gy"]
    measures["median_mae_gy"] = float(np.abs(np.median(members_gy, axis=0) - dose_gy).mean())
    rows += make_rows(of_mask | one.cost(n), measures)
    if n == 1:
        return rows
    spread = spread_rows(case, all_gy)
    factor = factors.get((one.columns["training"], one.columns["source"]), 1.0)
    for each in dict.fromkeys((1.0, factor)):
        spread += [{"factor": each} | row for row in calibration_rows(each, members_gy, dose_gy)]
    return rows + [one.cost(n) | row for row in spread]


def spread_rows(case: Case, all_gy: np.ndarray) -> list[Row]:
    """Floor and b, and how wide the members spread, by region and structure."""
    spread, (members_gy, dose_gy) = uncertainty.spread_gy(all_gy), in_dose_mask(case, all_gy)
    measures = uncertainty.ensemble_law(members_gy, dose_gy)._asdict()
    measures["spread_gy"] = uncertainty.spread_gy(members_gy).mean()
    rows = make_rows({"region": "dose mask"}, measures)
    rows += make_rows({"region": "whole volume"}, {"spread_gy": spread.mean(dtype=np.float64)})
    rows += make_rows({}, {"dvh_band_pct": dvh_band_pct(case, all_gy)})
    for name, mask in case.judged_masks.items():
        rows += make_rows({"structure": name}, {"spread_gy": spread[mask].mean()})
    return rows


def calibration_rows(factor: float, members_gy: np.ndarray, dose_gy: np.ndarray) -> list[Row]:
    """What the members [N,V], spread about their mean by a factor, say of the planned dose [V]."""
    mean_gy, of_mask = members_gy.mean(axis=0), {"region": "dose mask"}
    scaled_gy = mean_gy + factor * (members_gy - mean_gy)
    rows = make_rows(of_mask, {"crps_gy": uncertainty.crps_gy(scaled_gy, dose_gy)})
    for level in LEVELS_PCT:
        share = {"coverage_pct": uncertainty.coverage_pct(scaled_gy, dose_gy, level)}
        rows += make_rows(of_mask | {"level_pct": level}, share)
    return rows + skill_rows(uncertainty.spread_skill(scaled_gy, dose_gy, BIN_EDGES_GY))


def skill_rows(sums: dict[str, np.ndarray]) -> list[Row]:
    """Rows of 03_spread_skill of the bins that hold voxels, named by their lower edge."""
    rows = []
    for edge, *of_bin in zip(BIN_EDGES_GY, *sums.values()):
        measures = dict(zip(sums, of_bin))
        rows += make_rows({"bin_gy": edge}, measures) if measures["voxels"] else []
    return rows


def dvh_band_pct(case: Case, members_gy: np.ndarray) -> float | None:
    """Share in % of DVH points at whole Gy (planned neither 0 nor 100 %) inside the members' range."""
    covered = []
    for mask in case.judged_masks.values():
        curves = np.stack([dvh_curve(member, mask, DVH_EDGES_GY) for member in members_gy])
        planned = dvh_curve(case.dose_gy, mask, DVH_EDGES_GY)
        judged = (planned > 0) & (planned < 100)
        covered += list((planned >= curves.min(axis=0))[judged] & (planned <= curves.max(axis=0))[judged])
    return float(100 * np.mean(covered)) if covered else None


def recalibrations(skill: pd.DataFrame) -> list[Row]:
    """For each training and source the factor on its spread that makes mean squared spread and error agree
    over the patients of the frame 03_spread_skill, which are to be validation patients;
    1 for equal members, which no factor spreads."""
    sums = skill.groupby(["training", "source", "measure"], sort=False)["value"].sum().unstack()
    rows = []
    for (training, source), of_source in sums.iterrows():
        ratio = uncertainty.spread_skill_ratio(of_source["spread_gy2"], of_source["error_gy2"])
        differ = ratio is not None and ratio > 1e-6  # below it only by rounding
        rows.append({"training": training, "source": source, "factor": 1 / ratio if differ else 1.0})
    return rows
