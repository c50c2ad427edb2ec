"""What the results say: a statement is a row of numbers with a verdict by one rule.

The first of each question carries the answer in plain words; notebooks and page show the same. Student's t
intervals over patients; below 8 patients no verdict, below 4 no interval. What a training that failed shows
is not judged.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from lib.metrics.statistics import (
    LEAST_FOR_INTERVAL,
    LEAST_FOR_VERDICT,
    SHARE_PCT,
    Difference,
    paired_difference,
    verdict,
)
from lib.models.methods import METHODS, title_of
from lib.report import frames
from lib.studies.results import REFERENCE_GRID, Results, select

ACCURACY = "Is diffusion more accurate than the U-Net?"
STEPS = "Do more sampling steps make it worse?"
SPREAD = "Does the spread of the answers tell the error?"
CONTROL = "What is best, and is it better than no network?"
LIMITS = "What can this not say?"
CLINIC = "Are clinical goals met or missed as planned?"
AVERAGING = "Does averaging several answers help?"
COLUMNS = ["question", "quantity", "first", "second", "difference", "low", "high"]
COLUMNS += ["n", "unit", "verdict", "sentence"]
CANNOT, FAILED, DOUBTED = "cannot be said", "not judged: this training failed", "not shown"
DISGUISE, BIASED = "a regression in disguise", "a biased sampler"
MEANS_OF = {  # verdicts on a spread that a reader does not know, in words
    DISGUISE: "As the mean of many errs as the U-Net does, within 5 %, this is a regression in disguise",
    BIASED: "As even the mean of many is worse than the U-Net, this is a biased sampler",
}
PROMISED = 5.0  # points within which an interval holds what it promises
PLACES = {  # quantity by which a network is compared with the control -> in words, where
    "MAE": "overall",
    "error of DVH points": "in DVH points",
    "MAE in the primary target": "in the primary target",
    "gamma pass rate in the targets": "by gamma in the targets",
}
SMALL_SPREAD = 0.5  # spread over error below which the answers say little of their error
NEAR = 0.05  # a floor so near to the regression's, as a share of its RMSE, is the regression's
ROOT2 = math.sqrt(2)  # an exact sample has at most so many times the RMSE of the conditional mean
Row, Failed = dict[str, Any], dict[str, set[str]]
Answers = tuple[pd.DataFrame, pd.DataFrame]  # as frames.answers gives them


def statements(results: Results) -> pd.DataFrame:
    """Every statement that the results of `load_experiment` allow, by question; `sentence` is the answer."""
    margin_gy, failed = frames.setting(results, "margin_gy", 0.1), frames.failed_trainings(results)
    questions = {ACCURACY: accuracy, STEPS: steps, SPREAD: spread, CONTROL: control}
    questions |= {LIMITS: limits, CLINIC: clinic, AVERAGING: averaging}
    answered = {question: list(find(results, margin_gy, failed)) for question, find in questions.items()}
    rows = [{"question": question} | row for question, claims in answered.items() for row in claims]
    return pd.DataFrame(rows, columns=COLUMNS).fillna({"sentence": ""})


def judge(d: Difference, margin: float, equal: str = "equal") -> str:
    """The verdict on a difference of which lower is better; "a little ..." where its interval leaves out 0
    but reaches into the margin."""
    outcome = verdict(d, margin)
    if outcome != CANNOT or d.n < LEAST_FOR_VERDICT or d.low <= 0 <= d.high:
        return {"lower": "better", "equal": equal, "higher": "worse", CANNOT: CANNOT}[outcome]
    return f"a little {'worse' if d.mean > 0 else 'better'}"


def make_row(
    quantity: str, first: str, second: str, d: Difference, outcome: str, is_failed: bool, unit: str = "Gy"
) -> Row:
    """A statement; of a training that failed, or of too few patients, without a verdict."""
    outcome = FAILED if is_failed else CANNOT if outcome and d.n < LEAST_FOR_VERDICT else outcome
    edges = {name: math.nan if edge is None else edge for name, edge in (("low", d.low), ("high", d.high))}
    about = {"quantity": quantity, "first": first, "second": second, "difference": d.mean, "n": d.n}
    return about | edges | {"unit": unit, "verdict": outcome}


# --- words ---


def patients(n: int, part: str = "") -> str:
    """ "1 test patient", "8 patients"."""
    return f"{n} {part}{' ' if part else ''}patient{'' if n == 1 else 's'}"


def shown_patients(frame: pd.DataFrame, part: str) -> str:
    """Of whom a figure or table is, "16 test patients", and whether they are too few for its intervals."""
    n = frame["case_id"].nunique()
    return patients(n, part) + (", too few for intervals" if n < LEAST_FOR_INTERVAL else "")


def opening(row: Row, yes: str) -> str:
    """A verdict as the first words of an answer; `yes` is the verdict that says so."""
    words = {yes: "Yes", f"a little {yes}": "A little", CANNOT: "That cannot be said", DOUBTED: "Not shown"}
    words[FAILED] = "Not judged, as this training failed, being no better than no network"
    few = row["verdict"] == CANNOT and row["n"] < LEAST_FOR_VERDICT
    too_few = f"{patients(row['n'])} {'is' if row['n'] == 1 else 'are'} too few to say"
    return too_few if few else words.get(row["verdict"], "No")


def with_interval(row: Row, text: str, edge: str = "{:.2f}") -> str:
    """The text and the 95 % interval of a value."""
    return in_brackets(row, text, f"{edge.format(row['low'])} to {edge.format(row['high'])}")


def in_brackets(row: Row, text: str, interval: str) -> str:
    """The text, then its interval in words, where there is one, and of how many patients it is."""
    words = "no interval of" if math.isnan(row["low"]) else f"95 % interval {interval},"
    return f"{text} ({words} {patients(row['n'])})"


def change(row: Row) -> str:
    """A difference and its interval in words, "0.06 Gy less (95 % interval 0.15 less to 0.03 more, 16
    patients)"; where both edges are on one side, "0.38 to 0.58 less"."""
    low, high = sorted((row["low"], row["high"]), key=abs)
    first = "" if low * high >= 0 else f" {way(row['low'])}"
    low, high = (row["low"], row["high"]) if first else (low, high)
    text = f"{abs(row['difference']):.2f} Gy {way(row['difference'])}"
    return in_brackets(row, text, f"{abs(low):.2f}{first} to {abs(high):.2f} {way(high)}")


def way(difference: float) -> str:
    return "less" if difference < 0 else "more"


def in_words(label: str, training: str) -> str:
    """What a label of the tables means: the training in words, and how it is averaged."""
    averaged = label.removeprefix(training).replace(", both sides", " with the mirror image")
    averaged = re.sub(r", (?=\d+ (seeds|views))", ", mean of ", averaged)
    return f"*{title_of(training)}{averaged.replace('both sides', 'the mirror image')}*"


# --- questions ---


def compare(quantity: str, pair: tuple, answers: Answers, margin: float, bad: set, unit: str = "Gy") -> Row:
    """How one label's answers stand to another's, paired by patient; of shares in % more is better."""
    (values, about), (first, second) = answers, pair
    d = paired_difference(values[first], values[second])
    outcome = judge(d if unit == "Gy" else paired_difference(values[second], values[first]), margin)
    is_failed = not bad.isdisjoint(about["group"][[first, second]])
    return make_row(quantity, first, second, d, outcome, is_failed, unit)


def accuracy(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """Each answer against the U-Net, the best diffusion result first; seeds, priors, what was not trained."""
    rows, bad = frames.rows_of(results.frames["04_comparison"]), failed["04_comparison"]
    values, about = answers = frames.answers(frames.average(rows))
    single, about_single = singles = frames.answers(select(rows, averaged_over="none"))
    if "baseline" in values:
        pairs = {name: compare("MAE", (name, "baseline"), answers, margin_gy, bad) for name in values}
        del pairs["baseline"]
        diffusion = [name for name in pairs if frames.is_diffusion(about["method"][name])]
        for name in sorted(diffusion, key=lambda name: about["group"][name] in bad)[:1]:
            averaged = [other for other in pairs if about["group"][other] == "baseline"][:1]
            rivals = [compare("MAE", (name, other), answers, margin_gy, bad) for other in averaged]
            seeds = single[about_single.index[about_single["group"] == "baseline"]].mean()
            yield best_diffusion(results, pairs.pop(name), rivals, about, seeds.max() - seeds.min())
            yield from rivals
        yield from pairs.values()
        for name, (group, method) in about_single[["group", "method"]].iterrows():
            for other in {group, METHODS[method].prior if method in METHODS else ""} & set(single) - {name}:
                yield compare("MAE of one training each", (name, other), singles, margin_gy, bad)
    for name, reason in frames.setting(results, "failures", {}).items():
        text = {"verdict": "not trained", "sentence": f"`{name}` was not trained: {reason}."}
        yield make_row("training", name, "", Difference(0, math.nan), "", True) | text


def best_diffusion(results: Results, row: Row, rivals: list[Row], about: pd.DataFrame, gap_gy: float) -> Row:
    """The first answer; a gain that the U-Net's seeds, `gap_gy` apart, or averaging explain is in doubt."""
    name = row["first"]
    doubts = [f"U-Nets of other seeds are {gap_gy:.2f} Gy apart"] if gap_gy > -row["difference"] else []
    doubts += ["averaging U-Nets gives as much" for rival in rivals if not rival["high"] < 0]
    if doubts and "better" in row["verdict"]:
        row["verdict"] = DOUBTED
    title, said = in_words(name, about["training"][name]), opening(row, "better")
    text = f"{said}: the best diffusion model, {title}, errs by {change(row)} than the U-Net."
    text += f" But {' and '.join(doubts)}." if row["verdict"] == DOUBTED else ""
    if frames.setting(results, "samplings", {}).get(about["group"][name], {}).get("nfe") == 1:
        text += " One step was best on validation patients: a regression's way to answer, not a sampler's."
    return row | {"sentence": text}


def steps(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """How the error changes with the number of steps, one range a setting; then theory's bound on the RMSE.

    The reference's method is judged from where its own curve is lowest, other methods from their own.
    """
    about = results.frames["02_steps"].drop_duplicates("setting").set_index("setting")
    curves, rows, said, bounds = frames.curves(results), {}, {}, []
    for name, curve in curves.items():
        is_other = about["switch"][name] == "prediction"
        is_failed = about["training"][name] in failed["02_steps"]
        best = (curve if is_other else curves.get(REFERENCE_GRID, curve)).mean().idxmin()
        low, high = frames.steps_between(curve, best)
        d, quantity = paired_difference(curve[high], curve[low]), f"MAE, {high:.0f} steps less {low:.0f}"
        outcome = judge(d, margin_gy, equal="flat") if low < high >= best else CANNOT
        rows[name] = make_row(quantity, name, "", d, outcome, is_failed)
        if is_other or name == REFERENCE_GRID:
            text = f"{in_words('', about['training'][name])} errs by {change(rows[name])}"
            said[name] = f"{text} with {high:.0f} steps than with {low:.0f}."
        if is_other:
            d, quantity = frames.theory_ratio(results, name), f"largest RMSE ({ROOT2:.2f} allowed)"
            outcome = "no more than theory allows" if d.mean <= ROOT2 else "more than sampling explains"
            bounds.append(make_row(quantity, name, "", d, outcome, is_failed, "of that without sampling"))
    # the reference's diffusion answers; one that was trained better, where that failed
    first = min(said, key=lambda name: (rows[name]["verdict"] == FAILED, name != REFERENCE_GRID), default="")
    if row := rows.pop(first, None):
        text, calm = f"{opening(row, 'worse')}: {said[first]}", ("flat", "better", "a little better")
        calm = [name for name in rows if about["switch"][name] == "start" and rows[name]["verdict"] in calm]
        if first != REFERENCE_GRID and REFERENCE_GRID in rows:
            text += f" Not judged: {in_words('', about['training'][REFERENCE_GRID])}, whose training failed."
        worse = [name for name in said if rows.get(name, row)["verdict"] == "worse"]
        text += "".join(f" But {said[name]}" for name in worse if row["verdict"] != "worse")
        yield row | {"sentence": f"{text} It does not with {' or '.join(calm)}." if calm else text}
    yield from [*rows.values(), *bounds]


def spread(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """Spread over error, coverage and CRPS of each source, the diffusion of the lowest CRPS first."""
    sources, claims = frames.sources(results), []
    about = {name: rows.iloc[0] for name, rows in sources.items()}
    bad = {name: about[name]["training"] in failed["03_ensemble"] for name in sources}
    crps = pd.DataFrame({name: frames.scores(rows, "crps_gy").iloc[:, -1] for name, rows in sources.items()})
    sampled = {name: frames.is_diffusion(about[name]["method"]) for name in sources}
    for name in sorted(sources, key=lambda name: (bad[name], not sampled[name], crps[name].mean())):
        rows, d = sources[name], frames.spread_ratio(results, sources[name])
        outcome = trust(d.mean, frames.limit_ratio(results, rows).mean, sampled[name])
        claims.append(make_row("spread", name, "", d, outcome, bad[name], "of the error"))
        for factor, values in frames.scores(rows, "coverage_pct", 95).items():
            d = frames.mean_of(values, SHARE_PCT)
            scaled = "" if factor == 1 else f", spread times {factor:.2f}"
            outcome = "too few" if d.mean < 95 else "too many"
            outcome = "as promised" if abs(d.mean - 95) <= PROMISED else outcome
            claims.append(make_row(f"in the 95 % interval{scaled}", name, "", d, outcome, bad[name], "%"))
    for name in crps.columns[1:]:
        first, nfe = crps.columns[0], [sources[n]["nfe"].max() for n in (name, crps.columns[0])]
        d, quantity = paired_difference(crps[name], crps[first]), "CRPS, calls {:.0f} against {:.0f}"
        claims.append(make_row(quantity.format(*nfe), name, first, d, judge(d, margin_gy), bad[name]))
    for row in claims[:1]:
        title, outcome = in_words(row["first"], about[row["first"]]["training"]), row["verdict"]
        text = with_interval(row, f"the spread of {title} is {row['difference']:.2f} times its error")
        row["sentence"] = f"{opening(row, 'calibrated')}: {text}; 1 would be right."
        if outcome not in (CANNOT, FAILED, "calibrated"):
            row["sentence"] += f" {MEANS_OF.get(outcome, f'It is {outcome}')}."
        row["sentence"] += "" if outcome == FAILED else after_scaling(sources[row["first"]])
    yield from claims


def after_scaling(rows: pd.DataFrame) -> str:
    """What one factor on the spread makes of its intervals, as a sentence."""
    coverage_pct = frames.scores(rows, "coverage_pct", 95).mean()
    factor = coverage_pct.index[-1]
    text = f" Times {factor:.1f}, a factor from validation patients, its 95 % intervals hold"
    return "" if factor == 1 else f"{text} {coverage_pct.iloc[-1]:.0f} % of the planned doses."


def trust(ratio: float, limit: float, sampled: bool) -> str:
    """What a spread over error says. A regression in disguise has a small spread and a floor near the
    regression's; with a worse floor it is a biased sampler."""
    if ratio < SMALL_SPREAD and not sampled:
        return "saying little of the error"
    if ratio < SMALL_SPREAD and limit >= 1 - NEAR:
        return DISGUISE if limit <= 1 + NEAR else BIASED
    return "too sure of itself" if ratio < 0.9 else "calibrated" if ratio <= 1.1 else "too cautious"


def limits(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """How long trainings took, the goal missed most, studies of too few patients, trainings that failed."""
    minutes = results.frames["04_history"]["seconds"].max() / 60
    minutes = f"{math.ceil(minutes) if minutes >= 10 else round(minutes, 1)}" if minutes > 0 else ""
    text = f"Each network was trained for at most {minutes} minutes." if minutes else ""
    parts = {"methods": "04_comparison", "steps": "02_steps", "averaging and spread": "03_ensemble"}
    counts = {part: results.frames[file]["case_id"].nunique() for part, file in parts.items()}
    few = [f"{part} ({patients(n)})" for part, n in counts.items() if 0 < n < LEAST_FOR_VERDICT]
    bad = sorted(failed["04_comparison"] & set(results.frames["04_comparison"]["training"]))
    for row in list(clinic(results, margin_gy, failed))[:1]:
        text += f" Whether a plan meets a goal: {row['sentence'].partition(': ')[2]}"
    text += f" Nothing is judged from few patients: {', '.join(few)}." if few else ""
    names = ", ".join(in_words(name, name) for name in bad)
    text += f" Not judged, as no better than no network: {names}." if bad else ""
    if any(counts.values()):
        yield make_row("", "", "", Difference(0, math.nan), "", False) | {"sentence": text.strip()}


def control(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """The best network against the control, overall and on the targets; where it is not shown better."""
    claims, text = [], ""
    for quantity, rows, unit in frames.against_control(results):
        values, about = answers = frames.answers(frames.average(rows, ["structure", "measure"]))
        names, sense, margin = frames.one_form(about), *((1, margin_gy) if unit == "Gy" else (-1, 1.0))
        if names and "control" in values:
            claims.append(compare(quantity, (names[::sense][0], "control"), answers, margin, set(), unit))
            text = text or best_of_all(answers, margin_gy)
    open_ = [row for row in claims if row["verdict"] in ("equal", CANNOT) and row["n"] >= LEAST_FOR_VERDICT]
    worse = [row for row in claims if row["verdict"].endswith("worse")]
    for words, there in (("yet closer to the plan", worse), ("and may be as good", open_)):
        places = " and ".join(PLACES[row["quantity"]] for row in there)
        text += f", {words} {places}" if there else ""
    yield from [claims[0] | {"sentence": f"{text}."}, *claims[1:]] if claims else []


def best_of_all(answers: Answers, margin_gy: float) -> str:
    """Which answer errs least, by how much, and how much the control and an equal U-Net do."""
    values, about = answers
    name = frames.one_form(about)[0]
    error = make_row("", "", "", frames.mean_of(values[name]), "", False)
    text = with_interval(error, f"wrong by {error['difference']:.2f} Gy on average")
    text = f"Best is {in_words(name, about['training'][name])}, {text}"
    if "baseline" in values and name != "baseline":
        verdict = compare("MAE", (name, "baseline"), answers, margin_gy, set())["verdict"]
        text += f"; the plain U-Net is equal within {margin_gy} Gy" if verdict == "equal" else ""
    wrong_gy = values["control"].mean()
    return f"{text}. Without a network the mean dose by distance to the targets is wrong by {wrong_gy:.2f} Gy"


def clinic(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """The share of goals met or missed as planned, that of the most accurate network first."""
    frame, bad = results.frames["04_comparison"], failed["04_comparison"]
    goals = frames.goal_rows(frame)
    values, about = frames.answers(frames.average(goals, ["structure", "measure"]))
    order = [name for name in frames.answers(frames.average(frames.rows_of(frame)))[0] if name in values]
    for number, name in enumerate(sorted(order, key=lambda name: name == "control")):
        d, is_failed = frames.mean_of(values[name], SHARE_PCT), about["group"][name] in bad
        row = make_row("goals met or missed as planned", name, "", d, "", is_failed, "%")
        if number == 0:
            goal, planned, met = frames.widest_goal(goals, about.loc[name])
            title = in_words(name, about["training"][name])
            text = f"{title} meets or misses {d.mean:.0f} % of them as planned"
            row["sentence"] = f"{with_interval(row, text, '{:.0f}')}. Farthest apart: {goal}, met by "
            row["sentence"] += f"{planned:.0f} % of the plans and {met:.0f} % of the predicted doses."
        yield row


def averaging(results: Results, margin_gy: float, failed: Failed) -> Iterator[Row]:
    """The error of the mean of all answers less that of one, the largest gain first; what is left."""
    gains, limits = [], []
    for name, rows in frames.sources(results).items():
        curve = frames.rows_of(rows).pivot(index="case_id", columns="members", values="value")
        most, training = curve.columns.max(), rows["training"].iloc[0]
        d, is_failed = paired_difference(curve[most], curve[1]), training in failed["03_ensemble"]
        row = make_row(f"MAE, mean of {most:.0f} less one", name, "", d, judge(d, margin_gy), is_failed)
        text = f"{opening(row, 'better')}: the mean of {most:.0f} answers of {in_words(name, training)}"
        gains.append(row | {"sentence": f"{text} errs by {change(row)} than one."})
        d, quantity = frames.limit_ratio(results, rows), "RMSE of a mean of infinitely many"
        outcome = "near the U-Net" if abs(d.mean - 1) <= NEAR else "worse" if d.mean > 1 else "better"
        limits.append(make_row(quantity, name, "", d, outcome, is_failed, "of the U-Net's"))
    gains.sort(key=lambda row: (row["verdict"] == FAILED, row["difference"]))
    yield from gains + limits
