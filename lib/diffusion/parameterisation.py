"""What a diffusion's network may predict, and the dose and the noise that its output implies.

Papers: DDIM, Song et al. 2021 (2010.02502); v, Salimans & Ho 2022 (2202.00512). `predicts` is "noise", "v" or
"dose"; all volumes are [B,1,D,H,W], and alpha_bar_t broadcasts over them. With signal = sqrt(alpha_bar_t) and
share = sqrt(1 - alpha_bar_t):

    x_t = signal dose + share noise,        v = signal noise - share dose
"""

from torch import Tensor


def dose_from_noise(x_t: Tensor, noise_hat: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """The dose that x_t and a predicted noise imply (DDIM Eq. 9).

    An error of the noise reaches the dose multiplied by share / signal: 34 at t = 980, 64,000 at 999.
    """
    return ((x_t - (1 - alpha_bar_t).sqrt() * noise_hat) / alpha_bar_t.sqrt()).to(x_t.dtype)


def noise_from_dose(x_t: Tensor, dose_hat: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """The noise that x_t and a predicted dose imply: the inverse of `dose_from_noise`."""
    return ((x_t - alpha_bar_t.sqrt() * dose_hat) / (1 - alpha_bar_t).sqrt()).to(x_t.dtype)


def with_skip(dose_hat: Tensor, x_t: Tensor, alpha_bar_t: Tensor, deviation: float) -> Tensor:
    """The mean of a dose that is normal about `dose_hat` with `deviation`, given its x_t as well.

    So the detail of x_t that a narrow network cannot hand on reaches the estimate past it, as far as it tells
    dose from noise: dose_hat + gain (x_t - signal dose_hat) (Karras et al. 2022, arXiv 2206.00364, section 5,
    whose network is rescaled alike). A deviation of 0 gives dose_hat.
    """
    gain = deviation**2 * alpha_bar_t.sqrt() / (alpha_bar_t * deviation**2 + 1 - alpha_bar_t)
    return (dose_hat + gain * (x_t - alpha_bar_t.sqrt() * dose_hat)).to(x_t.dtype)


def estimates(predicts: str, output: Tensor, x_t: Tensor, alpha_bar_t: Tensor) -> tuple[Tensor, Tensor]:
    """(dose_hat, noise_hat) from a network's output."""
    if predicts == "noise":
        return dose_from_noise(x_t, output, alpha_bar_t), output
    if predicts == "dose":
        return output, noise_from_dose(x_t, output, alpha_bar_t)
    signal, share = alpha_bar_t.sqrt(), (1 - alpha_bar_t).sqrt()  # neither exceeds 1, at any t
    return (signal * x_t - share * output).to(x_t.dtype), (share * x_t + signal * output).to(x_t.dtype)


def target_of(predicts: str, dose: Tensor, noise: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """What the network's output is compared with; v by Salimans & Ho, section 4."""
    if predicts == "v":
        return (alpha_bar_t.sqrt() * noise - (1 - alpha_bar_t).sqrt() * dose).to(dose.dtype)
    return noise if predicts == "noise" else dose
