"""The one training loop: every method, any device, one process or several, resumed exactly where it stopped.

A step draws all it needs from a stream named by (seed, step), so a checkpoint holds weights, averages,
optimiser and history, and nothing random, and any number of processes does the same steps. A finished
training leaves in its folder

    weights.safetensors          the averaged weights (or the best ones), weights-<p>pct.safetensors after
                                 p % of the steps, weights-last.safetensors without averaging
    config.json, history.csv     what decided it, and its course by epochs
    prior/                       weights and configuration of the regression it starts from, if it has one
    failed.json                  instead of these, why it failed or was stopped: {"reason": sentence}
"""

import copy
import itertools
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copyfile

import pandas as pd
import torch

from lib.cache import digest, is_fresh, modules_digest, write_stamp
from lib.device import autocast, choose_device, choose_precision, compile_for
from lib.diffusion.schedule import schedule
from lib.errors import UserError
from lib.features.samples import augment, dose_statistics, make_batch, part_of
from lib.files import lock, sha256, write_json, write_text
from lib.memory import GB, check_memory
from lib.metrics.dose import grid_dose_score_gy
from lib.models.config import TrainConfig
from lib.models.methods import draw_noise, find_method, offset_of, training_loss
from lib.models.vgg import WHERE, PerceptualLoss, load_vgg16
from lib.prediction.predict import (
    load_predictor,
    predict,
    ready,
    usual_sampler,
    usual_temperature,
    with_priors,
)
from lib.progress import progress
from lib.seeds import generator_for
from lib.tensors import save_tensors
from lib.training.checkpoint import clear_state, load_state, save_state
from lib.training.processes import (
    is_first,
    mean_over_all,
    own_device,
    own_share,
    rank,
    sum_over_all,
    together,
    wait_for_all,
    without_talk,
    world,
)

FINAL_LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-6, 0.01, 1.0  # the reference's
STAMP = "trained.json"


class CannotTrain(Exception):
    """A training that cannot be done or went wrong; the message is one sentence, and other methods can still
    be compared."""


class Run:
    """What changes during a training: the network, its running average, the optimiser, counters, history."""

    PARTS = ("network", "averaged", "optimizer", "scaler")
    NUMBERS = ("step", "loss_sum", "seconds", "saved_s", "history", "best_mae_gy", "best_weights")

    def __init__(self, config, device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(config.seed, "weights").initial_seed())
            network = find_method(config.method).make_network(config)
        self.network = network.to(device)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        if config.compile:
            compile_for("training", self.network, device)
        self.shared = together(self.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "16")
        self.alpha_bar = schedule(config.zero_snr)
        self.perceptual = PerceptualLoss(load_vgg16(config.vgg_file), device) if config.vgg_file else None
        self.step = 0
        self.loss_sum = torch.zeros((), device=device)
        self.seconds = self.saved_s = 0.0
        self.history = []
        self.best_mae_gy, self.best_weights = math.inf, {}

    def state(self):
        return {name: getattr(self, name).state_dict() for name in self.PARTS} | {
            n: getattr(self, n) for n in self.NUMBERS
        }

    def restore(self, state):
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.NUMBERS:
            setattr(self, name, state[name])


def make_config(run, training, *, method, standardise, terminal_snr, **parameters):
    """The configuration of a training of `run` (an Experiment) on the samples `training`.

    `standardise` ("auto" | "yes" | "no") and `terminal_snr` ("auto" | "zero" | "reference"): auto is as the
    method has it.
    """
    found = find_method(method)
    zero_snr = found.zero_snr if terminal_snr == "auto" else terminal_snr == "zero"
    if zero_snr and found.predicts == "noise":
        raise UserError(
            "with zero terminal signal-to-noise ratio a predicted noise says nothing of the dose; "
            "take terminal_snr: reference, or a method that predicts v or the dose"
        )
    standardised = found.standardised if standardise == "auto" else standardise == "yes"
    config = TrainConfig(
        method=method,
        cohort=run.open_cohort().name,
        cohort_sha256=sha256(run.open_cohort().folder / "card.json"),
        case_ids=[sample.case_id for sample in training],
        site=training[0].site,
        coarsen=run.coarsen,
        beams_deg=list(run.beams_deg),
        cond_channels=len(training[0].cond),
        seed=run.seed,
        precision=choose_precision(run.precision, choose_device(run.device)),
        zero_snr=zero_snr,
        dose_shift=0.0,
        dose_scale=1.0,
        **parameters,
    )
    return with_units(config, training) if standardised else config


def with_units(config, training):
    """The configuration in which what the network predicts has mean 0 and deviation 1 inside the training
    dose masks."""
    left = [
        replace(sample, dose=sample.dose - offset_of(config, sample.cond[None])[0])
        if find_method(config.method).prior
        else sample
        for sample in training
    ]
    shift, scale = dose_statistics(left)
    return replace(config, dose_shift=shift, dose_scale=scale)


def start_from_prior(run, method, *parts):
    """The samples as a method with a prior needs them: its dose as a condition channel. Others come back as
    they are."""
    prior = find_method(method).prior
    if not prior:
        return parts
    predictor = run.load_predictor(prior)
    return tuple(with_priors(predictor, part) if part else part for part in parts)


def train_or_say(config, train_samples, validation_samples, folder, device="auto", prior=None, report=print):
    """`train`; if it cannot be done, why is kept as failed.json and said, and the history is None."""
    try:
        check_perceptual(config)
        history = train(config, train_samples, validation_samples, folder, device, prior, report=report)
    except CannotTrain as error:
        write_json(Path(folder) / "failed.json", {"reason": str(error)})
        report(f"not trained: {error}")
        return None
    (Path(folder) / "failed.json").unlink(missing_ok=True)
    return history


def check_perceptual(config):
    if "vgg" in find_method(config.method).extra and not config.vgg_file:
        raise CannotTrain(f"{config.method} needs the weights of VGG16 as train.vgg_file; {WHERE}")


def train(
    config,
    train_samples,
    validation_samples,
    folder,
    device="auto",
    prior=None,
    save_every_s=60.0,
    report=print,
):
    """Train to the end, or until patience runs out; write weights, configuration and history to `folder`.

    The same training (configuration, patients, code) goes on where it was stopped, and is not repeated once
    it is finished. `prior` is the folder of the regression whose dose the samples carry. Returns the history:
    one dict per epoch. A loss that is not finite ends it with CannotTrain; the checkpoint before it stays.
    """
    folder, key = Path(folder), training_key(config, prior)
    folder.mkdir(parents=True, exist_ok=True)
    if is_fresh(folder / STAMP, key):
        report("this training is finished already; its history is read back")
        return read_history(folder / "history.csv")
    alone = lock(folder / "training.lock", f"another process is training {folder}; wait for it or stop it")
    with alone if is_first() else nullcontext():
        return go_on(
            config,
            train_samples,
            validation_samples,
            folder,
            own_device(choose_device(device)),
            prior,
            key,
            save_every_s,
            report,
        )


def go_on(config, train_samples, validation_samples, folder, device, prior, key, save_every_s, report):
    """From the last checkpoint, or the beginning, to the end."""
    report = report if is_first() else lambda text: None
    check_memory(config, train_samples, device, world())
    run = Run(config, device)
    state = load_state(folder, key, device, report)
    if state:
        run.restore(state)
        report(f"going on from step {run.step} of {config.n_steps}")
    elif config.start_from:
        start_from(run, config.start_from)
    train_samples, validation_samples = (
        [s.to(device) for s in samples] for samples in (train_samples, validation_samples)
    )
    try:
        for _ in progress(range(run.step, config.n_steps), f"training {config.method}"):
            if out_of_patience(run.history, config.patience):
                report(
                    f"stopped after epoch {run.history[-1]['epoch']}: no better for {config.patience} epochs"
                )
                break
            timed_step(run, config, train_samples, device)
            keep_snapshots(run, config, folder)
            if run.step % config.steps_per_epoch == 0:
                close_epoch(run, config, validation_samples, device, report)
            if run.seconds - run.saved_s > save_every_s:
                checkpoint(run, config, folder, key)
    except KeyboardInterrupt:
        checkpoint(run, config, folder, key)
        raise UserError(
            f"stopped by hand at step {run.step} of {config.n_steps}; the same command goes on from there"
        ) from None
    if device.type == "cuda":
        report(f"at most {torch.cuda.max_memory_allocated(device) / GB:.1f} GB of the GPU's memory were used")
    if is_first():
        finish(run, config, folder, prior, key)
    wait_for_all()
    return run.history


def training_key(config, prior):
    """What a training depends on: its configuration, which names its cohort's card, the weights of its prior
    and of its start, and the code.

    The units of the dose follow from all these; their last digits depend on how many threads add them up, so
    they are left out.
    """
    before = [weights_sha256(folder) for folder in (prior, config.start_from) if folder]
    given = {
        name: value
        for name, value in asdict(config).items()
        if name not in ("dose_shift", "dose_scale", "start_from")
    }
    return digest([given, before, modules_digest("import lib.training.loop")])


def weights_sha256(folder):
    path = Path(folder) / "weights.safetensors"
    if not path.exists():
        raise UserError(f"{folder} holds no finished training ({path.name}), from which this one is to start")
    return sha256(path)


def start_from(run, folder):
    """Begin with the weights of a finished training; they may be of another grid or cohort, but of a network
    of the same shape. Raises a UserError."""
    weights = load_predictor(folder, "cpu", "32").network.state_dict()
    try:
        for network in (run.network, run.averaged):
            network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the network of {folder} does not fit this training's ({str(error).splitlines()[1].strip()}); "
            "its width, its inputs or what it predicts differ"
        ) from None


def checkpoint(run, config, folder, key):
    check_finite(run, config)
    run.saved_s = run.seconds
    if is_first():
        save_state(folder, key, run.state())


def timed_step(run, config, samples, device):
    started = time.monotonic()
    one_step(run, config, samples, device)
    run.seconds += time.monotonic() - started


def one_step(run, config, samples, device):
    """Draw a batch, augment it, descend once, average the weights."""
    generator = generator_for(config.seed, "step", run.step)
    batch = draw_batch(config, samples, run.step, generator)
    drawn = draw_noise(config, batch, generator)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, run.step)
    run.optimizer.zero_grad(set_to_none=True)
    run.loss_sum += mean_over_all(backward(run, config, batch, drawn, device))
    run.scaler.unscale_(run.optimizer)
    torch.nn.utils.clip_grad_norm_(run.network.parameters(), CLIP_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    average_weights(run, config.ema_decay)
    run.step += 1
    if device.type == "cpu":  # on a GPU each look at the loss would make it wait
        check_finite(run, config)


def backward(run, config, batch, drawn, device):
    """Gradients of this process's parts of the batch, part by part; the mean over processes is the batch's.
    Returns its loss."""
    total = torch.zeros((), device=device)
    parts = own_parts(len(batch.dose), config.accumulate)
    for number, (patients, share) in enumerate(parts):
        part, of_part = part_of(batch, patients), drawn and tuple(values[patients] for values in drawn)
        with autocast(device, config.precision), without_talk(run.shared, number == len(parts) - 1):
            loss = share * training_loss(run.shared, part, of_part, config, run.alpha_bar, run.perceptual)
            run.scaler.scale(loss).backward()
        total += loss.detach()
    return total


def own_parts(patients, accumulate):
    """Pairs (slice of the batch, its weight) of this process, so that weighted losses and gradients average
    to the batch's.

    All processes have equally many parts; one beyond the patients is the first patient with weight 0.
    """
    parts = world() * accumulate
    edges = [round(i * patients / parts) for i in range(parts + 1)]
    cut = [
        (slice(a, b), world() * (b - a) / patients) if b > a else (slice(0, 1), 0.0)
        for a, b in itertools.pairwise(edges)
    ]
    own = cut[rank() * accumulate : (rank() + 1) * accumulate]
    return own if world() > 1 else [part for part in own if part[1]]


def draw_batch(config, samples, step, generator):
    """The step's patients in the epoch's own order, cut to patches and augmented."""
    epoch, within = divmod(step, config.steps_per_epoch)
    visits = len(samples) * config.patches_per_case
    order = torch.randperm(visits, generator=generator_for(config.seed, "epoch", epoch))
    chosen = order[within * config.batch_size : (within + 1) * config.batch_size] % len(samples)
    patch = tuple(config.patch_voxels) if any(config.patch_voxels) else None
    batch = make_batch([samples[i] for i in chosen.tolist()], patch, generator)
    return batch if config.augment == "none" else augment(batch, config.augment, generator)


def learning_rate(config, step):
    """Cosine from the first to the final rate (Loshchilov & Hutter 2017, Eq. 5, without restarts)."""
    fall = (1 + math.cos(math.pi * step / max(1, config.n_steps))) / 2
    return FINAL_LEARNING_RATE + (config.learning_rate - FINAL_LEARNING_RATE) * fall


@torch.no_grad()
def average_weights(run, decay):
    """Exponential moving average; early on the decay is (1 + n) / (10 + n), to forget the start."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    for mean, new in zip(run.averaged.parameters(), run.network.parameters()):
        mean.lerp_(new, 1 - decay)


def close_epoch(run, config, validation_samples, device, report):
    """Write the epoch's row of the history; each `validate_every` epochs and last with validation error."""
    check_finite(run, config)
    epoch = run.step // config.steps_per_epoch
    row = {
        "epoch": epoch,
        "step": run.step,
        "loss": float(run.loss_sum) / config.steps_per_epoch,
        "learning_rate": learning_rate(config, run.step),
        "validation_mae_gy": None,
        "seconds": round(run.seconds, 1),
    }
    run.loss_sum.zero_()
    if validation_samples and (epoch % config.validate_every == 0 or epoch == config.epochs):
        row["validation_mae_gy"] = validate(run, config, validation_samples, device)
        if config.keep == "best" and row["validation_mae_gy"] < run.best_mae_gy:
            run.best_mae_gy = row["validation_mae_gy"]
            run.best_weights = {name: w.clone() for name, w in run.averaged.state_dict().items()}
        report(
            f"epoch {epoch}/{config.epochs}: loss {row['loss']:.4g}, "
            f"validation MAE {row['validation_mae_gy']:.2f} Gy"
        )
    run.history.append(row)


def validate(run, config, samples, device):
    """Mean absolute error in Gy inside the dose masks, on the training grid, by the averaged weights."""
    predictor = ready(copy.deepcopy(run.averaged), config, device, config.precision)
    sampler, own = usual_sampler(config, config.validation_steps), own_share(samples)
    doses = predict(
        predictor,
        own,
        sampler,
        seed=config.seed,
        temperature=usual_temperature(config),
        label=f"validating {config.method}",
    )
    errors_gy = [grid_dose_score_gy(sample.to("cpu"), dose) for sample, dose in zip(own, doses)]
    return sum_over_all(sum(errors_gy), device) / len(samples)


def out_of_patience(history, patience):
    """Whether the best validation error is `patience` or more epochs old; never for patience 0."""
    validated = [row for row in history if row["validation_mae_gy"] is not None]
    if not patience or not validated:
        return False
    best = min(validated, key=lambda row: row["validation_mae_gy"])
    return history[-1]["epoch"] - best["epoch"] >= patience


def check_finite(run, config):
    if not math.isfinite(float(run.loss_sum)):
        raise CannotTrain(
            f"the training of {config.method} diverged at step {run.step}: its loss is not finite; "
            "lower train.learning_rate"
        )


def keep_snapshots(run, config, folder):
    """The averaged weights as they stand when a share of the steps is done."""
    for share in config.snapshots_pct:
        if is_first() and run.step == round(share / 100 * config.n_steps):
            save_tensors(folder / f"weights-{share}pct.safetensors", run.averaged.state_dict())


def finish(run, config, folder, prior, key):
    """Write the result: averaged weights (or the best) and the last, configuration, history; the running
    state is then gone."""
    save_tensors(
        folder / "weights.safetensors",
        run.best_weights if config.keep == "best" and run.best_weights else run.averaged.state_dict(),
    )
    save_tensors(folder / "weights-last.safetensors", run.network.state_dict())
    write_json(folder / "config.json", asdict(config))
    write_text(folder / "history.csv", pd.DataFrame(run.history).to_csv(index=False))
    products = [folder / "config.json", folder / "history.csv", *sorted(folder.glob("weights*.safetensors"))]
    if prior:
        (folder / "prior").mkdir(exist_ok=True)
        for name in ("weights.safetensors", "config.json"):
            copyfile(Path(prior) / name, folder / "prior" / name)
            products.append(folder / "prior" / name)
    write_stamp(folder / STAMP, key, products)
    clear_state(folder)


def read_history(path):
    """The rows of a history.csv as `train` returns them."""
    table = pd.read_csv(path)
    return table.astype(object).where(table.notna(), None).to_dict("records")
