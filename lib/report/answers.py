"""The answers at the top of a report, a sentence or two each, written from rows; no result typed by hand."""

import numpy as np

from lib.metrics.statistics import interval, paired_difference, verdict
from lib.metrics.uncertainty import spread_skill_ratio
from lib.models.methods import METHODS, find_method, kind
from lib.report.sentences import CANNOT, short_span, span
from lib.report.verdicts import (
    DISGUISE,
    ROOT2,
    beats_control,
    change,
    compared_steps,
    one_each,
    over_seeds,
    rise,
    settings_of,
    theory_ratio,
)
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.rows import Goal, by_method, seeds_of


def answer(found, margin_gy, ensemble=None):
    """The first: does diffusion help? `found`, `ensemble`: results of the comparison and of the ensembles."""
    rows = found["rows"]
    seeds = over_seeds(rows)
    sampled = [m for m in seeds if METHODS.get(kind(m)) and find_method(m).timed]
    if not sampled:
        return "No diffusion method was trained in this experiment."
    best = min(sampled, key=lambda m: np.mean(seeds[m][0]))
    d = paired_difference(seeds[best][0], seeds["baseline"][0])
    picked = f", the best of {len(sampled)} on these very patients" if len(sampled) > 1 else ""
    prior = f", and those of the {find_method(best).prior} before," if find_method(best).prior else ""
    text = (
        f"after equally many optimiser steps{prior} the best diffusion result, `{best}`{picked}, differs "
        f"from the plain U-Net by {span(d)} in MAE"
    )
    doubts = doubts_on(seeds, by_method(rows), best) if d.high is not None and d.high < 0 else []
    told = {
        "higher": f"**Not for accuracy**: {text}, so it is worse.",
        "lower": f"**Yes, for accuracy**: {text}, so it is better.",
        "equal": f"**Not for accuracy**: {text}, so the two are equal within {margin_gy:g} Gy.",
    }.get(verdict(d, margin_gy), f"{leaning(d, margin_gy)}: {text}.")
    if doubts:
        told = f"**Not shown for accuracy**: {text}, but {' and '.join(doubts)}."
    told += rivals_text(seeds, best)
    if found["samplings"].get(best.split(",")[0], {}).get("nfe") == 1:
        told += (
            " It was sampled in one step, the best on validation patients: the answer of a regression, not a "
            "sample."
        )
    elif disguise_note(ensemble, best.split(",")[0]):
        told += " Its samples hardly differ: it is a regression in disguise."
    if verdict(d, margin_gy) == "higher" and not beats_control(by_method(rows), best, margin_gy):
        told += (
            " It is not even better than a control without a network, so its training is too short or wrong, "
            "and this run says no more of it."
        )
    return told


def leaning(d, margin_gy):
    """What an interval says that reaches over the margin."""
    if d.low is None or d.low <= 0 <= d.high:
        return f"**Whether it helps accuracy {CANNOT}**"
    return (
        f"**For accuracy a little {'worse' if d.mean > 0 else 'better'}**, but not surely by more than "
        f"{margin_gy:g} Gy, the least that counts here"
    )


def doubts_on(seeds, values, best):
    """What speaks against a gain that the interval over patients allows: trainings differ too, and averaging
    may give as much without diffusion."""
    means = [np.mean(values[name]) for name in seeds_of(values)["baseline"]]
    gap, gain = max(means) - min(means), np.mean(seeds["baseline"][0]) - np.mean(seeds[best][0])
    told = (
        [f"trainings of the U-Net that differ in nothing but the seed are {gap:.2f} Gy apart"]
        if gap > gain
        else []
    )
    rival = best_averaged(seeds)
    if rival and paired_difference(seeds[best][0], seeds[rival][0]).high >= 0:
        told.append("averaging answers of the U-Net gives as much without diffusion")
    return told


def best_averaged(seeds):
    """The mean of several answers of the U-Net with the lowest error; None if there is none."""
    return min(
        (name for name in seeds if name.startswith("baseline, mean of ")),
        key=lambda name: np.mean(seeds[name][0]),
        default=None,
    )


def rivals_text(seeds, best):
    """The best diffusion result without averaging, and averaging without diffusion."""
    single, told = best.partition(", mean of ")[0], []
    if single != best and single in seeds:
        told.append(
            f"one sample of it {short_span(paired_difference(seeds[single][0], seeds['baseline'][0]))}"
        )
    name = best_averaged(seeds)
    if name:
        told.append(
            f"the {name.partition(', ')[2]} of the U-Net "
            f"{short_span(paired_difference(seeds[name][0], seeds['baseline'][0]))}, from which the best "
            f"diffusion result differs by {short_span(paired_difference(seeds[best][0], seeds[name][0]))}"
        )
    return f" For comparison, in Gy: {'; '.join(told)}." if told else ""


def answer_on_goals(rows):
    """Whether a predicted dose meets the clinical goals that the plan meets: the share that agrees, and the
    goal with the widest gap."""
    seeds = over_seeds(rows)
    method = min(
        (name for name in by_method(one_each(rows)) if name != "control"),
        key=lambda name: np.mean(seeds[name][0]),
    )
    pairs = goals_met(rows, method)
    if not pairs:
        return ""
    planned, predicted = ({text: sum(pair[i] for pair in p) for text, p in pairs.items()} for i in (0, 1))
    widest = max(pairs, key=lambda text: abs(planned[text] - predicted[text]) / len(pairs[text]))
    others = {"baseline": "the plain U-Net", "control": "the control without a network"}
    beside = "; ".join(
        f"{title} {agreement_text(goals_met(rows, name))}" for name, title in others.items() if name != method
    )
    return (
        f"The dose meets or misses a clinical goal as the plan does: `{method}` {agreement_text(pairs)}; "
        f"{beside}. Farthest apart on {widest}: {planned[widest]} of {len(pairs[widest])} plans meet it, "
        f"{predicted[widest]} of the predicted doses."
    )


def agreement_text(pairs):
    """The share that agrees; least doses of targets and limits apart, where there are both: a dose too low
    everywhere meets the limits."""
    least = {text: p for text, p in pairs.items() if "≥" in text}
    limits = {text: p for text, p in pairs.items() if text not in least}
    apart = (
        f" (least doses {agreement_pct(least):.0f} %, limits {agreement_pct(limits):.0f} %)"
        if least and limits
        else ""
    )
    return f"{agreement_pct(pairs):.0f} %{apart}"


def agreement_pct(pairs):
    return 100 * np.mean(
        [planned == predicted for of_goal in pairs.values() for planned, predicted in of_goal]
    )


def goals_met(rows, method):
    """goal -> pairs (met by the plan, met by the method's dose) of the patients in whom both can be told."""
    own = [
        {text: Goal(*goal) for text, goal in row["goals"].items()} for row in rows if row["method"] == method
    ]
    pairs = {
        text: [
            (g[text].planned_met, g[text].predicted_met)
            for g in own
            if None not in (g[text].planned_met, g[text].predicted_met)
        ]
        for text in own[0]
    }
    return {text: p for text, p in pairs.items() if p}


def answer_on_steps(found, margin_gy, ensemble=None, compared=()):
    """Is the reference's anomaly there, whence, what keeps to theory? `compared`: rows of the comparison."""
    if not found:
        return ""
    rows = found["rows"]
    best, most, own = rise(rows, REFERENCE_GRID)
    told = verdict(own, margin_gy) if best != most else "lower"
    if told == CANNOT:
        return (
            f"Whether more sampling steps make it worse {CANNOT} for `{found['method']}`: {span(own)} from "
            f"{best} to {most} steps on the reference's grid."
        )
    if told != "higher":
        return (
            f"That more sampling steps make it worse does not show here for `{found['method']}` on the "
            "reference's grid."
        )
    return (
        f"That more sampling steps make it worse is real for `{found['method']}` on the reference's grid "
        f"({span(own)} from {best} to {most} steps){start_clause(rows)}."
        + failed_sentence(found["method"], compared, margin_gy)
        + bound_sentence(rows, found["regression_rows"], ensemble)
    )


def failed_sentence(method, compared, margin_gy):
    values = by_method(compared)
    if method not in values or beats_control(values, method, margin_gy):
        return ""
    return (
        f" This `{method}` is no better than the control without a network: all this is of a training that "
        "failed."
    )


def bound_sentence(rows, regression_rows, ensemble):
    """Which other predictions keep to theory, what more steps still cost them; nothing if none was tried."""
    names = settings_of(rows, "prediction")
    kept = [name for name in names if theory_ratio(rows, regression_rows, name)[0] <= ROOT2]
    if kept:
        listed = ", ".join(f"`{name}`{disguise_note(ensemble, name)}" for name in kept)
        rises = {name: rise(rows, name)[2] for name in kept}
        rising = ", ".join(
            f"`{name}` {short_span(d)}" for name, d in rises.items() if d.low is not None and d.low > 0
        )
        return (
            f" The RMSE of these stays below theory's bound for an exact sampler, {ROOT2:.2f} times the "
            f"smaller of the regression's and its own one-step value, at any number of steps: {listed}"
            + (f"; from the best number of steps to the most their MAE rises by {rising}." if rising else ".")
        )
    return (
        " No other prediction that was tried stays below theory's bound for an exact sampler."
        if names
        else ""
    )


def start_clause(rows):
    """What is left of the rise when the start is held, between the same two numbers of steps for all."""
    held = [setting for setting in settings_of(rows, "start") if setting != REFERENCE_GRID]
    if not held:
        return ""
    low, high = compared_steps(rows, settings_of(rows, "start"))
    parts = [
        f"{short_span(change(rows, setting, low, high))} ({setting})" for setting in (REFERENCE_GRID, *held)
    ]
    return f"; from {low} to {high} steps it is {', '.join(parts)}"


def disguise_note(ensemble, name):
    """A warning where the samples of a method hardly differ from one another."""
    own = [row["spread_skill"] for row in ensemble["rows"] if row["source"] == name] if ensemble else []
    return " (whose samples hardly differ)" if own and spread_skill_ratio(own) < DISGUISE else ""


def answer_on_spread(found):
    """Is the spread worth having?"""
    if not found:
        return ""
    sources = dict.fromkeys(r["source"] for r in found["rows"])
    ratios = {
        source: spread_skill_ratio([r["spread_skill"] for r in found["rows"] if r["source"] == source])
        for source in sources
    }
    least, most = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    crps = {source: [r["crps_gy"] for r in found["rows"] if r["source"] == source] for source in sources}
    best = min(crps, key=lambda source: np.mean(crps[source]))
    near = [
        f"`{source}` {np.mean(values):.2f}"
        for source, values in crps.items()
        if source != best and not surely_higher(values, crps[best])
    ]
    return (
        f"Spread over error is between {ratios[least]:.2f} (`{least}`) and {ratios[most]:.2f} (`{most}`), 1 "
        f"is calibrated; the lowest CRPS, which rewards a sharp and honest spread, is that of `{best}`, "
        f"{np.mean(crps[best]):.2f} Gy" + (f", not surely lower than {', '.join(near)}." if near else ".")
    )


def surely_higher(values, others):
    low = paired_difference(values, others).low
    return low is not None and low > 0


def best_result(found):
    """Which result has the lowest error, with its interval, beside the baseline's."""
    values = {
        name: of_patients for name, (of_patients, _) in over_seeds(found["rows"]).items() if name != "control"
    }
    best = min(values, key=lambda name: np.mean(values[name]))
    return f"`{best}`, MAE {mean_text(values[best])} Gy in the dose mask" + (
        "." if best == "baseline" else f"; the plain U-Net {mean_text(values['baseline'])} Gy."
    )


def mean_text(values):
    low, high = interval(values) if len(values) >= 3 else (None, None)
    return f"{np.mean(values):.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "")
