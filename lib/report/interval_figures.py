"""Intervals and alarms as figures and as a table: which answer's are narrowest, and what they detect."""

import math
from functools import partial

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.metrics.conformal import chance_of_so_few
from lib.metrics.statistics import NO_BOUNDS, SHARE_PCT, Difference, holm, paired_difference, verdict
from lib.report.figures import MEAN, interval
from lib.report.style import colour, legend_above, panels, plain_ticks, small_panels
from lib.report.tables import Interval, pack
from lib.studies.intervals import ANSWER, BY_SPREAD, CONSTANT, FALSE_ALARMS_PCT, alarms, answer_name
from lib.studies.results import Results, select

MARGIN_GY = 0.1
LEAST_P = 0.05  # after Holm's correction: below it, fewer planned values are inside than chance explains
NARROWER_PCT = 10  # than residuals alone: so much a second network or samples must gain
WORDS = {"lower": "better", "higher": "worse", "equal": "equal"}
VERBS = {"lower": "are better than", "higher": "are worse than", "equal": "equal"}
TITLES = {"nfe": "network calls", "inside_pct": "inside / %", "width": "width / Gy"}
TITLES |= {"interval_score": "interval score / Gy", "auc": "area under ROC"}
TITLES |= {"detected_pct": "detected as promised / %", "false_pct": "false alarms / %"}


def with_names(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the `answer` and its rule in words."""
    return rows.assign(answer=[answer_name(row) for row in rows[[*ANSWER, "rule"]].to_dict("records")])


def usual_level(judged: pd.DataFrame) -> float:
    """80 % if that could be promised, else the highest level that could."""
    levels = {*judged["level_pct"]} or {80.0}
    return 80.0 if 80.0 in levels else max(levels)


def rival(rows: pd.DataFrame) -> str:
    """What sampling must beat: the regression of several seeds, or of both sides, or alone, of one width."""
    rows = rows[rows["rule"] != BY_SPREAD]
    order = {"seeds": 0, "sides": 1, "none": 2}
    first = min(rows["source"].unique(), key=lambda source: order.get(source, 9))
    return select(rows, source=first)["answer"].iloc[0]


def scores_by_patient(judged: pd.DataFrame) -> pd.DataFrame:
    """The rows of each test patient at the usual level, their answers named."""
    return with_names(select(judged[judged["case_id"] != ""], level_pct=usual_level(judged)))


def score_difference(rows: pd.DataFrame, answer: str, other: str) -> Difference:
    """The paired difference of two answers' interval scores."""
    scores = rows.pivot(index="case_id", columns="answer", values="interval_score")
    return paired_difference(scores[answer], scores[other])


def answers_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Every answer and rule: planned values inside, width and interval score in Gy, over the test patients,
    and the score less that of the rival, which the margin decides."""
    rows = scores_by_patient(judged)
    if rows.empty:
        return pd.DataFrame()
    groups = rows.groupby("answer", sort=False)
    table = groups[["nfe", "inside_pct", "width", "interval_score"]].mean().sort_values("interval_score")
    table["nfe"] = table["nfe"].astype(int)
    other = rival(rows)
    differences = {name: score_difference(rows, name, other) for name in table.index}
    table[f"less that of {other} / Gy"] = [Interval(d.mean, d.low, d.high) for d in differences.values()]
    said = {name: WORDS.get(verdict(d, MARGIN_GY), "cannot be said") for name, d in differences.items()}
    table["verdict"] = [said[name] if name != other else "" for name in table.index]
    return table.rename(columns=TITLES).rename_axis("answer")


def by_quantity(judged: pd.DataFrame, answer: str) -> pd.DataFrame:
    """The rows of each quantity by an answer at the usual level, with how likely so few are inside (`p`)."""
    rows = with_names(select(judged[judged["quantity"] != ""], level_pct=usual_level(judged), case_id=""))
    rows = select(rows, answer=answer)
    counts = rows[["patients", "calibration_patients"]].astype(int)
    hits = (rows["inside_pct"] * rows["patients"] / 100).round().astype(int)
    drawn = zip(hits, counts["patients"], counts["calibration_patients"])
    return rows.assign(**counts, p=[chance_of_so_few(*of, usual_level(judged)) for of in drawn])


def coverage_table(judged: pd.DataFrame, answer: str = "") -> pd.DataFrame:
    """Each quantity by one answer, the rival if none is named: planned values inside with the exact interval
    of that share, how likely so few are, and the width in the quantity's unit; then by predicted dose."""
    rows = with_names(select(judged, level_pct=usual_level(judged)))
    answer = answer or rival(rows)
    doses = select(rows, answer=answer).dropna(subset="bin_gy").sort_values("bin_gy")
    quantities = by_quantity(judged, answer)
    structures = quantities["structure"].replace("", "dose mask")
    names = [*(structures + " " + quantities["quantity"] + " / " + quantities["unit"])]
    names += [f"predicted from {edge:.0f} Gy on" for edge in doses["bin_gy"]]
    table = pd.concat([quantities, doses]).set_axis(pd.Index(names, name="quantity"))
    table["inside / %"] = pack(table, "inside_pct", "inside_low_pct", "inside_high_pct")
    titles = {"p": "p of so few", "width": "width", "patients": "patients"}
    titles |= {"calibration_patients": "calibrated on"}
    counts = {"patients": int, "calibrated on": int}
    return table[["inside / %", *titles]].rename(columns=titles).astype(counts)


def sampling_verdict(judged: pd.DataFrame) -> str:
    """Whether samples give better intervals than the rival: for as many network calls, and for any number."""
    rows = scores_by_patient(judged)
    samples = select(rows, source="samples")
    if samples.empty:
        return "This experiment has no samples."
    other, words = rival(rows), {}
    calls = select(rows, answer=other)["nfe"].iloc[0]
    for text, most in ((f"{calls:.0f} network calls", calls), ("any number of them", math.inf)):
        best = samples[samples["nfe"] <= most].groupby("answer")["interval_score"].mean()
        if len(best):
            words.setdefault(best.idxmin(), []).append(text)
    sentences = []
    for name, texts in words.items():
        d = score_difference(rows, name, other)
        edges = "" if d.low is None else f" [{d.low:+.2f}, {d.high:+.2f}]"
        verb = VERBS.get(verdict(d, MARGIN_GY), "cannot be told from")
        text = f"For {' and for '.join(texts)} the best intervals from samples ({name}) {verb} those"
        sentences.append(f"{text} of {other}: interval score {d.mean:+.2f} Gy{edges}, {d.n} test patients.")
    return " ".join(sentences)


def width_verdict(judged: pd.DataFrame, least_pct: float = NARROWER_PCT) -> str:
    """Which answers have intervals so much narrower than the residuals of one regression alone give."""
    rows = scores_by_patient(judged)
    alone = next(iter(select(rows, source="none", rule=CONSTANT)["answer"]), "")
    if not alone:
        return ""
    means = rows.groupby("answer")[["width", "inside_pct"]].mean().sort_values("width")
    says = {name: f"{width:.2f} Gy, {inside:.0f} % inside" for name, width, inside in means.itertuples()}
    less_pct = 100 * (1 - means["width"] / means.loc[alone, "width"]).drop(alone)
    ways = {name: f"{abs(pct):.0f} % {'narrower' if pct > 0 else 'wider'}" for name, pct in less_pct.items()}
    words = [f"{name}, {way} ({says[name]})" for name, way in ways.items()]
    much = [text for text, pct in zip(words, less_pct) if pct >= least_pct]
    what = f"at least {least_pct} % narrower than by the residuals of {alone} alone ({says[alone]})"
    if much:
        return f"Intervals are {what} by {'; '.join(much)}."
    return f"Nothing makes intervals {what}" + (f"; the narrowest are of {words[0]}." if words else ".")


def coverage_verdict(judged: pd.DataFrame) -> str:
    """Whether the rival's intervals hold as many planned values as promised, over all and by quantity."""
    of_patients = with_names(judged[judged["case_id"] != ""])
    other = rival(scores_by_patient(judged))
    inside = select(of_patients, answer=other).groupby("level_pct")["inside_pct"].mean()
    shares = [f"{inside[level]:.0f} % (promised {level:.0f} %)" for level in (80, 90) if level in inside]
    rows = by_quantity(judged, other)
    rows = rows.assign(corrected=holm(rows["p"].tolist())).sort_values("inside_pct")
    names = [f"{r.structure} {r.quantity} ({r.inside_pct:.0f} %)".strip() for r in rows.itertuples()]
    few = [name for name, p in zip(names, rows["corrected"]) if p < LEAST_P]
    overall = f"The intervals of {other} hold {' and '.join(shares)} of the planned values of a patient. "
    if few:
        start = f"{len(few)} of {len(rows)} quantities hold fewer than chance explains"
        return f"{overall}{start}: {', '.join(few)}. Do not rely on the intervals of these."
    return f"{overall}No quantity of {len(rows)} holds fewer than chance explains; the lowest is {names[0]}."


def alarms_verdict(results: Results) -> str:
    """How many raised organs the rival's alarms find, the least and the most, and why: 5 Gy more do not stand
    out where plans of like anatomies differ by as much."""
    detection = results.frames["07_detection"]
    rows = with_names(select(alarms(results.frames["07_values"], detection), rule=CONSTANT))
    if rows.empty:
        return ""
    other = rival(rows)
    scores = select(with_names(detection), answer=other).groupby("structure")["score"]
    above_gy = scores.quantile(1 - FALSE_ALARMS_PCT / 100) - scores.median()
    of_organs = select(rows, answer=other).set_index("structure")["detected_at_10_pct"].sort_values()
    text = "{:.0f} % ({}: one plan in ten lies {:.1f} Gy or more above the median)"
    ends = [text.format(pct, name, above_gy[name]) for name, pct in of_organs.iloc[[0, -1]].items()]
    start = f"At {FALSE_ALARMS_PCT} % false alarms {other} finds 5 Gy more in an organ in"
    return f"{start} {' to '.join(ends)} of plans."


def verdicts(results: Results) -> list[str]:
    """What samples are worth, what is narrower, whether intervals hold, and what alarms find."""
    judged = results.frames["07_intervals"]
    texts = sampling_verdict(judged), width_verdict(judged), coverage_verdict(judged), alarms_verdict(results)
    return [text for text in texts if text]


def alarms_table(results: Results) -> pd.DataFrame:
    """Organs raised by 5 Gy that are detected, in %: at 10 % false alarms by answer and organ, and by the
    edge that validation patients promise over all organs, with its false alarms."""
    rows = with_names(alarms(results.frames["07_values"], results.frames["07_detection"]))
    means = rows.groupby("answer", sort=False)[["auc", "detected_pct", "false_pct"]].mean()
    organs = rows.pivot(index="answer", columns="structure", values="detected_at_10_pct")
    table = organs.join(means.rename(columns=TITLES)).reindex(means.index)
    shares = table.columns.difference([TITLES["auc"]])  # of some thirty patients: no digit behind the point
    return table.assign(**table[shares].round().astype("Int64"))


def intervals(judged: pd.DataFrame) -> Figure:
    """fig20: A planned values inside and the promise, B the intervals' score; means over test patients."""
    level_pct = usual_level(judged)
    rows = scores_by_patient(judged)
    order = list(rows.groupby("answer")["interval_score"].mean().sort_values().index)
    figure, axes = panels(2, height_in=0.24 * len(order) + 1.0, sharey=True)
    inks = {name: colour(name) for name in order}
    options = {"y": "answer", "order": order, "hue": "answer", "palette": inks, "legend": False, **MEAN}
    for ax, (measure, bounds) in zip(axes, {"inside_pct": SHARE_PCT, "interval_score": NO_BOUNDS}.items()):
        errorbar = partial(interval, bounds=bounds)
        sns.pointplot(rows, x=measure, ax=ax, **options | {"errorbar": errorbar})
    axes[0].axvline(level_pct, color="#888888", linewidth=1)
    axes[0].set(xlabel=f"inside / % (line: {level_pct:g} %)", ylabel="")
    axes[1].set(xlabel="interval score / Gy (left is better)", ylabel="", xscale="log")
    plain_ticks(axes[1].xaxis)
    return figure


def roc(detection: pd.DataFrame) -> Figure:
    """fig21: Plans raised by 5 Gy in an organ that are detected, against false alarms on unchanged plans."""
    rows = with_names(detection[detection["rule"] != BY_SPREAD])
    organs = sorted(rows["structure"].unique())
    figure, axes = small_panels(len(organs), 4, height_in=2.0)
    for ax, organ in zip(axes, organs):
        of_organ = select(rows, structure=organ)
        for name, part in of_organ.groupby("answer", sort=False):
            ax.plot(*roc_curve(part), color=colour(name), label=name, **line_of(part))
        ax.axvline(FALSE_ALARMS_PCT, color="#cccccc", linewidth=0.8, zorder=0)
        count = of_organ["case_id"].nunique()
        ax.set_title(f"{organ.replace('_', ' ')} (n = {count})", fontsize=8)
    figure.supxlabel("false alarms / %", fontsize=9)
    figure.supylabel("raised plans detected / %", fontsize=9)
    return legend_above(figure, axes, 3)


def line_of(rows: pd.DataFrame) -> dict:
    """How an answer is drawn beside others of its method."""
    styles = {"none": "-", "seeds": "--", "sides": ":", "control": "-"}
    few = rows["n_steps"].iloc[0] == 1
    return {"linestyle": "-." if few else styles.get(rows["source"].iloc[0], "-"), "linewidth": 1.3}


def roc_curve(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(false alarms, raised plans detected) in % at every edge, as steps from 0 to 100."""
    usual, raised = np.sort(rows["score"]), np.sort(rows["raised_score"])
    edges = np.concatenate([[np.inf], np.sort(np.concatenate([usual, raised]))[::-1]])
    below = (np.searchsorted(values, edges) / len(values) for values in (usual, raised))
    return tuple(100 * (1 - share) for share in below)
