"""One patient sampled again from a finished training: watched step by step, and stopped on request."""

from dataclasses import replace

import numpy as np

from lib.diffusion.samplers import REFERENCE, DPMSolver, Midpoint
from lib.features.samples import cached_sample, features_folder
from lib.metrics.uncertainty import spread_gy
from lib.prediction.predict import on_case_grid, predict, usual_sampler
from lib.prediction.store import Prediction

# title -> (usual sampler -> sampler)
FLOW = {"Euler": lambda usual: usual, "midpoint": lambda usual: Midpoint(usual.n_steps)}
GAUSSIAN = {"mean": 0.0, "sample": 1.0}  # title -> temperature
DIFFUSION = {
    "DDIM, usual": lambda usual: usual,
    "DDIM, the reference's grid": lambda usual: replace(REFERENCE, n_steps=usual.n_steps),
    "DDPM (eta 1)": lambda usual: replace(usual, eta=1.0),
    "DPM-Solver++": lambda usual: DPMSolver(usual.n_steps, usual.grid, usual.start, usual.clamp),
}


class Stopped(Exception):
    """The user asked for it."""


def samplers_of(method):
    """The samplers that a method can be sampled with, by their titles."""
    if not method.timed:
        return GAUSSIAN if method.sampled else {"one pass": 1.0}
    return FLOW if method.predicts == "velocity" else DIFFUSION


def sampling_of(predictor, title, n_steps):
    """(sampler, temperature) for `predict` by a title of `samplers_of`."""
    chosen = samplers_of(predictor.method)[title]
    usual = usual_sampler(predictor.config, n_steps)
    return (chosen(usual), 1.0) if usual else (None, chosen)


def sample_anew(run, predictor, case, sampling, seed, members, told, stopped):
    """(Prediction of the mean with its spread, dose estimates of the first member along the steps).

    `told(done, calls)` hears of every network call; when `stopped()` is true after one, Stopped is raised.
    """
    cohort = run.open_cohort()
    sample = cached_sample(
        cohort, case.case_id, run.coarsen, run.beams_deg, features_folder(cohort, run.coarsen, run.beams_deg)
    )
    members = members if predictor.method.sampled else 1
    sampler, temperature = sampling
    calls, done, estimates = members * (sampler.nfe if sampler else 1), 0, []

    def watch(case_id, member, step, t, dose_hat):
        nonlocal done
        done += 1
        told(done, calls)
        if member == 0:
            estimates.append((t, dose_hat.float().cpu() * (sample.mask > 0)))
        if stopped():
            raise Stopped

    [doses] = predict(
        predictor,
        [sample],
        sampler,
        members=tuple(range(members)),
        seed=seed,
        temperature=temperature,
        batch_size=1,
        watch=watch,
        label="",
    )
    if stopped():
        raise Stopped
    members_gy = on_case_grid(doses, case, run.coarsen)
    spread = spread_gy(members_gy) if members > 1 else None
    return Prediction(members_gy.mean(axis=0, dtype=np.float32), spread), tuple(estimates)
