"""The comparison of methods on held-out patients: each at its setting chosen on validation patients.

An answer is one dose for each patient: a network's, or a mean over samples, seeds or both sides of a patient.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.cases.case import Case
from lib.diffusion.samplers import Sampler, as_dict, sampler_from
from lib.errors import UserError
from lib.features.samples import Sample
from lib.metrics.dose import grid_dose_score_gy, openkbp_dose_error_gy, region_errors
from lib.metrics.dvh import goal_values, openkbp_dvh_points_gy
from lib.metrics.gamma import gamma_index, pass_pct
from lib.metrics.indices import conformity_index, homogeneity_index, isodose_dice
from lib.metrics.uncertainty import spread_gy
from lib.prediction.predict import on_case_grid, usual_sampler, usual_temperature
from lib.prediction.store import prediction_path, save_prediction
from lib.progress import progress
from lib.studies.ensembles import both_sides
from lib.studies.experiment import Experiment, has_study
from lib.studies.results import SAMPLING, Results, make_frame, measured
from lib.studies.sampled import Prediction, predict_members
from lib.training.history import read_history

ISODOSES_PCT = (30, 50, 80, 95)  # of the prescription
CRITERIA = (3, 2)  # of gamma, % of the prescription and mm
Row = dict[str, Any]


def studies_before(run: Experiment, methods: Iterable[str]) -> list[Results | None]:
    """The results of the ablation and of the ensembles; None for one that an experiment of these methods does
    not have."""
    names = ("02_sampling_ablation", "03_ensemble")
    return [run.load_results(name) if has_study(name, methods) else None for name in names]


def best_sampler(steps: pd.DataFrame, training: str) -> Sampler | None:
    """The setting of the lowest mean error among a training's rows of 02_steps with its final weights."""
    rows = steps.query("training == @training and weights == 'weights' and measure == 'mae_gy'")
    rows = rows[(rows["solver"] != "") & (rows["window"] == 0)]
    keys = [column for column in SAMPLING if column not in ("window", "window_noise", "nfe")]
    if rows.empty:
        return None
    means = rows.groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()
    return sampler_from(means.loc[means["value"].idxmin(), keys])


def choose_samplers(
    run: Experiment, steps: pd.DataFrame | None, names: Iterable[str], n_steps: int
) -> dict[str, Sampler]:
    """name -> sampler: what was best on validation patients, of a further seed that of its group; what the
    ablation did not sample in its usual way. A choice that rests on test patients is refused."""
    steps = make_frame("02_steps", []) if steps is None else steps
    seen = set(steps["case_id"]) & set(run.open_cohort().split["test"])
    if seen:
        raise UserError(
            f"the ablation's results hold {min(seen)}, a test patient: "
            "run 02_sampling_ablation again, on validation patients"
        )
    samplers = {}
    for name in names:
        usual = usual_sampler(run.config(name), n_steps)
        group = run.columns(name)["group"]
        samplers[name] = usual and (best_sampler(steps, name) or best_sampler(steps, group) or usual)
    return samplers


def describe_samplers(samplers: dict[str, Sampler | None]) -> dict[str, Row]:
    """name -> how it is sampled: plain values, network calls and words."""
    return {
        name: (as_dict(sampler) | {"nfe": sampler.nfe} if sampler else {"nfe": 1})
        | {"text": sampler_text(sampler)}
        for name, sampler in samplers.items()
    }


def sampler_text(sampler: Sampler | None) -> str:
    """How a dose is sampled, in words."""
    if sampler is None:
        return "one pass"
    values = as_dict(sampler)
    steps = f"{sampler.n_steps} step{'' if sampler.n_steps == 1 else 's'}"
    if "grid" not in values:
        return f"{steps} of {'the midpoint rule' if values['solver'] == 'midpoint' else 'Euler'}"
    grids = {
        "leading": "the reference's grid",
        "corrected": "the reference's grid, as many as asked",
        "held": f"from t = {values['start']}",
    }
    parts = [steps, grids[values["grid"]], f"clamp: {values['clamp']}"]
    parts += [f"eta {values['eta']:g}"] if values.get("eta") else []
    return ", ".join(parts + ["second order"] * (values["solver"] == "dpm_solver"))


def predict_all(
    run: Experiment, samplers: dict[str, Sampler | None], samples: list[Sample], members: int
) -> list[Prediction]:
    """Every training's members for every patient; of what is not sampled in steps the mean alone."""
    predictions = []
    for name, sampler in samplers.items():
        options = {"temperature": usual_temperature(run.config(name))}
        predictions.append(predict_members(run, name, samples, sampler, members if sampler else 1, **options))
    return predictions


def answers_of(prediction: Prediction) -> list[Prediction]:
    """The first member alone, and if there are more the mean of all."""
    n = len(prediction.doses[0])
    first = answer(prediction, "none", 1, [dose[:1] for dose in prediction.doses])
    return [first, mean_answer(prediction, "samples")] if n > 1 else [first]


def mean_answer(prediction: Prediction, averaged_over: str) -> Prediction:
    """The mean of all members."""
    means = [dose.mean(dim=0, keepdim=True) for dose in prediction.doses]
    return answer(prediction, averaged_over, len(prediction.doses[0]), means)


def answer(prediction: Prediction, averaged_over: str, members: int, doses: list[torch.Tensor]) -> Prediction:
    cost = prediction.cost(members)
    columns = prediction.columns | {"averaged_over": averaged_over, "members": members}
    return Prediction(columns, doses, prediction.seconds_of(members), cost["nfe"])


def means_of_sides(run: Experiment, names: Iterable[str], samples: list[Sample]) -> list[Prediction]:
    """The mean of each regression's doses of the patient and of the mirror image: test-time augmentation."""
    return [mean_answer(both_sides(run, name, samples), "sides") for name in names]


def means_of_seeds(answers: list[Prediction]) -> list[Prediction]:
    """The mean over the seeds of each regression that was trained with several: averaging without samples."""
    groups = {}
    for one in answers:
        over = one.columns["averaged_over"]
        if over in ("none", "sides") and "n_steps" not in one.columns:
            groups.setdefault((one.columns["group"], over), []).append(one)
    return [mean_of_seeds(group, over, of) for (group, over), of in groups.items() if len(of) > 1]


def mean_of_seeds(group: str, averaged_over: str, answers: list[Prediction]) -> Prediction:
    columns = answers[0].columns | {"training": group, "seed": None}
    columns["averaged_over"] = "seeds" if averaged_over == "none" else "sides and seeds"
    columns["members"] = sum(one.columns["members"] for one in answers)
    doses = [torch.stack(of_patient).mean(0) for of_patient in zip(*(one.doses for one in answers))]
    return Prediction(columns, doses, sum(one.seconds for one in answers), sum(one.nfe for one in answers))


def compare(run: Experiment, answers: list[Prediction], samples: list[Sample]) -> pd.DataFrame:
    """Every measure of every answer for every patient: the frame 04_comparison."""
    rows = []
    for one in answers:
        columns = one.columns | {"nfe": one.nfe}
        for sample, dose in zip(samples, progress(one.doses, f"judging {columns['training']}")):
            case = run.load_case(sample.case_id)
            of_patient = columns | {"case_id": sample.case_id}
            scores = {"grid_dose_score_gy": grid_dose_score_gy(sample, dose), "seconds": one.seconds}
            rows += measured(of_patient, scores)
            rows += [of_patient | row for row in dose_rows(case, on_case_grid(dose, case, run.coarsen)[0])]
    return make_frame("04_comparison", rows)


def dose_rows(case: Case, dose_gy: np.ndarray) -> list[Row]:
    """All measures of one dose [D,H,W]: errors, OpenKBP's dose score, DVH points, goals and indices."""
    errors = region_errors(case, dose_gy)
    rows = measured({"region": "dose mask"}, errors["dose mask"])
    rows += measured({"region": "whole volume"}, {"mae_gy": errors["whole volume"]["mae_gy"]})
    rows += measured({}, {"dose_score_gy": openkbp_dose_error_gy(case, dose_gy)})
    for name in case.judged_masks:
        rows += measured({"structure": name}, {"mae_gy": errors[name]["mae_gy"]})
    points = openkbp_dvh_points_gy(case, dose_gy)
    rows += [both(name, f"{point}_gy", *values) for (name, point), values in points.items()]
    return rows + goal_rows(case, dose_gy) + index_rows(case, dose_gy)


def both(structure: str, measure: str, predicted: float | None, planned: float | None) -> Row:
    return {"structure": structure, "measure": measure, "value": predicted, "planned": planned}


def goal_rows(case: Case, dose_gy: np.ndarray) -> list[Row]:
    """Each goal of a structure that is there: its value and whether it is met, predicted and planned."""
    predicted, planned = goal_values(case, dose_gy), goal_values(case, case.dose_gy)
    return [
        both(goal.structure, goal.text, predicted[goal.text][0], planned[goal.text][0])
        | {"met": predicted[goal.text][1], "planned_met": planned[goal.text][1]}
        for goal in case.protocol.goals
        if planned[goal.text][0] is not None
    ]


def index_rows(case: Case, dose_gy: np.ndarray) -> list[Row]:
    """Conformity and homogeneity of the primary target, predicted and planned, and overlaps of isodoses."""
    primary, level_gy = case.primary_target, 0.95 * case.rx_gy
    target = case.judged_masks.get(primary, np.zeros(case.shape, bool))
    conformity = [conformity_index(dose, target, level_gy) for dose in (dose_gy, case.dose_gy)]
    homogeneity = [homogeneity_index(dose, target) for dose in (dose_gy, case.dose_gy)]
    dice = isodose_dice(case.dose_gy, dose_gy, [case.rx_gy * pct / 100 for pct in ISODOSES_PCT])
    rows = [both(primary, "conformity", *conformity), both(primary, "homogeneity", *homogeneity)]
    return rows + measured({}, {f"dice_{pct}": value for pct, value in zip(ISODOSES_PCT, dice.values())})


def study_gamma(run: Experiment, answers: list[Prediction], samples: list[Sample]) -> pd.DataFrame:
    """Gamma pass rates, global to the prescription, cut-off 10 %, of body and targets: the frame 04_gamma."""
    rows = []
    for one in answers:
        columns = one.columns | {"nfe": one.nfe}
        for sample, dose in zip(progress(samples, f"gamma of {columns['training']}"), one.doses):
            case = run.load_case(sample.case_id)
            dose_gy = on_case_grid(dose, case, run.coarsen)[0]
            rows += [columns | {"case_id": sample.case_id} | row for row in gamma_rows(case, dose_gy)]
    return make_frame("04_gamma", rows)


def gamma_rows(case: Case, dose_gy: np.ndarray) -> list[Row]:
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    rows = []
    for size in CRITERIA:
        criteria = {"dose_pct": size, "distance_mm": size, "global_gy": case.rx_gy}
        gamma = gamma_index(case.dose_gy, dose_gy, case.spacing_mm, **criteria)
        for region, mask in {"body": None, "targets": targets}.items():
            measures = {f"gamma_{size}pct_{size}mm_pass_pct": pass_pct(gamma, mask)}
            rows += measured({"region": region}, measures)
    return rows


def histories(run: Experiment, names: Iterable[str]) -> pd.DataFrame:
    """The course of every training by epochs: the frame 04_history."""
    rows = []
    for name in names:
        columns = run.columns(name)
        rows += [columns | epoch for epoch in read_history(run.checkpoint(name) / "history.csv")]
    return make_frame("04_history", rows)


def keep_predictions(
    run: Experiment, predictions: list[Prediction], samples: list[Sample], case_ids: Iterable[str]
) -> None:
    """Write the predictions of `case_ids` for the explorer, the mean of a sampled method's members with its
    spread; those of an earlier run go."""
    kept = {
        prediction_path(run.folder, one.columns["training"], sample.case_id): dose[:, 0].numpy()
        * sample.rx_gy
        for one in predictions
        for sample, dose in zip(samples, one.doses)
        if sample.case_id in case_ids
    }
    for path in set((run.folder / "predictions").glob("*/*.npz")) - kept.keys():
        path.unlink()
    for path, members_gy in kept.items():
        spread = spread_gy(members_gy) if len(members_gy) > 1 else None
        save_prediction(path, members_gy.mean(axis=0), run.coarsen, spread)
