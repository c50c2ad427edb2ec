"""Flow matching from noise to a dose along straight paths.

Papers: Lipman et al. 2023 (arXiv 2210.02747), Liu et al. 2023, rectified flow (2209.03003). Time t is a
float, 0 at the noise and 1 at the dose (the other way round than a diffusion's):

    x_t = (1 - t) noise + t dose,        velocity = d x_t / d t = dose - noise

A sampler integrates `velocity_at` (x_t, t [B] float) -> velocity_hat from 0 to 1; `watch` is called with
(step, t, dose_hat) after each network call, dose_hat = x_t + (1 - t) velocity_hat.
"""

import torch


def at_time(dose, noise, t):
    """x_t at the times t [B]."""
    t = t.view(-1, *[1] * (dose.dim() - 1)).to(dose.dtype)
    return (1 - t) * noise + t * dose


def euler(velocity_at, noise, n_steps, watch=None):
    """n steps of first order, as many network calls."""
    x_t = noise
    for step in range(n_steps):
        velocity_hat = called(velocity_at, x_t, step, step / n_steps, watch)
        x_t = x_t + velocity_hat / n_steps
    return x_t


def midpoint(velocity_at, noise, n_steps, watch=None):
    """n second-order steps of two calls each: the velocity half a step ahead is used for the whole step."""
    x_t = noise
    for step in range(n_steps):
        t = step / n_steps
        half = x_t + called(velocity_at, x_t, 2 * step, t, watch) / (2 * n_steps)
        x_t = x_t + called(velocity_at, half, 2 * step + 1, t + 0.5 / n_steps, watch) / n_steps
    return x_t


def called(velocity_at, x_t, step, t, watch):
    velocity_hat = velocity_at(x_t, torch.full((len(x_t),), t, dtype=x_t.dtype, device=x_t.device))
    if watch is not None:
        watch(step, t, x_t + (1 - t) * velocity_hat)
    return velocity_hat
