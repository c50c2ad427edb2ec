"""One plan against what plans of such anatomies reach: each quantity with an interval, a place, a sentence.

The interval is calibrated on validation patients by one answer and rule of `lib.studies.intervals`. What
can be said is whether a plan is unusual for its anatomy, not whether it is good.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.cases.case import Case
from lib.cases.cohort import Cohort
from lib.cases.protocol import Goal
from lib.errors import UserError, closest
from lib.features.samples import Sample
from lib.metrics import conformal
from lib.metrics.dvh import AGREES_PCT, fits_plan
from lib.prediction.predict import usual_sampler
from lib.studies import intervals
from lib.studies.anatomy import Likeness
from lib.studies.checks import find_oddities
from lib.studies.experiment import Experiment
from lib.studies.intervals import ANSWER, QUANTITY, VOXELS, answer_name, with_ends, with_rules
from lib.studies.predictions import Prediction, pool, predict_both_sides, predict_members, predict_naive
from lib.studies.results import select

BOUND_PCT = 90.0  # of the bound of one side: 9 of 10 such plans
Row = dict[str, Any]
COLUMNS = [*QUANTITY, "planned", "low", "middle", "high", "percentile", "n", "side", "bound"]
COLUMNS += ["goal", "limit", "met", "met_pct", "sentence"]
WORDS = {  # (is a target, planned above what such plans reach, less is better)
    (False, True, True): "could be spared",
    (False, False, True): "is spared more than usual, see what pays for it",
    (True, False, False): "could be covered better",
    (True, True, False): "is covered more than usual, see what pays for it",
    (True, True, True): "is hotter than usual",
    (True, False, True): "is less hot than usual",
}


class Check(NamedTuple):
    """A plan's check: `table` has a row for each quantity; the most unusual one, `quantity`, is more so than
    the most unusual ones of `above` of `n` calibration patients."""

    table: pd.DataFrame
    quantity: str
    above: int
    n: int
    notes: list[str]


def choose_answer(judged: pd.DataFrame, level_pct: float, name: str = "") -> Row:
    """The answer and rule by its name, or that of the best interval score over the test patients, of the
    columns of 07_values. Raises a UserError where the name is not there or nothing can be promised."""
    rows = judged[judged["case_id"] != ""]
    level_pct = level_pct if level_pct in set(rows["level_pct"]) else rows["level_pct"].max()
    rows = select(rows, level_pct=level_pct)
    if rows.empty:
        sentence = "no interval can be promised: the cohort has too few validation patients"
        raise UserError(f"{sentence}; it takes {conformal.least_patients(min(intervals.LEVELS_PCT))}")
    means = rows.groupby([*ANSWER, "rule"], sort=False, dropna=False)["interval_score"].mean().reset_index()
    names = [answer_name(row) for row in means.to_dict("records")]
    if name and name not in names:
        raise UserError(f"there is no answer {name!r}{closest(name, names)}")
    best = means.pop("interval_score").argmin()
    return means.iloc[names.index(name) if name else best].to_dict()


def predict_answer(run: Experiment, answer: Row, sample: Sample) -> Prediction:
    """The answer's members for one patient, who leaves nothing on the disk."""
    name, members = answer["training"], int(answer["members"])
    if answer["source"] == "control":
        return predict_naive(run, [sample])
    if answer["source"] == "sides":
        return predict_both_sides(run, name, [sample])
    if answer["source"] == "seeds":
        names = run.replicates(answer["group"])[:members]
        return pool([predict_members(run, one, [sample], keep=False) for one in names])
    steps = answer["n_steps"]
    sampler = usual_sampler(run.config(name), int(steps)) if steps > 0 else None
    return predict_members(run, name, [sample], sampler, members, keep=False)


def refuse_plan(case: Case, cohort: Cohort, experiment: str) -> None:
    """A UserError for a plan that the networks of an experiment cannot answer: of a training patient, of
    another site, or of a prescription that they never saw."""
    if case.case_id in cohort.split["train"]:
        sentence = f"{experiment}: the networks were trained on {case.case_id} and know its plan"
        raise UserError(f"{sentence}; check one of {', '.join(cohort.split['test'][:3])} ...")
    if case.protocol != cohort.protocol:
        sites = f"the plan is of {case.protocol.title}, the networks are for {cohort.protocol.title}"
        raise UserError(f"{experiment}: {sites}; use an experiment of its site")
    of_training = [cohort.card["cases"][i]["prescription_gy"] for i in cohort.split["train"]]
    for target, rx_gy in case.prescription_gy.items():
        known = [of[target] for of in of_training if target in of]
        share = AGREES_PCT / 100
        if not known or not min(known) * (1 - share) <= rx_gy <= max(known) * (1 + share):
            ends = " to ".join(f"{gy:g}" for gy in sorted({min(known), max(known)})) if known else ""
            seen = f"{ends} Gy" if known else "none"
            sentence = f"{experiment}: {target} is prescribed {rx_gy:g} Gy, the training patients have {seen}"
            raise UserError(f"{sentence}; use an experiment of its prescription")


def check_plan(
    case: Case, members_gy: np.ndarray, values: pd.DataFrame, answer: Row, level_pct: float
) -> Check:
    """The check of a plan, predicted by the members [N,D,H,W] of `answer`, by the validation patients of
    07_values; the plan itself, if it is one of them, is left out. Raises a UserError where no quantity has
    enough patients."""
    of_answer = values.merge(pd.DataFrame([answer])[ANSWER])  # pandas pairs what is missing, too
    known = with_rules(select(of_answer, part="validation"))
    known = known[known["case_id"] != case.case_id]
    spreads = known.loc[known["quantity"] == VOXELS, "spread"].dropna()
    known = known[(known["rule"] == answer["rule"]) & (known["quantity"] != VOXELS)]
    columns = [*QUANTITY, "planned", "value", "spread"]
    rows = pd.DataFrame(intervals.value_rows(case, members_gy)).reindex(columns=columns)
    plan = select(with_rules(rows.assign(rule="", case_id=case.case_id)), rule=answer["rule"])
    goals = {intervals.key_of(goal): goal for goal in intervals.judged_quantities(case)}
    table, reasons = [], {}
    for row in plan.to_dict("records"):
        scores = known.merge(pd.DataFrame([row])[QUANTITY])["score"].to_numpy()
        goal = goals[tuple(row[name] for name in QUANTITY)]
        try:
            table.append(quantity_row(case, goal, row, scores, level_pct))
        except UserError as error:
            reasons[str(error)] = [*reasons.get(str(error), []), f"{goal.structure} {goal.quantity}"]
    if not table:
        raise UserError(next(iter(reasons), f"{case.case_id} has no structure that is judged"))
    notes = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    notes += spread_note(case, members_gy, spreads)
    return Check(pd.DataFrame(table).reindex(columns=COLUMNS), *most_unusual(known, plan), notes)


def spread_note(case: Case, members_gy: np.ndarray, spreads: pd.Series) -> list[str]:
    """How sure the members are, against those of the calibration patients; nothing of one member."""
    if len(members_gy) == 1:
        return []
    here = next(row["spread"] for row in intervals.voxel_rows(case, members_gy) if "spread" in row)
    above = f"more than in {(spreads < here).sum()} of {len(spreads)} calibration patients"
    return [f"The {len(members_gy)} predictions spread by {here:.1f} Gy, {above}"]


def quantity_row(case: Case, goal: Goal, row: Row, scores: np.ndarray, level_pct: float) -> Row:
    """One quantity of a plan against the calibration patients' scores."""
    low, high = conformal.interval(scores, level_pct)
    ends = with_ends(pd.DataFrame([row]), low, high).iloc[0]
    less = goal.sense == "<="
    cells = {name: row[name] for name in (*QUANTITY, "planned")} | {"low": ends["low"], "high": ends["high"]}
    cells["side"] = "at most" if less else "at least"
    cells["middle"] = max(0.0, row["value"] + float(np.median(scores)) * row["scale"])
    cells |= {"percentile": conformal.percentile(row["score"], scores), "n": len(scores)}
    if conformal.can_promise(len(scores), BOUND_PCT):
        sign = 1 if less else -1
        reach = row["value"] + sign * conformal.quantile(sign * scores, BOUND_PCT) * row["scale"]
        cells["bound"] = max(0.0, reach)
    if np.isfinite(goal.limit) and fits_plan(case, goal):
        place = conformal.percentile((goal.limit - row["value"]) / row["scale"], scores)
        cells["limit"] = f"{'≤' if less else '≥'} {goal.limit:g} {goal.unit}"
        cells |= {"goal": goal.text, "met_pct": place if less else 100 - place}
        cells["met"] = row["planned"] <= goal.limit if less else row["planned"] >= goal.limit
    return cells | {"sentence": sentence(case, goal, cells)}


def sentence(case: Case, goal: Goal, row: Row) -> str:
    """What a planned value outside of its interval says; "" inside."""
    above, below = row["planned"] > row["high"], row["planned"] < row["low"]
    if not (above or below):
        return ""
    target = goal.structure.partition(" ")[0] in case.protocol.targets
    words = WORDS.get((target, above, goal.sense == "<="), "is unusual")
    planned = f"planned {goal.quantity} {row['planned']:.1f} {row['unit']}"
    reach = f"such anatomies reach {row['low']:.1f} to {row['high']:.1f}"
    return f"{goal.structure.replace('_', ' ')} {words}: {planned}, {reach}"


def most_unusual(known: pd.DataFrame, plan: pd.DataFrame) -> tuple[str, int, int]:
    """(the plan's most unusual quantity, how many calibration patients have none that is so unusual, of how
    many): all are scaled alike, over the plan and these patients, so that any could be in its place."""
    both = pd.concat([known, plan]).pivot_table("score", "case_id", QUANTITY)
    both = both[[column for column in both if column in set(plan.set_index(QUANTITY).index)]]
    off = ((both - both.mean()) / both.std(ddof=0).clip(lower=1e-6)).abs()
    plan_off = off.loc[plan["case_id"].iloc[0]]
    others = off.drop(index=plan_off.name).max(axis=1).dropna()
    structure, quantity, _ = plan_off.idxmax()
    return f"{structure} {quantity}", int((others < plan_off.max()).sum()), len(others)


def sentences(check: Check) -> list[str]:
    """What stands out: first what another try may improve, each part by how far it is from its interval."""
    rows = check.table[check.table["sentence"] != ""]
    above, below = rows["planned"] - rows["high"], rows["low"] - rows["planned"]
    worse = np.where(rows["side"] == "at most", above, below) > 0
    far = np.maximum(above, below) / (rows["high"] - rows["low"]).clip(lower=0.1)
    return list(rows.assign(worse=worse, far=far).sort_values(["worse", "far"], ascending=False)["sentence"])


def cautions(case: Case, alike: Likeness, check: Check, level_pct: float) -> Iterator[str]:
    """What must be known to read a check."""
    outside, n = (check.table["sentence"] != "").sum(), len(check.table)
    by_chance = f"by chance alone about {n * (1 - level_pct / 100):.0f} would"
    yield f"{outside} of {n} quantities lie outside their intervals; {by_chance}"
    usual = f"more so than the most unusual ones of {check.above} of {check.n} calibration patients"
    first = ": look there first" if check.above == check.n else ""
    yield f"{check.quantity} is the plan's most unusual quantity, {usual}{first}"
    yield from likeness_notes(alike)
    yield from (f"Look at the data: {oddity}" for oddity in find_oddities(case))
    counts = check.table.groupby("structure", sort=False)["n"].min()
    if len(few := counts[counts < counts.max()]):
        names = ", ".join(f"{name} {count}" for name, count in few.items())
        yield f"Fewer calibration patients have some structures: {names}"
    yield from check.notes


def likeness_notes(alike: Likeness) -> Iterator[str]:
    """How the anatomy stands to that of the training patients, in sentences."""
    measure, _, unit = alike.measure.partition(" / ")
    usual = f"where training patients have {alike.usual:.0f}: {alike.distance:.1f} standard deviations"
    what = f"{measure} of {alike.structure.replace('_', ' ')}, {alike.value:.0f} {unit} {usual}"
    start = "What deviates most in the anatomy is the"
    if alike.is_unlike:
        yield f"The anatomy is unlike the training patients', so this is not to be relied on. {start} {what}"
        yield f"As much as in {alike.at_least} of {alike.n + 1} patients like those of the calibration"
    else:
        yield f"{start} {what}, more than in {alike.above} of {alike.n} calibration patients"
    if alike.unseen:
        yield f"No training patient has {', '.join(alike.unseen)}, so nothing is said of it"
    if alike.lacking:
        yield f"Every training patient has {', '.join(alike.lacking)}, and this one has not"
