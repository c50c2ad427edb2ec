"""From parameters to the configuration of a training, and what its method is shown of the patients."""

from typing import Any

import torch

from lib.device import choose_device, choose_precision
from lib.errors import UserError
from lib.features.samples import Sample
from lib.models.config import TrainConfig
from lib.models.methods import find_method
from lib.prediction.predict import with_priors

UNEXPLAINED = 0.3  # deviation of the dose that is left when the patient is known, as a share of the whole


def start_from_prior(run: Any, method: str, *parts: list[Sample]) -> tuple[list[Sample], ...]:
    """The samples as the method needs them: with the dose of its prior, trained in `run` (an Experiment)."""
    prior = find_method(method).prior
    if not prior:
        return parts
    predictor = run.load_predictor(prior)
    return tuple(with_priors(predictor, part) if part else part for part in parts)


def make_config(
    run: Any,
    training: list[Sample],
    *,
    method: str,
    standardise: str,
    terminal_snr: str,
    noise_shift: str = "yes",
    skip: str = "auto",
    **parameters: Any,
) -> TrainConfig:
    """The configuration of a training of `run` (an Experiment) on the samples `training`.

    `standardise` ("auto" | "yes" | "no") and `terminal_snr` ("auto" | "zero" | "reference"): auto is as the
    method has it. With `noise_shift` ("yes" | "no") the noise moves with the number of answers in a block.
    `skip` ("auto" | "yes" | "no"): auto lets x_t past a network that must give its noise, in several voxels a
    block. A UserError if noise is to be predicted where there is nothing else.
    """
    row, cohort, first = find_method(method), run.open_cohort(), training[0]
    zero_snr = row.zero_snr if terminal_snr == "auto" else terminal_snr == "zero"
    if zero_snr and row.predicts == "noise":
        why = "with zero terminal signal-to-noise ratio a predicted noise says nothing of the dose"
        raise UserError(f"{why}; take terminal_snr: reference, or a method that predicts v or the dose")
    (mean, deviation), in_voxels = moments_of(training), first.grid.answer > 1
    # a regression of voxels learns several times faster from a standardised dose
    usual = row.standardised or (in_voxels and not row.timed)
    standardised = usual if standardise == "auto" else standardise == "yes"
    must_pass = row.timed and row.predicts != "dose" and in_voxels
    passes = must_pass if skip == "auto" else row.timed and skip == "yes"
    unexplained = round(UNEXPLAINED * (1.0 if standardised else deviation), 3)
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
        skip=unexplained if passes else 0.0,
        **units,
        **parameters,
    )


def moments_of(training: list[Sample]) -> tuple[float, float]:
    """Mean and deviation of the training doses less their priors', fractions of the prescription."""
    residuals = torch.cat([(s.dose.float() - s.prior)[s.mask > 0.5] for s in training]).double()
    return float(residuals.mean()), float(residuals.std())
