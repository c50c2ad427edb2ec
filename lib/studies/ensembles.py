"""Ensembles: what averaging samples does, how wide they spread, whether the spread is calibrated, and its
cheap rivals.

A source of members is a sampled method ("samples"), several trainings of a regression ("seeds"), or one
regression on the patient and the mirror image ("sides"); "none" is that regression alone, "control" no
network. All are judged alike.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.cases.case import Case
from lib.features.augmentation import mirror
from lib.features.samples import Sample
from lib.metrics.dose import errors_gy
from lib.metrics.dvh import dvh_curve
from lib.metrics.uncertainty import (
    coverage_pct,
    crps_gy,
    ensemble_law,
    mean_of_subsets,
    spread_gy,
    spread_skill,
    spread_skill_ratio,
)
from lib.prediction.predict import on_case_grid, predict, usual_sampler
from lib.progress import progress
from lib.seeds import generator_for
from lib.studies.experiment import Experiment
from lib.studies.results import make_frame, measured
from lib.studies.sampled import Prediction, predict_members, predict_naive, refuse_seen

LEVELS_PCT = (50, 80, 95)
# of the spread, for the spread-skill curve
BIN_EDGES_GY = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0)
DVH_EDGES_GY = np.arange(0.0, 80.0, 1.0)
Row = dict[str, Any]


def collect(
    run: Experiment,
    samples: list[Sample],
    methods: Iterable[str],
    regression: str,
    deep: list[str],
    members: int,
    n_steps: int,
) -> list[Prediction]:
    """The members of every source, each method as it is usually sampled, the regression and the control."""
    predictions = [with_source("none", predict_members(run, regression, samples, None, 1))]
    predictions.append(with_source("control", predict_naive(run, samples)))
    for name in methods:
        sampler = usual_sampler(run.config(name), n_steps)
        predictions.append(with_source("samples", predict_members(run, name, samples, sampler, members)))
    if len(deep) > 1:
        predictions.append(with_source("seeds", deep_ensemble(run, deep, samples)))
    return [*predictions, with_source("sides", both_sides(run, regression, samples))]


def with_source(source: str, prediction: Prediction) -> Prediction:
    return prediction._replace(columns=prediction.columns | {"source": source})


def deep_ensemble(run: Experiment, names: list[str], samples: list[Sample]) -> Prediction:
    """Trainings that differ in their seed: one member each."""
    each = [predict_members(run, name, samples, None, 1) for name in names]
    doses = [torch.cat(of_patient) for of_patient in zip(*(one.doses for one in each))]
    columns = run.columns(run.columns(names[0])["group"]) | {"seed": None}
    return Prediction(columns, doses, sum(one.seconds for one in each), len(names))


def both_sides(run: Experiment, name: str, samples: list[Sample]) -> Prediction:
    """One regression on each patient and on the mirror image, turned back: two members."""
    predictor = run.load_predictor(name)
    refuse_seen(predictor, samples)
    started = time.monotonic()
    straight = predict(predictor, samples)
    turned = predict(predictor, [mirror(sample) for sample in samples])
    doses = [torch.cat([a, b.flip(-1)]) for a, b in zip(straight, turned)]
    seconds = (time.monotonic() - started) / len(samples)
    return Prediction(run.columns(name), doses, seconds, 2)


def judge(
    run: Experiment,
    samples: list[Sample],
    predictions: list[Prediction],
    sizes: Sequence[int],
    factors: Sequence[Row] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames 03_ensemble and 03_spread_skill; with `factors` also of the spread times its factor."""
    chosen = {(row["training"], row["source"]): row["factor"] for row in factors}
    rows, skill = [], []
    for prediction in predictions:
        columns = prediction.columns
        factor = chosen.get((columns["training"], columns["source"]))
        doses = progress(prediction.doses, f"judging {columns['training']}, {columns['source']}")
        for sample, dose in zip(samples, doses):
            case = run.load_case(sample.case_id)
            all_gy = on_case_grid(dose, case, run.coarsen)
            rows += error_rows(run, case, all_gy, prediction, sizes)
            if len(all_gy) > 1:
                rows += spread_rows(case, all_gy, prediction)
                of_rows, of_skill = calibration_rows(case, all_gy, prediction, factor)
                rows, skill = rows + of_rows, skill + of_skill
    return make_frame("03_ensemble", rows), make_frame("03_spread_skill", skill)


def inside(case: Case, all_gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Members [N,V] and planned dose [V] in the dose mask, in double precision."""
    return all_gy[:, case.dose_mask].astype(np.float64), case.dose_gy[case.dose_mask].astype(np.float64)


def error_rows(
    run: Experiment, case: Case, all_gy: np.ndarray, prediction: Prediction, sizes: Sequence[int]
) -> list[Row]:
    """Errors of means of n members, of all and of their median."""
    members_gy, dose_gy = inside(case, all_gy)
    generator = np.random.default_rng(generator_for(run.seed, "subsets", case.case_id).initial_seed())
    columns, n = prediction.columns | {"case_id": case.case_id}, len(all_gy)
    rows = measured(columns | prediction.cost(1), {"seconds": prediction.seconds_of(1)})
    for size in sorted({1, n, *(size for size in sizes if size < n)}):
        mae_gy = mean_of_subsets(members_gy, dose_gy, size, 20, generator)
        rows += measured(columns | prediction.cost(size) | {"region": "dose mask"}, {"mae_gy": mae_gy})
    mean = errors_gy(members_gy.mean(axis=0), dose_gy, np.ones(len(dose_gy), bool))
    measures = {name: mean[name] for name in ("rmse_gy", "bias_gy")}
    measures["median_mae_gy"] = float(np.abs(np.median(members_gy, axis=0) - dose_gy).mean())
    return rows + measured(columns | prediction.cost(n) | {"region": "dose mask"}, measures)


def spread_rows(case: Case, all_gy: np.ndarray, prediction: Prediction) -> list[Row]:
    """Floor and b, and how wide the members spread, by region and structure."""
    columns = prediction.columns | prediction.cost(len(all_gy)) | {"case_id": case.case_id}
    spread = spread_gy(all_gy)
    members_gy, dose_gy = inside(case, all_gy)
    measures = ensemble_law(members_gy, dose_gy)._asdict() | {"spread_gy": spread_gy(members_gy).mean()}
    rows = measured(columns | {"region": "dose mask"}, measures)
    rows += measured(columns | {"region": "whole volume"}, {"spread_gy": spread.mean(dtype=np.float64)})
    rows += measured(columns, {"dvh_band_pct": dvh_band_pct(case, all_gy)})
    for name, mask in case.judged_masks.items():
        rows += measured(columns | {"structure": name}, {"spread_gy": spread[mask].mean()})
    return rows


def calibration_rows(
    case: Case, all_gy: np.ndarray, prediction: Prediction, factor: float | None
) -> tuple[list[Row], list[Row]]:
    """What the members, and they spread about their mean by `factor`, say of the planned dose: rows of
    03_ensemble and of 03_spread_skill."""
    members_gy, dose_gy = inside(case, all_gy)
    mean_gy, columns = members_gy.mean(axis=0), prediction.columns | {"case_id": case.case_id}
    rows, skill = [], []
    for times in (1.0,) if factor is None else (1.0, factor):
        scaled_gy = mean_gy + times * (members_gy - mean_gy)
        judged = columns | prediction.cost(len(all_gy)) | {"region": "dose mask", "factor": times}
        rows += measured(judged, {"crps_gy": crps_gy(scaled_gy, dose_gy)})
        for level in LEVELS_PCT:
            share = coverage_pct(scaled_gy, dose_gy, level)
            rows += measured(judged | {"level_pct": level}, {"coverage_pct": share})
        skill += skill_rows(
            columns | {"members": len(all_gy), "factor": times},
            spread_skill(scaled_gy, dose_gy, BIN_EDGES_GY),
        )
    return rows, skill


def skill_rows(columns: Row, sums: dict[str, np.ndarray]) -> list[Row]:
    """Rows of 03_spread_skill of the bins that hold voxels, named by their lower edge."""
    columns = {key: value for key, value in columns.items() if key != "n_steps"}
    bins = [(i, edge) for i, edge in enumerate(BIN_EDGES_GY) if sums["voxels"][i]]
    return [
        row
        for i, edge in bins
        for row in measured(
            columns | {"bin_gy": edge}, {measure: of_bin[i] for measure, of_bin in sums.items()}
        )
    ]


def dvh_band_pct(case: Case, members_gy: np.ndarray) -> float | None:
    """Share in % of DVH points (volumes at whole Gy, where the planned is neither 0 nor 100 %) inside the
    members' range."""
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
        ratio = spread_skill_ratio(of_source["spread_gy2"], of_source["error_gy2"])
        differ = ratio is not None and ratio > 1e-6  # below it only by rounding
        rows.append({"training": training, "source": source, "factor": 1 / ratio if differ else 1.0})
    return rows
