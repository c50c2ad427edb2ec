"""How much disk a run needs, told before it starts: a night of training must not end on a full disk."""

import math
import shutil
from pathlib import Path

import torch

from lib.errors import UserError
from lib.models.unet import UNet
from lib.runner.parameters import read_parameters

CHANNELS = 16  # of condition at most, near enough
SWITCHES = 12  # settings of the ablation that are sampled in few steps, at most
MB = 2**20


def check_room(stages, card, folder):
    """A UserError if the disk of `folder` has less room than what the stages will write beside what is there
    already."""
    needed_mb = estimate_mb(stages, card) - size_mb(folder)
    free_mb = shutil.disk_usage(folder).free / MB
    if needed_mb > free_mb:
        raise UserError(
            f"this run writes about {needed_mb / 1024:.1f} GB more, "
            f"and {folder.resolve()} has {free_mb / 1024:.1f} GB left; make room first"
        )


def estimate_mb(stages, card):
    """Weights, the state of a running training, features and kept doses of runner stages on the cohort of a
    `card`, in MB, rounded up."""
    given = {stage.name: values_of(stage) for stage in stages}
    trainings = [values for name, values in given.items() if name.startswith("01_train_")]
    weights_mb = [parameters_of(values["base_channels"]) * 4 / MB for values in trainings]
    kept_mb = sum(mb * (3 + len(values["snapshots_pct"])) for values, mb in zip(trainings, weights_mb))
    running_mb = 8 * max(weights_mb, default=0)  # network, average and two moments, in two copies
    common = next(iter(given.values()))
    shapes = [case["shape"] for case in card["cases"].values()][: common["first_cases"] or None]
    voxels = sum(math.prod(-(-n // common["coarsen"]) for n in shape) for shape in shapes) / max(
        1, len(shapes)
    )
    features_mb = len(shapes) * voxels * (2 * CHANNELS + 8) / MB
    return math.ceil(
        kept_mb + running_mb + features_mb + doses_kept(given, card, len(trainings)) * voxels * 4 / MB
    )


def values_of(stage):
    """Every parameter of a stage: what the params file gives, else what its notebook says."""
    return {
        name: parameter.default for name, parameter in read_parameters(stage.notebook).items()
    } | stage.parameters


def doses_kept(given, card, n_trainings):
    """Number of doses that the studies keep, of those that an experiment has."""
    counts = {
        "02_sampling_ablation": doses_of_ablation,
        "03_ensemble": doses_of_ensemble,
        "04_comparison": lambda comparison: n_trainings * comparison["members"] * len(card["split"]["test"]),
    }
    return sum(count(given[name]) for name, count in counts.items() if name in given)


def doses_of_ablation(ablation):
    return ablation["patients"] * (
        len(ablation["n_steps"]) * (1 + len(ablation["held_at"]))
        + len(ablation["others_steps"]) * len(ablation["others"])
        + len(ablation["few_steps"]) * SWITCHES
    )


def doses_of_ensemble(ensemble):
    return (
        ensemble["members"]
        * len(ensemble["sampled"])
        * (ensemble["patients"] + ensemble["validation_patients"])
    )


def parameters_of(base_channels):
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(CHANNELS, base_channels, True, 1).parameters())


def size_mb(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / MB
