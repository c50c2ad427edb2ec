"""The comparison of methods on held-out patients: each at its setting chosen on validation patients."""

import time

import numpy as np
import torch

from lib.diffusion.samplers import DPMSolver, Midpoint, as_dict, sampler_from
from lib.errors import UserError
from lib.metrics.dose import grid_dose_score_gy, openkbp_dose_error_gy, region_errors
from lib.metrics.dvh import goal_values, openkbp_dvh_errors_gy
from lib.metrics.gamma import gamma_index, pass_pct
from lib.metrics.indices import conformity_index, homogeneity_index, isodose_dice
from lib.metrics.uncertainty import spread_gy
from lib.models.control import fit_control, predict_control
from lib.models.methods import find_method
from lib.prediction.predict import on_case_grid, usual_sampler, usual_temperature
from lib.prediction.store import prediction_path, save_prediction
from lib.progress import progress
from lib.studies.ensembles import flipped_pair
from lib.studies.rows import Goal, grouped, has_study, plain_of, seeds_of
from lib.studies.sampled import sampled_doses

OPTIONS = ("window", "window_noise", "temperature")  # of `predict`
ISODOSES_PCT = (30, 50, 80, 95)  # of the prescription


def studies_before(run, methods):
    """The results of the ablation and of the ensembles; None for one that an experiment of these methods does
    not have."""
    return [
        run.load_results(name) if has_study(name, methods) else None
        for name in ("02_sampling_ablation", "03_ensemble")
    ]


def best_sampling(rows, training):
    """The setting of the lowest mean error over validation patients among a training's own rows of the
    ablation, or None."""
    own = [row for row in rows if row["training"] == training and row["weights"] == "weights"]
    if not own:
        return None
    errors = grouped([row | {"key": repr(row["sampling"])} for row in own], "key")
    best = min(errors, key=lambda key: np.mean(errors[key]))
    chosen = next(row["sampling"] for row in own if repr(row["sampling"]) == best)
    options = {key: chosen[key] for key in OPTIONS if key in chosen}
    return {"sampler": sampler_from(chosen) if "solver" in chosen else None} | options


def choose_samplings(run, rows, methods, n_steps):
    """name -> `predict`'s sampler and options: what was best on validation patients; another seed is sampled
    as its method, what the ablation did not sample in its usual way. A choice on test patients is refused."""
    judged = {row["case_id"] for row in rows} & set(run.open_cohort().split["test"])
    if judged:
        raise UserError(
            f"the ablation's results hold {min(judged)}, a test patient: "
            "run 02_sampling_ablation again, on validation patients"
        )

    def chosen(name):
        own = best_sampling(rows, name) or best_sampling(rows, plain_of(name))
        if own:
            return own
        config = run.load_predictor(name).config
        return {"sampler": usual_sampler(config, n_steps), "temperature": usual_temperature(config)}

    return {name: chosen(name) for name in methods}


def describe_samplings(samplings):
    """name -> how it is sampled: plain values, network calls and words."""
    found = {}
    for name, sampling in samplings.items():
        sampler = sampling["sampler"]
        options = {key: value for key, value in sampling.items() if key != "sampler"}
        found[name] = (as_dict(sampler) if sampler else {}) | options
        found[name] |= {"nfe": sampler.nfe if sampler else 1, "text": sampler_text(sampler)}
    return found


def sampler_text(sampler):
    if sampler is None:
        return "one pass"
    steps = f"{sampler.n_steps} step{'' if sampler.n_steps == 1 else 's'}"
    if not hasattr(sampler, "grid"):
        return f"{steps} of the midpoint rule" if isinstance(sampler, Midpoint) else f"{steps} of Euler"
    start = {"leading": "the reference's grid", "corrected": "the reference's grid, as many as asked"}.get(
        sampler.grid, f"from t = {sampler.start}"
    )
    extra = [f"clamp: {sampler.clamp}"]
    if isinstance(sampler, DPMSolver):
        extra.append("second order")
    elif sampler.eta > 0:
        extra.append(f"eta {sampler.eta:g}")
    return f"{steps}, {start}, {', '.join(extra)}"


def predict_all(run, samplings, samples, members):
    """Predict every patient by every method; name -> (doses [N,1,d,h,w] per patient, seconds per patient)."""
    found = {}
    for name, sampling in samplings.items():
        doses, seconds = sampled_doses(
            run,
            name,
            samples,
            members=tuple(range(members if find_method(name).timed else 1)),
            **sampling,
        )
        found[name] = doses, seconds / len(samples)
    return found


def predict_naive(run, training, samples):
    """The control's doses in the shape of `predict_all`'s."""
    table = fit_control(training)
    started = time.monotonic()
    doses = [torch.from_numpy(predict_control(table, sample))[None, None] for sample in samples]
    return {"control": (doses, (time.monotonic() - started) / len(samples))}


def means_of_sides(run, names, samples):
    """The mean of each regression's doses of the patient and of his mirror image, in the shape of
    `predict_all`'s: test-time augmentation."""
    pairs = {name: flipped_pair(run, name, samples) for name in names}
    return {
        f"{name}, mean of 2 sides": ([pair.mean(0, keepdim=True) for pair in doses], 2 * seconds)
        for name, (doses, seconds, _) in pairs.items()
    }


def means_of_seeds(predictions):
    """The mean over the seeds of each regression that was trained with several, in the shape of
    `predict_all`'s: averaging without sampling."""
    found = {}
    for name, names in seeds_of(
        n for n in predictions if n != "control" and not find_method(n).sampled
    ).items():
        if len(names) > 1:
            doses = [
                torch.stack(of_patient).mean(0) for of_patient in zip(*(predictions[n][0] for n in names))
            ]
            found[f"{name}, mean of {len(names)} seeds"] = doses, sum(predictions[n][1] for n in names)
    return found


def compare_methods(run, predictions, samples):
    """One row per method and patient; a sampled method also counts as "<method>, mean of N"."""
    rows = []
    for method, (doses, seconds) in predictions.items():
        for sample, dose in zip(samples, progress(doses, f"judging {method}")):
            case = run.load_case(sample.case_id)
            dose_gy, own_grid = on_case_grid(dose, case, run.coarsen), grid_dose_score_gy(sample, dose)
            n = len(dose_gy)
            rows.append(
                method_row(case, method, dose_gy[0], seconds / n, grid_dose_score_gy(sample, dose[:1]))
            )
            if n > 1:
                rows.append(
                    method_row(case, f"{method}, mean of {n}", dose_gy.mean(axis=0), seconds, own_grid)
                )
    return rows


def method_row(case, method, dose_gy, seconds, own_grid_gy):
    errors = region_errors(case, dose_gy)
    predicted, planned = goal_values(case, dose_gy), goal_values(case, case.dose_gy)
    return dict(
        method=method,
        case_id=case.case_id,
        seconds=seconds,
        **errors["dose mask"],
        whole_volume_mae_gy=errors["whole volume"]["mae_gy"],
        dose_score_gy=openkbp_dose_error_gy(case, dose_gy),
        own_grid_dose_score_gy=own_grid_gy,
        dvh_errors_gy=[round(e, 4) for e in openkbp_dvh_errors_gy(case, dose_gy).values()],
        structure_mae_gy={name: round(e["mae_gy"], 4) for name, e in errors.items() if name in case.masks},
        goals={
            text: Goal(predicted[text][0], planned[text][0], predicted[text][1], planned[text][1])
            for text in planned
        },
        **index_row(case, dose_gy),
    )


def index_row(case, dose_gy):
    """Conformity and homogeneity of the primary target, predicted and planned, and the overlap of the isodose
    volumes."""
    primary = case.masks[max(case.prescription_gy, key=case.prescription_gy.get)]
    dice = isodose_dice(case.dose_gy, dose_gy, [case.rx_gy * pct / 100 for pct in ISODOSES_PCT])
    level_gy = 0.95 * case.rx_gy
    return {
        "conformity": {
            "predicted": conformity_index(dose_gy, primary, level_gy),
            "planned": conformity_index(case.dose_gy, primary, level_gy),
        },
        "homogeneity": {
            "predicted": homogeneity_index(dose_gy, primary),
            "planned": homogeneity_index(case.dose_gy, primary),
        },
        "isodose_dice": {str(pct): value for pct, value in zip(ISODOSES_PCT, dice.values())},
    }


def study_gamma(run, predictions, samples):
    """One row per method and patient: gamma pass rates, global to the prescription, cut-off 10 %, body and
    targets."""
    return [
        gamma_row(run.load_case(sample.case_id), method, dose.mean(0, keepdim=True), run.coarsen)
        for method, (doses, _) in predictions.items()
        for sample, dose in zip(progress(samples, f"gamma of {method}"), doses)
    ]


def gamma_row(case, method, dose, coarsen):
    dose_gy = on_case_grid(dose, case, coarsen)[0]
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    row = {"method": method, "case_id": case.case_id}
    for size in (3, 2):
        index = gamma_index(
            case.dose_gy, dose_gy, case.spacing_mm, dose_pct=size, distance_mm=size, global_gy=case.rx_gy
        )
        row |= {
            f"body_{size}pct_{size}mm": pass_pct(index),
            f"targets_{size}pct_{size}mm": pass_pct(index, targets),
        }
    return row


def keep_predictions(run, predictions, samples, case_ids):
    """Write the predictions of `case_ids` for the explorer, the mean of a sampled method's members with its
    spread; those of an earlier run go."""
    kept = {}
    for method, (doses, _) in predictions.items():
        kept |= {
            prediction_path(run.folder, method, s.case_id): dose[:, 0].numpy() * s.rx_gy
            for s, dose in zip(samples, doses)
            if s.case_id in case_ids
        }
    for path in (run.folder / "predictions").glob("*/*.npz"):
        if path not in kept:
            path.unlink()
    for path, members_gy in kept.items():
        save_prediction(
            path, members_gy.mean(axis=0), run.coarsen, spread_gy(members_gy) if len(members_gy) > 1 else None
        )
