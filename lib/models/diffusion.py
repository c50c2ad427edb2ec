"""Gaussian diffusion of a dose: schedule, conversions, step grids, DDIM.

Papers: DDPM, Ho et al. 2020 (arXiv 2006.11239); cosine schedule, Nichol & Dhariwal 2021 (2102.09672);
DDIM, Song et al. 2021 (2010.02502). Time t is an integer 0 .. T-1 and noise grows with it:

    x_t = sqrt(alpha_bar_t) dose + sqrt(1 - alpha_bar_t) noise          (DDPM Eq. 4)

    alpha_bar   cumulative product, float64 [T]; DDIM's papers call it alpha
    dose, noise, x_t   [B,1,D,H,W]; dose as a fraction of the prescription
    *_hat       an estimate by the network
"""
import math

import torch

from lib.errors import UserError

T = 1000


def cosine_alpha_bar(n_levels=T, s=0.008):
    """Cosine schedule (Nichol & Dhariwal Eq. 17), its betas clipped to 1e-4 .. 0.9999 as in the reference study."""
    u = torch.arange(n_levels + 1, dtype=torch.float64) / n_levels
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(1e-4, 0.9999)
    return torch.cumprod(1 - beta, dim=0)


def at_level(alpha_bar, t, like):
    """alpha_bar at the integer times t [B], as float64 that broadcasts over [B,1,D,H,W]."""
    return alpha_bar.to(like.device)[t].view(-1, *[1] * (like.dim() - 1))


def add_noise(dose, noise, alpha_bar_t):
    """x_t of a dose (DDPM Eq. 4)."""
    return (alpha_bar_t.sqrt() * dose + (1 - alpha_bar_t).sqrt() * noise).to(dose.dtype)


def dose_from_noise(x_t, noise_hat, alpha_bar_t):
    """The dose that x_t and a predicted noise imply (DDIM Eq. 9).

    An error of the noise reaches the dose multiplied by sqrt((1 - alpha_bar) / alpha_bar): 34 at t = 980, 64,000 at 999.
    """
    return ((x_t - (1 - alpha_bar_t).sqrt() * noise_hat) / alpha_bar_t.sqrt()).to(x_t.dtype)


def noise_from_dose(x_t, dose_hat, alpha_bar_t):
    """The noise that x_t and a predicted dose imply: the inverse of `dose_from_noise`."""
    return ((x_t - alpha_bar_t.sqrt() * dose_hat) / (1 - alpha_bar_t).sqrt()).to(x_t.dtype)


def noise_gain(alpha_bar):
    """By how much an error of the predicted noise is multiplied in the dose estimate, float64 [T]."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def leading_grid(n_steps, n_levels=T):
    """The reference study's times: every (T // n)-th from 0, descending; more than n where n does not divide T."""
    check_steps(n_steps, n_levels)
    return list(range(0, n_levels, n_levels // n_steps))[::-1]


def held_grid(n_steps, start):
    """Exactly n times, evenly spaced, the first always `start`: Lin et al. 2024 (2305.08891) "trailing" at T - 1."""
    check_steps(n_steps, start + 1)
    return [round((start + 1) * (1 - i / n_steps)) - 1 for i in range(n_steps)]


def check_steps(n_steps, n_levels):
    if not 1 <= n_steps <= n_levels:
        raise UserError(f"{n_steps} sampling steps are not between 1 and the {n_levels} noise levels there are")


def ddim(denoise, noise, grid, alpha_bar, *, clamp=(-1.0, 2.0), rederive_noise=False, eta=0.0, generator=None, watch=None):
    """Sample a dose from `noise` along the descending times of `grid` (DDIM Eq. 12 and 16).

    denoise          (x_t, t [B] int64) -> (dose_hat, noise_hat), both [B,1,D,H,W]
    clamp            bounds of dose_hat, or None
    rederive_noise   whether noise_hat is then made to agree with the clamped dose_hat; the reference keeps it
    eta              0 deterministic, 1 ancestral (DDPM's posterior variance on the full grid)
    watch            called with (step, t, dose_hat) after each network call
    Returns the dose [B,1,D,H,W]; the network is called len(grid) times.
    """
    x_t = noise
    for step, t in enumerate(grid):
        alpha_bar_t = alpha_bar[t]
        alpha_bar_s = alpha_bar[grid[step + 1]] if step + 1 < len(grid) else torch.ones((), dtype=torch.float64)
        dose_hat, noise_hat = denoise(x_t, torch.full((len(x_t),), t, device=x_t.device))
        if clamp is not None:
            dose_hat = dose_hat.clamp(*clamp)
            if rederive_noise:
                noise_hat = noise_from_dose(x_t, dose_hat, alpha_bar_t)
        if watch is not None:
            watch(step, t, dose_hat)
        x_t = ddim_step(dose_hat, noise_hat, alpha_bar_t, alpha_bar_s, eta, generator)
    return x_t


def ddim_step(dose_hat, noise_hat, alpha_bar_t, alpha_bar_s, eta, generator):
    """x_s at the lower level s from the estimates at t (DDIM Eq. 12), with the noise of Eq. 16 for eta > 0."""
    sigma_eta = eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)).sqrt()
    x_s = alpha_bar_s.sqrt() * dose_hat + (1 - alpha_bar_s - sigma_eta**2).clamp(min=0).sqrt() * noise_hat
    if eta > 0:
        fresh = torch.randn(x_s.shape, generator=generator, dtype=x_s.dtype).to(x_s.device)
        x_s = x_s + sigma_eta * fresh
    return x_s.to(dose_hat.dtype)
