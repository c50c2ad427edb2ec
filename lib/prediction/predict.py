"""From a trained network and patients to doses: in one pass or sampled, whole or in windows, batched."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.cases.case import Case
from lib.device import autocast, choose_device, choose_precision, compile_for, memory_format
from lib.diffusion.parameterisation import estimates, noise_from_dose, with_skip
from lib.diffusion.samplers import DDIM, REFERENCE, DiffusionSampler, Euler, Sampler, check_known
from lib.errors import UserError
from lib.features.batches import Batch, make_batch
from lib.features.grid import Grid, refine_in_mask
from lib.features.samples import Sample, add_prior
from lib.files import read_json
from lib.models.config import TrainConfig, check_fits, config_from
from lib.models.control import Falloff, control_dose
from lib.models.graphs import SamplingGraph, uses_graphs
from lib.models.losses import LOG_VARIANCE_LIMITS
from lib.models.methods import Method, find_method, flow_shift, inside_of, level_of, weights_of
from lib.models.unet import UNet
from lib.prediction.windows import denoise_windows, sample_windows
from lib.progress import progress
from lib.seeds import generator_for
from lib.tensors import load_tensors

DOSE_LIMITS = (0.0, 1.5)  # of the prescription; every method's result is clamped to them, as the reference's
CLAMP = (-1.0, 2.0)  # of the prescription; the reference clamps every dose estimate to them


class Predictor(NamedTuple):
    """A network ready to predict, with its training's configuration; `prior` predicts its prior's dose."""

    network: UNet
    config: TrainConfig
    device: torch.device
    precision: str
    prior: "Predictor | None" = None

    @property
    def method(self) -> Method:
        return find_method(self.config.method)

    def autocast(self) -> AbstractContextManager:
        """The block in which the network is called, in its precision."""
        return autocast(self.device, self.precision)


def load_predictor(
    folder: str | Path, device: str = "auto", precision: str = "auto", weights: str = "weights"
) -> Predictor:
    """The network of a finished training: <weights>.safetensors, config.json and prior/ where it has one.
    UserError if they are not there or do not fit."""
    folder, device = Path(folder), choose_device(device)
    path = folder / f"{weights}.safetensors"
    if not path.exists():
        problem = f"{folder} holds no finished training ({path.name})"
        raise UserError(f"{problem}; run 01_train for the method {folder.name} first")
    config = config_from(read_json(folder / "config.json"), folder / "config.json")
    network = find_method(config.method).make_network(config)
    try:
        network.load_state_dict({key: w.float() for key, w in load_tensors(path)[0].items()})
    except UserError as error:
        raise UserError(f"{error}; train again") from None
    except RuntimeError as error:
        raise UserError(f"{path} does not fit ({str(error).splitlines()[0]}); train again") from None
    has_prior = find_method(config.method).prior
    prior = load_predictor(folder / "prior", device.type, precision) if has_prior else None
    predictor = ready(network, config, device, precision, prior)
    if config.compile:
        compile_for("sampling", predictor.network, device)
    return predictor


def ready(
    network: UNet, config: TrainConfig, device: torch.device, precision: str, prior: Predictor | None = None
) -> Predictor:
    """A predictor of a network as it stands, in the memory format that suits the device."""
    precision = choose_precision(precision, device)
    network = network.to(device).eval().to(memory_format=memory_format(device, precision))
    return Predictor(network, config, device, precision, prior)


def usual_sampler(config: TrainConfig, n_steps: int) -> Sampler | None:
    """As the reference samples its DDPM; what has no signal at t = T - 1 starts there; a regression: None."""
    method = find_method(config.method)
    if not method.timed:
        return None
    if method.predicts == "velocity":
        return Euler(n_steps)
    return DDIM(n_steps) if config.zero_snr else replace(REFERENCE, n_steps=n_steps)


def usual_temperature(config: TrainConfig) -> float:
    """0, so that a method that predicts a deviation gives its mean; 1 for a diffusion or a flow."""
    return float(find_method(config.method).timed)


@torch.no_grad()
def predict(
    predictor: Predictor,
    samples: Sequence[Sample],
    sampler: Sampler | None = None,
    *,
    members: Sequence[int] = (0,),
    seed: int = 42,
    window: int = 0,
    window_noise: str = "shared",
    temperature: float = 1.0,
    batch_size: int = 8,
    watch: Callable | None = None,
    label: str | None = None,
) -> list[Tensor]:
    """Doses on the training grid, [len(members),1,d,h,w] as fractions of the prescription, one per sample.

    A member's start noise is named by (seed, case, member): it does not depend on batches, steps or grid.

    sampler       None: 50 steps as usual; a regression ignores it
    window        edge in voxels of the windows the volume is cut to, half shared with the next; 0: none
    window_noise  "shared": one noise field, windows blended in each step; "own": each apart (the reference's)
    temperature   factor on the start noise; 0 gives the mean of a method that predicts a deviation
    watch         (case_id, member, step, t, dose_hat [1,d,h,w]) sees every network call of a sampler
    label         of the progress; "" shows none
    """
    config, method = predictor.config, predictor.method
    sampler = sampler or usual_sampler(config, 50)
    check_known("noise of windows", window_noise, ("shared", "own"))
    if method.timed and not isinstance(sampler, Euler if method.predicts == "velocity" else DiffusionSampler):
        raise UserError(f"{config.method} cannot be sampled by {sampler}")
    samples = with_priors(predictor, samples, label)
    for sample in samples:
        check_fits(config, sample.channels, sample.grid)
    members, doses = members if method.sampled else members[:1], {}
    label = f"predicting by {config.method}" if label is None else label
    for keys in progress(list(batches(samples, members, batch_size)), label):
        batch = make_batch([samples[i].to(predictor.device) for i, _ in keys])
        names = [(samples[i].case_id, member) for i, member in keys]
        doses_of = partial(sample_batch, predictor, sampler, seed, names)
        if not method.sampled:
            dose = doses_of(batch, None, window)
        elif window and window_noise == "own":
            dose = sample_windows(doses_of, batch, window, temperature, seed, names)
        else:
            noise = torch.stack([start_noise(samples[i], member, seed) for i, member in keys])
            dose = doses_of(batch, temperature * noise.to(predictor.device), window, watch)
        doses |= zip(keys, (dose * inside_of(config, batch)).clamp(*DOSE_LIMITS).cpu())
    return [torch.stack([doses[i, member] for member in members]) for i in range(len(samples))]


def with_priors(
    predictor: Predictor, samples: Sequence[Sample], label: str | None = None
) -> Sequence[Sample]:
    """The samples with the dose that the network corrects, another network's or the control's, if any; those
    of a training have it already."""
    if predictor.config.falloff:
        return with_control(predictor.config.falloff, samples)
    return with_doses(predictor.prior, samples, label) if predictor.prior else samples


def with_control(falloff: Falloff, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with the control's dose as one more condition channel, if they have it not yet."""
    return [s if "prior" in s.channels.names else add_prior(s, control_dose(falloff, s)) for s in samples]


def with_doses(prior: Predictor, samples: Sequence[Sample], label: str | None = None) -> list[Sample]:
    """The samples with the doses of a network as one more condition channel."""
    doses = predict(prior, samples, label=label and f"predicting by {prior.config.method}")
    return [add_prior(sample, dose[0]) for sample, dose in zip(samples, doses)]


def batches(samples: Sequence[Sample], members: Sequence[int], size: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs (index of a sample, member) in batches of at most `size`, each of volumes of one shape."""
    shapes = [sample.cond.shape for sample in samples]
    for shape in dict.fromkeys(shapes):
        alike = [(i, member) for i, s in enumerate(shapes) if s == shape for member in members]
        yield from (alike[first : first + size] for first in range(0, len(alike), size))


def start_noise(sample: Sample, member: int, seed: int) -> Tensor:
    """A member's start noise [1,d,h,w] of a sample."""
    return torch.randn(sample.dose.shape, generator=generator_for(seed, "noise", sample.case_id, member))


def sample_batch(
    predictor: Predictor,
    sampler: Sampler | None,
    seed: int,
    names: Sequence[tuple],
    batch: Batch,
    noise: Tensor | None,
    window: int = 0,
    watch: Callable | None = None,
) -> Tensor:
    """Doses [B,1,d,h,w] (fraction of the prescription) of the `names` (case_id, member) from start noise; the
    seed and they name what DDIM draws."""
    method, units, prior = predictor.method, predictor.config.units, batch.prior

    def watch_each(step, t, dose_hat):
        for name, estimate in zip(names, units.to_dose(dose_hat, prior)):
            watch(*name, step, t, estimate)

    see = watch and watch_each
    if method.predicts == "velocity":
        velocity, shift = velocity_of(predictor, batch, window), flow_shift(predictor.config)
        return units.to_dose(sampler.sample(velocity, noise, shift, see), prior)
    if method.timed:
        denoise, alpha_bar = denoiser(predictor, batch, window), predictor.config.alpha_bar
        bounds = tuple(units.to_network(bound, prior) for bound in CLAMP)
        generator = generator_for(seed, "eta", *names)
        return units.to_dose(sampler.sample(denoise, noise, alpha_bar, bounds, generator, see), prior)
    network = network_of(predictor, batch, window)
    with predictor.autocast():
        output = network()
    dose, log_variance = units.to_dose(output[:, :1], prior), output[:, 1:].clamp(*LOG_VARIANCE_LIMITS)
    return dose + (log_variance / 2).exp() * noise if method.sampled else dose


def denoiser(predictor: Predictor, batch: Batch, window: int = 0) -> Callable:
    """The network as a function (x_t, t) -> (dose_hat, noise_hat) of one batch of patients.

    Outside the region of the loss the dose is known to be 0, and the noise follows from it.
    """
    config, network = predictor.config, network_of(predictor, batch, window)
    inside, nothing = inside_of(config, batch), config.units.to_network(0.0, batch.prior)
    predicts = predictor.method.predicts

    def denoise(x_t, t):
        signal, share = weights_of(config, t, x_t)
        with predictor.autocast():
            output = network(x_t, t)
        output = with_skip(predicts, output, x_t, signal, share, config.skip)
        dose_hat, noise_hat = estimates(predicts, output, x_t, signal, share)
        known = nothing.to(x_t).expand_as(x_t)
        known_noise = noise_from_dose(x_t, known, signal, share)
        return torch.where(inside, dose_hat, known), torch.where(inside, noise_hat, known_noise)

    return denoise


def velocity_of(predictor: Predictor, batch: Batch, window: int = 0) -> Callable:
    """The network as (x_t, t) -> velocity_hat of one batch of patients; outside it leads to a dose of 0."""
    config, network = predictor.config, network_of(predictor, batch, window)
    inside, nothing = inside_of(config, batch), config.units.to_network(0.0, batch.prior)

    def velocity(x_t, t):
        known = (nothing.to(x_t) - x_t) / (1 - t).view(-1, 1, 1, 1, 1)
        with predictor.autocast():
            output = network(x_t, level_of(config, t))
        output = with_skip("velocity", output, x_t, *weights_of(config, t, x_t), config.skip)
        return torch.where(inside, output, known)

    return velocity


def network_of(predictor: Predictor, batch: Batch, window: int = 0) -> Callable:
    """The network as (x_t, t) -> output [B,C,d,h,w] of one batch of patients, whole or in blended windows."""
    if window:
        return denoise_windows(partial(network_of, predictor), batch, window)
    cond = batch.cond.contiguous(memory_format=memory_format(predictor.device, predictor.precision))
    network = partial(predictor.network, cond, batch.constraints)
    graphs = predictor.method.timed and not predictor.config.compile and uses_graphs(predictor.device)
    return SamplingGraph(network) if graphs else network


def on_case_grid(dose: Tensor, case: Case, grid: Grid) -> np.ndarray:
    """A predicted dose [N,1,d,h,w] (fraction of the prescription) in Gy on the case's own grid, float32
    [N,D,H,W], 0 outside its dose mask."""
    return refine_in_mask(dose.float(), grid, torch.from_numpy(case.dose_mask))[:, 0].numpy() * case.rx_gy
