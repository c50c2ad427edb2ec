"""The noise schedule of a Gaussian diffusion of a dose.

Papers: DDPM, Ho et al. 2020 (arXiv 2006.11239); cosine schedule, Nichol & Dhariwal 2021 (2102.09672); zero
terminal SNR, Lin et al. 2024 (2305.08891). Time t is an integer 0 .. T-1 and noise grows with it:

    x_t = sqrt(alpha_bar_t) dose + sqrt(1 - alpha_bar_t) noise          (DDPM Eq. 4)

    alpha_bar           cumulative product, float64 [T]; DDIM's papers call it alpha
    dose, noise, x_t    [B,1,D,H,W]; dose in the network's units (lib.features.units)
"""

import math
from functools import cache

import torch
from torch import Tensor

T = 1000


def cosine_alpha_bar(n_levels: int = T, s: float = 0.008) -> Tensor:
    """Cosine schedule (Nichol & Dhariwal Eq. 17), betas clipped to 1e-4 .. 0.9999 as the reference does."""
    u = torch.arange(n_levels + 1, dtype=torch.float64) / n_levels
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(1e-4, 0.9999)
    return torch.cumprod(1 - beta, dim=0)


@cache
def schedule(zero_snr: bool, snr_divisor: float = 1.0) -> Tensor:
    """The reference's alpha_bar; with `zero_snr` x_T-1 is pure noise (Lin et al. Algorithm 1).

    The mean over n voxels has n times their signal-to-noise ratio. With `snr_divisor` = n a dose of n voxels
    in a block is hidden at each t as a block's is by the plain schedule (Hoogeboom et al. 2023, 2301.11093).
    """
    alpha_bar = cosine_alpha_bar()
    if zero_snr:
        root = alpha_bar.sqrt()
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alpha_bar if snr_divisor == 1 else alpha_bar / (alpha_bar + snr_divisor * (1 - alpha_bar))


def at_level(alpha_bar: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """alpha_bar at the integer times t [B], as float64 that broadcasts over `like` [B,1,D,H,W]."""
    return alpha_bar.to(like.device, non_blocking=True)[t].view(-1, *[1] * (like.dim() - 1))


def weights(alpha_bar_t: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, share): what the dose and the noise are multiplied by in x_t."""
    return alpha_bar_t.sqrt(), (1 - alpha_bar_t).sqrt()


def add_noise(dose: Tensor, noise: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """x_t of a dose (DDPM Eq. 4)."""
    signal, share = weights(alpha_bar_t)
    return (signal * dose + share * noise).to(dose.dtype)


def noise_gain(alpha_bar: Tensor) -> Tensor:
    """By how much an error of the predicted noise is multiplied in the dose estimate, float64 [T]."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()
