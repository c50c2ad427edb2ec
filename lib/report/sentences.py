"""Sentences written from numbers; no digit of a result of ours is typed by hand.

The reference study's own numbers (REFERENCE) are quoted from its notebook.
"""
import math

import numpy as np

from lib.evaluation.compare import paired_difference, verdict
from lib.models.methods import METHODS, find_method
from lib.models.unet import UNet
from lib.progress import clock
from lib.studies import by_method, sizes_of

REFERENCE = dict(baseline_mae_gy=3.73, ddpm_mae_gy=3.78, gradient_mae_gy=3.67, mae_50_steps_gy=3.80, mae_1000_steps_gy=6.73,
                 single_mae_gy=3.775, mean_of_10_mae_gy=3.835, spread_fraction=0.03, swing_low_gy=12.0, swing_high_gy=64.0)
CANNOT = "cannot be said"


def plural(n, word):
    return f"{n} {word}" + ("" if n == 1 else "s")


def span(difference, unit="Gy"):
    """"+0.31 Gy (95 % interval +0.10 to +0.52, n = 16)"; says when there is no interval."""
    if difference.low is None:
        return f"{difference.mean:+.2f} {unit} (no interval with n = {difference.n})"
    return f"{difference.mean:+.2f} {unit} (95 % interval {difference.low:+.2f} to {difference.high:+.2f}, n = {difference.n})"


def cohort(cohort, rows):
    """Who is in the cohort."""
    parts = ", ".join(f"{len(ids)} {part}" for part, ids in cohort.split.items())
    shapes = sorted({" x ".join(map(str, row["shape"])) for row in rows})
    spacing = sorted({" x ".join(f"{s:.1f}" for s in row["spacing_mm"]) for row in rows})
    odd = sum(bool(row["findings"]) for row in rows)
    left_out = cohort.card["left_out"]
    spaced = f"{spacing[0]} mm" if len(spacing) == 1 else f"{len(spacing)} voxel sizes from {spacing[0]} to {spacing[-1]} mm"
    text = (f"**{cohort.name}** ({cohort.card['source']}): {plural(len(rows), 'patient')} of {cohort.protocol.title}; {parts}. "
            f"Grid {', '.join(shapes)} (z, y, x), {spaced}. ")
    text += f"Checks found something in {plural(odd, 'patient')}. " if odd else "Checks found nothing odd. "
    text += f"Left out at import: {', '.join(f'{k} ({v})' for k, v in left_out.items())}." if left_out else "None was left out at import."
    return text


def training_setup(config, training, validation):
    """What is about to be trained, on whom."""
    method = find_method(config.method)
    count = sum(p.numel() for p in UNet(config.cond_channels, config.base_channels, method.timed).parameters())
    shape = " x ".join(map(str, training[0].dose.shape[1:]))
    spacing = " x ".join(f"{s:.1f}" for s in training[0].spacing_mm)
    return (f"**{method.title}** (`{config.method}`): {count:,} parameters, {config.n_steps:,} optimiser steps of "
            f"{plural(config.batch_size, 'patient')}, {len(training)} training and {len(validation)} validation patients on a grid of "
            f"{shape} voxels of {spacing} mm (z, y, x); arithmetic in {config.precision}.")


def training_result(config, history):
    """How the training ended."""
    validated = [row for row in history if row["validation_mae_gy"] is not None]
    text = (f"{plural(len(history), 'epoch')} took {clock(history[-1]['seconds'])}; the loss went from {history[0]['loss']:.3g} "
            f"to {history[-1]['loss']:.3g}.")
    if not validated:
        return text + " There were no validation patients."
    best = min(validated, key=lambda row: row["validation_mae_gy"])
    low, high = min(validation_errors(history)), max(validation_errors(history))
    return (f"{text} The validation MAE ended at {validated[-1]['validation_mae_gy']:.2f} Gy; its best was "
            f"{best['validation_mae_gy']:.2f} Gy after epoch {best['epoch']}, its range {low:.2f} to {high:.2f} Gy.")


def validation_errors(history):
    return [row["validation_mae_gy"] for row in history if row["validation_mae_gy"] is not None]


def largest_rise(history):
    """By how much the validation error in Gy rose at most from one validation to a later one, 0 if it only fell."""
    errors = validation_errors(history)
    return max((later - earlier for i, earlier in enumerate(errors) for later in errors[i:]), default=0.0)


def curve(rows, setting):
    """n_steps -> errors of the patients, for one setting."""
    found = {}
    for row in rows:
        if row["setting"] == setting:
            found.setdefault(row["n_steps"], []).append(row["mae_gy"])
    return found


def rise(rows, setting):
    """The paired difference between the most steps and the best number of steps of a setting, and that number."""
    errors = curve(rows, setting)
    best, most = min(errors, key=lambda n: np.mean(errors[n])), max(errors)
    return best, most, paired_difference(errors[most], errors[best])


def steps_verdict(rows, regression_rows, method, regression, margin_gy):
    """What the ablation of steps shows, setting by setting, and how it stands to the regression and to theory."""
    lines = [rise_sentence(rows, setting, margin_gy) for setting in dict.fromkeys(row["setting"] for row in rows)]
    best = min((np.mean(e), setting, n) for setting in dict.fromkeys(r["setting"] for r in rows) for n, e in curve(rows, setting).items())
    regressed = np.mean([row["mae_gy"] for row in regression_rows])
    lines.append(f"The best setting of `{method}` is {best[1]} with {plural(best[2], 'step')}: {best[0]:.2f} Gy, against "
                 f"{regressed:.2f} Gy of `{regression}` on the same patients.")
    lines.append(theory_sentence(rows, regression_rows))
    return "\n".join(f"- {line}" for line in lines)


def rise_sentence(rows, setting, margin_gy):
    best, most, difference = rise(rows, setting)
    if best == most:
        return f"**{setting}**: the error is lowest at the most steps tried ({most}); more steps do not hurt."
    told = {"higher": "more steps hurt", "equal": "more steps change nothing", "lower": "more steps help"}
    verdict_ = verdict(difference, margin_gy)
    return (f"**{setting}**: from {best} to {most} steps the error changes by {span(difference)}: "
            f"{told.get(verdict_, 'whether more steps hurt ' + CANNOT)}.")


def theory_sentence(rows, regression_rows):
    """Exact posterior samples have at most sqrt(2) times the RMSE of the conditional mean."""
    worst = {}
    for row in rows:
        worst.setdefault((row["setting"], row["n_steps"]), []).append(row["rmse_gy"])
    high = max(np.mean(v) for v in worst.values())
    regressed = np.mean([row["rmse_gy"] for row in regression_rows])
    ratio = high / regressed
    text = (f"Theory allows an exact sampler {math.sqrt(2):.2f} times the RMSE of the best regression; the worst setting here has "
            f"{ratio:.2f} times the baseline's ({high:.2f} against {regressed:.2f} Gy). ")
    if ratio > math.sqrt(2):
        return text + "It is more than sampling alone explains: the sampler or the network errs."
    return text + "It is no more than sampling alone explains."


def ensemble_verdict(rows, regression_rows, method, regression, margin_gy):
    """What averaging does, how wide the spread is, and how floor and b stand to theory."""
    sizes = sizes_of(rows)
    first, last = sizes[0], sizes[-1]
    d = paired_difference([r["mae_gy"][last] for r in rows], [r["mae_gy"][first] for r in rows])
    told = {"lower": "averaging helps", "equal": "averaging changes nothing", "higher": "averaging hurts"}.get(verdict(d, margin_gy), CANNOT)
    floor, b = np.mean([r["floor_gy2"] for r in rows]), np.mean([r["b_gy2"] for r in rows])
    mse = np.mean([r["rmse_gy"] ** 2 for r in regression_rows])
    spread, mae = np.mean([r["spread_dose_mask_gy"] for r in rows]), np.mean([r["mae_gy"][first] for r in rows])
    singles = np.mean([r["single_mae_gy"] for r in rows], axis=0)
    lines = [
        f"From a mean of {first} to a mean of {last} samples the MAE changes by {span(d)}: {told}.",
        f"One sample of `{method}` has {mae:.2f} Gy on average over members; which member is drawn moves it between "
        f"{singles.min():.2f} and {singles.max():.2f} Gy, so one seed alone tells little.",
        f"The spread in the dose mask is {spread:.2f} Gy, {100 * spread / mae:.0f} % of the error of one sample.",
        f"Floor {floor:.1f} and b {b:.1f} Gy²: their ratio is {floor / b:.2f}, where an exact posterior has 1; "
        + ("the samples are biased beyond their spread." if floor > 1.5 * b else "the spread covers most of the error."),
        f"The floor, below which no averaging goes, is {floor / mse:.2f} times the squared error of `{regression}` ({mse:.1f} Gy²).",
    ]
    return "\n".join(f"- {line}" for line in lines)


def ranked(rows):
    """Methods without the control, by mean MAE in the dose mask."""
    values = by_method(rows)
    return sorted((m for m in values if m != "control"), key=lambda m: np.mean(values[m]))


def comparison_verdict(rows, margin_gy):
    """Which method is best, by how much, with what certainty; and whether diffusion helps."""
    values = by_method(rows)
    best = ranked(rows)[0]
    lines = [f"The lowest error is that of `{best}`: MAE {np.mean(values[best]):.2f} Gy in the dose mask."]
    lines += [difference_sentence(values, method, margin_gy) for method in values if method not in ("baseline", "control")]
    control = paired_difference(values["control"], values["baseline"])
    lines.append(f"The control without a network has {np.mean(values['control']):.2f} Gy, {span(control)} against the baseline.")
    untrained = [f"`{method}`" for method in values if not beats_control(values, method, margin_gy) and method != "control"]
    if untrained:
        lines.append(f"Not better than the control: {', '.join(untrained)}. Such a network has not learned more than distances: its "
                     "training is too short or wrong, and what is said of it holds for this training only.")
    return "\n".join(f"- {line}" for line in lines)


def beats_control(values, method, margin_gy):
    return verdict(paired_difference(values["control"], values[method]), margin_gy) == "higher"


def difference_sentence(values, method, margin_gy):
    d = paired_difference(values[method], values["baseline"])
    told = {"higher": "worse than the baseline", "lower": "better than the baseline",
            "equal": f"within {margin_gy:g} Gy of the baseline"}.get(verdict(d, margin_gy), f"whether it differs from the baseline {CANNOT}")
    return f"`{method}`: {span(d)} against the baseline; {told}."


def answer(rows, margin_gy):
    """The report's answer in one sentence: does diffusion help?"""
    values = by_method(rows)
    sampled = [m for m in values if METHODS.get(m.split(",")[0]) and find_method(m.split(",")[0]).timed]
    if not sampled:
        return "No diffusion method was trained in this experiment."
    best = min(sampled, key=lambda m: np.mean(values[m]))
    d = paired_difference(values[best], values["baseline"])
    text = f"after equally many optimiser steps the best diffusion result, `{best}`, differs from the plain U-Net by {span(d)} in MAE"
    told = {"higher": f"Not for accuracy: {text}, so it is worse.", "lower": f"Yes, for accuracy: {text}, so it is better.",
            "equal": f"Not for accuracy: {text}, so the two are equal within {margin_gy:g} Gy."}.get(
        verdict(d, margin_gy), f"For accuracy it {CANNOT}: {text}.")
    if verdict(d, margin_gy) == "higher" and not beats_control(values, best, margin_gy):
        told += " It is not even better than a control without a network, so its training is too short or wrong, and this run says no more of it."
    return told


def claim(text, reference, ours, told, why):
    return dict(claim=text, reference=reference, ours=ours, verdict=told, why=why)


def holds(difference, margin, if_true):
    """"holds", "does not hold" or "cannot be said" of a claim that is true when the verdict is in `if_true`."""
    found = verdict(difference, margin)
    return CANNOT if found == CANNOT else "holds" if found in if_true else "does not hold"


def claims(rows, steps, ensemble, histories, margin_gy):
    """The reference study's claims, each with its number, ours and whether it holds here."""
    return [claim_equal(rows, margin_gy), claim_steps(steps, margin_gy), claim_start(steps, margin_gy),
            claim_single(ensemble, margin_gy), claim_spread(ensemble), claim_gradient(rows, margin_gy), claim_swing(histories, margin_gy)]


def claim_equal(rows, margin_gy):
    values = by_method(rows)
    if "ddpm" not in values:
        return claim("DDPM is as accurate as the U-Net", "", "not trained here", CANNOT, "the method ddpm is not in this experiment")
    d = paired_difference(values["ddpm"], values["baseline"])
    return claim("DDPM is as accurate as the U-Net", f"{REFERENCE['ddpm_mae_gy']} against {REFERENCE['baseline_mae_gy']} Gy", span(d),
                 holds(d, margin_gy, ("equal",)),
                 "the reference compared whole volumes with patches centred on dose; here all have the same patients and region")


def claim_steps(steps, margin_gy):
    theirs = f"{REFERENCE['mae_50_steps_gy']} Gy at 50, {REFERENCE['mae_1000_steps_gy']} Gy at 1000 steps"
    return claim("More sampling steps make it worse", theirs, *rise_of(steps["rows"], "reference's grid", margin_gy),
                 "on the reference's own step grid, whose first noise level rises with the number of steps")


def rise_of(rows, setting, margin_gy):
    """(what was found, verdict) on whether the error of a setting rises with the number of steps."""
    best, most, d = rise(rows, setting)
    if best == most:
        return f"lowest at the most steps tried, {most} ({setting})", "does not hold"
    return f"{span(d)} from {best} to {most} steps ({setting})", holds(d, margin_gy, ("higher",))


def claim_start(steps, margin_gy):
    held = [s for s in dict.fromkeys(r["setting"] for r in steps["rows"]) if s != "reference's grid"]
    if not held:
        return claim("It is the number of steps that does it", "not tested", "not tested here", CANNOT, "ablation.held_at is empty")
    found = [rise_of(steps["rows"], setting, margin_gy) for setting in held]
    verdicts_ = {told for _, told in found}
    told = verdicts_.pop() if len(verdicts_) == 1 else "depends on the start"
    return claim("It is the number of steps that does it", "not tested", "; ".join(text for text, _ in found), told,
                 "the first noise level is held, so that only the number of steps changes")


def claim_single(ensemble, margin_gy):
    rows = ensemble["rows"]
    sizes = sizes_of(rows)
    d = paired_difference([r["mae_gy"][sizes[-1]] for r in rows], [r["mae_gy"][sizes[0]] for r in rows])
    return claim("One sample is best", f"{REFERENCE['single_mae_gy']} Gy, mean of 10: {REFERENCE['mean_of_10_mae_gy']} Gy",
                 f"{span(d)} from n = {sizes[0]} to n = {sizes[-1]}", holds(d, margin_gy, ("higher", "equal")),
                 "the reference's n = 1 was one seed; here it is the mean over members, and by convexity a mean cannot be worse")


def claim_spread(ensemble):
    rows = ensemble["rows"]
    spread = np.mean([r["spread_dose_mask_gy"] for r in rows])
    mae = np.mean([r["mae_gy"][sizes_of(rows)[0]] for r in rows])
    told = "does not hold" if spread > 0.1 * mae else "holds"
    return claim("Samples hardly vary", f"{REFERENCE['spread_fraction']} (taken for Gy)", f"{spread:.2f} Gy, {100 * spread / mae:.0f} % of the error",
                 told, "its number is a fraction of the prescription, averaged over air; called near zero here below 10 % of the error")


def claim_gradient(rows, margin_gy):
    values = by_method(rows)
    if "gradient" not in values:
        return claim("The gradient loss is best", f"{REFERENCE['gradient_mae_gy']} Gy", "not trained here", CANNOT, "not in this experiment")
    d = paired_difference(values["gradient"], values["baseline"])
    return claim("The gradient loss is best", f"{REFERENCE['gradient_mae_gy']} against {REFERENCE['baseline_mae_gy']} Gy", f"{span(d)} against the baseline",
                 holds(d, margin_gy, ("lower",)), "same steps, patients and region; one training seed")


def claim_swing(histories, margin_gy):
    text, theirs = "DDPM's validation error swings while its loss falls", f"{REFERENCE['swing_low_gy']:g} to {REFERENCE['swing_high_gy']:g} Gy"
    if "ddpm" not in histories:
        return claim(text, theirs, "not trained here", CANNOT, "not in this experiment")
    up, base_up = largest_rise(histories["ddpm"]), largest_rise(histories["baseline"])
    told = "holds" if up > margin_gy and up > 2 * base_up else "does not hold"
    return claim(text, theirs, f"largest rise from one validation to a later one {up:.2f} Gy; baseline {base_up:.2f} Gy", told,
                 "here weights are averaged (EMA), which calms it; a noise loss hardly sees the dose where sampling starts")
