"""The three studies that the notebooks run: sampling steps, ensembles, the comparison of methods.

Each returns rows (dicts of plain numbers, one per patient and setting) that results/*.json keeps and figures,
sentences and the report read. Errors are in Gy on the case's own grid, inside the dose mask unless named.
"""
import time

import numpy as np
import torch

from lib.evaluation.dose import errors_gy, openkbp_dose_error_gy, region_errors
from lib.evaluation.dvh import goal_values, openkbp_dvh_errors_gy
from lib.evaluation.gamma import gamma_index, pass_pct
from lib.evaluation.uncertainty import ensemble_law, mean_of_subsets, spread_gy
from lib.inference import Sampling, on_case_grid, predict_doses
from lib.models.control import fit_control, predict_control
from lib.predictions import prediction_path, save_prediction
from lib.progress import progress
from lib.seeds import generator_for


def setting_name(sampling):
    return "reference's grid" if sampling.grid == "leading" else f"start held at t = {sampling.start}"


def ablate_steps(run, predictor, samples, n_steps, held_at):
    """Error against the number of steps, on the reference's grid and with the start held; noise is paired.

    From a start at t there are t + 1 levels, so a held curve ends where more steps are asked than that.
    """
    settings = [Sampling(n_steps=n, seed=run.seed) for n in n_steps]
    settings += [Sampling(n_steps=n, grid="held", start=start, seed=run.seed) for start in held_at for n in n_steps if n <= start + 1]
    return [row for sampling in settings for row in step_rows(run, predictor, samples, sampling, setting_name(sampling))]


def step_rows(run, predictor, samples, sampling, name):
    """One row per patient of one sampling setting."""
    started = time.monotonic()
    doses = predict_doses(predictor, samples, sampling, label=f"{name}, {sampling.n_steps} steps")
    seconds = (time.monotonic() - started) / len(samples)
    rows = []
    for sample, dose in zip(samples, doses):
        case = run.open_cohort().load(sample.case_id)
        errors = errors_gy(on_case_grid(dose, sample, run.coarsen)[0], case.dose_gy, case.dose_mask)
        rows.append(dict(setting=name, grid=sampling.grid, start=sampling.start, n_steps=sampling.n_steps,
                         nfe=len(sampling.times()), first_t=sampling.times()[0], case_id=sample.case_id,
                         seconds=seconds, **errors))
    return rows


def regress(run, predictor, samples):
    """Errors of a regression on the same patients: one row per patient."""
    return step_rows(run, predictor, samples, Sampling(n_steps=1), "regression")


def best_setting(rows):
    """The setting of the lowest mean error over patients: a dict of grid, start, n_steps, mae_gy."""
    groups = {}
    for row in rows:
        groups.setdefault((row["grid"], row["start"], row["n_steps"]), []).append(row["mae_gy"])
    (grid, start, n_steps), errors = min(groups.items(), key=lambda item: np.mean(item[1]))
    return dict(grid=grid, start=start, n_steps=n_steps, mae_gy=float(np.mean(errors)))


def study_ensembles(run, predictor, samples, members, sampling, sizes):
    """One row per patient: expected errors of means of n members, the law of averages, the spread in Gy."""
    started = time.monotonic()
    doses = predict_doses(predictor, samples, sampling, members=tuple(range(members)))
    seconds = (time.monotonic() - started) / len(samples) / members
    return [ensemble_row(run, sample, dose, sizes) | {"seconds_per_member": seconds} for sample, dose in zip(samples, doses)]


def ensemble_row(run, sample, dose, sizes):
    case = run.open_cohort().load(sample.case_id)
    all_gy = on_case_grid(dose, sample, run.coarsen)
    members_gy, dose_gy = all_gy[:, case.dose_mask].astype(np.float64), case.dose_gy[case.dose_mask].astype(np.float64)
    law = ensemble_law(members_gy, dose_gy)
    generator = np.random.default_rng(generator_for(run.seed, "subsets", sample.case_id).initial_seed())
    single_gy = [float(np.abs(m - dose_gy).mean()) for m in members_gy]
    return dict(case_id=sample.case_id, single_mae_gy=single_gy, floor_gy2=law.floor_gy2, b_gy2=law.b_gy2,
                mae_gy={str(n): mean_of_subsets(members_gy, dose_gy, n, 50, generator) for n in sizes},
                spread_dose_mask_gy=float(spread_gy(members_gy).mean()),
                spread_whole_volume_gy=float(spread_gy(all_gy).mean(dtype=np.float64)),
                median_mae_gy=float(np.abs(np.median(members_gy, axis=0) - dose_gy).mean()))


def predict_all(run, methods, samples, sampling, members):
    """Predict every patient by every method; method -> (doses [N,1,d,h,w] per patient, seconds per patient)."""
    found = {}
    for method in methods:
        predictor = run.load_predictor(method)
        started = time.monotonic()
        doses = predict_doses(predictor, samples, sampling, members=tuple(range(members)))
        found[method] = doses, (time.monotonic() - started) / len(samples)
    return found


def predict_naive(run, training, samples):
    """The control's doses in the shape of `predict_all`'s."""
    table = fit_control(training)
    started = time.monotonic()
    doses = [torch.from_numpy(predict_control(table, sample))[None, None] for sample in samples]
    return {"control": (doses, (time.monotonic() - started) / len(samples))}


def compare_methods(run, predictions, samples):
    """One row per method and patient; a sampled method also counts as "<method>, mean of N"."""
    rows = []
    for method, (doses, seconds) in predictions.items():
        for sample, dose in zip(samples, doses):
            case = run.open_cohort().load(sample.case_id)
            dose_gy = on_case_grid(dose, sample, run.coarsen)
            n = len(dose_gy)
            rows.append(method_row(case, method, dose_gy[0], seconds / n))
            if n > 1:
                rows.append(method_row(case, f"{method}, mean of {n}", dose_gy.mean(axis=0), seconds))
    return rows


def method_row(case, method, dose_gy, seconds):
    errors = region_errors(case, dose_gy)
    return dict(method=method, case_id=case.case_id, seconds=seconds, **errors["dose mask"],
                whole_volume_mae_gy=errors["whole volume"]["mae_gy"], dose_score_gy=openkbp_dose_error_gy(case, dose_gy),
                dvh_errors_gy=[round(e, 4) for e in openkbp_dvh_errors_gy(case, dose_gy).values()],
                structure_mae_gy={name: e["mae_gy"] for name, e in errors.items() if name in case.masks},
                goals={text: met for text, (_, met) in goal_values(case, dose_gy).items()},
                planned_goals={text: met for text, (_, met) in goal_values(case, case.dose_gy).items()})


def study_gamma(run, predictions, samples):
    """One row per method and patient: gamma pass rates, global to the prescription, cut-off 10 %, body and targets."""
    return [gamma_row(run.open_cohort().load(sample.case_id), method, on_case_grid(dose.mean(0, keepdim=True), sample, run.coarsen)[0])
            for method, (doses, _) in predictions.items() for sample, dose in zip(samples, progress(doses, f"gamma of {method}"))]


def gamma_row(case, method, dose_gy):
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    row = dict(method=method, case_id=case.case_id)
    for size in (3, 2):
        index = gamma_index(case.dose_gy, np.where(case.dose_mask, dose_gy, 0), case.spacing_mm, dose_pct=size, distance_mm=size,
                            global_gy=case.rx_gy)
        row |= {f"body_{size}pct_{size}mm": pass_pct(index), f"targets_{size}pct_{size}mm": pass_pct(index, targets)}
    return row


def keep_predictions(run, predictions, samples, case_ids):
    """Write the predictions of `case_ids` for the explorer: the mean of a sampled method's members, with its spread."""
    for method, (doses, _) in predictions.items():
        for sample, dose in zip(samples, doses):
            if sample.case_id in case_ids:
                members_gy = dose[:, 0].numpy() * sample.rx_gy
                spread = spread_gy(members_gy) if len(members_gy) > 1 else None
                save_prediction(prediction_path(run.folder, method, sample.case_id), members_gy.mean(axis=0), run.coarsen, spread)


def sizes_of(rows):
    """The ensemble sizes of `study_ensembles`' rows as they are keyed, from small to large (JSON sorts "10" before "3")."""
    return sorted(rows[0]["mae_gy"], key=int)


def by_method(rows, key="mae_gy"):
    """method -> values of `key`, one per patient in the same order."""
    found = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row[key])
    return found
