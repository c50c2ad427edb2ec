"""The loss of one batch by the training's method: what the network is shown and what it is to answer."""

from collections.abc import Callable

import torch
from torch import Tensor

from lib.diffusion.flow import shift_time
from lib.diffusion.parameterisation import dose_from_noise, target_of, with_skip
from lib.diffusion.schedule import T, at_level
from lib.features.batches import Batch
from lib.models import losses
from lib.models.config import TrainConfig
from lib.models.methods import find_method, flow_shift, inside_of, level_of, weights_of
from lib.models.vgg import PerceptualLoss
from lib.seeds import normal

Draw = tuple[Tensor, Tensor]  # levels [B] (a step t, or a flow's time) and noise [B,1,D,H,W]
Perceptual = PerceptualLoss | None


def draw_noise(config: TrainConfig, batch: Batch, generator: torch.Generator) -> Draw | None:
    """What the loss of a sampled method draws; None for a regression."""
    method, size, device = find_method(config.method), (len(batch.dose),), batch.dose.device
    if not method.timed:
        return None
    if method.predicts == "velocity":
        levels = shift_time(torch.rand(size, generator=generator), flow_shift(config))
    else:
        levels = torch.randint(T, size, generator=generator)
    return levels.to(device, non_blocking=True), normal(batch.dose.shape, generator, device)


def training_loss(
    network: Callable, batch: Batch, draw: Draw | None, config: TrainConfig, perceptual: Perceptual = None
) -> Tensor:
    """The network's loss, a mean over the patients; `draw` by `draw_noise`.

    A regression sees the patient alone. A flow sees a random time on the way from noise to dose, and its loss
    is conditional flow matching (Lipman et al. 2023, Eq. 23 with sigma_min 0). A diffusion sees the dose at a
    random noise level (DDPM, Algorithm 1).
    """
    method, inside = find_method(config.method), inside_of(config, batch)
    if not method.timed:
        return regression_loss(network(batch.cond, batch.constraints), batch, config, perceptual)
    dose, (t, noise) = config.units.to_network(batch.dose, batch.prior), draw
    signal, share = weights_of(config, t, dose)
    x_t = (signal * dose + share * noise).to(dose.dtype)
    output = network(batch.cond, batch.constraints, x_t, level_of(config, t))
    output = with_skip(method.predicts, output, x_t, signal, share, config.skip)
    squared = (output - target_of(method.predicts, dose, noise, signal, share)) ** 2
    if config.weighting == "min-snr" and method.denoises:
        alpha_bar_t = at_level(config.alpha_bar, t, dose)
        squared = squared * losses.min_snr_weight(method.predicts, alpha_bar_t).to(squared.dtype)
    loss = losses.mean_inside(squared, inside)
    if method.predicts == "noise":  # the reference's penalty on negative doses
        dose_hat = config.units.to_dose(dose_from_noise(x_t, output, signal, share), batch.prior)
        loss = loss + losses.negative_dose_penalty(dose_hat, inside)
    return loss


def regression_loss(output: Tensor, batch: Batch, config: TrainConfig, perceptual: Perceptual) -> Tensor:
    """The reference's loss, that of DVHs if weighted, gradient and VGG losses where the method has them."""
    inside, extra = inside_of(config, batch), find_method(config.method).extra
    dose_hat = config.units.to_dose(output[:, :1], batch.prior) * inside
    if output.shape[1] == 2:
        return losses.gaussian_loss(dose_hat, output[:, 1:], batch.dose, inside)
    loss = losses.dose_loss(dose_hat, batch.dose, inside, config.dose_error)
    if config.dvh_weight:
        loss = loss + config.dvh_weight * losses.dvh_loss(dose_hat, batch.dose, batch.structures)
    if extra:
        unit = batch.spacing_mm if config.gradient_units == "per mm" else torch.ones_like(batch.spacing_mm)
        loss = loss + config.gradient_weight * losses.gradient_loss(dose_hat, batch.dose, unit)
    return loss + config.vgg_weight * perceptual(dose_hat, batch.dose) if perceptual else loss
