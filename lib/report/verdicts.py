"""The verdicts of the three studies and the report's answer, written from rows; no digit of a result is typed by hand."""
import math

import numpy as np

from lib.evaluation.compare import interval, paired_difference, verdict
from lib.evaluation.uncertainty import spread_skill_ratio
from lib.models.diffusion import cosine_alpha_bar
from lib.models.methods import METHODS, find_method, kind
from lib.report.sentences import CANNOT, bullets, groups_told, nested, short_span, span, told_by, told_difference
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.rows import Goal, by_method, grouped, plain_of, seeds_of, sizes_of

DISGUISE = 0.5  # a spread-skill ratio below it: the samples hardly differ from a regression's one answer
ROOT2 = math.sqrt(2)
WITHOUT_SAMPLING = (" seeds", " sides")  # how the mean of several answers of a regression is called
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
    starts = settings_of(rows, "start")
    lines = [nested(f"From its best number of steps to the most the error changes by (n = {len(own_patients(rows))} patients)",
                    [rise_phrase(rows, setting, margin_gy) for setting in starts]), switches_sentence(rows, margin_gy)]
    lines += [undertraining_sentence(rows, margin_gy)] if settings_of(rows, "training") else []
    lines += level_sentence(found["level_rows"], regression_rows)
    lines += theory_sentences(rows, regression_rows) + held_sentences(rows, regression_rows)
    return bullets(lines)


def own_patients(rows):
    return {row["case_id"] for row in rows}


def rise_phrase(rows, setting, margin_gy):
    best, most, difference = rise(rows, setting)
    if best == most:
        return f"{setting}: lowest at the most steps tried ({most}); **more steps do not hurt**"
    told = {"higher": "more steps hurt", "equal": "more steps change nothing", "lower": "more steps help"}
    return (f"{setting}: {short_span(difference)} Gy from {best} to {most} steps; "
            f"**{told.get(verdict(difference, margin_gy), 'whether more steps hurt ' + CANNOT)}**")


def switches_sentence(rows, margin_gy):
    """Which switch keeps the error from rising between the two numbers of steps that every curve has."""
    low, high = compared_steps(rows)
    own = verdict(change(rows, REFERENCE_GRID, low, high), margin_gy)
    if own != "higher":
        told = f"whether there is a rise to be cured {CANNOT}" if own == CANNOT else "there is no rise to be cured at this training"
        return f"Between {low} and {high} steps the reference's own setting changes by {span(change(rows, REFERENCE_GRID, low, high))}: {told}."
    names = {"higher": "still rising", "equal": "flat", "lower": "falling", CANNOT: "open"}
    return nested(f"One switch at a time from the reference's setting, which changes by {span(change(rows, REFERENCE_GRID, low, high))} "
                  f"between {low} and {high} steps; the error is",
                  groups_told((names[verdict(change(rows, setting, low, high), margin_gy)], with_reach(rows, setting, high))
                              for setting in settings_of(rows) if setting != REFERENCE_GRID))


def undertraining_sentence(rows, margin_gy):
    low, high = compared_steps(rows)
    names = {REFERENCE_GRID: "all of the training"}
    return nested(f"Is it the training? Between {low} and {high} steps the error changes by / Gy",
                  [f"{names.get(setting, setting)}: {short_span(change(rows, setting, low, high))}" for setting in [*settings_of(rows, "training"), REFERENCE_GRID]])


def level_sentence(level_rows, regression_rows):
    """The dose that each network sees in x_t at the noisiest level and at a lower one, against the regression; none if no level was tried."""
    if not level_rows:
        return []
    regressed = np.mean([row["mae_gy"] for row in regression_rows])
    levels = sorted({row["t"] for row in level_rows})
    shown = (levels[-1], max(t for t in levels if t <= 900)) if levels[0] <= 900 else levels[-1:]
    parts = []
    for t in dict.fromkeys(shown):
        errors = {name: np.mean(v) for name, v in grouped([row for row in level_rows if row["t"] == t], "training").items()}
        parts.append(f"of level t = {t}: " + ", ".join(f"{value:.2f} Gy (`{name}`)" for name, value in errors.items()))
    return [nested(f"The regression, which sees no dose at all, is wrong by {regressed:.2f} Gy on the cohort's own grid. Given the true dose with noise, "
                   "one call of the network is wrong on the training grid, with noise", parts)]


def theory_sentences(rows, regression_rows):
    """Theory: exact posterior samples have at most sqrt(2) times the RMSE of the conditional mean, whatever the steps."""
    names = settings_of(rows, "prediction")
    if not names:
        return []
    told = {True: "no more than theory allows", False: "more than sampling alone explains"}
    ratios = {name: theory_ratio(rows, regression_rows, name) for name in names}
    return [f"Theory allows an exact sampler, at any number of steps, {ROOT2:.2f} times the smaller of the regression's RMSE and its own one-step "
            f"value. The largest found: {told_by([(told[ratio <= ROOT2], f'`{name}` {ratio:.2f}') for name, ratio in ratios.items()])}."]


def held_sentences(rows, regression_rows):
    """What a sample of the most steps costs where the start is held, and how much of the dose that start leaves out."""
    regressed = np.mean([row["rmse_gy"] for row in regression_rows])
    parts = []
    for setting in settings_of(rows, "start"):
        own = next(row for row in rows if row["setting"] == setting)["sampling"]
        if own["grid"] == "held":
            rmse = curve(rows, setting, "rmse_gy")
            most, share = max(rmse), math.sqrt(cosine_alpha_bar()[own["start"]])
            parts.append(f"{setting}: {np.mean(rmse[most]) / regressed:.2f} ({most} steps, {100 * share:.2g} % of the dose left out)")
    if not parts:
        return []
    return [nested("Where the start is held, the RMSE at the most steps over the regression's (a sample's own variance, which an answer of few steps has less "
                   f"of, explains up to {ROOT2:.2f}; a start from noise alone at level t also leaves out what x_t still holds of the dose)", parts)]


# --- ensembles ---


def ensemble_verdict(found, margin_gy):
    """What averaging does, how near floor and b are to theory, how far the spread can be believed. `found`: the study's results."""
    mse = np.mean([r["rmse_gy"] ** 2 for r in found["regression_rows"]])
    crps = np.mean([r["mae_gy"] for r in found["regression_rows"]])
    of_source = {source: [r for r in found["rows"] if r["source"] == source] for source in found["factors"]}
    laws = {source: (np.mean([r["floor_gy2"] for r in rows]), np.mean([r["b_gy2"] for r in rows])) for source, rows in of_source.items()}
    ratios = {source: spread_skill_ratio([r["spread_skill"] for r in rows]) for source, rows in of_source.items()}
    covered = {source: recalibrated_text(rows, found["factors"][source]) for source, rows in of_source.items()}
    return bullets([
        averaging_sentence(of_source, margin_gy),
        "floor / b, 1 for an exact posterior: " + ", ".join(f"`{source}` {floor / b:.2f}" for source, (floor, b) in laws.items()) + ".",
        f"The mean of infinitely many has, by the law of averages, this many times the regression's RMSE: {limits_text(laws, mse)}.",
        "Spread over error: " + told_by([(told_ratio(ratio, source), f"`{source}` {ratio:.2f}") for source, ratio in ratios.items()]) + ".",
        nested("With one factor on the spread, chosen on validation patients", groups_told(covered.values())),
        price_sentence(found["rows"], crps)])


def averaging_sentence(of_source, margin_gy):
    """Whether the mean of all members has a smaller error than one of them."""
    told = {"lower": "averaging helps", "equal": "averaging changes nothing", "higher": "averaging hurts"}
    pairs = []
    for source, rows in of_source.items():
        most = sizes_of(rows)[-1]
        d = paired_difference([r["mae_gy"][most] for r in rows], [r["mae_gy"]["1"] for r in rows])
        pairs.append((told.get(verdict(d, margin_gy), f"whether it helps {CANNOT}"), f"`{source}` {short_span(d)} ({most} members)"))
    return nested("MAE of the mean of all members less that of one / Gy", groups_told(pairs))


def limits_text(laws, mse):
    """source and RMSE of the mean of infinitely many over the regression's, by whether it is near."""
    limits = {source: math.sqrt(floor / mse) for source, (floor, _) in laws.items()}
    return told_by([(f"no more than {WITHIN:.2f}" if limit <= WITHIN else f"more than {WITHIN:.2f}", f"`{source}` {limit:.2f}")
                    for source, limit in limits.items()])


def told_ratio(ratio, source):
    if ratio < DISGUISE:
        sampled = kind(source) in METHODS and find_method(source).timed
        return "a regression in disguise, silent about its doubt" if sampled else "says little of its doubt"
    return "too sure of itself" if ratio < 0.9 else "about calibrated" if ratio <= 1.1 else "more cautious than it need be"


def recalibrated_text(rows, factor):
    """(what one factor on the spread, chosen on validation patients, does on the test patients; the source with it)."""
    after = [r["recalibrated"] for r in rows]
    covered = {level: float(np.mean([r["coverage_pct"][level] for r in after])) for level in after[0]["coverage_pct"]}
    miss = max(abs(share - float(level)) for level, share in covered.items())
    told = "its intervals hold what they promise within 5 points" if miss <= 5 else "one factor does not calibrate it"
    shares = ", ".join(f"{share:.0f} of {level} %" for level, share in covered.items())
    return told, f"`{rows[0]['source']}` (times {factor:.2f}: {shares})"


def price_sentence(rows, regression_mae_gy):
    """CRPS, which rewards a sharp and honest spread, against the network calls that it takes."""
    parts = []
    for source in dict.fromkeys(r["source"] for r in rows):
        own = [r for r in rows if r["source"] == source]
        parts.append(f"`{source}` {np.mean([r['crps_gy'] for r in own]):.2f} Gy for {own[0]['members'] * own[0]['nfe_per_member']} calls")
    return (f"Worth its price? The CRPS (for one answer without a spread: its MAE, the regression's {regression_mae_gy:.2f} Gy for 1 call): "
            + ", ".join(parts) + ".")


# --- comparison ---


def one_each(rows, variants=False):
    """The rows of one form of each method, with `variants` of each variant too: the mean of its samples where there is one; no second seeds."""
    names = dict.fromkeys(row["method"] for row in rows)
    wanted = [name for name in names if name == (plain_of(name) if variants else kind(name)) and "," not in name]
    means = {name.split(",")[0]: name for name in names if ", mean of " in name and not name.endswith(WITHOUT_SAMPLING)}
    chosen = {means.get(name, name) for name in wanted}
    return [row for row in rows if row["method"] in chosen]


def ranked(rows):
    """Methods without the control, by mean MAE in the dose mask."""
    values = by_method(rows)
    return sorted((m for m in values if m != "control"), key=lambda m: np.mean(values[m]))


def best_sampled(rows, names):
    """Of the named trainings the sampled one with the lowest mean MAE, whose samples have a spread to look at; of all if none is sampled."""
    values, sampled = by_method(rows), [name for name in names if find_method(name).sampled]
    return min(sampled or names, key=lambda name: np.mean(values[name]))


def over_seeds(rows, value="mae_gy"):
    """method or variant -> (values per patient averaged over its seeds, number of seeds)."""
    values = by_method(rows, value)
    names_of = {name: [name] for name in values if plain_of(name) == name} | seeds_of(values)
    return {name: (np.mean([values[n] for n in names], axis=0), len(names)) for name, names in names_of.items()}


def comparison_verdict(found, margin_gy):
    """Which method is best, by how much, with what certainty; what was not trained. `found`: the comparison's results."""
    rows, values = found["rows"], by_method(found["rows"])
    best = ranked(rows)[0]
    lines = [f"The lowest error is that of `{best}`: MAE {np.mean(values[best]):.2f} Gy in the dose mask."]
    lines.append(differences_sentence(over_seeds(rows), margin_gy))
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


def differences_sentence(seeds, margin_gy):
    """Every method against the baseline by what can be said of the difference; seeds of a method are averaged."""
    told = {"higher": "worse", "lower": "better", "equal": f"within {margin_gy:g} Gy", CANNOT: f"whether they differ {CANNOT}"}
    differences = {method: paired_difference(values, seeds["baseline"][0]) for method, (values, _) in seeds.items() if method not in ("baseline", "control")}
    pairs = [(told_difference(d, margin_gy, told), f"`{method}` {short_span(d)}") for method, d in sorted(differences.items(), key=lambda item: item[1].mean)]
    several = ", ".join(f"`{name}` ({n})" for name, (_, n) in seeds.items() if n > 1)
    averaged = f" (averaged over seeds: {several})" if several else ""
    return nested(f"Against the baseline, MAE / Gy{averaged}", groups_told(pairs)) if pairs else "Nothing but the baseline was trained."


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
    picked = f", the best of {len(sampled)} on these very patients" if len(sampled) > 1 else ""
    text = f"after equally many optimiser steps the best diffusion result, `{best}`{picked}, differs from the plain U-Net by {span(d)} in MAE"
    told = {"higher": f"**Not for accuracy**: {text}, so it is worse.", "lower": f"**Yes, for accuracy**: {text}, so it is better.",
            "equal": f"**Not for accuracy**: {text}, so the two are equal within {margin_gy:g} Gy."}.get(
        verdict(d, margin_gy), f"{leaning(d, margin_gy)}: {text}.")
    told += rivals_text(seeds, best)
    if found["samplings"].get(best.split(",")[0], {}).get("nfe") == 1:
        told += " It was sampled in one step, the best on validation patients: the answer of a regression, not a sample."
    if verdict(d, margin_gy) == "higher" and not beats_control(by_method(rows), best, margin_gy):
        told += " It is not even better than a control without a network, so its training is too short or wrong, and this run says no more of it."
    return told


def leaning(d, margin_gy):
    """What an interval says that reaches over the margin."""
    if d.low is None or d.low <= 0 <= d.high:
        return f"**Whether it helps accuracy {CANNOT}**"
    return f"**For accuracy a little {'worse' if d.mean > 0 else 'better'}**, but not surely by more than {margin_gy:g} Gy, the least that counts here"


def rivals_text(seeds, best):
    """The best diffusion result without averaging, and averaging without diffusion."""
    single, told = best.partition(", mean of ")[0], []
    if single != best and single in seeds:
        told.append(f"one sample of it {short_span(paired_difference(seeds[single][0], seeds['baseline'][0]))}")
    averaged = [name for name in seeds if name.startswith("baseline, mean of ")]
    if averaged:
        name = min(averaged, key=lambda name: np.mean(seeds[name][0]))
        told.append(f"the {name.partition(', ')[2]} of the U-Net {short_span(paired_difference(seeds[name][0], seeds['baseline'][0]))}, from which "
                    f"the best diffusion result differs by {short_span(paired_difference(seeds[best][0], seeds[name][0]))}")
    return f" For comparison, in Gy: {'; '.join(told)}." if told else ""


def answer_on_goals(rows):
    """Whether a predicted dose meets the clinical goals that the plan meets: the share that agrees, and the goal with the widest gap."""
    method = ranked(one_each(rows))[0]
    pairs = goals_met(rows, method)
    if not pairs:
        return ""
    planned, predicted = ({text: sum(pair[i] for pair in p) for text, p in pairs.items()} for i in (0, 1))
    widest = max(pairs, key=lambda text: abs(planned[text] - predicted[text]) / len(pairs[text]))
    others = {"baseline": "the plain U-Net", "control": "the control without a network"}
    beside = ", ".join(f"{title} {agreement_pct(goals_met(rows, name)):.0f} %" for name, title in others.items() if name != method)
    return (f"`{method}` agrees with the plan on {agreement_pct(pairs):.0f} % of the clinical goals ({beside}); farthest apart on {widest}: "
            f"{planned[widest]} of {len(pairs[widest])} plans meet it, {predicted[widest]} of the predicted doses.")


def agreement_pct(pairs):
    return 100 * np.mean([planned == predicted for of_goal in pairs.values() for planned, predicted in of_goal])


def goals_met(rows, method):
    """goal -> pairs (met by the plan, met by the method's dose) of the patients in whom both can be told."""
    own = [{text: Goal(*goal) for text, goal in row["goals"].items()} for row in rows if row["method"] == method]
    pairs = {text: [(g[text].planned_met, g[text].predicted_met) for g in own if None not in (g[text].planned_met, g[text].predicted_met)]
             for text in own[0]}
    return {text: p for text, p in pairs.items() if p}


def answer_on_steps(found, margin_gy, ensemble=None):
    """The answer's second part: is the reference's anomaly there, where does it come from, what keeps to theory?"""
    if not found:
        return ""
    rows = found["rows"]
    best, most, own = rise(rows, REFERENCE_GRID)
    told = verdict(own, margin_gy) if best != most else "lower"
    if told == CANNOT:
        return f"Whether more sampling steps make it worse {CANNOT} for `{found['method']}`: {span(own)} from {best} to {most} steps on the reference's grid."
    if told != "higher":
        return f"That more sampling steps make it worse does not show here for `{found['method']}` on the reference's grid."
    return (f"That more sampling steps make it worse is real for `{found['method']}` on the reference's grid ({span(own)} from {best} to {most} steps)"
            f"{start_clause(rows)}." + bound_sentence(rows, found["regression_rows"], ensemble))


def bound_sentence(rows, regression_rows, ensemble):
    """Which of the other predictions keep to theory; nothing if none was tried."""
    names = settings_of(rows, "prediction")
    kept = [f"`{name}`{disguise_note(ensemble, name)}" for name in names if theory_ratio(rows, regression_rows, name) <= ROOT2]
    if kept:
        return (f" With {', '.join(kept)} the error stays below theory's bound for an exact sampler, {ROOT2:.2f} times the regression's RMSE, "
                "at any number of steps.")
    return " No other prediction that was tried stays below theory's bound for an exact sampler." if names else ""


def start_clause(rows):
    """What is left of the rise when the start is held, between the same two numbers of steps for all."""
    held = [setting for setting in settings_of(rows, "start") if setting != REFERENCE_GRID]
    common = sorted(set.intersection(*(set(curve(rows, setting)) for setting in settings_of(rows, "start"))))
    best = rise(rows, REFERENCE_GRID)[0]
    if not held or best >= common[-1]:
        return ""
    low = min(common, key=lambda n: abs(math.log(n / best)))
    parts = [f"{short_span(change(rows, setting, low, common[-1]))} ({setting})" for setting in held]
    return f"; from {low} to {common[-1]} steps it is {', '.join(parts)}"


def disguise_note(ensemble, name):
    """A warning where the samples of a method hardly differ from one another."""
    own = [row["spread_skill"] for row in ensemble["rows"] if row["source"] == name] if ensemble else []
    return " (whose samples hardly differ)" if own and spread_skill_ratio(own) < DISGUISE else ""


def theory_ratio(rows, regression_rows, name):
    """The largest RMSE of a setting over the smaller of the regression's and its own one-step RMSE."""
    rmse = {n: np.mean(values) for n, values in curve(rows, name, "rmse_gy").items()}
    regressed = np.mean([row["rmse_gy"] for row in regression_rows])
    return max(rmse.values()) / min(regressed, rmse.get(1, math.inf))


def answer_on_spread(found):
    """The second half of the answer: is the spread worth having?"""
    if not found:
        return ""
    sources = dict.fromkeys(r["source"] for r in found["rows"])
    ratios = {source: spread_skill_ratio([r["spread_skill"] for r in found["rows"] if r["source"] == source]) for source in sources}
    least, most = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    crps = {source: np.mean([r["crps_gy"] for r in found["rows"] if r["source"] == source]) for source in sources}
    best = min(crps, key=crps.get)
    return (f"Spread over error is between {ratios[least]:.2f} (`{least}`) and {ratios[most]:.2f} (`{most}`), 1 is calibrated; the lowest "
            f"CRPS, which rewards a sharp and honest spread, is that of `{best}`, {crps[best]:.2f} Gy.")


def best_result(found):
    """Which result has the lowest error, with its interval, beside the baseline's."""
    values = {name: of_patients for name, (of_patients, _) in over_seeds(found["rows"]).items() if name != "control"}
    best = min(values, key=lambda name: np.mean(values[name]))
    return f"`{best}`, MAE {mean_text(values[best])} Gy in the dose mask" + (
        "." if best == "baseline" else f"; the plain U-Net {mean_text(values['baseline'])} Gy.")


def mean_text(values):
    low, high = interval(values) if len(values) >= 3 else (None, None)
    return f"{np.mean(values):.2f}" + (f" [{low:.2f}, {high:.2f}]" if low is not None else "")
