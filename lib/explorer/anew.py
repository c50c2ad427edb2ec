"""One patient sampled again from a finished training: watched step by step, and stopped on request."""

import numpy as np

from lib.features.samples import load_sample
from lib.metrics.uncertainty import spread_gy
from lib.prediction.predict import on_case_grid, predict_doses, usual_sampling
from lib.prediction.store import Prediction

# title -> changes to the usual sampling
FLOW = {"Euler": {"solver": "euler"}, "midpoint": {"solver": "midpoint"}}
GAUSSIAN = {"mean": {"temperature": 0.0}, "sample": {"temperature": 1.0}}
DIFFUSION = {
    "DDIM, usual": {},
    "DDIM, the reference's grid": {"grid": "leading", "clamp": "keep noise"},
    "DDPM (eta 1)": {"eta": 1.0},
    "DPM-Solver++": {"solver": "dpm_solver"},
}


class Stopped(Exception):
    """The user asked for it."""


def samplers_of(method):
    """The samplers that a method can be sampled with, by their titles."""
    if not method.timed:
        return GAUSSIAN if method.sampled else {"one pass": {}}
    return FLOW if method.predicts == "velocity" else DIFFUSION


def sampling_of(predictor, sampler, n_steps, seed):
    return usual_sampling(predictor.config, n_steps)._replace(
        seed=seed, **samplers_of(predictor.method)[sampler]
    )


def sample_anew(run, predictor, case, sampling, members, told, stopped):
    """(Prediction of the mean with its spread, dose estimates of the first member along the steps).

    `told(done, calls)` hears of every network call; when `stopped()` is true after one, Stopped is raised.
    """
    cohort = run.open_cohort()
    sample = load_sample(cohort, case.case_id, run.coarsen, run.beams_deg)
    members = members if predictor.method.sampled else 1
    calls, done, estimates = members * sampling.nfe(predictor.method), 0, []

    def watch(case_id, member, step, t, dose_hat):
        nonlocal done
        done += 1
        told(done, calls)
        if member == 0:
            estimates.append((t, dose_hat.float().cpu() * (sample.mask > 0)))
        if stopped():
            raise Stopped

    [doses] = predict_doses(
        predictor, [sample], sampling, tuple(range(members)), batch_size=1, watch=watch, label=""
    )
    if stopped():
        raise Stopped
    members_gy = on_case_grid(doses, case, run.coarsen)
    spread = spread_gy(members_gy) if members > 1 else None
    return Prediction(members_gy.mean(axis=0, dtype=np.float32), spread), tuple(estimates)
