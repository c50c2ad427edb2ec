#!/usr/bin/env bash
# diffusers' stochastic DPM-Solver++ (sde-dpmsolver++) of order 3.
#
# One would guess: with an exact denoiser of data of deviation 0.3 the samples of each order come to deviation 0.3 with
# more steps, order 3 first; the documentation recommends 3 for unconditional sampling.
# What happens: order 1 and 2 do (0.297 and 0.299 at 999 steps on the cosine schedule). Order 3 comes to 0.32, on Stable
# Diffusion's schedule to 0.35, and stays there: a spread too wide by 7 and 18 %. The mean is right. No warning.
# Who is hurt: whoever reads an ensemble's spread as uncertainty. Coverage looks better than it is, or a network that
# is too sure looks calibrated; no picture shows it.
# Where it comes from: multistep_dpm_solver_third_order_update. The weight of the second difference has a wrong sign in
# its numerator: for small steps h, (1 - exp(-2h) - 2h) / (2h)^2 - 0.5 goes to -1, (exp(-2h) - 1 + 2h) / (2h)^2 - 0.5
# would go to 0. On a noisy path differences do not vanish with h, and the term adds variance at every step.
# Seen with diffusers 0.42.1, torch 2.13.0, deviation at 100, 500, 999 steps:
#   cosine: order 1 0.284 0.297 0.297 · order 2 0.302 0.301 0.299 · order 3 0.328 0.320 0.320
#   scaled_linear: order 1 0.268 0.290 0.294 · order 2 0.289 0.297 0.298 · order 3 0.322 0.357 0.354
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from diffusers import DPMSolverMultistepScheduler

MEAN, DEVIATION = 0.7, 0.3  # of made-up data, one Gaussian number each, for which the best denoiser is known
SCHEDULES = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
}


def sample(schedule, order, steps):
    """Deviation of 40,000 samples; MEAN and DEVIATION are those of the data."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_order=order, **SCHEDULES[schedule]
    )
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 200, 200, dtype=torch.float64, generator=generator)
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[int(t)].double()
        noise_hat = (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * DEVIATION**2 + 1 - a)
        x = scheduler.step(noise_hat, t, x, generator=generator).prev_sample
    assert abs(float(x.mean()) - MEAN) < 0.01, "the mean is right"
    return float(x.std())


for schedule in SCHEDULES:
    spread = {order: [sample(schedule, order, steps) for steps in (100, 500, 999)] for order in (1, 2, 3)}
    rows = [f"order {order} " + " ".join(f"{value:.3f}" for value in row) for order, row in spread.items()]
    print(f"{schedule}: " + " · ".join(rows))
    error = {order: [abs(value - DEVIATION) for value in row] for order, row in spread.items()}
    assert error[1][2] < error[1][0] and max(error[1][2], error[2][2]) < 0.01, "orders 1 and 2 converge"
    assert min(spread[3]) > 1.05 * DEVIATION and error[3][2] > 0.6 * error[3][0], "order 3 does not"
PYTHON
echo "as found"
