"""What plans of such anatomies reach, how sure that is, and whether an interval or an alarm can be believed.

Every answer of `answers` is calibrated on the validation patients and judged on the test patients. By its
predicted value of a DVH point and, where it has several members, their spread it says an interval: of one
width for all patients, or of a width that grows with the spread.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.cases.case import Case
from lib.cases.protocol import BEYOND, Goal, Protocol
from lib.features.channels import signed_distance_mm
from lib.features.samples import Sample
from lib.metrics import conformal
from lib.metrics.dvh import prescriptions_gy, statistic, structure_mask
from lib.metrics.uncertainty import spread_gy
from lib.models.methods import find_method
from lib.prediction.predict import usual_sampler
from lib.studies.ensembles import predict_sources
from lib.studies.experiment import Experiment
from lib.studies.predictions import Prediction, Row, in_dose_mask, judged_rows, predict_members
from lib.studies.results import FORECAST, FRAMES, label, make_frame, select

LEVELS_PCT = (50, 80, 90, 95)
CONSTANT, BY_SPREAD = "constant width", "width by spread"
# Gy, % or cc, added to a spread, so that members that agree by chance do not make an interval of no width. On
# the phantoms, whose spread tells little, the score falls as it grows from 0.5 to 8
LEAST = 2.0
VOXELS, VOXELS_PCT = "95 % of voxels", 95  # a patient's score over voxels: what so many of them do not exceed
TARGET_POINTS = ((99, ">="), (95, ">="), (1, "<="))  # volume in %, and which way is better
ORGAN_POINTS = (("mean", None, "<="), ("Dcc", 0.1, "<="))
BINS_GY = (0, 20, 40, 60)  # lower edges, of predicted values
RAISED_GY, FALL_OFF_MM, FALSE_ALARMS_PCT = 5.0, 15.0, 10
QUANTITY = ["structure", "quantity", "unit"]
ANSWER = FORECAST.split()


def quantities(protocol: Protocol) -> list[Goal]:
    """What a plan is judged by, each once: what the protocol's goals limit, then D99, D95 and D1 of targets
    and the mean and D0.1cc of organs, without a limit."""
    points = [(name, "D", *point) for name in protocol.targets for point in TARGET_POINTS]
    points += [(name, *point) for name in protocol.organs for point in ORGAN_POINTS]
    first: dict[tuple, Goal] = {}
    for goal in (*protocol.goals, *(Goal(*point, np.nan, "Gy") for point in points)):
        first.setdefault((goal.structure, goal.statistic, goal.at, goal.relative), goal)
    return list(first.values())


def organs_at_risk(case: Case) -> list[str]:
    """The organs that lie, for the most part, outside the targets; a prostate inside them is none."""
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    masks = case.judged_masks
    return [name for name in case.protocol.organs if name in masks and targets[masks[name]].mean() < 0.5]


def judged_quantities(case: Case) -> list[Goal]:
    """The quantities of what the case has; of an organ inside the targets only what a goal limits."""
    spared, masks = {*case.protocol.targets, *organs_at_risk(case)}, case.judged_masks
    there = [goal for goal in quantities(case.protocol) if goal.structure.partition(BEYOND)[0] in masks]
    return [goal for goal in there if goal.structure in spared or np.isfinite(goal.limit)]


def values_of(case: Case, doses_gy: Sequence[np.ndarray]) -> dict[Goal, np.ndarray]:
    """Each quantity that the case has in each dose [D,H,W]."""
    masks, values = {}, {}
    for goal in judged_quantities(case):
        if goal.structure not in masks:
            masks[goal.structure] = structure_mask(case, goal.structure)
        rx_gy = prescriptions_gy(case, goal)[0]
        of_doses = [statistic(goal, d[masks[goal.structure]], case.voxel_cc, rx_gy) for d in doses_gy]
        if of_doses[0] is not None:
            values[goal] = np.array(of_doses)
    return values


def key_of(goal: Goal) -> tuple[str, str, str]:
    """Structure, quantity and unit; "%" is a share of the volume."""
    unit = "% of the prescription" if goal.relative and goal.statistic != "V" else goal.unit
    return goal.structure, goal.quantity, unit


def value_rows(case: Case, members_gy: np.ndarray) -> list[Row]:
    """Each quantity as planned, and its mean and spread over members [N,D,H,W]; the spread of one is none."""
    rows = []
    for goal, (planned, *predicted) in values_of(case, [case.dose_gy, *members_gy]).items():
        row = dict(zip(QUANTITY, key_of(goal))) | {"planned": planned, "value": np.mean(predicted)}
        rows.append(row | ({"spread": np.std(predicted, ddof=1)} if len(predicted) > 1 else {}))
    return rows


def voxel_rows(case: Case, members_gy: np.ndarray) -> list[Row]:
    """The patient's one score over the voxels of the dose mask, by both rules, about a value of 0: the error
    that 95 % of them do not exceed, and that in scales of each voxel times the mean scale."""
    members_gy, dose_gy = in_dose_mask(case, members_gy)
    error_gy = np.abs(members_gy.mean(axis=0) - dose_gy)
    named = {"quantity": VOXELS, "unit": "Gy", "value": 0.0}
    rows = [named | {"rule": CONSTANT, "planned": np.percentile(error_gy, VOXELS_PCT)}]
    if len(members_gy) > 1:
        scale_gy = spread_gy(members_gy) + LEAST
        score, mean_gy = np.percentile(error_gy / scale_gy, VOXELS_PCT), scale_gy.mean()
        rows.append(named | {"rule": BY_SPREAD, "planned": score * mean_gy, "spread": mean_gy - LEAST})
    return rows


def predict_values(run: Experiment, samples: list[Sample], part: str, **how: Any) -> list[Row]:
    """Rows of 07_values of every answer; `how` is what `predict_sources` takes."""
    rows = []
    for one in answers(run, samples, **how):
        what = f"{part} by {answer_name(one.columns | one.cost(len(one.doses[0])))}"
        rows += judged_rows(run, patient_rows, [one.named(part=part)], samples, what)
    return rows


def patient_rows(one: Prediction, case: Case, members_gy: np.ndarray) -> list[Row]:
    cost = one.cost(len(members_gy))
    return [cost | row for row in (*value_rows(case, members_gy), *voxel_rows(case, members_gy))]


def answers(run: Experiment, samples: list[Sample], **how: Any) -> Iterator[Prediction]:
    """The sources of ensembles, and samples for as many network calls as the regressions of `deep` take."""
    yield from predict_sources(run, samples, **how)
    calls = max(2, len(how["deep"]))
    for name in (name for name in how["sampled"] if find_method(name).timed):
        sampler = usual_sampler(run.config(name), 1)
        yield predict_members(run, name, samples, sampler, calls).named(source="samples")


def answer_name(row: Row) -> str:
    """What an answer is, for people, with what tells samples apart, and a rule that is not one width."""
    rule = f", {BY_SPREAD}" if row.get("rule") == BY_SPREAD else ""
    if row["source"] != "samples":
        return label(row) + rule
    steps = f" of {row['n_steps']:.0f} step{'' if row['n_steps'] == 1 else 's'}" if row["n_steps"] > 0 else ""
    return f"{row['training']}, {row['members']:.0f} samples{steps}{rule}"


def with_rules(values: pd.DataFrame) -> pd.DataFrame:
    """The rows of 07_values by each rule, with their `scale` and their `score`: how many scales the planned
    value lies above the predicted one."""
    constant = values[values["rule"] != BY_SPREAD].assign(rule=CONSTANT, scale=1.0)
    spread = values[(values["rule"] != CONSTANT) & values["spread"].notna()]
    both = pd.concat([constant, spread.assign(rule=BY_SPREAD, scale=spread["spread"] + LEAST)])
    return both.assign(score=(both["planned"] - both["value"]) / both["scale"])


def interval_rows(values: pd.DataFrame, levels_pct: Iterable[float] = LEVELS_PCT) -> pd.DataFrame:
    """The test patients' rows, each with its interval `low` to `high` of each level that the validation
    patients who have the quantity can promise; `calibration_patients` is their number."""
    parts = []
    for _, rows in with_rules(values).groupby([*ANSWER, "rule", *QUANTITY], sort=False, dropna=False):
        scores, test = rows.loc[rows["part"] == "validation", "score"].to_numpy(), select(rows, part="test")
        promised = [level_pct for level_pct in levels_pct if conformal.can_promise(len(scores), level_pct)]
        ends = [(level, *score_ends(scores, level, rows["quantity"].iloc[0])) for level in promised]
        ends = pd.DataFrame(ends, columns=["level_pct", "low", "high"], dtype=float)
        parts.append(test.merge(ends.assign(calibration_patients=len(scores)), how="cross"))
    rows = pd.concat(parts)
    return with_ends(rows, rows["low"], rows["high"])


def score_ends(scores: np.ndarray, level_pct: float, quantity: str) -> tuple[float, float]:
    """The ends of an interval in scales; over voxels, where a score has no sign, it is even."""
    if quantity != VOXELS:
        return conformal.interval(scores, level_pct)
    most = conformal.quantile(scores, level_pct)
    return -most, most


def with_ends(rows: pd.DataFrame, low: float | pd.Series, high: float | pd.Series) -> pd.DataFrame:
    """The rows with `low` and `high`, so many scales from the predicted value; of a structure no less than 0,
    and no more than all of its volume."""
    most = np.where(rows["unit"] == "%", 100.0, np.inf)
    ends = {"low": rows["value"] + low * rows["scale"], "high": rows["value"] + high * rows["scale"]}
    ends = {n: end.where(rows["structure"] == "", np.clip(end, 0, most)) for n, end in ends.items()}
    return rows.assign(**ends)


def judge(values: pd.DataFrame) -> pd.DataFrame:
    """The frame 07_intervals: coverage and width by quantity, by patient, and by the predicted dose; the
    latter two over the quantities in Gy."""
    rows = interval_rows(values)
    ends = rows["low"], rows["high"], rows["planned"], rows["level_pct"]
    rows = rows.assign(
        inside_pct=100.0 * ((rows["low"] <= rows["planned"]) & (rows["planned"] <= rows["high"])),
        width=rows["high"] - rows["low"],
        interval_score=conformal.interval_score(*ends),
        bin_gy=np.array(BINS_GY)[np.digitize(rows["value"], BINS_GY[1:])],
    )
    in_gy = rows[(rows["unit"] == "Gy") & (rows["structure"] != "")]
    parts = summary(rows, QUANTITY), summary(in_gy, ["case_id"]), summary(in_gy, ["bin_gy"])
    return make_frame("07_intervals", pd.concat(parts).to_dict("records"))


def summary(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """A row of 07_intervals for each answer, rule, level and group of `names`; the share inside has an
    interval of its own where each row is another patient's."""
    means = {name: (name, "mean") for name in ("inside_pct", "width", "interval_score")}
    counts = {"patients": ("case_id", "nunique"), "calibration_patients": ("calibration_patients", "max")}
    keys = [*ANSWER, "rule", "level_pct", *names]
    table = rows.groupby(keys, sort=False, dropna=False).agg(**means, **counts).reset_index()
    if names == QUANTITY:
        hits = (table["inside_pct"] * table["patients"] / 100).round()
        ends = conformal.clopper_pearson(hits, table["patients"].to_numpy())
        table["inside_low_pct"], table["inside_high_pct"] = ends
    return table


def raise_dose(case: Case, organ: str) -> np.ndarray:
    """The plan with 5 Gy more in the organ, falling off over 15 mm around it; targets are kept."""
    distance_mm = signed_distance_mm(case.masks[organ], case.spacing_mm)
    share = np.clip(1 - distance_mm / FALL_OFF_MM, 0, 1)
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    return case.dose_gy + RAISED_GY * share * (case.dose_mask & ~targets)


def raise_organs(run: Experiment, samples: list[Sample]) -> pd.DataFrame:
    """The mean of each organ at risk of each patient in the plan that is raised there, and as planned."""
    of_each = run.of_each_case(raised_means, [sample.case_id for sample in samples], "raising organs")
    rows = [(case_id, *of_organ) for case_id, means in of_each for of_organ in means.items()]
    return pd.DataFrame(rows, columns=["case_id", "structure", "raised"])


def raised_means(case: Case) -> dict[str, float]:
    """organ -> its mean in the plan that is raised there; as the planned mean, where the dose is known."""
    masks = {organ: case.judged_masks[organ] for organ in organs_at_risk(case)}
    return {o: float(raise_dose(case, o)[mask].mean(dtype=np.float64)) for o, mask in masks.items()}


def detect(values: pd.DataFrame, raised: pd.DataFrame) -> pd.DataFrame:
    """The frame 07_detection: the score of each test patient's organ mean as planned and raised."""
    rows = with_rules(values[(values["quantity"] == "Dmean") & (values["part"] == "test")])
    rows = rows.merge(raised, on=["case_id", "structure"])
    rows["raised_score"] = (rows["raised"] - rows["value"]) / rows["scale"]
    return make_frame("07_detection", rows[list(FRAMES["07_detection"])].to_dict("records"))


def alarms(values: pd.DataFrame, detection: pd.DataFrame) -> pd.DataFrame:
    """Of each answer, rule and organ the share of raised plans above what validation patients promise to be
    exceeded by 10 % (`detected_pct`), and of plans as they are (`false_pct`), NaN where nothing can be
    promised; the share detected where just 10 % of the test plans are above (`detected_at_10_pct`); and the
    area under the ROC curve (`auc`)."""
    validation = with_rules(values[(values["quantity"] == "Dmean") & (values["part"] == "validation")])
    keys, rows = [*ANSWER, "rule", "structure"], []
    scores = dict(list(validation.fillna(-1).groupby(keys)["score"]))
    for key, group in detection.fillna(-1).groupby(keys, sort=False):
        usual, raised = group["score"].to_numpy(), group["raised_score"].to_numpy()
        known = scores.get(key, ())
        promised = conformal.can_promise(len(known), 100 - FALSE_ALARMS_PCT)
        edge = conformal.quantile(known, 100 - FALSE_ALARMS_PCT) if promised else np.nan
        at_10 = np.sort(usual)[::-1][len(usual) * FALSE_ALARMS_PCT // 100]
        row = dict(zip(keys, key)) | {"patients": len(usual), "auc": roc_area(usual, raised)}
        row["detected_pct"] = 100 * (raised > edge).mean() if promised else np.nan
        row["false_pct"] = 100 * (usual > edge).mean() if promised else np.nan
        rows.append(row | {"detected_at_10_pct": 100 * (raised > at_10).mean()})
    return pd.DataFrame(rows).replace(-1, np.nan)


def roc_area(usual: np.ndarray, raised: np.ndarray) -> float:
    """The share of pairs in which the raised plan's score is the higher one (Hanley & McNeil 1982)."""
    above = raised[:, None] - usual[None]
    return float((above > 0).mean() + (above == 0).mean() / 2)
