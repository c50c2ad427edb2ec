"""What decides a training; kept beside the weights, and read from there by whoever uses them."""

import math
from dataclasses import MISSING, dataclass, fields

from lib.errors import UserError
from lib.features.units import Units


@dataclass(frozen=True)
class TrainConfig:
    """One training; `case_ids` are its patients, the parameters cell of 01_train explains the rest."""

    method: str
    cohort: str
    cohort_sha256: str  # of its card
    case_ids: list
    site: str
    cond_channels: int
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
    dose_shift: float  # a network's dose is (fraction of prescription - shift - prior) / scale
    dose_scale: float
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
    compile: bool = False  # the network by torch.compile, here and in sampling
    start_from: str = ""  # folder of the training whose weights it starts from; none: random ones

    @property
    def units(self) -> Units:
        return Units(self.dose_shift, self.dose_scale)

    @property
    def steps_per_epoch(self):
        return math.ceil(len(self.case_ids) * self.patches_per_case / self.batch_size)

    @property
    def n_steps(self):
        return self.epochs * self.steps_per_epoch


def config_from(stored, path):
    """A TrainConfig from its JSON; a file of other keys is refused, but later keys have a default."""
    names = {field.name for field in fields(TrainConfig)}
    needed = {field.name for field in fields(TrainConfig) if field.default is MISSING}
    if not isinstance(stored, dict) or not needed <= set(stored) <= names:
        raise UserError(f"{path} is not the configuration of a training of this version; train again")
    return TrainConfig(**stored)
