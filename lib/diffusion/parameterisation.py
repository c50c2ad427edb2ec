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


def with_skip(
    predicts: str, output: Tensor, x_t: Tensor, signal: Tensor, share: Tensor, deviation: float
) -> Tensor:
    """What is predicted where x_t passes the network by: its output and the best that x_t alone says.

    A narrow network cannot hand on the noise of many voxels, which noise, v and velocity hold. So what a
    normal dose of mean 0 and `deviation` would be, given x_t, is added to the output; of the dose itself
    it is the mean of one normal about the output (Karras et al. 2022, arXiv 2206.00364, section 5, rescale
    a network alike). With d = signal^2 deviation^2 + share^2, which is the variance of x_t,

        E[dose | x_t] = signal deviation^2 x_t / d,        E[noise | x_t] = share x_t / d

    A deviation of 0 lets nothing past the network.
    """
    if not deviation:
        return output
    variance = signal**2 * deviation**2 + share**2
    of_dose, of_noise = signal * deviation**2 / variance, share / variance
    if predicts == "dose":
        return (output + of_dose * (x_t - signal * output)).to(x_t.dtype)
    gain = {
        "noise": of_noise,
        "v": signal * of_noise - share * of_dose,
        "velocity": of_dose - of_noise,
    }[predicts]
    return (output + gain * x_t).to(x_t.dtype)


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
