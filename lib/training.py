"""The one training loop: every method, any device, resumed exactly where it stopped.

A step draws all it needs from a stream named by (seed, step), so a checkpoint holds weights, averages,
optimiser and history, and nothing random.
"""
import copy
import math
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from lib.config import TrainConfig
from lib.device import autocast, choose_device, choose_precision
from lib.errors import UserError
from lib.features import augment, make_batch
from lib.files import sha256, write_json, write_text, written_whole
from lib.inference import Sampling, predict_doses, ready
from lib.models.diffusion import cosine_alpha_bar
from lib.models.methods import diffusion_loss, find_method, regression_loss
from lib.models.unet import UNet
from lib.progress import progress
from lib.seeds import generator_for
from lib.stamps import digest, is_fresh, modules_digest, write_stamp
from lib.state import clear_state, load_state, save_state


FINAL_LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-6, 0.01, 1.0  # the reference's


class Run:
    """What changes during a training: the network, its running average, the optimiser, counters, history."""

    PARTS = ("network", "averaged", "optimizer", "scaler")
    NUMBERS = ("step", "loss_sum", "seconds", "saved_s", "history", "best_mae_gy", "best_weights")

    def __init__(self, config, device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(config.seed, "weights").initial_seed())
            network = UNet(config.cond_channels, config.base_channels, find_method(config.method).timed)
        self.network = network.to(device)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), config.learning_rate, weight_decay=WEIGHT_DECAY)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "16")
        self.alpha_bar = cosine_alpha_bar()
        self.step = 0
        self.loss_sum = torch.zeros((), device=device)
        self.seconds = self.saved_s = 0.0
        self.history = []
        self.best_mae_gy, self.best_weights = math.inf, {}

    def state(self):
        return {name: getattr(self, name).state_dict() for name in self.PARTS} | {n: getattr(self, n) for n in self.NUMBERS}

    def restore(self, state):
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.NUMBERS:
            setattr(self, name, state[name])


def make_config(run, training, **parameters):
    """The configuration of an experiment's training (lib.experiment.Experiment) on the samples `training`."""
    return TrainConfig(cohort=run.open_cohort().name, cohort_sha256=sha256(run.open_cohort().folder / "card.json"),
                       case_ids=[sample.case_id for sample in training], site=training[0].site, coarsen=run.coarsen,
                       cond_channels=len(training[0].cond), seed=run.seed,
                       precision=choose_precision(run.precision, choose_device(run.device)), **parameters)


def train(config, train_samples, validation_samples, folder, device="auto", save_every_s=60.0, report=print):
    """Train to the end, or until patience runs out; write weights, configuration and history to `folder`.

    The same training (configuration, patients, code) goes on where it was stopped, and is not repeated once
    it is finished. Returns the history: one dict per epoch. A loss that is not finite ends it with a UserError.
    """
    folder, device, key = Path(folder), choose_device(device), training_key(config)
    folder.mkdir(parents=True, exist_ok=True)
    if is_fresh(folder / "trained.json", key):
        report("this training is finished already; its history is read back")
        return read_history(folder / "history.csv")
    run = Run(config, device)
    state = load_state(folder, key, device, report)
    if state:
        run.restore(state)
        report(f"going on from step {run.step} of {config.n_steps}")
    train_samples, validation_samples = ([s.to(device) for s in samples] for samples in (train_samples, validation_samples))
    try:
        for _ in progress(range(run.step, config.n_steps), f"training {config.method}"):
            if out_of_patience(run.history, config.patience):
                report(f"stopped after epoch {run.history[-1]['epoch']}: no better for {config.patience} epochs")
                break
            timed_step(run, config, train_samples, device)
            if run.step % config.steps_per_epoch == 0:
                close_epoch(run, config, validation_samples, device, report)
            if run.seconds - run.saved_s > save_every_s:
                checkpoint(run, config, folder, key)
    except KeyboardInterrupt:
        checkpoint(run, config, folder, key)
        raise UserError(f"stopped by hand at step {run.step} of {config.n_steps}; the same command goes on from there") from None
    finish(run, config, folder, key)
    return run.history


def training_key(config):
    """What a training depends on: its configuration, which names its cohort's card, and the code."""
    return digest([asdict(config), modules_digest("import lib.training")])


def checkpoint(run, config, folder, key):
    check_finite(run, config)
    run.saved_s = run.seconds
    save_state(folder, key, run.state())


def timed_step(run, config, samples, device):
    started = time.monotonic()
    one_step(run, config, samples, device)
    run.seconds += time.monotonic() - started


def one_step(run, config, samples, device):
    """Draw a batch, augment it, descend once, average the weights."""
    generator = generator_for(config.seed, "step", run.step)
    batch = draw_batch(config, samples, run.step, generator)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, run.step)
    run.optimizer.zero_grad(set_to_none=True)
    with autocast(device, config.precision):
        loss = loss_of(run, config, batch, generator)
    run.scaler.scale(loss).backward()
    run.scaler.unscale_(run.optimizer)
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), CLIP_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    average_weights(run, config.ema_decay)
    run.loss_sum += loss.detach()
    run.step += 1


def draw_batch(config, samples, step, generator):
    """The step's patients in the epoch's own order, cut to patches and augmented."""
    epoch, within = divmod(step, config.steps_per_epoch)
    visits = len(samples) * config.patches_per_case
    order = torch.randperm(visits, generator=generator_for(config.seed, "epoch", epoch))
    chosen = order[within * config.batch_size : (within + 1) * config.batch_size] % len(samples)
    patch = tuple(config.patch_voxels) if any(config.patch_voxels) else None
    batch = make_batch([samples[i] for i in chosen.tolist()], patch, generator)
    return augment(batch, generator) if config.augment else batch


def loss_of(run, config, batch, generator):
    if find_method(config.method).timed:
        return diffusion_loss(run.network, batch, run.alpha_bar, generator)
    spacing_mm = batch.spacing_mm if config.gradient_units == "per mm" else torch.ones_like(batch.spacing_mm)
    return regression_loss(run.network, batch, config.gradient_weight if config.method == "gradient" else 0.0, spacing_mm)


def learning_rate(config, step):
    """Cosine from the first to the final rate (Loshchilov & Hutter 2017, Eq. 5, without restarts)."""
    fall = (1 + math.cos(math.pi * step / max(1, config.n_steps))) / 2
    return FINAL_LEARNING_RATE + (config.learning_rate - FINAL_LEARNING_RATE) * fall


@torch.no_grad()
def average_weights(run, decay):
    """Exponential moving average; early on the decay is (1 + n) / (10 + n), so that the start is forgotten."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    for mean, new in zip(run.averaged.parameters(), run.network.parameters()):
        mean.lerp_(new, 1 - decay)


def close_epoch(run, config, validation_samples, device, report):
    """Write the epoch's row of the history; every `validate_every` epochs and at the end with a validation error."""
    check_finite(run, config)
    epoch = run.step // config.steps_per_epoch
    row = dict(epoch=epoch, step=run.step, loss=float(run.loss_sum) / config.steps_per_epoch,
               learning_rate=learning_rate(config, run.step), validation_mae_gy=None, seconds=round(run.seconds, 1))
    run.loss_sum.zero_()
    if validation_samples and (epoch % config.validate_every == 0 or epoch == config.epochs):
        row["validation_mae_gy"] = validate(run, config, validation_samples, device)
        if config.keep == "best" and row["validation_mae_gy"] < run.best_mae_gy:
            run.best_mae_gy = row["validation_mae_gy"]
            run.best_weights = {name: w.clone() for name, w in run.averaged.state_dict().items()}
        report(f"epoch {epoch}/{config.epochs}: loss {row['loss']:.4g}, validation MAE {row['validation_mae_gy']:.2f} Gy")
    run.history.append(row)


def validate(run, config, samples, device):
    """Mean absolute error in Gy inside the dose masks, on the training grid, by the averaged weights."""
    predictor = ready(copy.deepcopy(run.averaged), config, device, config.precision)
    sampling = Sampling(n_steps=config.validation_steps, seed=config.seed)
    doses = predict_doses(predictor, samples, sampling, label=f"validating {config.method}")
    errors_gy = [float(((dose[0].cpu() - s.dose.cpu()).abs() * s.mask.cpu()).sum() / s.mask.sum().cpu()) * s.rx_gy
                 for dose, s in zip(doses, samples)]
    return sum(errors_gy) / len(errors_gy)


def out_of_patience(history, patience):
    """Whether the best validation error is `patience` or more epochs old; never for patience 0."""
    validated = [row for row in history if row["validation_mae_gy"] is not None]
    if not patience or not validated:
        return False
    best = min(validated, key=lambda row: row["validation_mae_gy"])
    return history[-1]["epoch"] - best["epoch"] >= patience


def check_finite(run, config):
    if not math.isfinite(float(run.loss_sum)):
        raise UserError(f"the training of {config.method} diverged before step {run.step}: its loss is not finite; "
                        "lower train.learning_rate")


def finish(run, config, folder, key):
    """Write the result: averaged weights (or the best), configuration, history; the running state is then gone."""
    weights = run.best_weights if config.keep == "best" and run.best_weights else run.averaged.state_dict()
    with written_whole(folder / "weights.safetensors") as temporary:
        save_file({name: w.contiguous().cpu() for name, w in weights.items()}, temporary)
    write_json(folder / "config.json", asdict(config))
    write_text(folder / "history.csv", pd.DataFrame(run.history).to_csv(index=False))
    write_stamp(folder / "trained.json", key, [folder / name for name in ("weights.safetensors", "config.json", "history.csv")])
    clear_state(folder)


def read_history(path):
    """The rows of a history.csv as `train` returns them."""
    table = pd.read_csv(path)
    return table.astype(object).where(table.notna(), None).to_dict("records")
