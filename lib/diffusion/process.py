"""Gaussian diffusion of a dose: schedules, what a network may predict, step grids.

Papers: DDPM, Ho et al. 2020 (arXiv 2006.11239); cosine schedule, Nichol & Dhariwal 2021 (2102.09672); DDIM,
Song et al. 2021 (2010.02502); v, Salimans & Ho 2022 (2202.00512); zero terminal SNR, Lin et al. 2024
(2305.08891). Time t is an integer 0 .. T-1 and noise grows with it:

    x_t = sqrt(alpha_bar_t) dose + sqrt(1 - alpha_bar_t) noise          (DDPM Eq. 4)

    alpha_bar   cumulative product, float64 [T]; DDIM's papers call it alpha
    dose, noise, v, x_t   [B,1,D,H,W]; dose in the network's units (lib.features.units)
    *_hat       an estimate by the network
"""

import math

import torch

from lib.errors import UserError

T = 1000


def cosine_alpha_bar(n_levels=T, s=0.008):
    """Cosine schedule (Nichol & Dhariwal Eq. 17), betas clipped to 1e-4 .. 0.9999 as the reference does."""
    u = torch.arange(n_levels + 1, dtype=torch.float64) / n_levels
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(1e-4, 0.9999)
    return torch.cumprod(1 - beta, dim=0)


def zero_terminal(alpha_bar):
    """The schedule shifted and scaled so that x_T-1 is pure noise (Lin et al. Algorithm 1)."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def schedule(zero_snr):
    """The reference's alpha_bar, or the same with zero terminal signal-to-noise ratio."""
    return zero_terminal(cosine_alpha_bar()) if zero_snr else cosine_alpha_bar()


def at_level(alpha_bar, t, like):
    """alpha_bar at the integer times t [B], as float64 that broadcasts over [B,1,D,H,W]."""
    return alpha_bar.to(like.device)[t].view(-1, *[1] * (like.dim() - 1))


def add_noise(dose, noise, alpha_bar_t):
    """x_t of a dose (DDPM Eq. 4)."""
    return (alpha_bar_t.sqrt() * dose + (1 - alpha_bar_t).sqrt() * noise).to(dose.dtype)


def dose_from_noise(x_t, noise_hat, alpha_bar_t):
    """The dose that x_t and a predicted noise imply (DDIM Eq. 9).

    An error of the noise reaches the dose multiplied by sqrt((1 - alpha_bar) / alpha_bar): 34 at t = 980,
    64,000 at 999.
    """
    return ((x_t - (1 - alpha_bar_t).sqrt() * noise_hat) / alpha_bar_t.sqrt()).to(x_t.dtype)


def noise_from_dose(x_t, dose_hat, alpha_bar_t):
    """The noise that x_t and a predicted dose imply: the inverse of `dose_from_noise`."""
    return ((x_t - alpha_bar_t.sqrt() * dose_hat) / (1 - alpha_bar_t).sqrt()).to(x_t.dtype)


def v_from(dose, noise, alpha_bar_t):
    """v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) dose (Salimans & Ho, section 4)."""
    return (alpha_bar_t.sqrt() * noise - (1 - alpha_bar_t).sqrt() * dose).to(dose.dtype)


def dose_from_v(x_t, v_hat, alpha_bar_t):
    """The dose that x_t and a predicted v imply; no factor exceeds 1, at any t."""
    return (alpha_bar_t.sqrt() * x_t - (1 - alpha_bar_t).sqrt() * v_hat).to(x_t.dtype)


def noise_from_v(x_t, v_hat, alpha_bar_t):
    """The noise that x_t and a predicted v imply."""
    return ((1 - alpha_bar_t).sqrt() * x_t + alpha_bar_t.sqrt() * v_hat).to(x_t.dtype)


def estimates(predicts, output, x_t, alpha_bar_t):
    """(dose_hat, noise_hat) from the output of a network that predicts "noise", "v" or "dose"."""
    if predicts == "noise":
        return dose_from_noise(x_t, output, alpha_bar_t), output
    if predicts == "v":
        return dose_from_v(x_t, output, alpha_bar_t), noise_from_v(x_t, output, alpha_bar_t)
    return output, noise_from_dose(x_t, output, alpha_bar_t)


def target_of(predicts, dose, noise, alpha_bar_t):
    """What the network's output is compared with."""
    return {"noise": lambda: noise, "v": lambda: v_from(dose, noise, alpha_bar_t), "dose": lambda: dose}[
        predicts
    ]()


def noise_gain(alpha_bar):
    """By how much an error of the predicted noise is multiplied in the dose estimate, float64 [T]."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def leading_grid(n_steps, n_levels=T):
    """The reference study's times: every (T // n)-th from 0, descending; over n where n does not divide T."""
    check_steps(n_steps, n_levels)
    return list(range(0, n_levels, n_levels // n_steps))[::-1]


def corrected_grid(n_steps, n_levels=T):
    """Leading times, exactly n of them: i T / n rounded down, descending. Its start still depends on n."""
    check_steps(n_steps, n_levels)
    return [i * n_levels // n_steps for i in range(n_steps)][::-1]


def held_grid(n_steps, start):
    """Exactly n times, evenly spaced, the first always `start`; at T - 1 this is Lin et al.'s "trailing"
    (their Table 2)."""
    check_steps(n_steps, start + 1)
    return [round((start + 1) * (1 - i / n_steps)) - 1 for i in range(n_steps)]


def check_steps(n_steps, n_levels):
    if not 1 <= n_steps <= n_levels:
        raise UserError(
            f"{n_steps} sampling steps are not between 1 and the {n_levels} noise levels there are"
        )
