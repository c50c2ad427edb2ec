"""Intervals and alarms as figures and as a table: which answer's are narrowest, and what they find."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.metrics.statistics import paired_difference, verdict
from lib.models.methods import kind
from lib.report.figures import MEAN
from lib.report.style import COLOURS, legend_above, panels
from lib.report.tables import Interval
from lib.studies.intervals import ANSWER, BY_SPREAD, FALSE_ALARMS_PCT
from lib.studies.plan_check import answer_name
from lib.studies.results import select

WORDS = {"lower": "better", "higher": "worse"}


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the `answer` and its rule in words."""
    keys = rows[[*ANSWER, "rule"]].drop_duplicates()
    keys["answer"] = [answer_name(row) for row in keys.to_dict("records")]
    return rows.merge(keys, on=[*ANSWER, "rule"])


def usual_level(judged: pd.DataFrame, level_pct: float = 80.0) -> float:
    """The level if it could be promised, else the highest one that could."""
    levels = set(judged["level_pct"])
    return level_pct if level_pct in levels else max(levels, default=level_pct)


def rival(rows: pd.DataFrame) -> str:
    """What sampling must beat: the regression of several seeds, or of both sides, or alone, of one width."""
    rows = rows[rows["rule"] != BY_SPREAD]
    order = {"seeds": 0, "sides": 1, "none": 2}
    first = min(rows["source"].unique(), key=lambda source: order.get(source, 9))
    return select(rows, source=first)["answer"].iloc[0]


def answers_table(judged: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Every answer and rule: planned values inside, width and interval score in Gy, over the test patients,
    and the score less that of the rival, which the margin decides."""
    by_patient = named(judged[judged["case_id"] != ""]).query("level_pct == @usual_level(@judged)")
    if by_patient.empty:
        return pd.DataFrame()
    against = rival(by_patient)
    scores = by_patient.pivot(index="case_id", columns="answer", values="interval_score")
    rows = {}
    for name, own in by_patient.groupby("answer", sort=False):
        means = own[["inside_pct", "width", "interval_score"]].mean()
        d = paired_difference(scores[name], scores[against])
        rows[name] = {
            "network calls": int(own["nfe"].iloc[0]),
            "inside / %": means["inside_pct"],
            "width / Gy": means["width"],
            "interval score / Gy": means["interval_score"],
            f"less that of {against} / Gy": Interval(d.mean, d.low, d.high) if name != against else None,
            "verdict": WORDS.get(verdict(d, margin), verdict(d, margin)) if name != against else "",
        }
    return (
        pd.DataFrame.from_dict(rows, orient="index").rename_axis("answer").sort_values("interval score / Gy")
    )


def intervals(judged: pd.DataFrame) -> Figure:
    """fig20: A planned values inside the intervals and what was promised, B the intervals' score, by answer;
    means over the test patients."""
    level_pct = usual_level(judged)
    rows = named(select(judged[judged["case_id"] != ""], level_pct=level_pct))
    order = list(rows.groupby("answer")["interval_score"].mean().sort_values().index)
    figure, axes = panels(2, height_in=0.24 * len(order) + 1.0, sharey=True)
    inks = {name: COLOURS.get(kind(name), "#333333") for name in order}
    options = {"y": "answer", "order": order, "hue": "answer", "palette": inks, "legend": False, **MEAN}
    for ax, measure in zip(axes, ("inside_pct", "interval_score")):
        sns.pointplot(rows, x=measure, ax=ax, **options)
    axes[0].axvline(level_pct, color="#888888", linewidth=1)
    axes[0].set(xlabel=f"planned values in intervals of {level_pct:g} % / %", ylabel="")
    axes[1].set(xlabel="interval score / Gy (left is better)", ylabel="")
    return figure


def roc(detection: pd.DataFrame) -> Figure:
    """fig21: Plans raised by 5 Gy in an organ that are found, against false alarms on plans as they are."""
    rows = named(select(detection[detection["rule"] != BY_SPREAD]))
    organs = sorted(rows["structure"].unique())
    figure, axes = panels(4, -(-len(organs) // 4), height_in=2.0, sharex=True, sharey=True)
    for ax, organ in zip(axes, organs):
        of_organ = select(rows, structure=organ)
        for name, own in of_organ.groupby("answer", sort=False):
            ax.plot(*roc_curve(own), color=COLOURS.get(kind(name), "#333333"), label=name, **line_of(own))
        ax.axvline(FALSE_ALARMS_PCT, color="#cccccc", linewidth=0.8, zorder=0)
        count = of_organ["case_id"].nunique()
        ax.set_title(f"{organ.replace('_', ' ')} (n = {count})", fontsize=8)
    for ax in axes[len(organs) :]:
        ax.remove()
    figure.supxlabel("false alarms / %", fontsize=9)
    figure.supylabel("raised plans found / %", fontsize=9)
    return legend_above(figure, axes[: len(organs)], 3)


def line_of(rows: pd.DataFrame) -> dict:
    """How an answer is drawn beside others of its method."""
    styles = {"none": "-", "seeds": "--", "sides": ":", "control": "-"}
    few = rows["n_steps"].iloc[0] == 1
    return {"linestyle": "-." if few else styles.get(rows["source"].iloc[0], "-"), "linewidth": 1.3}


def roc_curve(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(false alarms, raised plans found) in % at every edge, as steps from 0 to 100."""
    usual, raised = np.sort(rows["score"]), np.sort(rows["raised_score"])
    edges = np.concatenate([[np.inf], np.sort(np.concatenate([usual, raised]))[::-1]])
    shares = [
        100 * (1 - np.searchsorted(values, edges, side="left") / len(values)) for values in (usual, raised)
    ]
    return shares[0], shares[1]
