"""What a network may predict of x_t = signal dose + share noise, and the dose and the noise that it implies.

Papers: DDIM, Song et al. 2021 (2010.02502); v, Salimans & Ho 2022 (2202.00512). `predicts` is "dose",
"noise", or a mixture of both; all volumes are [B,1,D,H,W], over which signal and share broadcast:

    v = signal noise - share dose        with signal = sqrt(alpha_bar_t), share = sqrt(1 - alpha_bar_t)
    velocity = dose - noise              with signal = t, share = 1 - t, of a flow (lib.diffusion.flow)
"""

from torch import Tensor


def target_of(predicts: str, dose: Tensor, noise: Tensor, signal: Tensor, share: Tensor) -> Tensor:
    """What the network's output is compared with."""
    if predicts == "velocity":
        return dose - noise
    if predicts == "v":
        return (signal * noise - share * dose).to(dose.dtype)
    return noise if predicts == "noise" else dose


def dose_from_noise(x_t: Tensor, noise_hat: Tensor, signal: Tensor, share: Tensor) -> Tensor:
    """The dose that x_t and a predicted noise imply (DDIM Eq. 9).

    An error of the noise reaches the dose multiplied by share / signal: 34 at t = 980, 64,000 at 999.
    """
    return ((x_t - share * noise_hat) / signal).to(x_t.dtype)


def noise_from_dose(x_t: Tensor, dose_hat: Tensor, signal: Tensor, share: Tensor) -> Tensor:
    """The noise that x_t and a predicted dose imply: the inverse of `dose_from_noise`."""
    return ((x_t - signal * dose_hat) / share).to(x_t.dtype)


def estimates(
    predicts: str, output: Tensor, x_t: Tensor, signal: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """(dose_hat, noise_hat) from a diffusion's output."""
    if predicts == "noise":
        return dose_from_noise(x_t, output, signal, share), output
    if predicts == "dose":
        return output, noise_from_dose(x_t, output, signal, share)
    dose_hat, noise_hat = signal * x_t - share * output, share * x_t + signal * output
    return dose_hat.to(x_t.dtype), noise_hat.to(x_t.dtype)  # of v no error grows, at any t


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
    gain = target_of(predicts, of_dose, of_noise, signal, share)  # what is predicted is linear in both
    return (output + gain * x_t).to(x_t.dtype)
