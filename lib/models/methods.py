"""The methods by name: what the network predicts and how it is trained."""
from typing import NamedTuple

import torch

from lib.errors import UserError
from lib.models.diffusion import T, add_noise, at_level
from lib.models.losses import dose_loss, gradient_loss, noise_loss


class Method(NamedTuple):
    """`timed`: the network gets x_t and t; `predicts`: what its output is."""

    title: str
    timed: bool
    predicts: str


METHODS = {
    "baseline": Method("U-Net regression", timed=False, predicts="dose"),
    "gradient": Method("U-Net regression + gradient loss", timed=False, predicts="dose"),
    "ddpm": Method("DDPM, noise predicted", timed=True, predicts="noise"),
}


def find_method(name):
    if name not in METHODS:
        raise UserError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def regression_loss(network, batch, gradient_weight, spacing_mm):
    """The reference's regression loss; with a weight above 0 + the gradient loss."""
    dose_hat = network(batch.cond, batch.constraints)
    loss = dose_loss(dose_hat, batch.dose)
    return loss + gradient_weight * gradient_loss(dose_hat, batch.dose, spacing_mm) if gradient_weight else loss


def diffusion_loss(network, batch, alpha_bar, generator):
    """DDPM Algorithm 1: a random level for each sample, its noise predicted."""
    t = torch.randint(T, (len(batch.dose),), generator=generator).to(batch.dose.device)
    noise = torch.randn(batch.dose.shape, generator=generator).to(batch.dose.device)
    alpha_bar_t = at_level(alpha_bar, t, batch.dose)
    x_t = add_noise(batch.dose, noise, alpha_bar_t)
    noise_hat = network(batch.cond, batch.constraints, x_t, t)
    return noise_loss(noise_hat, noise, x_t, alpha_bar_t)
