"""What tables and statements take from the results of an experiment: rows of one measure, seeds averaged,
answers by patient, and the trainings that failed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.metrics.statistics import NO_BOUNDS, Difference, mean_interval, paired_difference
from lib.models.methods import METHODS
from lib.studies.results import (
    FRAMES,
    Results,
    add_labels,
    by_patient,
    label,
    load_results,
    make_frame,
    select,
)

DVH_POINTS = ("D99_gy", "D95_gy", "D1_gy", "mean_gy", "D0.1cc_gy")
# table -> which columns tell its answers of one training apart
ANSWERS = {"04_comparison": ["members"], "02_steps": ["setting", "n_steps"], "03_ensemble": ["members"]}


def load_experiment(folder: Path) -> Results:
    """All results of an experiment, settings by notebook and tables by file; a table of none is empty."""
    names = [path.stem for path in sorted((folder / "results").glob("0[0-9]_*.json"))]
    studies = {name: load_results(folder / "results", name) for name in names}
    frames = {file: frame for study in studies.values() for file, frame in study.frames.items()}
    settings = {name: study.settings for name, study in studies.items()}
    return Results(settings, {file: make_frame(file, []) for file in FRAMES} | frames)


def setting(results: Results, name: str, default: Any = None) -> Any:
    """A setting by its name, of the last notebook that has it."""
    return next((s[name] for s in reversed(results.settings.values()) if name in s), default)


def rows_of(frame: pd.DataFrame, measure: str = "mae_gy", region: str = "dose mask") -> pd.DataFrame:
    """The rows of a measure, in the region if the table has regions."""
    frame = select(frame, measure=measure)
    return select(frame, region=region) if "region" in frame else frame


def dvh_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of DVH points, their value the error |predicted - planned| / Gy."""
    points = frame[frame["measure"].isin(DVH_POINTS)]
    return points.assign(value=(points["value"] - points["planned"]).abs())


def goal_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of goals that can be judged, their value 100 where met or missed as planned, else 0."""
    goals = frame.dropna(subset=["met", "planned_met"])
    return goals.assign(value=100.0 * (goals["met"] == goals["planned_met"]))


def is_diffusion(method: str) -> bool:
    return method in METHODS and METHODS[method].timed


def average(frame: pd.DataFrame, over: Sequence[str] = ()) -> pd.DataFrame:
    """The values averaged over the columns `over` and over the seed-replicates of a training, under the name
    of their group; not finite where one is not."""
    rest = {"training", "variant", "seed", "nfe", "value", "planned", "met", "planned_met", *over}
    groups = frame.groupby([c for c in frame if c not in rest], sort=False, dropna=False)["value"]
    means = (groups.sum(min_count=1) / groups.size()).where(groups.count() == groups.size())
    return means.reset_index(name="value").assign(training=lambda rows: rows["group"])


def answers(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(values [patient x label], best mean first; what each label is [label x column]) of one measure."""
    labelled = add_labels(frame)
    values = by_patient(labelled)
    order = values.mean().sort_values(kind="stable").index
    return values[order], labelled.drop_duplicates("label").set_index("label").loc[order]


def one_form(about: pd.DataFrame) -> list[str]:
    """The labels without single samples where there is the mean of several, and without the control."""
    about = about[about["method"] != "control"]
    sampled = set(about.loc[about["averaged_over"] == "samples", "group"])
    return list(about.index[(about["averaged_over"] != "none") | ~about["group"].isin(sampled)])


def failed_trainings(results: Results) -> dict[str, set[str]]:
    """table -> trainings, and groups that hold one, no better there than the control or not finite; as in the
    comparison where a table has no control."""
    rows = {file: rows_of(results.frames[file]) for file in ANSWERS}
    controls = [file for file in ANSWERS if "control" in set(rows[file]["method"])]
    failed = {file: failures(rows[file], ANSWERS[file]) for file in controls}
    return {file: failed.get(file, failed.get("04_comparison", set())) for file in ANSWERS}


def failures(rows: pd.DataFrame, answer: list[str]) -> set[str]:
    """Trainings, and their groups, that failed: their best answer has an error that is not finite, or whose
    difference to the control's has a 95 % interval that does not end below 0."""
    control = select(rows, method="control").set_index("case_id")["value"]
    failed: set[str] = set()
    for names, group in rows[rows["method"] != "control"].groupby(["training", "group"]):
        parts = [part.groupby("case_id")["value"].mean() for _, part in group.groupby(answer, dropna=False)]
        best = min(parts, key=lambda values: values.mean() if values.notna().all() else math.inf)
        d = paired_difference(best, control.reindex(best.index))
        if best.isna().any() or (d.mean if d.high is None else d.high) >= 0:
            failed.update(names)
    return failed


def against_control(results: Results) -> list[tuple[str, pd.DataFrame, str]]:
    """(quantity, its rows, its unit) by which networks are held against the control."""
    frame, gamma = results.frames["04_comparison"], results.frames["04_gamma"]
    primary = select(frame, measure="conformity")[["case_id", "structure"]].drop_duplicates()
    return [
        ("MAE", rows_of(frame), "Gy"),
        ("error of DVH points", dvh_errors(frame), "Gy"),
        ("MAE in the primary target", frame.merge(primary.assign(measure="mae_gy")), "Gy"),
        ("gamma pass rate in the targets", rows_of(gamma, "gamma_3pct_3mm_pass_pct", "targets"), "%"),
    ]


def widest_goal(goals: pd.DataFrame, about: pd.Series) -> tuple[str, float, float]:
    """The goal on which doses and plans are farthest apart, and the share / % of either that meets it."""
    of_answer = select(goals, **about[["group", "averaged_over", "members"]])
    met = 100 * of_answer.groupby("measure", sort=False)[["planned_met", "met"]].mean()
    text = (met["planned_met"] - met["met"]).abs().idxmax()
    return text, met["planned_met"][text], met["met"][text]


def curves(results: Results, measure: str = "mae_gy") -> dict[str, pd.DataFrame]:
    """setting of the ablation -> values [patient x number of steps]."""
    frame = select(results.frames["02_steps"], measure=measure).dropna(subset="n_steps")
    parts = frame.groupby("setting", sort=False)
    return {name: rows.pivot(index="case_id", columns="n_steps", values="value") for name, rows in parts}


def steps_between(curve: pd.DataFrame, best: float) -> tuple[float, float]:
    """The one range of steps in which a setting is judged: to its most, from those nearest to `best`."""
    high = curve.columns.max()
    fewer = curve.columns[curve.columns < high]
    return min(fewer, key=lambda n: abs(math.log(n / best)), default=high), high


def theory_ratio(results: Results, name: str) -> Difference:
    """The largest RMSE of a setting over the smaller of the regression's and its own of one step."""
    curve = curves(results, "rmse_gy")[name]
    regressed = select(results.frames["02_steps"], switch="regression", measure="rmse_gy")
    least = regressed.set_index("case_id")["value"].reindex(curve.index)
    least = curve[1] if 1 in curve and curve[1].mean() < least.mean() else least
    return root_ratio(curve[curve.mean().idxmax()] ** 2, least**2)


def sources(results: Results) -> dict[str, pd.DataFrame]:
    """label -> the rows of answers that are averaged, those of the fewest network calls first."""
    frame = results.frames["03_ensemble"]
    frame = frame[frame["source"].isin(["samples", "seeds", "sides"])]
    parts = [rows for _, rows in frame.groupby(["training", "source"], sort=False)]
    parts.sort(key=lambda rows: rows["nfe"].max())
    return {label(rows.loc[rows["members"].idxmax()]): rows for rows in parts}


def limit_ratio(results: Results, rows: pd.DataFrame) -> Difference:
    """RMSE of the mean of infinitely many answers over the regression's."""
    regressed = select(results.frames["03_ensemble"], source="none", measure="rmse_gy")
    floor = select(rows, measure="floor_gy2").set_index("case_id")["value"]
    return root_ratio(floor, regressed.set_index("case_id")["value"].reindex(floor.index) ** 2)


def spread_ratio(results: Results, rows: pd.DataFrame, factor: float = 1.0) -> Difference:
    """Spread over error of a source of answers, 1 is calibrated."""
    about = rows.iloc[0]
    skill = select(results.frames["03_spread_skill"], training=about["training"], source=about["source"])
    sums = select(skill, factor=factor).pivot_table("value", "case_id", "measure", "sum")
    return root_ratio(sums["spread_gy2"], sums["error_gy2"])


def scores(rows: pd.DataFrame, measure: str, level_pct: float | None = None) -> pd.DataFrame:
    """A score [patient x factor on the spread], as sampled first, then by the factor chosen on validation."""
    rows = select(rows, measure=measure)
    table = rows[rows["level_pct"].isna() if level_pct is None else rows["level_pct"] == level_pct]
    table = table.pivot_table("value", "case_id", "factor")
    return table[sorted(table, key=lambda factor: factor != 1)]


def mean_of(values: pd.Series, bounds: tuple[float, float] = NO_BOUNDS) -> Difference:
    """A mean over patients with its interval within `bounds`, in the shape of a difference."""
    return Difference(values.count(), float(values.mean()), *(mean_interval(values, bounds) or (None, None)))


def root_ratio(above: pd.Series, below: pd.Series) -> Difference:
    """sqrt(sum above / sum below) over patients with a jackknife interval (Tukey's pseudo-values)."""
    n, ratio = len(above), math.sqrt(max(0.0, above.sum() / below.sum()))
    without = np.sqrt(((above.sum() - above) / (below.sum() - below)).clip(lower=0)) if n > 1 else above
    return mean_of(n * ratio - (n - 1) * without)._replace(n=n, mean=ratio)
