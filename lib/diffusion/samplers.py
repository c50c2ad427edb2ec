"""Samplers of a diffusion: functions of (denoiser, start noise, times); nothing else decides their result.

    denoise          (x_t, t [B] int64) -> (dose_hat, noise_hat), both [B,1,D,H,W]
    noise            [B,1,D,H,W], the state at the first time
    grid             descending integer times; the last step goes to alpha_bar = 1
    alpha_bar        float64 [T]
    clamp            bounds (lo, hi) of dose_hat, numbers or tensors, or None
    rederive_noise   whether noise_hat is then made to agree with the clamped dose_hat; the reference keeps it
    watch            called with (step, t, dose_hat) after each network call

Each returns the dose [B,1,D,H,W] and calls the network len(grid) times.
"""

import torch

from lib.diffusion.process import noise_from_dose


def ddim(
    denoise,
    noise,
    grid,
    alpha_bar,
    *,
    clamp=(-1.0, 2.0),
    rederive_noise=False,
    eta=0.0,
    generator=None,
    watch=None,
):
    """DDIM (Song et al. 2021, Eq. 12 and 16); eta 0 is deterministic, 1 DDPM's ancestral sampling."""
    x_t = noise
    for step, (t, alpha_bar_t, alpha_bar_s) in enumerate(levels(grid, alpha_bar)):
        dose_hat, noise_hat = clamped(denoise, x_t, t, alpha_bar_t, clamp, rederive_noise)
        if watch is not None:
            watch(step, t, dose_hat)
        x_t = ddim_step(dose_hat, noise_hat, alpha_bar_t, alpha_bar_s, eta, generator)
    return x_t


def ddim_step(dose_hat, noise_hat, alpha_bar_t, alpha_bar_s, eta, generator):
    """x_s at the lower level s from the estimates at t (DDIM Eq. 12), with noise (Eq. 16) for eta > 0."""
    sigma_eta = eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)).sqrt()
    x_s = alpha_bar_s.sqrt() * dose_hat + (1 - alpha_bar_s - sigma_eta**2).clamp(min=0).sqrt() * noise_hat
    if eta > 0:
        fresh = torch.randn(x_s.shape, generator=generator, dtype=x_s.dtype).to(x_s.device)
        x_s = x_s + sigma_eta * fresh
    return x_s.to(dose_hat.dtype)


def dpm_solver(denoise, noise, grid, alpha_bar, *, clamp=None, watch=None):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): second order, one call a step.

    With lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)) the dose estimate is extrapolated over a step h
    of lambda from this and the call before. The first step and the one to alpha_bar = 1, where h is infinite,
    are of first order.
    """
    x_t, before, h_before = noise, None, None
    for step, (t, alpha_bar_t, alpha_bar_s) in enumerate(levels(grid, alpha_bar)):
        dose_hat, _ = clamped(denoise, x_t, t, alpha_bar_t, clamp, False)
        if watch is not None:
            watch(step, t, dose_hat)
        h = half_log_snr(alpha_bar_s) - half_log_snr(alpha_bar_t)
        use = dose_hat
        if before is not None and torch.isfinite(h):
            use = dose_hat + h / (2 * h_before) * (dose_hat - before)  # r = h_before / h
        ratio = ((1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt()
        x_t = (ratio * x_t + (alpha_bar_s.sqrt() - ratio * alpha_bar_t.sqrt()) * use).to(noise.dtype)
        before, h_before = dose_hat, h
    return x_t


def levels(grid, alpha_bar):
    """(t, alpha_bar at t, alpha_bar at the next time or 1) for each step."""
    ends = [alpha_bar[t] for t in grid[1:]] + [torch.ones((), dtype=torch.float64)]
    return [(t, alpha_bar[t], end) for t, end in zip(grid, ends)]


def clamped(denoise, x_t, t, alpha_bar_t, clamp, rederive_noise):
    dose_hat, noise_hat = denoise(x_t, torch.full((len(x_t),), t, device=x_t.device))
    if clamp is not None:
        dose_hat = dose_hat.clamp(*clamp)
        if rederive_noise:
            noise_hat = noise_from_dose(x_t, dose_hat, alpha_bar_t)
    return dose_hat, noise_hat


def half_log_snr(alpha_bar_t):
    return 0.5 * (alpha_bar_t.log() - (1 - alpha_bar_t).log())
