"""The comparison of methods on held-out patients: each at its setting chosen on validation patients.

An answer is one dose for each patient: a network's, or a mean over samples, seeds or views of a patient.
"""

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from lib.cases.case import Case
from lib.diffusion.samplers import SOLVERS, Sampler, as_dict, sampler_from
from lib.errors import UserError
from lib.features.samples import Sample
from lib.metrics.dose import grid_dose_score_gy, openkbp_dose_error_gy, region_errors
from lib.metrics.dvh import goal_values, openkbp_dvh_points_gy, organ_points_inside_gy
from lib.metrics.gamma import gamma_index, pass_pct
from lib.metrics.indices import conformity_index, homogeneity_index, isodose_dice
from lib.metrics.uncertainty import spread_gy
from lib.prediction.predict import usual_sampler, usual_temperature
from lib.prediction.store import prediction_path, save_prediction
from lib.studies.experiment import Experiment
from lib.studies.predictions import Prediction, Row, judged_rows, pool, predict_both_sides, predict_members
from lib.studies.results import make_frame, make_rows
from lib.training.history import read_history

ISODOSES_PCT = (30, 50, 80, 95)  # of the prescription
SHIFTS = list(itertools.product((0, 1), repeat=3))[1:]
CRITERIA = (3, 2)  # of gamma, % of the prescription and mm


def best_sampler(steps: pd.DataFrame, training: str) -> Sampler | None:
    """The setting of the lowest mean error among a training's rows of 02_steps with its final weights."""
    rows = steps.query("training == @training and weights == 'weights' and measure == 'mae_gy'")
    rows = rows[(rows["solver"] != "") & (rows["window"] == 0)]
    keys = ["solver", "grid", "start", "clamp", "eta", "n_steps"]
    if rows.empty:
        return None
    means = rows.groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()
    return sampler_from(means.loc[means["value"].idxmin(), keys])


def choose_samplers(
    run: Experiment, steps: pd.DataFrame, names: Iterable[str], n_steps: int
) -> dict[str, Sampler | None]:
    """name -> sampler: what was best on validation patients, of a further seed that of its group; what the
    ablation did not sample in its usual way. A choice that rests on test patients is refused."""
    if seen := set(steps["case_id"]) & set(run.open_cohort().split["test"]):
        sentence = f"the ablation's results hold {min(seen)}, a test patient"
        raise UserError(f"{sentence}: run 02_sampling_ablation again, on validation patients")
    samplers = {}
    for name in names:
        usual = usual_sampler(run.config(name), n_steps)
        group = run.columns(name)["group"]
        samplers[name] = usual and (best_sampler(steps, name) or best_sampler(steps, group) or usual)
    return samplers


def describe_samplers(samplers: dict[str, Sampler | None]) -> dict[str, Row]:
    """name -> how it is sampled: plain values, network calls and words."""
    rows = {name: as_dict(s) | {"nfe": s.nfe} if s else {"nfe": 1} for name, s in samplers.items()}
    return {name: row | {"text": sampler_text(row)} for name, row in rows.items()}


def sampler_text(values: Row) -> str:
    """How a dose is sampled, in words."""
    if "solver" not in values:
        return "one pass"
    words = f"{values['n_steps']} step{'' if values['n_steps'] == 1 else 's'}"
    title = SOLVERS[values["solver"]].title
    if "grid" not in values:
        return f"{words} of {title}"
    grids = {"leading": "the reference's grid", "corrected": "the reference's grid, as many as asked"}
    grid = grids.get(values["grid"], f"from t = {values['start']}")
    eta = f"eta {values['eta']:g}" if values.get("eta") else ""
    return ", ".join(filter(None, [words, grid, f"clamp: {values['clamp']}", eta, title]))


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
    return [answer(prediction, "none", 1)] + ([answer(prediction, "samples", n)] if n > 1 else [])


def answer(prediction: Prediction, averaged_over: str, members: int) -> Prediction:
    """The mean of the first `members`, with its cost."""
    columns = prediction.columns | prediction.cost(members) | {"averaged_over": averaged_over}
    means = [dose[:members].mean(dim=0, keepdim=True) for dose in prediction.doses]
    return Prediction(columns, means, prediction.seconds_of(members), columns["nfe"])


def means_of_sides(run: Experiment, names: Iterable[str], samples: list[Sample]) -> list[Prediction]:
    """The mean of each regression's doses of the patient and of the mirror image: test-time augmentation."""
    return [answer(predict_both_sides(run, name, samples), "sides", 2) for name in names]


def means_of_views(run: Experiment, names: Iterable[str], samples: list[Sample]) -> list[Prediction]:
    """The mean of each regression's doses of both sides, each as it is and moved by one along every choice of
    axes, so that the blocks lie otherwise: their seams differ, and average out."""
    views = [predict_both_sides(run, name, samples, SHIFTS) for name in names]
    return [answer(of_views, "views", len(of_views.doses[0])) for of_views in views]


def means_of_seeds(answers: list[Prediction]) -> list[Prediction]:
    """The mean over the seeds of each regression that was trained with several: averaging without samples."""
    groups, names = {}, {"none": "seeds", "sides": "sides and seeds", "views": "views and seeds"}
    for one in answers:
        over = names.get(one.columns["averaged_over"])
        if over and "n_steps" not in one.columns:
            groups.setdefault((one.columns["group"], over), []).append(one)
    several = {key: seeds for key, seeds in groups.items() if len(seeds) > 1}
    members = {key: sum(one.columns["members"] for one in seeds) for key, seeds in several.items()}
    return [answer(pool(s), key[1], len(s)).named(members=members[key]) for key, s in several.items()]


def planned_on_grid(samples: list[Sample]) -> Prediction:
    """The planned doses averaged to the grid of the answers: what coarsening alone costs."""
    columns = dict.fromkeys(("training", "method", "group"), "planned, on this grid")
    doses = [sample.dose[None].float() for sample in samples]
    return Prediction(columns | {"averaged_over": "none", "members": 1, "nfe": 0}, doses, 0.0, 0)


def compare(run: Experiment, answers: list[Prediction], samples: list[Sample]) -> pd.DataFrame:
    """Every measure of every answer for every patient: the frame 04_comparison."""
    rows = judged_rows(run, answer_rows, answers, samples, "judging")
    for one in answers:
        for sample, dose in zip(samples, one.doses):
            score = {"grid_dose_score_gy": grid_dose_score_gy(sample, dose)}
            rows += make_rows(one.columns | {"case_id": sample.case_id}, score)
    return make_frame("04_comparison", rows)


def answer_rows(one: Prediction, case: Case, members_gy: np.ndarray) -> list[Row]:
    return make_rows({}, {"seconds": one.seconds}) + dose_rows(case, members_gy[0])


def dose_rows(case: Case, dose_gy: np.ndarray) -> list[Row]:
    """All measures of one dose [D,H,W]: errors, OpenKBP's dose score, DVH points, goals and indices."""
    errors = region_errors(case, dose_gy)
    rows = make_rows({"region": "dose mask"}, errors["dose mask"])
    rows += make_rows({"region": "whole volume"}, {"mae_gy": errors["whole volume"]["mae_gy"]})
    rows += make_rows({}, {"dose_score_gy": openkbp_dose_error_gy(case, dose_gy)})
    for name in case.judged_masks:
        rows += make_rows({"structure": name}, {"mae_gy": errors[name]["mae_gy"]})
    points = openkbp_dvh_points_gy(case, dose_gy)
    rows += [both(name, f"{point}_gy", *values) for (name, point), values in points.items()]
    off_gy = [abs(predicted - planned) for predicted, planned in points.values()]
    rows += make_rows({}, {"dvh_error_gy": float(np.mean(off_gy)) if off_gy else None})
    inside, planned = (organ_points_inside_gy(case, dose) for dose in (dose_gy, case.dose_gy))
    rows += [
        both(name, f"{point}_inside_gy", inside[name, point], gy) for (name, point), gy in planned.items()
    ]
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
    return rows + make_rows({}, {f"dice_{pct}": value for pct, value in zip(ISODOSES_PCT, dice.values())})


def study_gamma(run: Experiment, answers: list[Prediction], samples: list[Sample]) -> pd.DataFrame:
    """Gamma pass rates, global to the prescription, cut-off 10 %, of body and targets: the frame 04_gamma."""
    return make_frame("04_gamma", judged_rows(run, gamma_rows, answers, samples, "gamma"))


def gamma_rows(_: Prediction, case: Case, members_gy: np.ndarray) -> list[Row]:
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    rows = []
    for size in CRITERIA:
        criteria = {"dose_pct": size, "distance_mm": size, "global_gy": case.rx_gy}
        gamma = gamma_index(case.dose_gy, members_gy[0], case.spacing_mm, **criteria)
        for region, mask in {"body": None, "targets": targets}.items():
            measures = {f"gamma_{size}pct_{size}mm_pass_pct": pass_pct(gamma, mask)}
            rows += make_rows({"region": region}, measures)
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
    written = set()
    for one in predictions:
        for sample, dose in zip(samples, one.doses):
            if sample.case_id in case_ids:
                members_gy = dose[:, 0].numpy() * sample.rx_gy
                spread = spread_gy(members_gy) if len(members_gy) > 1 else None
                path = prediction_path(run.folder, one.columns["training"], sample.case_id)
                save_prediction(path, members_gy.mean(axis=0), run.grid, spread)
                written.add(path)
    for path in set((run.folder / "predictions").glob("*/*.npz")) - written:
        path.unlink()
