"""From a trained network and patients to doses: one pass, or sampling, whole volumes, patients batched."""
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lib.config import TrainConfig, config_from
from lib.device import autocast, choose_device, choose_precision, memory_format
from lib.errors import UserError
from lib.features import make_batch, refined
from lib.files import read_json
from lib.models.diffusion import T, at_level, cosine_alpha_bar, ddim, dose_from_noise, held_grid, leading_grid
from lib.models.methods import find_method
from lib.models.unet import UNet
from lib.progress import progress
from lib.seeds import generator_for

DOSE_LIMITS = (0.0, 1.5)  # of the prescription; every method's result is clamped to them, as the reference's


class Predictor(NamedTuple):
    """A network ready to predict, with the configuration it was trained by."""

    network: UNet
    config: TrainConfig
    device: torch.device
    precision: str

    @property
    def method(self):
        return find_method(self.config.method)


class Sampling(NamedTuple):
    """How to sample; a regression ignores all of it.

    grid    "leading" (the reference's) or "held" (the first time is always `start`)
    clamp   "keep noise" (the reference's), "rederive noise" or "none"
    """

    n_steps: int = 50
    grid: str = "leading"
    start: int = T - 1
    clamp: str = "keep noise"
    eta: float = 0.0
    seed: int = 42

    def times(self):
        if self.grid not in ("leading", "held"):
            raise UserError(f"there is no step grid {self.grid!r}; there are leading, held")
        return leading_grid(self.n_steps) if self.grid == "leading" else held_grid(self.n_steps, self.start)


def load_predictor(folder, device="auto", precision="auto"):
    """The network of a finished training in `folder` (weights.safetensors and config.json)."""
    folder, device = Path(folder), choose_device(device)
    if not (folder / "weights.safetensors").exists():
        raise UserError(f"{folder} holds no finished training; run 01_train for the method {folder.name} first")
    config = config_from(read_json(folder / "config.json"), folder / "config.json")
    network = UNet(config.cond_channels, config.base_channels, find_method(config.method).timed)
    try:
        network.load_state_dict({name: w.float() for name, w in load_file(folder / "weights.safetensors").items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{folder / 'weights.safetensors'} does not fit ({str(error).splitlines()[0]}); train again") from None
    return ready(network, config, device, precision)


def ready(network, config, device, precision):
    """A predictor of a network as it stands, in the memory format that suits the device."""
    precision = choose_precision(precision, device)
    network = network.to(device).eval().to(memory_format=memory_format(device, precision))
    return Predictor(network, config, device, precision)


@torch.no_grad()
def predict_doses(predictor, samples, sampling=Sampling(), members=(0,), batch_size=8, watch=None, label=None):
    """Doses on the training grid, [len(members),1,d,h,w] as fractions of the prescription, one per sample.

    A member's start noise is named by (seed, case, member): it does not depend on batches, steps or grid.
    `watch` (case_id, member, step, t, dose_hat [1,d,h,w]) sees every network call of a sampled method.
    """
    for sample in samples:
        if sample.cond.shape[0] != predictor.config.cond_channels:
            raise UserError(f"{sample.case_id} has {sample.cond.shape[0]} condition channels, the network of "
                            f"{predictor.config.method} was trained with {predictor.config.cond_channels}")
    members = members if predictor.method.timed else members[:1]
    pairs = [(index, member) for index in range(len(samples)) for member in members]
    doses = [[None] * len(members) for _ in samples]
    for chunk in progress(list(same_shape_chunks(pairs, samples, batch_size)), label or f"predicting by {predictor.config.method}"):
        result = predict_chunk(predictor, [samples[i] for i, _ in chunk], [m for _, m in chunk], sampling, watch)
        for (index, member), dose in zip(chunk, result):
            doses[index][members.index(member)] = dose
    return [torch.stack(of_sample) for of_sample in doses]


def same_shape_chunks(pairs, samples, batch_size):
    """Pairs in order, cut where the volume's shape changes or the batch is full."""
    chunk = []
    for pair in pairs:
        if chunk and (len(chunk) == batch_size or samples[pair[0]].dose.shape != samples[chunk[0][0]].dose.shape):
            yield chunk
            chunk = []
        chunk.append(pair)
    if chunk:
        yield chunk


def predict_chunk(predictor, samples, members, sampling, watch):
    batch = make_batch([sample.to(predictor.device) for sample in samples])
    if not predictor.method.timed:
        with autocast(predictor.device, predictor.precision):
            dose = predictor.network(laid_out(batch.cond, predictor), batch.constraints)
        return dose.clamp(*DOSE_LIMITS).cpu()
    noise = torch.stack([start_noise(s, m, sampling.seed) for s, m in zip(samples, members)]).to(predictor.device)
    alpha_bar = cosine_alpha_bar()
    generator = generator_for(sampling.seed, "eta", *(s.case_id for s in samples), *members)

    def watch_each(step, t, dose_hat):
        for sample, member, estimate in zip(samples, members, dose_hat):
            watch(sample.case_id, member, step, t, estimate)

    dose = ddim(denoiser(predictor, batch, alpha_bar), noise, sampling.times(), alpha_bar,
                clamp=None if sampling.clamp == "none" else (-1.0, 2.0), rederive_noise=sampling.clamp == "rederive noise",
                eta=sampling.eta, generator=generator, watch=watch_each if watch else None)
    return dose.clamp(*DOSE_LIMITS).cpu()


def start_noise(sample, member, seed):
    return torch.randn(sample.dose.shape, generator=generator_for(seed, "noise", sample.case_id, member))


def denoiser(predictor, batch, alpha_bar):
    """The network as a function (x_t, t) -> (dose_hat, noise_hat) of one batch of patients."""
    cond = laid_out(batch.cond, predictor)

    def denoise(x_t, t):
        with autocast(predictor.device, predictor.precision):
            noise_hat = predictor.network(cond, batch.constraints, x_t, t)
        return dose_from_noise(x_t, noise_hat, at_level(alpha_bar, t, x_t)), noise_hat

    return denoise


def laid_out(volume, predictor):
    return volume.contiguous(memory_format=memory_format(predictor.device, predictor.precision))


def on_case_grid(dose, sample, coarsen):
    """A predicted dose [N,1,d,h,w] (fraction of the prescription) in Gy on the case's own grid, float32 [N,D,H,W]."""
    return refined(dose.float(), coarsen, sample.shape)[:, 0].numpy() * sample.rx_gy
