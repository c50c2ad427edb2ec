"""What decides a training; kept beside the weights, and read from there by whoever uses them."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lib.cache import TRAINING_VERSION
from lib.diffusion.schedule import schedule
from lib.errors import UserError
from lib.features.channels import Channels
from lib.features.grid import Grid
from lib.features.units import Units


@dataclass(frozen=True)
class TrainConfig:
    """One training; `case_ids` are its patients, the parameters of 01_train explain the rest."""

    method: str
    cohort: str
    cohort_sha256: str  # of its card
    case_ids: list
    site: str
    channels: list  # names of the condition channels
    coarsen: int
    beams_deg: list  # gantry angles whose open fields are a condition channel
    base_channels: int
    epochs: int
    patches_per_case: int
    patch_voxels: list  # [d, h, w]; [0, 0, 0] takes whole volumes
    batch_size: int
    accumulate: int  # parts into which a process cuts its share of a batch, to save memory
    learning_rate: float
    ema_decay: float  # 0: no average
    zero_snr: bool  # whether the schedule ends in pure noise
    weighting: str  # of the noise levels: "none" | "min-snr"
    region: str  # of the loss: "dose mask" | "whole volume"
    dose_error: str  # of a regression's loss: "squared" | "absolute"
    dvh_weight: float  # of a regression's DVH loss
    gradient_weight: float
    gradient_units: str  # "per mm" | "per voxel"
    vgg_weight: float
    vgg_file: str  # the weights of VGG16
    augment: str  # "whole voxels" | "rotated" | "none"
    validate_every: int
    validation_steps: int
    patience: int  # epochs; 0: never stops early
    keep: str  # "last" | "best"
    snapshots_pct: list  # shares of the training after which the averaged weights are kept as well
    seed: int
    precision: str
    n_constraints: int = 13  # numbers that reach the network beside the channels
    answer: int = 1  # doses along the edge of a block that the network answers
    condition: int = 1  # values of a channel along the edge of a block that it sees
    snr_divisor: float = 1.0  # by it the signal-to-noise ratio of every level is divided
    skip: float = 0.0  # deviation of the dose that x_t tells past the network, in its units; 0: nothing
    compile: bool = False  # the network by torch.compile, here and in sampling
    start_from: str = ""  # folder of the training whose weights it starts from; none: random ones
    dose_shift: float = 0.0  # a network's dose is (fraction of prescription - shift - prior) / scale
    dose_scale: float = 1.0
    falloff: tuple = ()  # of the control whose dose is corrected (lib.models.control); none: of no control
    targets: tuple = ()  # condition channels whose voxels have a last layer of their own; none: one for all
    version: int = TRAINING_VERSION

    def __post_init__(self):
        for name in ("falloff", "targets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a file gives a list

    @property
    def grid(self) -> Grid:
        return Grid(self.coarsen, self.answer, self.condition)

    @property
    def alpha_bar(self) -> Tensor:
        """The schedule of a diffusion, float64 [T]."""
        return schedule(self.zero_snr, self.snr_divisor)

    @property
    def units(self) -> Units:
        return Units(self.dose_shift, self.dose_scale)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.case_ids) * self.patches_per_case / self.batch_size)

    @property
    def n_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


def config_from(stored: Any, path: Path) -> TrainConfig:
    """A TrainConfig from its JSON; one of another version or with other keys is refused by a UserError."""
    with suppress(KeyError, TypeError):
        if stored["version"] == TRAINING_VERSION:
            return TrainConfig(**stored)
    raise UserError(f"{path} is not of a training by this version of the code; train again")


def check_fits(config: TrainConfig, channels: Channels, grid: Grid, cohort_sha256: str = "") -> None:
    """A UserError if a training is used on another cohort (if given), grid, beams or channels."""
    names, trained_names = ([n for n in both if n != "prior"] for both in (channels.names, config.channels))
    asked = {name: (getattr(config, name), value) for name, value in grid._asdict().items()}
    asked["beams_deg"] = config.beams_deg, list(channels.beams_deg)
    asked["the channels"] = ", ".join(trained_names), ", ".join(names)
    wrong = [f"with {name} {was}, not {is_now}" for name, (was, is_now) in asked.items() if was != is_now]
    if cohort_sha256 not in ("", config.cohort_sha256):
        wrong = [f"on the cohort {config.cohort} as its card was then"]
    if wrong:
        raise UserError(f"{config.method} was trained {wrong[0]}; use it so, or train it again")
