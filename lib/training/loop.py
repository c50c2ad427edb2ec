"""The one training loop: every method, any device, one process or several, resumed exactly where it stopped.

A step draws all it needs from a stream named by (seed, step), so a checkpoint holds nothing random, and any
number of processes does the same steps.
"""

import time
from pathlib import Path

import torch

from lib.cache import is_fresh
from lib.device import autocast, choose_device
from lib.features.augmentation import augment
from lib.features.batches import Batch, make_batch
from lib.features.samples import Sample
from lib.models.config import TrainConfig
from lib.models.training_loss import draw_noise, training_loss
from lib.progress import progress
from lib.seeds import generator_for
from lib.training.checkpoint import resumable, save_when_due
from lib.training.history import close_epoch, out_of_patience, read_history
from lib.training.processes import hold_gradients, mean_over_all, parts_of_batch, process_device, say
from lib.training.result import STAMP, alone_in, training_key, write_result, write_snapshots
from lib.training.state import TrainingState


def fit(
    config: TrainConfig,
    training: list[Sample],
    validation: list[Sample],
    folder: Path,
    device: str = "auto",
    prior: Path | None = None,
    save_every_s: float = 60.0,
) -> list[dict] | None:
    """Train to the end, or until patience runs out; write weights, configuration and history to `folder`.

    The same training goes on where it was stopped, and is not repeated once it is finished. `prior` is the
    folder of the regression whose dose the samples carry. Returns the history, one dict per epoch, or None
    where the training failed: why is printed and kept as failed.json.
    """
    key = training_key(config, prior)
    if is_fresh(folder / STAMP, key):
        say("this training is finished already; its history is read back")
        return read_history(folder / "history.csv")
    with alone_in(folder):
        state = TrainingState(config, process_device(choose_device(device)))
        with resumable(state, folder, key):
            training, validation = ([s.to(state.device) for s in part] for part in (training, validation))
            for _ in progress(range(state.step, config.n_steps), f"training {config.method}"):
                if out_of_patience(state.history, config.patience):
                    say(f"stopped early: no better for {config.patience} epochs")
                    break
                train_step(state, training)
                write_snapshots(state, folder)
                if state.step % config.steps_per_epoch == 0:
                    close_epoch(state, validation)
                save_when_due(state, folder, key, save_every_s)
        write_result(state, folder, key, prior)
        return state.history


def train_step(state: TrainingState, samples: list[Sample]) -> None:
    """Draw a batch, augment it, descend once, average the weights.

    Each process sees its parts of the batch; the mean of their gradients over the processes is the batch's.
    """
    started, config = time.monotonic(), state.config
    generator = generator_for(config.seed, "step", state.step)
    batch = draw_batch(config, samples, state.step, generator)
    draw = draw_noise(config, batch, generator)
    state.optimizer.zero_grad(set_to_none=True)
    total, parts = torch.zeros((), device=state.device), parts_of_batch(len(batch.dose), config.accumulate)
    for number, (patients, weight) in enumerate(parts, 1):
        part, drawn = batch.part(patients), draw and tuple(values[patients] for values in draw)
        with autocast(state.device, config.precision), hold_gradients(state.shared, number < len(parts)):
            loss = training_loss(state.call, part, drawn, config, state.perceptual) * weight
            state.scaler.scale(loss).backward()
        total += loss.detach()
    state.loss_sum += mean_over_all(total)
    state.descend()
    state.seconds += time.monotonic() - started
    if state.device.type == "cpu":  # on a GPU each look at the loss would make it wait
        state.check_finite()


def draw_batch(config: TrainConfig, samples: list[Sample], step: int, generator: torch.Generator) -> Batch:
    """The step's patients in the epoch's own order, cut to patches and augmented."""
    epoch, within = divmod(step, config.steps_per_epoch)
    visits = len(samples) * config.patches_per_case
    order = torch.randperm(visits, generator=generator_for(config.seed, "epoch", epoch))
    chosen = order[within * config.batch_size : (within + 1) * config.batch_size] % len(samples)
    patch = tuple(config.patch_voxels) if any(config.patch_voxels) else None
    batch = make_batch([samples[i] for i in chosen.tolist()], patch, generator)
    return batch if config.augment == "none" else augment(batch, config.augment, generator)
