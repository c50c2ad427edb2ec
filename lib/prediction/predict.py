"""From a trained network and patients to doses: in one pass or sampled, whole or in windows, batched."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from lib.device import autocast, choose_device, choose_precision, compile_for, memory_format
from lib.diffusion.flow import euler, midpoint
from lib.diffusion.process import (
    T,
    at_level,
    corrected_grid,
    estimates,
    held_grid,
    leading_grid,
    noise_from_dose,
    schedule,
)
from lib.diffusion.samplers import ddim, dpm_solver
from lib.errors import UserError
from lib.features.batches import make_batch
from lib.features.grid import refine_in_mask
from lib.features.samples import add_prior
from lib.files import read_json
from lib.models.config import TrainConfig, check_fits, config_from
from lib.models.losses import LOG_VARIANCE_LIMITS
from lib.models.methods import find_method, flow_level, inside_of
from lib.models.unet import UNet
from lib.prediction.windows import blended, window_starts
from lib.progress import progress
from lib.seeds import generator_for
from lib.tensors import load_tensors

DOSE_LIMITS = (0.0, 1.5)  # of the prescription; every method's result is clamped to them, as the reference's
CLAMP = (-1.0, 2.0)  # of the prescription; the reference clamps every dose estimate to them
GRIDS = ("leading", "corrected", "held")
SOLVERS = ("ddim", "dpm_solver", "euler", "midpoint")
CLAMPS = ("keep noise", "rederive noise", "none")
WINDOW_NOISES = ("shared", "own")


class Predictor(NamedTuple):
    """A network ready to predict, with its training's configuration; `prior` predicts its prior's dose."""

    network: UNet
    config: TrainConfig
    device: torch.device
    precision: str
    prior: "Predictor | None" = None

    @property
    def method(self):
        return find_method(self.config.method)


class Sampling(NamedTuple):
    """How to sample; a regression ignores all of it but the windows.

    solver   "ddim", or for a diffusion "dpm_solver"; a flow takes "euler" (also for "ddim") or "midpoint"
    grid     "leading" (the reference's), "corrected" (leading, as many as asked) or "held" (`start` is first)
    clamp    "keep noise" (the reference's), "rederive noise" or "none"
    eta      0 deterministic, 1 ancestral (DDIM Eq. 16)
    window   edge in voxels of the windows the volume is cut to, half shared with the next; 0: none
    window_noise  "shared": one noise field, windows blended in each step; "own": each apart (the reference's)
    temperature   factor on the start noise; 0 gives the mean of a method that predicts a deviation
    """

    n_steps: int = 50
    solver: str = "ddim"
    grid: str = "leading"
    start: int = T - 1
    clamp: str = "keep noise"
    eta: float = 0.0
    window: int = 0
    window_noise: str = "shared"
    temperature: float = 1.0
    seed: int = 42

    def checked(self):
        for value, known, what in (
            (self.grid, GRIDS, "step grid"),
            (self.solver, SOLVERS, "solver"),
            (self.clamp, CLAMPS, "clamp"),
            (self.window_noise, WINDOW_NOISES, "noise of windows"),
        ):
            if value not in known:
                raise UserError(f"there is no {what} {value!r}; there are {', '.join(known)}")
        return self

    def times(self):
        self.checked()
        if self.grid == "held":
            return held_grid(self.n_steps, self.start)
        return leading_grid(self.n_steps) if self.grid == "leading" else corrected_grid(self.n_steps)

    def nfe(self, method):
        """Network calls a sample takes."""
        if method.predicts == "velocity":
            return self.n_steps * (2 if self.solver == "midpoint" else 1)
        return len(self.times()) if method.timed else 1


DEFAULT_SAMPLING = Sampling()


def usual_sampling(config, n_steps):
    """As the reference samples its DDPM; what has no signal at t = T - 1 starts there, its noise agreeing
    with the clamp.

    A method that predicts a deviation gives its mean.
    """
    if not config.zero_snr:
        return Sampling(
            n_steps=n_steps, temperature=float(find_method(config.method).timed), seed=config.seed
        )
    return Sampling(n_steps=n_steps, grid="held", clamp="rederive noise", seed=config.seed)


def load_predictor(folder, device="auto", precision="auto", weights="weights"):
    """The network of a finished training in `folder` (<weights>.safetensors, config.json and prior/ where it
    has one)."""
    folder, device = Path(folder), choose_device(device)
    path = folder / f"{weights}.safetensors"
    if not path.exists():
        raise UserError(
            f"{folder} holds no finished training ({path.name}); "
            f"run 01_train for the method {folder.name} first"
        )
    config = config_from(read_json(folder / "config.json"), folder / "config.json")
    network = find_method(config.method).make_network(config)
    try:
        network.load_state_dict({name: w.float() for name, w in load_tensors(path)[0].items()})
    except UserError as error:
        raise UserError(f"{error}; train again") from None
    except RuntimeError as error:
        raise UserError(f"{path} does not fit ({str(error).splitlines()[0]}); train again") from None
    prior = (
        load_predictor(folder / "prior", device.type, precision) if find_method(config.method).prior else None
    )
    predictor = ready(network, config, device, precision, prior)
    if config.compile:
        compile_for("sampling", predictor.network, device)
    return predictor


def ready(network, config, device, precision, prior=None):
    """A predictor of a network as it stands, in the memory format that suits the device."""
    precision = choose_precision(precision, device)
    network = network.to(device).eval().to(memory_format=memory_format(device, precision))
    return Predictor(network, config, device, precision, prior)


@torch.no_grad()
def predict_doses(
    predictor, samples, sampling=DEFAULT_SAMPLING, members=(0,), batch_size=8, watch=None, label=None
):
    """Doses on the training grid, [len(members),1,d,h,w] as fractions of the prescription, one per sample.

    A member's start noise is named by (seed, case, member): it does not depend on batches, steps or grid.
    `watch` (case_id, member, step, t, dose_hat [1,d,h,w]) sees every network call of a sampled method. An
    empty `label` shows no progress.
    """
    sampling.checked()
    if predictor.prior:
        samples = with_priors(predictor.prior, samples, label)
    for sample in samples:
        check_fits(predictor.config, sample.channels, sample.coarsen)
    members = members if predictor.method.sampled else members[:1]
    pairs = [(index, member) for index in range(len(samples)) for member in members]
    doses = [[None] * len(members) for _ in samples]
    for chunk in progress(
        list(same_shape_chunks(pairs, samples, batch_size)),
        f"predicting by {predictor.config.method}" if label is None else label,
    ):
        result = predict_chunk(
            predictor, [samples[i] for i, _ in chunk], [m for _, m in chunk], sampling, watch
        )
        for (index, member), dose in zip(chunk, result):
            doses[index][members.index(member)] = dose
    return [torch.stack(of_sample) for of_sample in doses]


def with_priors(prior, samples, label=None):
    """The samples with the prior's dose as one more condition channel."""
    doses = predict_doses(prior, samples, label=label and f"predicting by {prior.config.method}")
    return [add_prior(sample, dose[0]) for sample, dose in zip(samples, doses)]


def same_shape_chunks(pairs, samples, batch_size):
    """Pairs sorted by the volume's shape, cut where it changes or the batch is full."""
    chunk = []
    for pair in sorted(pairs, key=lambda pair: samples[pair[0]].dose.shape):
        if chunk and (
            len(chunk) == batch_size or samples[pair[0]].dose.shape != samples[chunk[0][0]].dose.shape
        ):
            yield chunk
            chunk = []
        chunk.append(pair)
    if chunk:
        yield chunk


def predict_chunk(predictor, samples, members, sampling, watch):
    batch = make_batch([sample.to(predictor.device) for sample in samples])
    inside = inside_of(predictor.config, batch)
    if not predictor.method.sampled:
        return (
            (to_dose(predictor, batch, run_network(predictor, batch, sampling.window)) * inside)
            .clamp(*DOSE_LIMITS)
            .cpu()
        )

    def watch_each(step, t, dose_hat):
        for sample, member, estimate in zip(samples, members, to_dose(predictor, batch, dose_hat)):
            watch(sample.case_id, member, step, t, estimate)

    streams = [(sample.case_id, member) for sample, member in zip(samples, members)]
    if sampling.window and sampling.window_noise == "own":
        dose = sample_windows_apart(predictor, batch, streams, sampling)
    else:
        noise = (
            torch.stack([start_noise(s, m, sampling.seed) for s, m in zip(samples, members)]).to(
                predictor.device
            )
            * sampling.temperature
        )
        dose = sample_batch(predictor, batch, noise, streams, sampling, watch_each if watch else None)
    return (dose * inside).clamp(*DOSE_LIMITS).cpu()


def start_noise(sample, member, seed):
    return torch.randn(sample.dose.shape, generator=generator_for(seed, "noise", sample.case_id, member))


def sample_batch(predictor, batch, noise, streams, sampling, watch=None):
    """Sample one batch from its start noise [B,1,d,h,w]; the dose as a fraction of the prescription."""
    if not predictor.method.timed:
        output, log_variance = run_network(predictor, batch, sampling.window).split(1, dim=1)
        return (
            to_dose(predictor, batch, output) + (log_variance.clamp(*LOG_VARIANCE_LIMITS) / 2).exp() * noise
        )
    if predictor.method.predicts == "velocity":
        integrate = midpoint if sampling.solver == "midpoint" else euler
        x = integrate(velocity_of(predictor, batch, sampling.window), noise, sampling.n_steps, watch)
        return to_dose(predictor, batch, x)
    alpha_bar = schedule(predictor.config.zero_snr)
    clamp = None if sampling.clamp == "none" else tuple(to_units(predictor, batch, bound) for bound in CLAMP)
    denoise = denoiser(predictor, batch, alpha_bar, sampling.window)
    if sampling.solver == "dpm_solver":
        x = dpm_solver(denoise, noise, sampling.times(), alpha_bar, clamp=clamp, watch=watch)
    else:
        x = ddim(
            denoise,
            noise,
            sampling.times(),
            alpha_bar,
            clamp=clamp,
            rederive_noise=sampling.clamp == "rederive noise",
            eta=sampling.eta,
            generator=generator_for(sampling.seed, "eta", *streams),
            watch=watch,
        )
    return to_dose(predictor, batch, x)


def sample_windows_apart(predictor, batch, streams, sampling):
    """The reference's way: each window from its own noise, as if it were a patient; blended at the end."""

    def sample_window(part, number):
        noise = torch.stack(
            [
                torch.randn(
                    part.dose.shape[1:], generator=generator_for(sampling.seed, "window", number, *stream)
                )
                for stream in streams
            ]
        ).to(predictor.device)
        return sample_batch(predictor, part, noise, streams, sampling._replace(window=0))

    parts = (
        (start, sample_window(cut_batch(batch, start, sampling.window), number))
        for number, start in enumerate(window_starts(batch.dose.shape[2:], sampling.window))
    )
    return blended(parts, batch.dose.shape[2:], sampling.window)


def to_units(predictor, batch, dose):
    """A dose (fraction of the prescription) in the network's units."""
    return predictor.config.units.to_network(dose, batch.prior)


def to_dose(predictor, batch, x):
    """The network's units as a dose (fraction of the prescription)."""
    return predictor.config.units.to_dose(x, batch.prior)


def denoiser(predictor, batch, alpha_bar, window):
    """The network as a function (x_t, t) -> (dose_hat, noise_hat) of one batch of patients.

    Outside the region of the loss the dose is known to be 0, and the noise follows from it.
    """
    inside, nothing = inside_of(predictor.config, batch), to_units(predictor, batch, 0.0)

    def denoise(x_t, t):
        alpha_bar_t = at_level(alpha_bar, t, x_t)
        output = run_network(predictor, batch, window, x_t, t)
        dose_hat, noise_hat = estimates(predictor.method.predicts, output, x_t, alpha_bar_t)
        known = nothing.to(x_t).expand_as(x_t)
        return torch.where(inside, dose_hat, known), torch.where(
            inside, noise_hat, noise_from_dose(x_t, known, alpha_bar_t)
        )

    return denoise


def velocity_of(predictor, batch, window):
    """The network as (x_t, t) -> velocity_hat of one batch of patients; t from 0 (noise) to 1 (dose)."""
    inside, nothing = inside_of(predictor.config, batch), to_units(predictor, batch, 0.0)

    def velocity_at(x_t, t):
        velocity_hat = run_network(predictor, batch, window, x_t, flow_level(t))
        return torch.where(inside, velocity_hat, (nothing.to(x_t) - x_t) / (1 - t).view(-1, 1, 1, 1, 1))

    return velocity_at


def run_network(predictor, batch, window, x_t=None, t=None):
    """The network's output [B,1,d,h,w]: of the whole volume, or of windows blended into one."""
    if not window:
        return call_network(predictor, batch, x_t, t)
    parts = (
        (
            start,
            call_network(
                predictor, cut_batch(batch, start, window), x_t if x_t is None else cut(x_t, start, window), t
            ),
        )
        for start in window_starts(batch.dose.shape[2:], window)
    )
    return blended(parts, batch.dose.shape[2:], window)


def call_network(predictor, batch, x_t, t):
    cond = batch.cond.contiguous(memory_format=memory_format(predictor.device, predictor.precision))
    with autocast(predictor.device, predictor.precision):
        output = predictor.network(cond, batch.constraints, x_t, t)
    return (
        output.clone() if predictor.config.compile else output
    )  # a CUDA graph writes its next output over this one


def cut(volume, start, window):
    return volume[(slice(None), slice(None), *(slice(a, a + window) for a in start))]


def cut_batch(batch, start, window):
    names = ("cond", "dose", "mask")
    return replace(batch, **{name: cut(getattr(batch, name), start, window) for name in names})


def on_case_grid(dose, case, coarsen):
    """A predicted dose [N,1,d,h,w] (fraction of the prescription) in Gy on the case's own grid, 0 outside its
    dose mask.

    Returns float32 [N,D,H,W].
    """
    return refine_in_mask(dose.float(), coarsen, torch.from_numpy(case.dose_mask))[:, 0].numpy() * case.rx_gy


def own_grid_score_gy(sample, dose):
    """OpenKBP's dose score of the members' mean [N,1,d,h,w] on the training grid: what the network itself is
    responsible for.

    A block's dose is its mean with zeros outside the dose mask, so that its error counts in full, and the
    mask by its shares.
    """
    difference = (dose.mean(dim=0) * (sample.mask > 0) - sample.dose).abs()
    return float(difference.sum() / sample.mask.sum()) * sample.rx_gy
