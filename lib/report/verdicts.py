"""The verdicts of the three studies and the report's answer, written from rows; no digit of a result is typed by hand."""
import math

import numpy as np

from lib.evaluation.compare import paired_difference, verdict
from lib.evaluation.uncertainty import spread_skill_ratio
from lib.models.methods import METHODS, find_method, kind
from lib.report.sentences import CANNOT, bullets, plural, span
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.rows import by_method, grouped, seeds_of, sizes_of

DISGUISE = 0.5  # a spread-skill ratio below it: the samples hardly differ from a regression's one answer
ROOT2 = math.sqrt(2)
WITHIN = 1.05  # the mean of infinitely many exact samples is the conditional mean, which a regression learns: this near is near


# --- sampling ---


def curve(rows, setting, value="mae_gy"):
    """n_steps -> values of the patients, for one setting."""
    return grouped([row for row in rows if row["setting"] == setting], "n_steps", value)


def settings_of(rows, group=None):
    """The settings in the order of their rows, of one group if given."""
    return list(dict.fromkeys(row["setting"] for row in rows if group in (None, row["group"])))


def compared_steps(rows):
    """The two numbers of steps between which every curve's change is judged: of those that all settings of the reference's method
    have the most, and the one nearest to where its own curve is lowest."""
    errors = curve(rows, REFERENCE_GRID)
    settings = [setting for setting in settings_of(rows) if setting not in settings_of(rows, "prediction")]
    common = sorted(set.intersection(*(set(curve(rows, setting)) for setting in settings)))
    best = min(errors, key=lambda n: np.mean(errors[n]))
    return min(common[:-1] or common, key=lambda n: abs(math.log(n / best))), common[-1]


def last_step(rows, setting, high):
    """Where a curve ends, if not beyond `high`: another method may have been sampled in fewer steps."""
    return max(n for n in curve(rows, setting) if n <= high)


def change(rows, setting, low, high):
    errors = curve(rows, setting)
    return paired_difference(errors[last_step(rows, setting, high)], errors[last_step(rows, setting, low)])


def with_reach(rows, setting, high):
    """The setting's name, with the steps that it was judged to if those are fewer."""
    last = last_step(rows, setting, high)
    return setting if last == high else f"{setting} (to {last})"


def rise(rows, setting):
    """(best number of steps, most, paired difference between them) of a setting."""
    errors = curve(rows, setting)
    best, most = min(errors, key=lambda n: np.mean(errors[n])), max(errors)
    return best, most, paired_difference(errors[most], errors[best])


def steps_verdict(found, margin_gy):
    """What the ablation shows: the anomaly, where it comes from, what cures it, how that stands to theory. `found`: its results."""
    rows, regression_rows = found["rows"], found["regression_rows"]
    lines = [rise_sentence(rows, setting, margin_gy) for setting in settings_of(rows, "start")]
    lines.append(switches_sentence(rows, margin_gy))
    lines += [undertraining_sentence(rows, margin_gy)] if settings_of(rows, "training") else []
    lines += level_sentences(found["level_rows"], regression_rows, found["method"])
    lines += [cure_sentence(rows, regression_rows, name) for name in settings_of(rows, "prediction")]
    lines += decomposition_sentences(found["decomposition"], regression_rows)
    return bullets(lines)


def rise_sentence(rows, setting, margin_gy):
    best, most, difference = rise(rows, setting)
    if best == most:
        return f"**{setting}**: the error is lowest at the most steps tried ({most}); more steps do not hurt."
    told = {"higher": "more steps hurt", "equal": "more steps change nothing", "lower": "more steps help"}
    verdict_ = verdict(difference, margin_gy)
    return (f"**{setting}**: from {best} to {most} steps the error changes by {span(difference)}: "
            f"{told.get(verdict_, 'whether more steps hurt ' + CANNOT)}.")


def switches_sentence(rows, margin_gy):
    """Which switch keeps the error from rising between the two numbers of steps that every curve has."""
    low, high = compared_steps(rows)
    own = verdict(change(rows, REFERENCE_GRID, low, high), margin_gy)
    if own != "higher":
        told = f"whether there is a rise to be cured {CANNOT}" if own == CANNOT else "there is no rise to be cured at this training"
        return f"Between {low} and {high} steps the reference's own setting changes by {span(change(rows, REFERENCE_GRID, low, high))}: {told}."
    told = {}
    for setting in settings_of(rows):
        if setting != REFERENCE_GRID:
            told.setdefault(verdict(change(rows, setting, low, high), margin_gy), []).append(with_reach(rows, setting, high))
    names = {"higher": "still rising", "equal": "flat", "lower": "falling", CANNOT: "open"}
    return (f"One switch at a time from the reference's setting, between {low} and {high} steps (which changes by "
            f"{span(change(rows, REFERENCE_GRID, low, high))}): " + "; ".join(f"{names[k]}: {', '.join(v)}" for k, v in told.items()) + ".")


def undertraining_sentence(rows, margin_gy):
    low, high = compared_steps(rows)
    parts = [f"{setting} {span(change(rows, setting, low, high))}" for setting in [*settings_of(rows, "training"), REFERENCE_GRID]]
    return f"Is it only too little training? Between {low} and {high} steps the error changes: {'; '.join(parts)} (the last: all of the training)."


def level_sentences(level_rows, regression_rows, method):
    """The dose that each network sees in x_t at the noisiest level and at a lower one, against the regression."""
    if not level_rows:
        return []
    regressed = np.mean([row["mae_gy"] for row in regression_rows])
    levels = sorted({row["t"] for row in level_rows})
    lines = []
    for t in (levels[-1], max(t for t in levels if t <= 900)) if levels[0] <= 900 else levels[-1:]:
        errors = {name: np.mean(v) for name, v in grouped([row for row in level_rows if row["t"] == t], "training").items()}
        lines.append(f"Given the true dose with noise of level t = {t}, one call of the network is wrong by "
                     + ", ".join(f"{value:.2f} Gy (`{name}`)" for name, value in errors.items())
                     + f" on the training grid; the regression, which sees no dose at all, by {regressed:.2f} Gy on the cohort's own grid.")
    return lines


def cure_sentence(rows, regression_rows, name):
    """Theory: exact posterior samples have at most sqrt(2) times the RMSE of the conditional mean, whatever the steps."""
    rmse = {n: np.mean(values) for n, values in curve(rows, name, "rmse_gy").items()}
    regressed = np.mean([row["rmse_gy"] for row in regression_rows])
    ratio, most = theory_ratio(rows, regression_rows, name), max(rmse)
    told = "no more than theory allows an exact sampler" if ratio <= ROOT2 else "more than sampling alone explains"
    single = f" (one step {rmse[1]:.2f} Gy)" if 1 in rmse else ""
    return (f"`{name}`: RMSE {rmse[most]:.2f} Gy at {most} steps{single}, at most {ratio:.2f} times the smaller of the regression's "
            f"({regressed:.2f} Gy) and its own one-step value; theory allows {ROOT2:.2f}: {told}.")


def decomposition_sentences(decomposition, regression_rows):
    """How much of the squared error at the most steps is bias (floor) and how much is spread (b)."""
    mse = np.mean([row["rmse_gy"] ** 2 for row in regression_rows])
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in decomposition):
        own = [row for row in decomposition if row["setting"] == setting]
        few, most = min(r["n_steps"] for r in own), max(r["n_steps"] for r in own)
        parts = [f"floor {np.mean([r['floor_gy2'] for r in own if r['n_steps'] == n]):.1f} + spread "
                 f"{np.mean([r['b_gy2'] for r in own if r['n_steps'] == n]):.1f} Gy² at {plural(n, 'step')}" for n in (few, most)]
        lines.append(f"Squared error of one sample, **{setting}**: {parts[0]}, {parts[1]}; the regression has {mse:.1f} Gy².")
    return lines


# --- ensembles ---


def ensemble_verdict(found, margin_gy):
    """What averaging does for each source of members, how wide and how calibrated its spread is. `found`: the study's results."""
    mse = np.mean([r["rmse_gy"] ** 2 for r in found["regression_rows"]])
    crps = np.mean([r["mae_gy"] for r in found["regression_rows"]])
    lines = [source_sentence([r for r in found["rows"] if r["source"] == source], source, mse, factor, margin_gy)
             for source, factor in found["factors"].items()]
    return bullets([*lines, price_sentence(found["rows"], crps)])


def source_sentence(rows, source, mse, factor, margin_gy):
    """Averaging, floor and b against theory and the regression, spread against error, before and after one factor on it."""
    sizes = sizes_of(rows)
    d = paired_difference([r["mae_gy"][sizes[-1]] for r in rows], [r["mae_gy"][sizes[0]] for r in rows])
    told = {"lower": "averaging helps", "equal": "averaging changes nothing", "higher": "averaging hurts"}.get(
        verdict(d, margin_gy), f"whether averaging helps {CANNOT}")
    floor, b = np.mean([r["floor_gy2"] for r in rows]), np.mean([r["b_gy2"] for r in rows])
    ratio, limit = spread_skill_ratio([r["spread_skill"] for r in rows]), math.sqrt(floor / mse)
    kept = "no more than" if limit <= WITHIN else "more than"
    return (f"**{source}**: {told} ({span(d)} from n = {sizes[0]} to {sizes[-1]}); floor / b {floor / b:.2f} (an exact posterior: 1); the mean of "
            f"infinitely many has, by the law, an RMSE of {math.sqrt(floor):.2f} Gy, {limit:.2f} times the regression's ({kept} {WITHIN:.2f}); spread {np.mean([r['spread_dose_mask_gy'] for r in rows]):.2f} Gy, over "
            f"error {ratio:.2f} (calibrated: 1): {told_ratio(ratio, source)}. {recalibration_text(rows, factor)}")


def told_ratio(ratio, source):
    if ratio < DISGUISE:
        sampled = kind(source) in METHODS and find_method(source).timed
        return "a regression in disguise, silent about its doubt" if sampled else "says little of its doubt"
    return "too sure of itself" if ratio < 0.9 else "about calibrated" if ratio <= 1.1 else "more cautious than it need be"


def recalibration_text(rows, factor):
    """One factor on the spread, chosen on validation patients, judged on the test patients."""
    def covered(judged, level):
        return float(np.mean([r["coverage_pct"][level] for r in judged]))

    after = [r["recalibrated"] for r in rows]
    levels = list(after[0]["coverage_pct"])
    said = ", ".join(f"{level} %: {covered(rows, level):.0f} to {covered(after, level):.0f} %" for level in levels)
    miss = max(abs(covered(after, level) - float(level)) for level in levels)
    told = "calibrated after it" if miss <= 5 else "one factor does not calibrate it"
    return f"With its spread times {factor:.2f} its intervals hold the planned dose in {said} of the voxels: {told}."


def price_sentence(rows, regression_mae_gy):
    """CRPS, which rewards a sharp and honest spread, against the network calls that it takes."""
    parts = []
    for source in dict.fromkeys(r["source"] for r in rows):
        own = [r for r in rows if r["source"] == source]
        parts.append(f"`{source}` {np.mean([r['crps_gy'] for r in own]):.2f} Gy for {own[0]['members'] * own[0]['nfe_per_member']} calls")
    return (f"Worth its price? The CRPS (for one answer without a spread: its MAE, the regression's {regression_mae_gy:.2f} Gy for 1 call): "
            + ", ".join(parts) + ".")


# --- comparison ---


def one_each(rows):
    """The rows of one form of each method: the mean of its samples where there is one, no variants and second seeds."""
    names = dict.fromkeys(row["method"] for row in rows)
    means = {kind(name): name for name in names if ", mean of " in name and name.split(",")[0] == kind(name)}
    chosen = {means.get(name, name) for name in names if name == kind(name)}
    return [row for row in rows if row["method"] in chosen]


def ranked(rows):
    """Methods without the control, by mean MAE in the dose mask."""
    values = by_method(rows)
    return sorted((m for m in values if m != "control"), key=lambda m: np.mean(values[m]))


def over_seeds(rows):
    """method -> (values per patient averaged over its seeds, number of seeds)."""
    values = by_method(rows)
    return {name: (np.mean([values[n] for n in names], axis=0), len(names)) for name, names in seeds_of(values).items()}


def comparison_verdict(found, margin_gy):
    """Which method is best, by how much, with what certainty; what was not trained. `found`: the comparison's results."""
    rows, values = found["rows"], by_method(found["rows"])
    best = ranked(rows)[0]
    lines = [f"The lowest error is that of `{best}`: MAE {np.mean(values[best]):.2f} Gy in the dose mask."]
    seeds = over_seeds(rows)
    lines += [difference_sentence(seeds, method, margin_gy) for method in seeds if method not in ("baseline", "control")]
    lines += seed_sentences(values, found["samplings"])
    control = paired_difference(values["control"], values["baseline"])
    lines.append(f"The control without a network has {np.mean(values['control']):.2f} Gy, {span(control)} against the baseline.")
    untrained = [f"`{method}`" for method in values if not beats_control(values, method, margin_gy) and method != "control"]
    if untrained:
        lines.append(f"Not better than the control: {', '.join(untrained)}. Such a network has not learned more than distances: its "
                     "training is too short or wrong, and what is said of it holds for this training only.")
    lines += [f"`{name}` was not trained: {reason}" for name, reason in found["failures"].items()]
    return bullets(lines)


def beats_control(values, method, margin_gy):
    return verdict(paired_difference(values["control"], values[method]), margin_gy) == "higher"


def difference_sentence(seeds, method, margin_gy):
    d = paired_difference(seeds[method][0], seeds["baseline"][0])
    told = {"higher": "worse than the baseline", "lower": "better than the baseline",
            "equal": f"within {margin_gy:g} Gy of the baseline"}.get(verdict(d, margin_gy), f"whether it differs from the baseline {CANNOT}")
    counts = " and ".join(plural(seeds[name][1], "seed") for name in (method, "baseline"))
    return f"`{method}`: {span(d)} against the baseline ({counts}); {told}."


def seed_sentences(values, samplings):
    """By how much two trainings of one method differ when nothing but the seed does."""
    def note(first, second):
        ways = [samplings.get(name.split(",")[0], {}).get("text") for name in (first, second)]
        return "" if ways[0] == ways[1] else f", but they were sampled differently ({ways[0]}; {ways[1]})"

    return [f"Two seeds of `{method}` differ by {span(paired_difference(values[names[1]], values[names[0]]))}{note(*names[:2])}."
            for method, names in seeds_of(values).items() if len(names) > 1]


def answer(found, margin_gy):
    """The report's answer in a sentence or two: does diffusion help? `found`: the comparison's results."""
    rows = found["rows"]
    seeds = over_seeds(rows)
    sampled = [m for m in seeds if METHODS.get(kind(m)) and find_method(m).timed]
    if not sampled:
        return "No diffusion method was trained in this experiment."
    best = min(sampled, key=lambda m: np.mean(seeds[m][0]))
    d = paired_difference(seeds[best][0], seeds["baseline"][0])
    text = f"after equally many optimiser steps the best diffusion result, `{best}`, differs from the plain U-Net by {span(d)} in MAE"
    told = {"higher": f"Not for accuracy: {text}, so it is worse.", "lower": f"Yes, for accuracy: {text}, so it is better.",
            "equal": f"Not for accuracy: {text}, so the two are equal within {margin_gy:g} Gy."}.get(
        verdict(d, margin_gy), f"For accuracy it {CANNOT}: {text}.")
    if found["samplings"].get(best.split(",")[0], {}).get("nfe") == 1:
        told += " It was sampled in one step, the best on validation patients: the answer of a regression, not a sample."
    if verdict(d, margin_gy) == "higher" and not beats_control(by_method(rows), best, margin_gy):
        told += " It is not even better than a control without a network, so its training is too short or wrong, and this run says no more of it."
    return told


def answer_on_steps(found, margin_gy):
    """The answer's second part: is the reference's anomaly there, where does it come from, what keeps to theory?"""
    if not found:
        return ""
    rows = found["rows"]
    best, most, own = rise(rows, REFERENCE_GRID)
    told = verdict(own, margin_gy) if best != most else "lower"
    if told == CANNOT:
        return f"Whether more sampling steps make it worse {CANNOT}: {span(own)} from {best} to {most} steps on the reference's grid."
    if told != "higher":
        return "That more sampling steps make it worse does not show here on the reference's grid."
    kept = [f"`{name}`" for name in settings_of(rows, "prediction") if theory_ratio(rows, found["regression_rows"], name) <= ROOT2]
    return (f"That more sampling steps make it worse is real for the reference's method ({span(own)} from {best} to {most} steps)"
            f"{start_clause(rows)}; " + (f"with {', '.join(kept)} the error stays within what theory allows an exact sampler." if kept
                                         else "no other prediction that was tried stays within what theory allows an exact sampler."))


def start_clause(rows):
    """What is left of the rise when sampling starts where the least noise was held."""
    held = [setting for setting in settings_of(rows, "start") if setting != REFERENCE_GRID]
    if not held:
        return ""
    best, most, d = rise(rows, held[-1])
    return f", and lives where its sampling starts: with the {held[-1]} it is {span(d)} from {best} to {most} steps"


def theory_ratio(rows, regression_rows, name):
    """The largest RMSE of a setting over the smaller of the regression's and its own one-step RMSE."""
    rmse = {n: np.mean(values) for n, values in curve(rows, name, "rmse_gy").items()}
    regressed = np.mean([row["rmse_gy"] for row in regression_rows])
    return max(rmse.values()) / min(regressed, rmse.get(1, math.inf))


def answer_on_spread(found):
    """The second half of the answer: is the spread worth having?"""
    if not found:
        return ""
    told = []
    for source in dict.fromkeys(r["source"] for r in found["rows"]):
        ratio = spread_skill_ratio([r["spread_skill"] for r in found["rows"] if r["source"] == source])
        told.append(f"`{source}` {ratio:.2f}")
    crps = {source: np.mean([r["crps_gy"] for r in found["rows"] if r["source"] == source]) for source in dict.fromkeys(r["source"] for r in found["rows"])}
    best = min(crps, key=crps.get)
    return (f"As a statement of doubt: spread over error is {', '.join(told)} (1 is calibrated), and the lowest CRPS is that of `{best}`, "
            f"{crps[best]:.2f} Gy.")
