"""The reference study's claims, each with its number, ours and whether it holds here.

Its own numbers (REFERENCE) are quoted from its notebook.
"""

import math

import numpy as np

from lib.metrics.statistics import paired_difference, verdict
from lib.models.methods import kind
from lib.report.sentences import CANNOT, short_span, span, validation_errors
from lib.report.verdicts import changes, compared_steps, over_seeds, rise, settings_of
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.rows import sizes_of

REFERENCE = {
    "baseline_mae_gy": 3.73,
    "ddpm_mae_gy": 3.78,
    "gradient_mae_gy": 3.67,
    "mae_50_steps_gy": 3.80,
    "mae_1000_steps_gy": 6.73,
    "single_mae_gy": 3.775,
    "mean_of_10_mae_gy": 3.835,
    "spread_fraction": 0.03,
    "swing_low_gy": 12.0,
    "swing_high_gy": 64.0,
}
SWING = 0.1  # of the lowest validation error: the study's rose fivefold
STEPS = "More sampling steps make it worse"
STEPS_REFERENCE = (
    f"{REFERENCE['mae_50_steps_gy']} Gy at 50, {REFERENCE['mae_1000_steps_gy']} Gy at 1000 steps"
)


def claim(text, reference, ours, told, why):
    return {"claim": text, "reference": reference, "ours": ours, "verdict": told, "why": why}


def holds(difference, margin, if_true):
    """ "holds", "does not hold" or "cannot be said" of a claim that is true of differences that are one of
    `if_true`, neighbours of "lower" | "equal" | "higher"; it holds where the interval is among those, and
    does not where it is beyond."""
    edges = {"lower": (-math.inf, -margin), "equal": (-margin, margin), "higher": (margin, math.inf)}
    least, most = min(edges[name][0] for name in if_true), max(edges[name][1] for name in if_true)
    if difference.low is None:
        return CANNOT
    if least <= difference.low and difference.high <= most:
        return "holds"
    return "does not hold" if difference.high < least or difference.low > most else CANNOT


def claims(rows, steps, ensemble, histories, margin_gy):
    """Every claim of the reference as a row; `steps` and `ensemble` are None where no method is sampled."""
    method = steps["method"] if steps else "no method"
    own = (
        [row for row in ensemble["rows"] if row["source"] == method and kind(method) == "ddpm"]
        if ensemble
        else []
    )
    of_steps = (
        [claim_steps(steps, margin_gy), claim_start(steps, margin_gy)]
        if kind(method) == "ddpm"
        else [claim_on_another(method)]
    )
    return [
        claim_equal(rows, margin_gy),
        *of_steps,
        claim_single(own, margin_gy),
        claim_spread(own, own and ensemble["rx_gy"]),
        claim_gradient(rows, margin_gy),
        claim_swing(histories),
    ]


def claim_equal(rows, margin_gy):
    seeds = over_seeds(rows)
    if "ddpm" not in seeds:
        return claim(
            "DDPM is as accurate as the U-Net",
            "",
            "not trained here",
            CANNOT,
            "the method ddpm is not in this experiment",
        )
    d = paired_difference(seeds["ddpm"][0], seeds["baseline"][0])
    return claim(
        "DDPM is as accurate as the U-Net",
        f"{REFERENCE['ddpm_mae_gy']} against {REFERENCE['baseline_mae_gy']} Gy",
        span(d),
        holds(d, margin_gy, ("equal",)),
        "the reference compared whole volumes with patches centred on dose; here all have the same patients "
        "and region",
    )


def claim_on_another(method):
    """Another method's steps say nothing of what was claimed of the reference's."""
    return claim(
        STEPS,
        STEPS_REFERENCE,
        "not tried here",
        CANNOT,
        f"the ablation of sampling is of {method}, not of ddpm",
    )


def claim_steps(steps, margin_gy):
    return claim(
        STEPS,
        STEPS_REFERENCE,
        *rise_of(steps["rows"], REFERENCE_GRID, margin_gy),
        "on the reference's own step grid, whose first noise level rises with the number of steps",
    )


def rise_of(rows, setting, margin_gy):
    """(what was found, verdict) on whether the error of a setting rises with the number of steps."""
    best, most, d = rise(rows, setting)
    if best == most:
        return f"lowest at the most steps tried, {most} ({setting})", "does not hold"
    return f"{span(d)} from {best} to {most} steps ({setting})", holds(d, margin_gy, ("higher",))


def claim_start(steps, margin_gy):
    held = [setting for setting in settings_of(steps["rows"], "start") if setting.startswith("start held")]
    if not held:
        return claim(
            "It is the number of steps that does it",
            "not tested",
            "not tested here",
            CANNOT,
            "ablation.held_at is empty",
        )
    low, high = compared_steps(steps["rows"], settings_of(steps["rows"], "start"))
    rises = {setting: changes(steps["rows"], setting, low, high) for setting in held}
    least, most = (pick(rises.values(), key=np.mean) for pick in (min, max))
    differ = verdict(paired_difference(most, least), margin_gy) == "higher"
    found = "; ".join(
        f"{short_span(paired_difference(rise, 0))} Gy ({setting})" for setting, rise in rises.items()
    )
    return claim(
        "It is the number of steps that does it",
        "not tested",
        f"from {low} to {high} steps {found}",
        "depends on the start" if differ else holds(paired_difference(least, 0), margin_gy, ("higher",)),
        "the first noise level is held, so that only the number of steps changes",
    )


def claim_single(rows, margin_gy):
    text, theirs = (
        "One sample is best",
        f"{REFERENCE['single_mae_gy']} Gy, mean of 10: {REFERENCE['mean_of_10_mae_gy']} Gy",
    )
    if not rows:
        return claim(text, theirs, "not sampled here", CANNOT, "the method is not among ensemble.sampled")
    sizes = sizes_of(rows)
    d = paired_difference([r["mae_gy"][sizes[-1]] for r in rows], [r["mae_gy"][sizes[0]] for r in rows])
    return claim(
        text,
        theirs,
        f"{span(d)} from {sizes[0]} to {sizes[-1]} members",
        holds(d, margin_gy, ("higher", "equal")),
        "the reference's n = 1 was one seed; here it is the mean over members, and by convexity a mean "
        "cannot be worse",
    )


def claim_spread(rows, rx_gy):
    text, theirs = (
        "Samples hardly vary",
        f"{REFERENCE['spread_fraction']} of the prescription over the whole volume, taken for Gy",
    )
    if not rows:
        return claim(text, theirs, "not sampled here", CANNOT, "the method is not among ensemble.sampled")
    spread = np.mean([r["spread_dose_mask_gy"] for r in rows])
    mae = np.mean([r["mae_gy"][sizes_of(rows)[0]] for r in rows])
    whole = np.mean([r["spread_whole_volume_gy"] for r in rows]) / rx_gy
    told = "does not hold" if spread > 0.1 * mae else "holds"
    return claim(
        text,
        theirs,
        f"{spread:.2f} Gy in the dose mask, {100 * spread / mae:.0f} % of the error (in the reference's "
        f"measure {whole:.4f})",
        told,
        "air makes that measure small; called near zero here below 10 % of the error in the same region",
    )


def claim_gradient(rows, margin_gy):
    seeds = over_seeds(rows)
    if "gradient" not in seeds:
        return claim(
            "The gradient loss is best",
            f"{REFERENCE['gradient_mae_gy']} Gy",
            "not trained here",
            CANNOT,
            "not in this experiment",
        )
    d = paired_difference(seeds["gradient"][0], seeds["baseline"][0])
    return claim(
        "The gradient loss is best",
        f"{REFERENCE['gradient_mae_gy']} against {REFERENCE['baseline_mae_gy']} Gy",
        f"{span(d)} against the baseline",
        holds(d, margin_gy, ("lower",)),
        "same steps, patients and region",
    )


def claim_swing(histories):
    text, theirs = (
        "DDPM's validation error swings while its loss falls",
        f"{REFERENCE['swing_low_gy']:g} to {REFERENCE['swing_high_gy']:g} Gy",
    )
    if "ddpm" not in histories:
        return claim(text, theirs, "not trained here", CANNOT, "not in this experiment")
    up, base_up = largest_rise(histories["ddpm"]), largest_rise(histories["baseline"])
    told = (
        "holds"
        if up > SWING * min(validation_errors(histories["ddpm"])) and up > 2 * base_up
        else "does not hold"
    )
    return claim(
        text,
        theirs,
        f"largest rise from one validation to a later one {up:.2f} Gy; baseline {base_up:.2f} Gy",
        told,
        f"called a swing here above {100 * SWING:.0f} % of the lowest error; judged with averaged weights "
        "(EMA), which calms it; the study's were not averaged",
    )


def largest_rise(history):
    """By how much the validation error in Gy rose at most from one validation to a later, 0 if it fell."""
    errors = validation_errors(history)
    return max((later - earlier for i, earlier in enumerate(errors) for later in errors[i:]), default=0.0)
