"""From parameters to the configuration of a training, and what its method is shown of the patients."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from lib.device import choose_device, choose_precision
from lib.errors import UserError
from lib.features.grid import Grid
from lib.features.samples import Sample
from lib.models.config import TrainConfig
from lib.models.methods import Method, find_method
from lib.prediction.predict import with_control, with_doses

UNEXPLAINED = 0.3  # deviation of the dose that is left when the patient is known, as a share of the whole


def start_from_prior(
    run: Any, method: str, parts: Sequence[list[Sample]], residual: str = "auto"
) -> tuple[list[Sample], ...]:
    """The samples as the method needs them: with the dose that its network corrects, of its prior, trained in
    `run` (an Experiment), or of the control.

    `residual` ("auto" | "yes" | "no"): auto corrects the control in voxels, where a network of blocks draws
    no sharp edge, except in the reference's DDPM.
    """
    row = find_method(method)
    if row.prior:
        predictor = run.load_predictor(row.prior)
        return tuple(with_doses(predictor, part) if part else part for part in parts)
    if not corrects_control(row, run.grid, residual):
        return tuple(parts)
    falloff = run.falloff()
    return tuple(with_control(falloff, part) for part in parts)


def corrects_control(row: Method, grid: Grid, residual: str) -> bool:
    """Whether a method's networks answer what is left of the dose when the control's is taken away."""
    usual = grid.answer > 1 and is_standardised(row, grid)
    return not row.prior and (usual if residual == "auto" else residual == "yes")


def is_standardised(row: Method, grid: Grid) -> bool:
    """Whether the dose usually has mean 0 and deviation 1 for the network: a regression of voxels learns
    several times faster so."""
    return row.standardised or (grid.answer > 1 and not row.timed)


def make_config(
    run: Any,
    training: list[Sample],
    *,
    method: str,
    standardise: str,
    terminal_snr: str,
    noise_shift: str = "yes",
    skip: str = "auto",
    residual: str = "auto",
    target_layer: str = "auto",
    **parameters: Any,
) -> TrainConfig:
    """The configuration of a training of `run` (an Experiment) on the samples `training`.

    `standardise` ("auto" | "yes" | "no") and `terminal_snr` ("auto" | "zero" | "reference"): auto is as the
    method has it. With `noise_shift` ("yes" | "no") the noise moves with the number of answers in a block.
    `skip` ("auto" | "yes" | "no"): auto lets x_t past a network that must give its noise, in several voxels a
    block. Of `residual` the samples tell. `target_layer` ("auto" | "yes" | "no"): auto where doses are
    answered in voxels, except by the reference's DDPM. A UserError if noise is to be predicted where there is
    nothing else.
    """
    row, cohort, first = find_method(method), run.open_cohort(), training[0]
    zero_snr = row.zero_snr if terminal_snr == "auto" else terminal_snr == "zero"
    if zero_snr and row.predicts == "noise":
        why = "with zero terminal signal-to-noise ratio a predicted noise says nothing of the dose"
        raise UserError(f"{why}; take terminal_snr: reference, or a method that predicts v or the dose")
    mean, deviation = moments_of(training)
    standardised = is_standardised(row, first.grid) if standardise == "auto" else standardise == "yes"
    units = {"dose_shift": mean, "dose_scale": deviation} if standardised else {}
    return TrainConfig(
        method=method,
        cohort=cohort.name,
        cohort_sha256=cohort.checksum,
        case_ids=[sample.case_id for sample in training],
        site=first.channels.protocol.site,
        n_constraints=len(first.constraints),
        channels=list(first.channels.names),
        beams_deg=list(first.channels.beams_deg),
        **first.grid._asdict(),
        seed=run.seed,
        precision=choose_precision(run.precision, choose_device(run.device)),
        zero_snr=zero_snr,
        snr_divisor=1.0 if noise_shift == "no" else float(first.grid.answer**3),
        skip=deviation_past(row, training, skip, units.get("dose_scale", 1.0)),
        falloff=run.falloff() if "prior" in first.channels.names and not row.prior else (),
        targets=target_channels(row, first, target_layer),
        **units,
        **parameters,
    )


def target_channels(row: Method, sample: Sample, target_layer: str) -> tuple[int, ...]:
    """Where the distances to the targets stand among the channels, if voxels there have a last layer of their
    own, as make_config explains."""
    usual = sample.grid.answer > 1 and is_standardised(row, sample.grid)
    if not (usual if target_layer == "auto" else target_layer == "yes"):
        return ()
    return tuple(sample.channels.names.index(name) for name in sample.channels.protocol.targets)


def deviation_past(row: Method, training: list[Sample], skip: str, scale: float) -> float:
    """Deviation of what x_t tells past the network, in its units of `scale`: a share of the deviation of the
    dose, or of the residual of another network's dose; 0 if nothing goes past, as make_config explains."""
    must = row.timed and row.predicts != "dose" and training[0].grid.answer > 1
    if not (must if skip == "auto" else row.timed and skip == "yes"):
        return 0.0
    whole = moments_of(training)[1] if row.prior else float(doses_in_masks(training).std())
    return round(UNEXPLAINED * whole / scale, 3)


def moments_of(training: list[Sample]) -> tuple[float, float]:
    """Mean and deviation of the training doses less their priors', fractions of the prescription."""
    residuals = doses_in_masks([replace(s, dose=s.dose.float() - s.prior) for s in training])
    return float(residuals.mean()), float(residuals.std())


def doses_in_masks(samples: list[Sample]) -> torch.Tensor:
    return torch.cat([sample.dose[sample.mask > 0.5] for sample in samples]).double()
