"""What the results say: a statement is a row of numbers with a verdict by one rule, and a sentence.

`statements` gives them to the notebooks and to the page alike; the first of each question is its answer.
Student's t intervals over patients; below 8 patients no verdict, below 4 no interval. What a training that
failed shows is not judged.
"""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from lib.metrics.statistics import LEAST_FOR_VERDICT, Difference, paired_difference, verdict
from lib.models.methods import METHODS
from lib.report import frames
from lib.studies.results import REFERENCE_GRID, Results, select

ACCURACY = "Is diffusion more accurate than the U-Net?"
CONTROL = "Is a network better than no network?"
CLINIC = "Are clinical goals met or missed as planned?"
STEPS = "Do more sampling steps make it worse?"
AVERAGING = "Does averaging several answers help?"
SPREAD = "Does the spread of the answers tell the error?"
COLUMNS = ["question", "quantity", "first", "second", "difference", "low", "high"]
COLUMNS += ["n", "unit", "verdict", "sentence"]
CANNOT, FAILED, DOUBTED = "cannot be said", "not judged: this training failed", "not shown"
DISGUISE, BIASED = "a regression in disguise", "a biased sampler"
SMALL_SPREAD = 0.5  # spread over error below which the answers say little of their error
NEAR = 0.05  # a floor so near to the regression's, as a share of its RMSE, is the regression's
ROOT2 = math.sqrt(2)  # an exact sample has at most so many times the RMSE of the conditional mean
Row, Failed = dict[str, Any], dict[str, set[str]]
About = tuple[str, str, str, str]  # question, quantity, first, second
Answers = tuple[pd.DataFrame, pd.DataFrame]  # as frames.answers gives them


def statements(results: Results) -> pd.DataFrame:
    """Every statement that the results of `load_experiment` allow, by question."""
    margin_gy, failed = frames.setting(results, "margin_gy", 0.1), frames.failed_trainings(results)
    questions = (accuracy, control, clinic, steps, averaging, spread)
    rows = [row for question in questions for row in question(results, margin_gy, failed)]
    return pd.DataFrame(rows, columns=COLUMNS)


def judge(d: Difference, margin: float, equal: str = "equal") -> str:
    """The verdict on a difference of which lower is better; "a little ..." where its interval leaves out 0
    but reaches into the margin."""
    said = verdict(d, margin)
    if said != CANNOT or d.n < LEAST_FOR_VERDICT or d.low <= 0 <= d.high:
        return {"lower": "better", "equal": equal, "higher": "worse", CANNOT: CANNOT}[said]
    return f"a little {'worse' if d.mean > 0 else 'better'}"


def opening(said: str, yes: str) -> str:
    """A verdict as the first words of an answer; `yes` is the verdict that says so."""
    words = {yes: "Yes", f"a little {yes}": "A little", CANNOT: "That cannot be said", DOUBTED: "Not shown"}
    return (words | {FAILED: "Not judged, as this training failed"}).get(said, "No")


def interval_text(d: Difference, unit: str = "Gy", sign: str = "+") -> str:
    """ "+0.31 Gy [+0.10, +0.52] (16 patients)"; says where the patients are too few."""
    form, n = f"{sign}z.0f" if unit == "%" else f"{sign}z.2f", f"{d.n} patient{'' if d.n == 1 else 's'}"
    if d.low is None:
        return f"{d.mean:{form}} {unit} ({n}, too few for an interval)"
    few = ", too few for a verdict" if d.n < LEAST_FOR_VERDICT else ""
    return f"{d.mean:{form}} {unit} [{d.low:{form}}, {d.high:{form}}] ({n}{few})"


def in_words(name: str) -> str:
    """A label as sentences have it."""
    return f"`{name}`".replace("baseline", "U-Net")


def make_row(
    about: About, d: Difference, said: str, is_failed: bool, unit: str = "Gy", means: str = ""
) -> Row:
    """A statement; of a training that failed, or of too few patients, without a verdict."""
    _, quantity, first, second = about
    said = FAILED if is_failed else CANNOT if said and d.n < LEAST_FOR_VERDICT else said
    numbers = (d.mean, *(math.nan if edge is None else edge for edge in (d.low, d.high)), d.n)
    whom = in_words(first) + (f" against {in_words(second)}" if second else "")
    text = f"{whom}: {quantity} {means}{interval_text(d, unit, '+' if second or unit == 'Gy' else '')}"
    return dict(zip(COLUMNS, (*about, *numbers, unit, said, f"{text}, {said}." if said else f"{text}.")))


def bare(row: Row) -> str:
    """The sentence of a statement without its verdict."""
    return row["sentence"].removesuffix(f", {row['verdict']}.")


def compare(about: About, answers: Answers, margin: float, bad: set[str], unit: str = "Gy") -> Row:
    """How one label's answers stand to another's, paired by patient; of shares in % more is better."""
    (values, kinds), (first, second) = answers, about[2:]
    d = paired_difference(values[first], values[second])
    said = judge(d if unit == "Gy" else paired_difference(values[second], values[first]), margin)
    means = f"{values[first].mean():.2f} against {values[second].mean():.2f} {unit}, "
    return make_row(about, d, said, not bad.isdisjoint(kinds["group"][[first, second]]), unit, means)


def accuracy(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """Each answer against the U-Net, the best diffusion result first; seeds, priors, what was not trained."""
    rows, bad = frames.rows_of(results.frames["04_comparison"]), failed["04_comparison"]
    values, about = answers = frames.answers(frames.average(rows))
    single, about_single = singles = frames.answers(select(rows, averaged_over="none"))
    if "baseline" in values:
        others = [name for name in values if name != "baseline"]
        diffusion = [name for name in others if frames.is_diffusion(about["method"][name])]
        diffusion.sort(key=lambda name: about["group"][name] in bad)
        averaged = [name for name in others if about["group"][name] == "baseline"][:1] if diffusion else []
        rivals = [
            compare((ACCURACY, "MAE", diffusion[0], name), answers, margin_gy, bad) for name in averaged
        ]
        pairs = {
            name: compare((ACCURACY, "MAE", name, "baseline"), answers, margin_gy, bad) for name in others
        }
        if diffusion:
            seeds = single[about_single.index[about_single["group"] == "baseline"]].mean()
            yield best_diffusion(results, pairs.pop(diffusion[0]), rivals, answers, seeds.max() - seeds.min())
        yield from [*rivals, *pairs.values()]
        for name, (group, method) in about_single[["group", "method"]].iterrows():
            for other in {group, METHODS[method].prior if method in METHODS else ""} & set(single) - {name}:
                yield compare((ACCURACY, "MAE of one training each", name, other), singles, margin_gy, bad)
    for name, reason in frames.setting(results, "failures", {}).items():
        text = {"verdict": "not trained", "sentence": f"`{name}` was not trained: {reason}."}
        yield make_row((ACCURACY, "training", name, ""), Difference(0, math.nan), "", True) | text


def best_diffusion(results: Results, row: Row, rivals: list[Row], answers: Answers, gap_gy: float) -> Row:
    """The first answer; a gain that the U-Net's seeds, `gap_gy` apart, or averaging explain is in doubt."""
    name, (values, about) = row["first"], answers
    doubts = [f"U-Nets of other seeds are {gap_gy:.2f} Gy apart"] if gap_gy > -row["difference"] else []
    doubts += ["averaging U-Nets gives as much" for rival in rivals if not rival["high"] < 0]
    said = DOUBTED if doubts and "better" in row["verdict"] else row["verdict"]
    difference = interval_text(paired_difference(values[name], values["baseline"]))
    text = (
        f"{opening(said, 'better')}: the best diffusion result, {METHODS[about['method'][name]].title} "
        f"({in_words(name)}), errs by {values[name].mean():.2f} Gy on average, the plain U-Net by "
        f"{values['baseline'].mean():.2f} Gy; difference {difference}."
    )
    text += f" But {' and '.join(doubts)}." if said == DOUBTED else ""
    if frames.setting(results, "samplings", {}).get(about["group"][name], {}).get("nfe") == 1:
        text += " It was sampled in one step: the answer of a regression, not a sample."
    return row | {"verdict": said, "sentence": text}


def control(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """The best network against the control, overall and on the targets."""
    found, lost = [], []
    for quantity, rows, unit in frames.against_control(results):
        values, about = answers = frames.answers(frames.average(rows, ["structure", "measure"]))
        names, sense, margin = frames.one_form(about), *((1, margin_gy) if unit == "Gy" else (-1, 1.0))
        if names and "control" in values:
            about_row = (CONTROL, quantity, names[::sense][0], "control")
            found.append(compare(about_row, answers, margin, set(), unit))
            means = bare(found[-1]).partition(": ")[2].partition(", ")[0]
            lost += [means] if sense * found[-1]["difference"] > 0 else []
    for row in found[:1]:
        row["sentence"] = f"{opening(row['verdict'], 'better')}: the best network, {bare(row)}."
        if lost:
            row["sentence"] += f" But here no network is as good as the control: {'; '.join(lost)}."
    yield from found


def clinic(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """The share of goals met or missed as planned, that of the most accurate network first."""
    frame, bad = results.frames["04_comparison"], failed["04_comparison"]
    goals = frames.goal_rows(frame)
    values, about = frames.answers(frames.average(goals, ["structure", "measure"]))
    order = [name for name in frames.answers(frames.average(frames.rows_of(frame)))[0] if name in values]
    for number, name in enumerate(sorted(order, key=lambda name: name == "control")):
        d, is_failed = frames.mean_of(values[name]), about["group"][name] in bad
        row = make_row((CLINIC, "goals met or missed as planned", name, ""), d, "", is_failed, "%")
        if number == 0:
            goal, planned, met = frames.widest_goal(goals, about.loc[name])
            for other in sorted({"baseline", "control"} & set(values) - {name}):
                row["sentence"] += f" {in_words(other)}: {values[other].mean():.0f} %."
            row["sentence"] += (
                f" Farthest apart: {goal}, met by {planned:.0f} % of the plans and {met:.0f} % of "
            )
            row["sentence"] += "the predicted doses."
        yield row


def steps(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """How the error changes with the number of steps, one range a setting; then theory's bound on the RMSE.

    The reference's method is judged from where its own curve is lowest, other methods from their own.
    """
    about = results.frames["02_steps"].drop_duplicates("setting").set_index("setting")
    curves, rows, bounds = frames.curves(results), {}, []
    for name, curve in curves.items():
        is_other = about["switch"][name] == "prediction"
        is_failed = about["training"][name] in failed["02_steps"]
        best = (curve if is_other else curves.get(REFERENCE_GRID, curve)).mean().idxmin()
        low, high = frames.steps_between(curve, best)
        d, quantity = (
            paired_difference(curve[high], curve[low]),
            f"change of the MAE from {low:.0f} to {high:.0f} steps",
        )
        said = judge(d, margin_gy, equal="flat") if low < high >= best else CANNOT
        rows[name] = make_row((STEPS, quantity, name, ""), d, said, is_failed)
        if is_other:
            d, quantity = frames.theory_ratio(results, name), f"largest RMSE ({ROOT2:.2f} allowed)"
            said = "no more than theory allows" if d.mean <= ROOT2 else "more than sampling explains"
            bounds.append(
                make_row((STEPS, quantity, name, ""), d, said, is_failed, "of that without sampling")
            )
    if row := rows.pop(REFERENCE_GRID, None):
        method = in_words(about["training"][REFERENCE_GRID])
        text = f"{opening(row['verdict'], 'worse')}: {method} on the {bare(row).replace('`', '')}."
        calm = [name for name in rows if rows[name]["verdict"] in ("flat", "better", "a little better")]
        text += f" No rise: {', '.join(map(in_words, calm))}." if calm else ""
        yield row | {"sentence": text}
    yield from [*rows.values(), *bounds]


def averaging(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """The error of the mean of all answers less that of one, the largest gain first; what is left."""
    gains, limits = [], []
    for name, rows in frames.sources(results).items():
        curve = frames.rows_of(rows).pivot(index="case_id", columns="members", values="value")
        most, is_failed = curve.columns.max(), rows["training"].iloc[0] in failed["03_ensemble"]
        d, quantity = paired_difference(curve[most], curve[1]), f"MAE, mean of {most:.0f} less one,"
        gains.append(make_row((AVERAGING, quantity, name, ""), d, judge(d, margin_gy), is_failed))
        d, quantity = frames.limit_ratio(results, rows), "RMSE of a mean of infinitely many"
        said = "near the U-Net" if abs(d.mean - 1) <= NEAR else "worse" if d.mean > 1 else "better"
        limits.append(make_row((AVERAGING, quantity, name, ""), d, said, is_failed, "of the U-Net's"))
    gains.sort(key=lambda row: (row["verdict"] == FAILED, row["difference"]))
    for row in gains[:1]:
        row["sentence"] = f"{opening(row['verdict'], 'better')}: the largest gain is that of {bare(row)}."
    yield from gains + limits


def spread(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """Spread over error, coverage and CRPS of each source, that of the lowest CRPS first."""
    sources, found = frames.sources(results), []
    bad = {name: rows["training"].iloc[0] in failed["03_ensemble"] for name, rows in sources.items()}
    crps = pd.DataFrame({name: frames.scores(rows, "crps_gy").iloc[:, -1] for name, rows in sources.items()})
    for name in sorted(sources, key=lambda name: (bad[name], crps[name].mean())):
        rows, d = sources[name], frames.spread_ratio(results, sources[name])
        said = trust(
            d.mean, frames.limit_ratio(results, rows).mean, frames.is_diffusion(rows["method"].iloc[0])
        )
        found.append(make_row((SPREAD, "spread", name, ""), d, said, bad[name], "of the error"))
        for factor, values in frames.scores(rows, "coverage_pct", 95).items():
            d, scaled = frames.mean_of(values), "" if factor == 1 else f", spread times {factor:.2f}"
            said = "as promised" if abs(d.mean - 95) <= 5 else "too few" if d.mean < 95 else "too many"
            quantity = f"voxels inside the 95 % interval{scaled}"
            found.append(make_row((SPREAD, quantity, name, ""), d, said, bad[name], "%"))
    for name in crps.columns[1:]:
        first, calls = (
            crps.columns[0],
            [f"{rows['nfe'].max():.0f}" for rows in (sources[name], *sources.values())],
        )
        d, quantity = (
            paired_difference(crps[name], crps[first]),
            f"CRPS by {calls[0]} against {calls[1]} calls",
        )
        found.append(make_row((SPREAD, quantity, name, first), d, judge(d, margin_gy), bad[name]))
    for row in found[:1]:
        text = f"{opening(row['verdict'], 'calibrated')}. The best score (CRPS) has {row['sentence']}"
        row["sentence"] = f"{text} {found[1]['sentence']}"
    yield from found


def trust(ratio: float, limit: float, sampled: bool) -> str:
    """What a spread over error says. A regression in disguise has a small spread and a floor near the
    regression's; with a worse floor it is a biased sampler."""
    if ratio < SMALL_SPREAD and not sampled:
        return "says little of the error"
    if ratio < SMALL_SPREAD and limit >= 1 - NEAR:
        return DISGUISE if limit <= 1 + NEAR else BIASED
    return "too sure of itself" if ratio < 0.9 else "calibrated" if ratio <= 1.1 else "too cautious"
