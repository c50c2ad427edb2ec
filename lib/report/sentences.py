"""Sentences written from numbers; no digit of a result is typed by hand."""
from lib.progress import clock


def training_setup(config, training, validation):
    """What is about to be trained, on whom."""
    from lib.models.methods import find_method
    from lib.models.unet import UNet

    method = find_method(config.method)
    count = sum(p.numel() for p in UNet(config.cond_channels, config.base_channels, method.timed).parameters())
    shape = " x ".join(map(str, training[0].dose.shape[1:]))
    spacing = " x ".join(f"{s:.1f}" for s in training[0].spacing_mm)
    return (f"**{method.title}** (`{config.method}`): {count:,} parameters, {config.n_steps:,} optimiser steps of "
            f"{config.batch_size} patients, {len(training)} training and {len(validation)} validation patients on a grid of "
            f"{shape} voxels of {spacing} mm (z, y, x); arithmetic in {config.precision}.")


def training_result(config, history):
    """How the training ended."""
    validated = [row for row in history if row["validation_mae_gy"] is not None]
    text = f"{len(history)} epochs took {clock(history[-1]['seconds'])}; the loss went from {history[0]['loss']:.3g} to {history[-1]['loss']:.3g}."
    if not validated:
        return text + " There were no validation patients."
    best = min(validated, key=lambda row: row["validation_mae_gy"])
    swing = [row["validation_mae_gy"] for row in validated]
    return (f"{text} The validation MAE ended at {validated[-1]['validation_mae_gy']:.2f} Gy; its best was "
            f"{best['validation_mae_gy']:.2f} Gy after epoch {best['epoch']}, its range {min(swing):.2f} to {max(swing):.2f} Gy.")
