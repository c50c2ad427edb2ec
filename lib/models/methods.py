"""The methods by name: what the network predicts and how it is trained.

A training is named by its method, or `<method>-<variant>` where an experiment trains a method more than once.
"""

from typing import NamedTuple

import torch

from lib.diffusion.flow import at_time
from lib.diffusion.parameterisation import dose_from_noise, target_of
from lib.diffusion.schedule import T, add_noise, at_level
from lib.errors import UserError
from lib.features.samples import structures_of
from lib.models.losses import (
    dose_loss,
    dvh_loss,
    gaussian_loss,
    gradient_loss,
    mean_inside,
    min_snr_weight,
    negative_dose_penalty,
)
from lib.models.unet import UNet


class Method(NamedTuple):
    """One row of the table of methods.

    predicts      "dose", "noise", "v", "velocity" or "dose and deviation": what the network's output is
    timed         the network gets x_t and t
    zero_snr      trained and sampled with zero terminal signal-to-noise ratio, unless parameters differ
    standardised  the dose has mean 0 and deviation 1 for the network, unless the parameters say otherwise
    prior         the regression whose dose is given to the network and whose residual it predicts
    extra         further loss of a regression: "gradient" or "gradient and vgg"
    """

    title: str
    predicts: str
    timed: bool = False
    zero_snr: bool = False
    standardised: bool = False
    prior: str | None = None
    extra: str = ""

    @property
    def outputs(self):
        """Channels of the network's output."""
        return 2 if self.predicts == "dose and deviation" else 1

    @property
    def sampled(self):
        """Whether members of an ensemble differ."""
        return self.timed or self.outputs == 2

    def make_network(self, config):
        return UNet(config.cond_channels, config.base_channels, self.timed, self.outputs)


METHODS = {
    "baseline": Method("U-Net regression", "dose"),
    "gradient": Method("U-Net regression + gradient loss", "dose", extra="gradient"),
    "gradient_vgg": Method("U-Net regression + gradient and VGG loss", "dose", extra="gradient and vgg"),
    "cascade": Method("U-Net regression of the regression's residual", "dose", prior="baseline"),
    "gaussian": Method("U-Net regression with a deviation for each voxel", "dose and deviation"),
    "ddpm": Method("DDPM, noise predicted", "noise", timed=True),
    "ddpm_v": Method("diffusion, v predicted", "v", timed=True, zero_snr=True, standardised=True),
    "ddpm_dose": Method("diffusion, dose predicted", "dose", timed=True, zero_snr=True, standardised=True),
    "flow": Method("flow matching", "velocity", timed=True, standardised=True),
    "refine": Method(
        "diffusion of the regression's residual",
        "v",
        timed=True,
        zero_snr=True,
        standardised=True,
        prior="baseline",
    ),
}


def kind(name):
    """Method of a training's name, also as the comparison shows it: "ddpm-seed43, mean of 5" is "ddpm"."""
    return name.split(",")[0].split("-")[0]


def find_method(name):
    if kind(name) not in METHODS:
        raise UserError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[kind(name)]


def offset_of(config, cond):
    """What is taken from a dose before the network's scale: the cohort's mean, and any prior's dose."""
    return config.dose_shift + (cond[:, -1:] if find_method(config.method).prior else 0.0)


def inside_of(config, batch):
    """Where the loss looks and a dose is predicted, bool [B,1,D,H,W]; elsewhere the dose is known to be 0."""
    return batch.mask > 0 if config.region == "dose mask" else torch.ones_like(batch.mask, dtype=torch.bool)


def draw_noise(config, batch, generator):
    """What a sampled method's loss draws: levels [B] (a step t, or a flow's time) and noise [B,1,D,H,W]."""
    method = find_method(config.method)
    if not method.timed:
        return None
    size = (len(batch.dose),)
    levels = (
        torch.rand(size, generator=generator)
        if method.predicts == "velocity"
        else torch.randint(T, size, generator=generator)
    )
    return levels.to(batch.dose.device), torch.randn(batch.dose.shape, generator=generator).to(
        batch.dose.device
    )


def training_loss(network, batch, drawn, config, alpha_bar, perceptual=None):
    """The loss of one batch by the training's method; `drawn` by `draw_noise`. It is a mean over patients."""
    method = find_method(config.method)
    if not method.timed:
        return regression_loss(network, batch, config, method.extra, perceptual)
    dose = (batch.dose - offset_of(config, batch.cond)) / config.dose_scale
    if method.predicts == "velocity":
        return flow_loss(network, batch, dose, *drawn, config)
    return diffusion_loss(network, batch, dose, *drawn, config, alpha_bar)


def regression_loss(network, batch, config, extra, perceptual):
    """The reference's regression loss, that of DVHs if weighed, with its gradient loss and that of VGG
    features where the method has them."""
    inside = inside_of(config, batch)
    output = network(batch.cond, batch.constraints)
    dose_hat = (output[:, :1] * config.dose_scale + offset_of(config, batch.cond)) * inside
    if output.shape[1] == 2:
        return gaussian_loss(dose_hat, output[:, 1:], batch.dose, inside)
    loss = dose_loss(dose_hat, batch.dose, inside, config.dose_error)
    if config.dvh_weight:
        loss = loss + config.dvh_weight * dvh_loss(dose_hat, batch.dose, structures_of(batch))
    if extra:
        spacing_mm = (
            batch.spacing_mm if config.gradient_units == "per mm" else torch.ones_like(batch.spacing_mm)
        )
        loss = loss + config.gradient_weight * gradient_loss(dose_hat, batch.dose, spacing_mm)
    return loss + config.vgg_weight * perceptual(dose_hat, batch.dose) if perceptual else loss


def diffusion_loss(network, batch, dose, t, noise, config, alpha_bar):
    """DDPM Algorithm 1: a random level for each sample, and what the method predicts compared there.

    If noise is predicted, + the reference's penalty on negative dose estimates.
    """
    predicts, inside = find_method(config.method).predicts, inside_of(config, batch)
    alpha_bar_t = at_level(alpha_bar, t, dose)
    x_t = add_noise(dose, noise, alpha_bar_t)
    output = network(batch.cond, batch.constraints, x_t, t)
    squared = (output - target_of(predicts, dose, noise, alpha_bar_t)) ** 2
    if config.weighting == "min-snr":
        squared = squared * min_snr_weight(predicts, alpha_bar_t).to(squared.dtype)
    loss = mean_inside(squared, inside)
    if predicts == "noise":
        dose_hat = dose_from_noise(x_t, output, alpha_bar_t) * config.dose_scale + config.dose_shift
        loss = loss + negative_dose_penalty(dose_hat, inside)
    return loss


def flow_loss(network, batch, dose, t, noise, config):
    """Conditional flow matching (Lipman et al. 2023, Eq. 23 with sigma_min 0): the velocity dose - noise at a
    random time."""
    output = network(batch.cond, batch.constraints, at_time(dose, noise, t), flow_level(t))
    return mean_inside((output - (dose - noise)) ** 2, inside_of(config, batch))


def flow_level(t):
    """A flow's time as the network sees it: noise grows with it from 0 to T - 1, as with a diffusion's."""
    return (1 - t) * (T - 1)
