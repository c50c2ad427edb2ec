"""The numbers of two training steps and one sample of every method, on made-up patients, float32, one thread.

    python tests/frozen.py            prints them, with a digest of every bit
    python tests/frozen.py --write    writes tests/frozen.json, which test_frozen.py compares with

Whoever changes them on purpose raises TRAINING_VERSION and writes them anew.
"""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import torch
from toys import toy_case

from lib.features.samples import dose_statistics, make_sample, with_prior
from lib.models.config import TrainConfig
from lib.models.methods import METHODS
from lib.prediction.predict import predict, ready, usual_sampler, usual_temperature
from lib.training.loop import Run, one_step

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
NAMES = [name for name in METHODS if name != "gradient_vgg"]  # its weights are not ours to keep


def samples_for(method):
    """Three made-up patients; for a method with a prior half the planned dose stands for the prior's."""
    samples = [make_sample(toy_case(f"toy_{i}", seed=i), 1) for i in range(3)]
    return [with_prior(s, s.dose / 2) for s in samples] if METHODS[method].prior else samples


def config_for(method, samples):
    row = METHODS[method]
    config = TrainConfig(
        **BASE,
        method=method,
        case_ids=[s.case_id for s in samples],
        cond_channels=len(samples[0].cond),
        zero_snr=row.zero_snr,
        dose_shift=0.0,
        dose_scale=1.0,
    )
    if not row.standardised:
        return config
    shift, scale = dose_statistics(samples)
    return dataclasses.replace(config, dose_shift=shift, dose_scale=scale)


def numbers(method):
    """Losses of two steps, size of the averaged weights, a sample's mean dose, and all bits' digest."""
    torch.set_num_threads(1)
    samples = samples_for(method)
    config = config_for(method, samples)
    run = Run(config, CPU)
    losses = []
    for _ in range(2):
        one_step(run, config, samples, CPU)
        losses.append(float(run.loss_sum))
    predictor = ready(run.averaged, config, CPU, "32")
    how = {"seed": config.seed, "temperature": usual_temperature(config), "label": ""}
    dose = predict(predictor, samples[:1], usual_sampler(config, 3), **how)[0]
    weights = torch.cat([w.flatten() for w in run.averaged.parameters()])
    bits = hashlib.sha256(weights.detach().numpy().tobytes() + dose.numpy().tobytes()).hexdigest()
    size = float(weights.double().abs().sum())
    return {"losses": losses, "weights": size, "dose": float(dose.double().mean()), "bits": bits}


def main():
    found = {name: numbers(name) for name in NAMES}
    print(json.dumps(found, indent=1))
    if "--write" in sys.argv:
        kept = {name: {k: v for k, v in row.items() if k != "bits"} for name, row in found.items()}
        FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
