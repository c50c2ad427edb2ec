"""How much disk a run needs, told before it starts: a night of training must not end on a full disk."""
import math
import shutil
from pathlib import Path

import torch

from lib.errors import UserError
from lib.models.unet import UNet

CHANNELS = 16  # of condition at most, near enough
SWITCHES = 12  # settings of the ablation that are sampled in few steps, at most
MB = 2**20


def check_room(stages, card, folder):
    """A UserError if the disk of `folder` has less room than what the stages will write beside what is there already."""
    needed_mb = estimate_mb(stages, card) - size_mb(folder)
    free_mb = shutil.disk_usage(folder).free / MB
    if needed_mb > free_mb:
        raise UserError(f"this run writes about {needed_mb / 1024:.1f} GB more, and {folder.resolve()} has {free_mb / 1024:.1f} GB left; make room first")


def estimate_mb(stages, card):
    """Weights, the state of a running training, features and kept doses of runner stages on the cohort of a `card`, in MB, rounded up."""
    trainings = [stage.parameters for stage in stages if stage.name.startswith("01_train_")]
    weights_mb = [parameters_of(p.get("base_channels", 16)) * 4 / MB for p in trainings]
    kept_mb = sum(mb * (3 + len(p.get("snapshots_pct", (25, 50)))) for p, mb in zip(trainings, weights_mb))
    running_mb = 8 * max(weights_mb, default=0)  # network, average and two moments, in two copies
    common = stages[0].parameters
    shapes = [case["shape"] for case in card["cases"].values()][: common.get("first_cases") or None]
    voxels = sum(math.prod(-(-n // common.get("coarsen", 2)) for n in shape) for shape in shapes) / max(1, len(shapes))
    features_mb = len(shapes) * voxels * (2 * CHANNELS + 8) / MB
    return math.ceil(kept_mb + running_mb + features_mb + doses_kept(stages, card, len(trainings)) * voxels * 4 / MB)


def doses_kept(stages, card, n_trainings):
    """Number of doses that the studies keep."""
    given = {stage.name: stage.parameters for stage in stages}
    ablation, ensemble, comparison = (given.get(name, {}) for name in ("02_sampling_ablation", "03_ensemble", "04_comparison"))
    curves = (len(ablation.get("n_steps", range(7))) * (1 + len(ablation.get("held_at", range(2))))
              + len(ablation.get("others_steps", range(7))) * len(ablation.get("others", range(3))) + SWITCHES * len(ablation.get("few_steps", range(3))))
    members = ensemble.get("members", 8) * len(ensemble.get("sampled", range(3))) * (ensemble.get("patients", 8) + ensemble.get("validation_patients", 4))
    return ablation.get("patients", 4) * curves + members + n_trainings * comparison.get("members", 3) * len(card["split"]["test"])


def parameters_of(base_channels):
    with torch.device("meta"):
        return sum(p.numel() for p in UNet(CHANNELS, base_channels, True, 1).parameters())


def size_mb(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / MB
