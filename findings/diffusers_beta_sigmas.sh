#!/usr/bin/env bash
# diffusers' use_beta_sigmas, "as proposed in Beta Sampling is All You Need".
#
# One would guess: the steps' times are quantiles of a beta distribution, as that paper has it: a few more steps at both
# ends, and with an exact denoiser of data of deviation 0.3 samples about as good as without, better with more steps.
# What happens: the quantiles are taken of sigma, not of time. Where sigma reaches far, nearly all steps lie in pure
# noise: with Stable Diffusion's schedule rescaled to zero terminal SNR (sigma to 4096) 48 of 50 steps have t >= 900,
# and one has t < 500. Samples shrink to 40 % of the data's spread, and 100 steps are worse than 20. On the cosine
# schedule hardly any spread is left. The mean is right. No warning.
# Who is hurt: whoever turns the option on for a model with zero terminal SNR or a cosine schedule: smooth pictures near
# the mean, an ensemble that is far too sure, and more steps seem to have no effect. (With sigma only up to 15, Stable
# Diffusion's own schedule, it costs little.)
# Where it comes from: _convert_to_beta, in all 14 schedulers with the option, scales the quantiles from the smallest
# sigma to the largest. (In flow matching sigma is the time, and it is right.)
# Seen with diffusers 0.42.1, torch 2.13.0, Euler, deviation at 20, 50, 100 steps:
#   zero SNR: plain 0.227 0.263 0.278 · exponential 0.219 0.261 0.279
#     beta of t 0.264 0.285 0.292 · beta 0.146 0.121 0.109
#   cosine: plain 0.267 0.286 0.293 · exponential 0.248 0.278 0.289
#     beta of t 0.272 0.289 0.294 · beta 0.083 0.043 0.030
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 diffusers==0.42.1 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import diffusers
import numpy as np
import torch
from scipy.stats import beta

MEAN, DEVIATION = 0.7, 0.3  # of made-up data, one Gaussian number each, for which the best denoiser is known
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = {
    "zero SNR": {**STABLE, "rescale_betas_zero_snr": True},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


def sample(schedule, way, steps):
    """Deviation of 10,000 samples, and how many steps have t < 500."""
    options = {} if way in ("plain", "beta of t") else {f"use_{way}_sigmas": True}
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing", **SCHEDULES[schedule], **options
    )
    if way == "beta of t":  # as in the paper, by the scheduler's own argument for one's own times
        times = np.rint(999 * beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6)).astype(int)
        scheduler.set_timesteps(timesteps=times.tolist())
    else:
        scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    x = torch.randn(100, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean()) / x.std() * scheduler.init_noise_sigma
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.double()):
        a = 1 / (1 + sigma**2)  # the scheduler's own level, so that the denoiser is exact at any t
        x_in = scheduler.scale_model_input(x, t)
        x0 = MEAN + a.sqrt() * DEVIATION**2 * (x_in - a.sqrt() * MEAN) / (a * DEVIATION**2 + 1 - a)
        noise = (x_in - a.sqrt() * x0) / (1 - a).sqrt()
        x = scheduler.step(a.sqrt() * noise - (1 - a).sqrt() * x0, t, x).prev_sample
    assert abs(float(x.mean()) - MEAN) < 0.001, "the mean is right"
    return float(x.std()), int((scheduler.timesteps < 500).sum())


for schedule in SCHEDULES:
    ways = ("plain", "exponential", "beta of t", "beta")
    seen = {way: [sample(schedule, way, steps) for steps in (20, 50, 100)] for way in ways}
    rows = [way + "".join(f" {value:.3f}" for value, _ in row) for way, row in seen.items()]
    print(f"{schedule}: " + " · ".join(rows))
    for way in ("plain", "exponential", "beta of t"):
        spread = [value for value, _ in seen[way]]
        assert spread[0] < spread[1] < spread[2] and 0.92 < spread[2] / DEVIATION < 1, "right, and better by steps"
    assert seen["beta of t"][2][1] > 40 and seen["beta"][2][1] < 3, "a step or two for half of the times"
    assert max(value for value, _ in seen["beta"]) < 0.55 * DEVIATION, "beta loses half of the spread and more"
PYTHON
echo "as found"
