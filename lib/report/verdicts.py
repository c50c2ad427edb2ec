"""The verdicts of the three studies, written from rows; no digit of a result is typed by hand."""

import math

import numpy as np

from lib.diffusion.schedule import cosine_alpha_bar
from lib.metrics.statistics import paired_difference, verdict
from lib.metrics.uncertainty import spread_skill_ratio
from lib.models.methods import METHODS, find_method, kind
from lib.report.sentences import (
    CANNOT,
    bullets,
    groups_told,
    nested,
    plural,
    short_span,
    span,
    told_by,
    told_difference,
)
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.rows import by_method, grouped, plain_of, seeds_of, sizes_of

DISGUISE = 0.5  # a spread-skill ratio below it: the samples hardly differ from a regression's one answer
ROOT2 = math.sqrt(2)
WITHOUT_SAMPLING = (" seeds", " sides")  # how the mean of several answers of a regression is called
# Infinitely many exact samples average to the conditional mean, which a regression learns: this near is near.
WITHIN = 1.05


# --- sampling ---


def curve(rows, setting, value="mae_gy"):
    """n_steps -> values of the patients, for one setting."""
    return grouped([row for row in rows if row["setting"] == setting], "n_steps", value)


def settings_of(rows, group=None):
    """The settings in the order of their rows, of one group if given."""
    return list(dict.fromkeys(row["setting"] for row in rows if group in (None, row["group"])))


def switched(rows, group=None):
    """The settings tried in more steps than the reference's own is best at: they alone tell of its rise."""
    best, most, _ = rise(rows, REFERENCE_GRID)
    return [
        setting for setting in settings_of(rows, group) if best == most or max(curve(rows, setting)) > best
    ]


def compared_steps(rows, settings=None):
    """The two numbers of steps between which curves' changes are judged: of those that all the settings (by
    default all of the reference's method that tell of its rise) have the most, and the one nearest to where
    the curve on the reference's grid is lowest."""
    settings = settings or [
        setting for setting in switched(rows) if setting not in settings_of(rows, "prediction")
    ]
    common = sorted(set.intersection(*(set(curve(rows, setting)) for setting in settings)))
    best = rise(rows, REFERENCE_GRID)[0]
    return min(common[:-1] or common, key=lambda n: abs(math.log(n / best))), common[-1]


def last_step(rows, setting, high):
    """Where a curve ends, if not beyond `high`: another method may have been sampled in fewer steps."""
    return max(n for n in curve(rows, setting) if n <= high)


def changes(rows, setting, low, high):
    """By how much each patient's error changes from `low` to `high` steps."""
    errors = curve(rows, setting)
    return np.subtract(errors[last_step(rows, setting, high)], errors[last_step(rows, setting, low)])


def change(rows, setting, low, high):
    return paired_difference(changes(rows, setting, low, high), 0)


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
    """What the ablation shows: the anomaly, its source, its cure, how it fits theory. `found`: results."""
    rows, regression_rows = found["rows"], found["regression_rows"]
    curves = settings_of(rows, "start") + settings_of(rows, "prediction")
    lines = [
        nested(
            f"From its best number of steps to the most the error changes by (n = {len(own_patients(rows))} "
            "patients)",
            [rise_phrase(rows, setting, margin_gy) for setting in curves],
        ),
        switches_sentence(rows, margin_gy),
    ]
    lines += [undertraining_sentence(rows, margin_gy)] if switched(rows, "training") else []
    lines += level_sentence(found["level_rows"], regression_rows)
    lines += theory_sentences(rows, regression_rows) + held_sentences(rows, regression_rows)
    return bullets(lines)


def own_patients(rows):
    return {row["case_id"] for row in rows}


def rise_phrase(rows, setting, margin_gy):
    best, most, difference = rise(rows, setting)
    if best == most:
        tried = max(max(curve(rows, name)) for name in settings_of(rows))
        return f"{setting}: lowest at {most} steps, " + (
            "the most tried; **more steps do not hurt**" if most == tried else "more were not tried with it"
        )
    told = {"higher": "more steps hurt", "equal": "more steps change nothing", "lower": "more steps help"}
    return (
        f"{setting}: {short_span(difference)} Gy from {best} to {most} steps; "
        f"**{told.get(verdict(difference, margin_gy), 'whether more steps hurt ' + CANNOT)}**"
    )


def switches_sentence(rows, margin_gy):
    """Which switch keeps the error from rising between the two numbers of steps that every curve has."""
    low, high = compared_steps(rows)
    own = verdict(change(rows, REFERENCE_GRID, low, high), margin_gy)
    if own != "higher":
        told = (
            f"whether there is a rise to be cured {CANNOT}"
            if own == CANNOT
            else "there is no rise to be cured at this training"
        )
        return (
            f"Between {low} and {high} steps the reference's own setting changes by "
            f"{span(change(rows, REFERENCE_GRID, low, high))}: {told}."
        )
    names = {"higher": "still rising", "equal": "flat", "lower": "falling", CANNOT: "open"}
    told = [
        (names[verdict(change(rows, setting, low, high), margin_gy)], with_reach(rows, setting, high))
        for setting in switched(rows)
        if setting != REFERENCE_GRID
    ]
    untold = [
        (f"not tried beyond {low}, where the reference's own setting is best", setting)
        for setting in settings_of(rows)
        if setting not in switched(rows)
    ]
    return nested(
        "One switch at a time from the reference's setting, which changes by "
        f"{span(change(rows, REFERENCE_GRID, low, high))} between {low} and {high} steps; the error is",
        groups_told(told + untold),
    )


def undertraining_sentence(rows, margin_gy):
    low, high = compared_steps(rows)
    names = {REFERENCE_GRID: "all of the training"}
    return nested(
        f"Is it the training? Between {low} and {high} steps the error changes by / Gy",
        [
            f"{names.get(setting, setting)}: {short_span(change(rows, setting, low, high))}"
            for setting in [*switched(rows, "training"), REFERENCE_GRID]
        ],
    )


def level_sentence(level_rows, regression_rows):
    """The dose that each network sees in x_t at the noisiest level and at a lower one, against the
    regression; none if no level was tried."""
    if not level_rows:
        return []
    regressed = np.mean([row["mae_gy"] for row in regression_rows])
    levels = sorted({row["t"] for row in level_rows})
    shown = (levels[-1], max(t for t in levels if t <= 900)) if levels[0] <= 900 else levels[-1:]
    parts = []
    for t in dict.fromkeys(shown):
        errors = {
            name: np.mean(v)
            for name, v in grouped([row for row in level_rows if row["t"] == t], "training").items()
        }
        parts.append(
            f"of level t = {t}: " + ", ".join(f"{value:.2f} Gy (`{name}`)" for name, value in errors.items())
        )
    return [
        nested(
            f"The regression, which sees no dose at all, is wrong by {regressed:.2f} Gy on the cohort's own "
            "grid. Given the true dose with noise, one call of the network is wrong on the training grid, "
            "with noise",
            parts,
        )
    ]


def theory_sentences(rows, regression_rows):
    """Theory: exact posterior samples have at most sqrt(2) times the conditional mean's RMSE at any steps."""
    names = settings_of(rows, "prediction")
    if not names:
        return []
    told = {True: "no more than theory allows", False: "more than sampling alone explains"}
    found = [(name, *theory_ratio(rows, regression_rows, name)) for name in names]
    largest = told_by(
        [(told[ratio <= ROOT2], f"`{name}` {ratio:.2f} (at {plural(n, 'step')})") for name, ratio, n in found]
    )
    return [
        (
            f"Theory allows an exact sampler, at any number of steps, {ROOT2:.2f} times the smaller of the "
            f"regression's RMSE and its own one-step value. The largest found: {largest}."
        )
    ]


def theory_ratio(rows, regression_rows, name):
    """(the largest RMSE of a setting over the smaller of the regression's and its own one-step RMSE, at which
    number of steps)."""
    rmse = {n: np.mean(values) for n, values in curve(rows, name, "rmse_gy").items()}
    regressed = np.mean([row["rmse_gy"] for row in regression_rows])
    most = max(rmse, key=rmse.get)
    return rmse[most] / min(regressed, rmse.get(1, math.inf)), most


def held_sentences(rows, regression_rows):
    """What a sample of most steps costs where the start is held, and how much dose that start leaves out."""
    regressed = np.mean([row["rmse_gy"] for row in regression_rows])
    parts = []
    for setting in settings_of(rows, "start"):
        own = next(row for row in rows if row["setting"] == setting)["sampling"]
        if own["grid"] == "held":
            rmse = curve(rows, setting, "rmse_gy")
            most, share = max(rmse), math.sqrt(cosine_alpha_bar()[own["start"]])
            parts.append(
                f"{setting}: {np.mean(rmse[most]) / regressed:.2f} ({most} steps, {100 * share:.2g} % of the "
                "dose left out)"
            )
    if not parts:
        return []
    return [
        nested(
            "Where the start is held, the RMSE at the most steps over the regression's (a sample's own "
            f"variance, which an answer of few steps has less of, explains up to {ROOT2:.2f}; a start from "
            "noise alone at level t also leaves out what x_t still holds of the dose)",
            parts,
        )
    ]


# --- ensembles ---


def ensemble_verdict(found, margin_gy):
    """What averaging does, how near theory floor and b are, how far to trust the spread. `found`: results."""
    mse = np.mean([r["rmse_gy"] ** 2 for r in found["regression_rows"]])
    crps = np.mean([r["mae_gy"] for r in found["regression_rows"]])
    of_source = {source: [r for r in found["rows"] if r["source"] == source] for source in found["factors"]}
    laws = {
        source: (np.mean([r["floor_gy2"] for r in rows]), np.mean([r["b_gy2"] for r in rows]))
        for source, rows in of_source.items()
    }
    ratios = {
        source: spread_skill_ratio([r["spread_skill"] for r in rows]) for source, rows in of_source.items()
    }
    covered = {
        source: recalibrated_text(rows, found["factors"][source]) for source, rows in of_source.items()
    }
    return bullets(
        [
            averaging_sentence(of_source, margin_gy),
            "floor / b, 1 for an exact posterior: "
            + ", ".join(f"`{source}` {floor / b:.2f}" for source, (floor, b) in laws.items())
            + ".",
            (
                "The mean of infinitely many has, by the law of averages, this many times the regression's "
                f"RMSE: {limits_text(laws, mse)}."
            ),
            "Spread over error: "
            + told_by(
                [(told_ratio(ratio, source), f"`{source}` {ratio:.2f}") for source, ratio in ratios.items()]
            )
            + ".",
            nested(
                "With one factor on the spread, chosen on validation patients", groups_told(covered.values())
            ),
            price_sentence(found["rows"], crps),
            price_after_factor(found["rows"]),
        ]
    )


def averaging_sentence(of_source, margin_gy):
    """Whether the mean of all members has a smaller error than one of them."""
    told = {"equal": f"within {margin_gy:g} Gy", CANNOT: f"whether they differ {CANNOT}"}
    pairs = []
    for source, rows in of_source.items():
        most = sizes_of(rows)[-1]
        d = paired_difference([r["mae_gy"][most] for r in rows], [r["mae_gy"]["1"] for r in rows])
        pairs.append((told_difference(d, margin_gy, told), f"`{source}` {short_span(d)} ({most} members)"))
    return nested("MAE of the mean of all members less that of one / Gy", groups_told(pairs))


def limits_text(laws, mse):
    """source and RMSE of the mean of infinitely many over the regression's, by whether it is near."""
    limits = {source: math.sqrt(floor / mse) for source, (floor, _) in laws.items()}
    return told_by(
        [
            (
                f"no more than {WITHIN:.2f}" if limit <= WITHIN else f"more than {WITHIN:.2f}",
                f"`{source}` {limit:.2f}",
            )
            for source, limit in limits.items()
        ]
    )


def told_ratio(ratio, source):
    if ratio < DISGUISE:
        sampled = kind(source) in METHODS and find_method(source).timed
        return "a regression in disguise, silent about its doubt" if sampled else "says little of its doubt"
    return (
        "too sure of itself"
        if ratio < 0.9
        else "about calibrated"
        if ratio <= 1.1
        else "more cautious than it need be"
    )


def recalibrated_text(rows, factor):
    """(what one factor on the spread, from validation patients, does on the test patients; the source
    with it)."""
    after = [r["recalibrated"] for r in rows]
    covered = {
        level: float(np.mean([r["coverage_pct"][level] for r in after])) for level in after[0]["coverage_pct"]
    }
    miss = max(abs(round(share) - float(level)) for level, share in covered.items())
    told = (
        "its intervals hold what they promise within 5 points"
        if miss <= 5
        else "one factor does not calibrate it"
    )
    shares = ", ".join(f"the {level} % interval holds {share:.0f} %" for level, share in covered.items())
    return told, f"`{rows[0]['source']}` (times {factor:.2f}: {shares})"


def price_sentence(rows, regression_mae_gy):
    """CRPS, which rewards a sharp and honest spread, against the network calls that it takes."""
    parts = []
    for source in dict.fromkeys(r["source"] for r in rows):
        own = [r for r in rows if r["source"] == source]
        parts.append(
            f"`{source}` {np.mean([r['crps_gy'] for r in own]):.2f} Gy for "
            f"{own[0]['members'] * own[0]['nfe_per_member']} calls"
        )
    return (
        (
            "Worth its price? The CRPS (for one answer without a spread: its MAE, the regression's "
            f"{regression_mae_gy:.2f} Gy for 1 call): "
        )
        + ", ".join(parts)
        + "."
    )


def price_after_factor(rows):
    """CRPS with the one factor on the spread, each less that of the source of fewest calls, by patient."""
    of_source = {
        source: [r for r in rows if r["source"] == source]
        for source in dict.fromkeys(r["source"] for r in rows)
    }
    crps = {source: [r["recalibrated"]["crps_gy"] for r in own] for source, own in of_source.items()}
    cheapest = min(
        crps,
        key=lambda source: (
            of_source[source][0]["members"] * of_source[source][0]["nfe_per_member"],
            np.mean(crps[source]),
        ),
    )
    parts = [
        f"`{source}` {np.mean(values):.2f}"
        + (f" ({short_span(paired_difference(values, crps[cheapest]))})" if source != cheapest else "")
        for source, values in crps.items()
    ]
    return (
        f"CRPS after the factor / Gy, in brackets less that of `{cheapest}`, the cheapest: "
        + ", ".join(parts)
        + "."
    )


# --- comparison ---


def one_each(rows, variants=False):
    """The rows of one form of each method, with `variants` of each variant too: the mean of its samples where
    there is one; no second seeds."""
    names = dict.fromkeys(row["method"] for row in rows)
    wanted = [
        name for name in names if name == (plain_of(name) if variants else kind(name)) and "," not in name
    ]
    means = {
        name.split(",")[0]: name
        for name in names
        if ", mean of " in name and not name.endswith(WITHOUT_SAMPLING)
    }
    chosen = {means.get(name, name) for name in wanted}
    return [row for row in rows if row["method"] in chosen]


def ranked(rows):
    """Methods without the control, by mean MAE in the dose mask."""
    values = by_method(rows)
    return sorted((m for m in values if m != "control"), key=lambda m: np.mean(values[m]))


def best_sampled(rows, names):
    """Of the named trainings the sampled one with the lowest mean MAE, whose samples have a spread to look
    at; of all if none is sampled."""
    values, sampled = by_method(rows), [name for name in names if find_method(name).sampled]
    return min(sampled or names, key=lambda name: np.mean(values[name]))


def over_seeds(rows, value="mae_gy"):
    """method or variant -> (values per patient averaged over its seeds, number of seeds)."""
    values = by_method(rows, value)
    names_of = {name: [name] for name in values if plain_of(name) == name} | seeds_of(values)
    return {
        name: (np.mean([values[n] for n in names], axis=0), len(names)) for name, names in names_of.items()
    }


def comparison_verdict(found, margin_gy):
    """Which method is best, by how much, how surely; what was not trained. `found`: the results compared."""
    rows, values, seeds = found["rows"], by_method(found["rows"]), over_seeds(found["rows"])
    best = ranked(rows)[0]
    lines = [f"The lowest error is that of `{best}`: MAE {np.mean(values[best]):.2f} Gy in the dose mask."]
    lines.append(differences_sentence(seeds, margin_gy))
    lines += prior_sentences(values, margin_gy) + seed_sentences(values, found["samplings"])
    control = paired_difference(values["control"], seeds["baseline"][0])
    lines.append(
        f"The control without a network has {np.mean(values['control']):.2f} Gy, {span(control)} against the "
        "baseline."
    )
    untrained = [
        f"`{method}`"
        for method in values
        if not beats_control(values, method, margin_gy) and method != "control"
    ]
    if untrained:
        lines.append(
            f"Not better than the control: {', '.join(untrained)}. Such a network has not learned more than "
            "distances: its training is too short or wrong, and what is said of it holds for this training "
            "only."
        )
    lines += [f"`{name}` was not trained: {reason}" for name, reason in found["failures"].items()]
    return bullets(lines)


def beats_control(values, method, margin_gy):
    return verdict(paired_difference(values["control"], values[method]), margin_gy) == "higher"


def differences_sentence(seeds, margin_gy):
    """Every method against the baseline by what can be said of the difference; a method's seeds averaged."""
    told = {
        "higher": "worse",
        "lower": "better",
        "equal": f"within {margin_gy:g} Gy",
        CANNOT: f"whether they differ {CANNOT}",
    }
    differences = {
        method: paired_difference(values, seeds["baseline"][0])
        for method, (values, _) in seeds.items()
        if method not in ("baseline", "control")
    }
    pairs = [
        (told_difference(d, margin_gy, told), f"`{method}` {short_span(d)}")
        for method, d in sorted(differences.items(), key=lambda item: item[1].mean)
    ]
    several = ", ".join(f"`{name}` ({n})" for name, (_, n) in seeds.items() if n > 1)
    averaged = f" (averaged over seeds: {several})" if several else ""
    return (
        nested(f"Against the baseline, MAE / Gy{averaged}", groups_told(pairs))
        if pairs
        else "Nothing but the baseline was trained."
    )


def prior_sentences(values, margin_gy):
    """What answers with a regression's residual, against that very training; none if no method does."""
    priors = {name: find_method(name).prior for name in values if kind(name) in METHODS}
    found = {
        name: paired_difference(values[name], values[prior])
        for name, prior in priors.items()
        if prior in values
    }
    told = {"equal": f"within {margin_gy:g} Gy", CANNOT: f"whether they differ {CANNOT}"}
    pairs = [(told_difference(d, margin_gy, told), f"`{name}` {short_span(d)}") for name, d in found.items()]
    return (
        [nested("Against the very training whose residual it predicts, MAE / Gy", groups_told(pairs))]
        if pairs
        else []
    )


def seed_sentences(values, samplings):
    """By how much two trainings of one method differ when nothing but the seed does."""

    def note(first, second):
        ways = [samplings.get(name.split(",")[0], {}).get("text") for name in (first, second)]
        return "" if ways[0] == ways[1] else f", but they were sampled differently ({ways[0]}; {ways[1]})"

    return [
        (
            f"Two seeds of `{method}` differ by "
            f"{span(paired_difference(values[names[1]], values[names[0]]))}{note(*names[:2])}."
        )
        for method, names in seeds_of(values).items()
        if len(names) > 1
    ]
