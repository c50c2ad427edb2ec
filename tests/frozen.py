"""The numbers of two training steps and one sample of every method, on made-up patients, float32, one thread.

    python tests/frozen.py            prints them, with a digest of every bit
    python tests/frozen.py --write    writes tests/frozen.json, which test_frozen.py compares with

The file says which TRAINING_VERSION (lib/cache.py) they belong to. Whoever changes them on purpose raises it
and writes them anew; without that nobody's finished trainings would be made again.
"""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import torch
from toys import toy_case

from lib.cache import TRAINING_VERSION
from lib.features.grid import Grid
from lib.features.samples import add_prior, make_sample
from lib.models.config import TrainConfig
from lib.models.methods import METHODS, find_method, kind
from lib.prediction.predict import predict, ready, usual_sampler, usual_temperature
from lib.training.loop import train_step
from lib.training.state import TrainingState

FILE = Path(__file__).with_suffix(".json")
CPU = torch.device("cpu")
BASE = {
    "cohort": "toys",
    "cohort_sha256": "",
    "site": "prostate",
    "coarsen": 1,
    "beams_deg": [],
    "base_channels": 8,
    "epochs": 2,
    "patches_per_case": 1,
    "patch_voxels": [0, 0, 0],
    "batch_size": 2,
    "accumulate": 1,
    "learning_rate": 1e-3,
    "ema_decay": 0.9,
    "weighting": "none",
    "region": "dose mask",
    "dose_error": "squared",
    "dvh_weight": 0.1,
    "gradient_weight": 0.1,
    "gradient_units": "per mm",
    "vgg_weight": 0.01,
    "vgg_file": "",
    "augment": "rotated",
    "validate_every": 1,
    "validation_steps": 2,
    "patience": 0,
    "keep": "last",
    "snapshots_pct": [],
    "seed": 1,
    "precision": "32",
}
OTHERWISE = {  # what of a method's training is not as in BASE
    "baseline-absolute": {"dose_error": "absolute"},
    "ddpm_v-minsnr": {"weighting": "min-snr"},
    "ddpm_v-voxels": {"coarsen": 2, "answer": 2, "snr_divisor": 8.0, "skip": 0.3},
    "flow-everywhere": {"region": "whole volume"},
}
# the weights of gradient_vgg are not ours to keep
NAMES = [name for name in METHODS if name != "gradient_vgg"] + list(OTHERWISE)


def samples_for(name):
    """Three made-up patients; for a method with a prior half the planned dose stands for the prior's."""
    grid = Grid(2, 2) if "coarsen" in OTHERWISE.get(name, {}) else Grid(1)
    samples = [make_sample(toy_case(f"toy_{i}", seed=i), grid) for i in range(3)]
    return [add_prior(s, s.dose / 2) for s in samples] if find_method(name).prior else samples


def config_for(name, samples):
    row = find_method(name)
    config = TrainConfig(
        **BASE | OTHERWISE.get(name, {}),
        method=kind(name),
        case_ids=[s.case_id for s in samples],
        channels=list(samples[0].channels.names),
        zero_snr=row.zero_snr,
        dose_shift=0.0,
        dose_scale=1.0,
    )
    if not row.standardised:
        return config
    doses = torch.cat([s.dose[s.mask > 0.5] for s in samples]).double()
    return dataclasses.replace(config, dose_shift=float(doses.mean()), dose_scale=float(doses.std()))


def numbers(name):
    """Losses of two steps, size of the averaged weights, a sample's mean dose, and all bits' digest."""
    torch.set_num_threads(1)
    samples = samples_for(name)
    config = config_for(name, samples)
    state = TrainingState(config, CPU)
    losses = []
    for _ in range(2):
        train_step(state, samples)
        losses.append(float(state.loss_sum))
    predictor = ready(state.averaged, config, CPU, "32")
    how = {"seed": config.seed, "temperature": usual_temperature(config), "label": ""}
    dose = predict(predictor, samples[:1], usual_sampler(config, 3), **how)[0]
    weights = torch.cat([w.flatten() for w in state.averaged.parameters()])
    bits = hashlib.sha256(weights.detach().numpy().tobytes() + dose.numpy().tobytes()).hexdigest()
    size = float(weights.double().abs().sum())
    return {"losses": losses, "weights": size, "dose": float(dose.double().mean()), "bits": bits}


def main():
    found = {name: numbers(name) for name in NAMES}
    print(json.dumps(found, indent=1))
    if "--write" in sys.argv:
        kept = {name: {k: v for k, v in row.items() if k != "bits"} for name, row in found.items()}
        FILE.write_text(json.dumps({"training_version": TRAINING_VERSION, "methods": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
