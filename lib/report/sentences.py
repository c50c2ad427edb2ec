"""Sentences on patients and trainings, written from numbers, and the phrases that all sentences share."""

from lib.metrics.statistics import verdict
from lib.models.methods import find_method
from lib.progress import clock

CANNOT = "cannot be said"


def plural(n, word):
    return f"{n} {word}" + ("" if n == 1 else "s")


def bullets(lines):
    return "\n".join(f"- {line}" for line in lines)


def nested(head, parts):
    """A line of `bullets` with a list of its own."""
    return "\n".join([f"{head}:", *(f"  - {part}" for part in parts)])


def span(difference, unit="Gy"):
    """ "+0.31 Gy (95 % interval +0.10 to +0.52, 16 patients)"; says when there is no interval."""
    if difference.low is None:
        return f"{difference.mean:+z.2f} {unit} (no interval with {difference.n} patients)"
    return (
        f"{difference.mean:+z.2f} {unit} (95 % interval {difference.low:+z.2f} to {difference.high:+z.2f}, "
        f"{difference.n} patients)"
    )


def short_span(difference):
    """ "+0.31 [+0.10, +0.52]"; says when there is no interval."""
    if difference.low is None:
        return f"{difference.mean:+z.2f} (no interval with {difference.n} patients)"
    return f"{difference.mean:+z.2f} [{difference.low:+z.2f}, {difference.high:+z.2f}]"


def told_difference(difference, margin_gy, words=None):
    """The verdict on a paired difference in `words` (verdict -> word); where its interval leaves out 0 but
    reaches into the margin, which way it leans."""
    told, words = verdict(difference, margin_gy), words or {}
    if told != CANNOT or difference.low is None or difference.low <= 0 <= difference.high:
        return words.get(told, told)
    leaning = "higher" if difference.mean > 0 else "lower"
    return f"a little {words.get(leaning, leaning)}"


def groups_told(pairs):
    """Pairs (what is said, of whom) as phrases "said: whom, whom", one for each thing said."""
    groups = {}
    for said, whom in pairs:
        groups.setdefault(said, []).append(whom)
    return [f"**{said}**: {', '.join(whom)}" for said, whom in groups.items()]


def told_by(pairs):
    return "; ".join(groups_told(pairs))


def cohort(cohort, rows):
    """Who is in the cohort."""
    parts = ", ".join(f"{len(ids)} {part}" for part, ids in cohort.split.items())
    odd = sum(bool(row["findings"]) for row in rows)
    left_out = cohort.card["left_out"]
    text = (
        f"**{cohort.name}** ({cohort.card['source']}): {plural(len(rows), 'patient')} of "
        f"{cohort.protocol.title}; {parts}. Voxels: {voxels(rows)}. "
    )
    text += f"Checks found something in {plural(odd, 'patient')}. " if odd else "Checks found nothing odd. "
    text += (
        f"Left out at import: {', '.join(f'{k} ({v})' for k, v in left_out.items())}."
        if left_out
        else "None was left out at import."
    )
    return text


def voxels(rows):
    """The patients' grids: number and size of voxels along z, y, x, from least to most where they differ."""
    return (
        f"{ranges([row['shape'] for row in rows])} of {ranges([row['spacing_mm'] for row in rows])} mm (z, "
        "y, x)"
    )


def ranges(triples):
    """Numbers along three axes as "128 x 2 to 3.5 x 4"."""
    return " x ".join(
        f"{min(own):.3g}" + (f" to {max(own):.3g}" if max(own) > min(own) else "") for own in zip(*triples)
    )


def grids(rows, coarsen):
    """The patients' voxels, and the blocks of them that the networks see."""
    seen = (
        "every one of them"
        if coarsen == 1
        else f"blocks of {coarsen} x {coarsen} x {coarsen} of them, errors are judged voxel by voxel"
    )
    return f"Voxels: {voxels(rows)}; the networks see {seen}."


def size(rows, coarsen):
    """The grid of the networks, for a title."""
    return f"networks at {ranges([[-(-n // coarsen) for n in row['shape']] for row in rows])} voxels"


def training_setup(config, training, validation):
    """What is about to be trained, on whom."""
    method = find_method(config.method)
    count = sum(p.numel() for p in method.make_network(config).parameters())
    shape = " x ".join(map(str, training[0].dose.shape[1:]))
    spacing = " x ".join(f"{s:.1f}" for s in training[0].spacing_mm)
    return (
        f"**{method.title}** (`{config.method}`): {count:,} parameters, {config.n_steps:,} optimiser steps "
        f"of {plural(config.batch_size, 'patient')}, {len(training)} training and {len(validation)} "
        f"validation patients on a grid of {shape} voxels of {spacing} mm (z, y, x); arithmetic in "
        f"{config.precision}."
        + (f" It starts from the weights of {config.start_from}." if config.start_from else "")
    )


def training_result(config, history):
    """How the training ended; `history` is None if it was not done."""
    if not history:
        return "**Not trained.** The comparison lists why."
    validated = [row for row in history if row["validation_mae_gy"] is not None]
    text = (
        f"{plural(len(history), 'epoch')} took {clock(history[-1]['seconds'])}; the loss went from "
        f"{history[0]['loss']:.3g} to {history[-1]['loss']:.3g}."
    )
    if not validated:
        return text + " There were no validation patients."
    best = min(validated, key=lambda row: row["validation_mae_gy"])
    low, high = min(validation_errors(history)), max(validation_errors(history))
    return (
        f"{text} The validation MAE ended at {validated[-1]['validation_mae_gy']:.2f} Gy; its best was "
        f"{best['validation_mae_gy']:.2f} Gy after epoch {best['epoch']}, its range {low:.2f} to {high:.2f} "
        "Gy."
    )


def validation_errors(history):
    return [row["validation_mae_gy"] for row in history if row["validation_mae_gy"] is not None]
