#!/usr/bin/env bash
# diffusers' FlowMatchEulerDiscreteScheduler with stochastic_sampling=True.
#
# One would guess: with an exact velocity it samples the data's distribution, as DDPM does: with more steps the spread
# of the samples comes to that of the data. Deterministic and stochastic sampling then differ in noise only.
# What happens: the spread comes to 0.71 of the data's (one over the square root of 2) and stays there however many
# steps are taken: 0.211 for data of deviation 0.3. At 10 steps it is 0.18. The mean is right; the same scheduler
# without the option comes to 0.30.
# Who is hurt: whoever draws ensembles of a flow with it to learn how sure the network is: a perfect network seems
# overconfident by 30 %, and more where the steps are few.
# Where it comes from: each step takes the expected clean image and adds all of the next level's noise anew, as a
# consistency model may (there the image is a sample, not an expectation). The docstring says "Whether to use
# stochastic sampling". On Gaussian data the stationary spread is that of the data over the square root of 2.
# Seen with diffusers 0.42.1, torch 2.13.0:
#   deviation at 10, 100, 1000 steps: stochastic 0.177 0.205 0.211 · deterministic 0.243 0.295 0.301
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

MEAN, DEVIATION = 0.7, 0.3  # of made-up data, one Gaussian number each, for which the best velocity is known


def sample(stochastic, steps):
    """Deviation of 90,000 samples."""
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 300, 300, dtype=torch.float64, generator=generator)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.double()):
        rest = (x - (1 - sigma) * MEAN) / ((1 - sigma) ** 2 * DEVIATION**2 + sigma**2)
        noise_hat, clean_hat = sigma * rest, MEAN + (1 - sigma) * DEVIATION**2 * rest
        x = scheduler.step(noise_hat - clean_hat, t, x, generator=generator).prev_sample
    assert abs(float(x.mean()) - MEAN) < 0.01, "the mean is right"
    return float(x.std())


spread = {name: [sample(name == "stochastic", n) for n in (10, 100, 1000)] for name in ("stochastic", "deterministic")}
rows = [f"{name} " + " ".join(f"{value:.3f}" for value in row) for name, row in spread.items()]
print("deviation at 10, 100, 1000 steps: " + " · ".join(rows))
assert abs(spread["deterministic"][2] - DEVIATION) < 0.004, "without the option the spread is right"
assert max(spread["stochastic"]) < 0.72 * DEVIATION, "with it the spread is too small at any number of steps"
assert abs(spread["stochastic"][2] - DEVIATION / 2**0.5) < 0.003, "and goes to 1 / sqrt(2) of the data's"
PYTHON
echo "as found"
