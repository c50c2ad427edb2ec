"""What changes during a training: the network, its running average, the optimiser, counters, history."""

import copy
import math
from pathlib import Path

import torch

from lib.device import compile_for
from lib.errors import UserError
from lib.files import in_project
from lib.models.config import TrainConfig
from lib.models.graphs import TrainingGraphs, uses_graphs
from lib.models.methods import find_method
from lib.models.unet import UNet
from lib.models.vgg import WHERE, PerceptualLoss, load_vgg16
from lib.prediction.predict import load_predictor
from lib.seeds import generator_for
from lib.training.processes import share_gradients

FINAL_LEARNING_RATE, WEIGHT_DECAY, CLIP_NORM = 1e-6, 0.01, 1.0  # the reference's


class CannotTrain(Exception):
    """A training that cannot be done or went wrong, in one sentence; other methods can still be compared."""


class TrainingState:
    """All that a checkpoint holds; nothing of it is random, for a step's draws are named by its number."""

    PARTS = ("network", "averaged", "optimizer", "scaler")
    NUMBERS = ("step", "loss_sum", "seconds", "saved_s", "history", "best_mae_gy", "best_weights")

    def __init__(self, config: TrainConfig, device: torch.device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(config.seed, "weights").initial_seed())
            network = find_method(config.method).make_network(config)
        if device.type == "cuda":
            network.to(memory_format=torch.channels_last_3d)  # as tensor cores take them
        self.config, self.device, self.network = config, device, network.to(device)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        if config.compile:
            compile_for("training", self.network, device)
        self.shared = share_gradients(self.network)
        at_once = isinstance(self.shared, UNet) and config.accumulate == 1  # one process, the whole batch
        by_graphs = at_once and not config.compile and uses_graphs(device)
        self.call = TrainingGraphs(self.shared) if by_graphs else self.shared
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "16")
        self.perceptual = perceptual_loss(config, device)
        self.step, self.history = 0, []
        self.loss_sum = torch.zeros((), device=device)  # of this epoch
        self.seconds = self.saved_s = 0.0
        self.best_mae_gy, self.best_weights = math.inf, {}

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return parts | {name: getattr(self, name) for name in self.NUMBERS}

    def load_state_dict(self, stored: dict) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(stored[name])
        for name in self.NUMBERS:
            setattr(self, name, stored[name])

    def load_weights(self, folder: str | Path) -> None:
        """Begin with a finished training's weights, of any grid or cohort; a UserError if they do not fit."""
        weights = load_predictor(folder, "cpu", "32").network.state_dict()
        try:
            self.network.load_state_dict(weights)
            self.averaged.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"the network of {folder} does not fit this training's; its width, its inputs or what it "
                f"predicts differ ({str(error).splitlines()[1].strip()})"
            ) from None

    def descend(self) -> None:
        """One step of the weights along the clipped gradient, and of their running average."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # early, to forget the start
        with torch.no_grad():
            both = [list(network.parameters()) for network in (self.averaged, self.network)]
            torch._foreach_lerp_(*both, 1 - decay)  # a few kernels instead of one a tensor
        self.step += 1

    def check_finite(self) -> None:
        """CannotTrain if the loss is not finite."""
        if not math.isfinite(float(self.loss_sum)):
            where = f"the training of {self.config.method} diverged at step {self.step}"
            raise CannotTrain(f"{where}: its loss is not finite; lower train.learning_rate")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Cosine from the first to the final rate (Loshchilov & Hutter 2017, Eq. 5, without restarts)."""
    fall = (1 + math.cos(math.pi * step / max(1, config.n_steps))) / 2
    return FINAL_LEARNING_RATE + (config.learning_rate - FINAL_LEARNING_RATE) * fall


def perceptual_loss(config: TrainConfig, device: torch.device) -> PerceptualLoss | None:
    """The VGG loss of a method that has one; CannotTrain without its weights."""
    if "vgg" not in find_method(config.method).extra:
        return None
    if not config.vgg_file:
        raise CannotTrain(f"{config.method} needs the weights of VGG16 as train.vgg_file; {WHERE}")
    return PerceptualLoss(load_vgg16(in_project(config.vgg_file)), device)
