"""What is published: the key numbers of an experiment, marked by --publish, with which a fresh run is compared.

The weights are put beside them in bf16 as weights/<method>/, half the size, to be published elsewhere: copied to checkpoints/<method>/ of an
experiment they are sampled from without training.
"""

from pathlib import Path
from shutil import copyfile

import numpy as np
import torch

from lib.experiment import commit
from lib.files import read_json, write_json
from lib.studies.rows import by_method
from lib.tensors import load_tensors, save_tensors

TOLERANCE_GY = 0.05


def key_numbers(folder):
    """method -> mean MAE in Gy over the test patients, from results/04_comparison.json; {} if the experiment compares no methods."""
    compared = Path(folder) / "results" / "04_comparison.json"
    rows = read_json(compared)["rows"] if compared.exists() else []
    return {method: round(float(np.mean(values)), 3) for method, values in by_method(rows).items()}


def write_published(folder):
    """Mark the results of `folder` as the published ones, and put its weights beside them."""
    for checkpoint in sorted(Path(folder, "checkpoints").glob("*/weights.safetensors")):
        target = Path(folder, "weights", checkpoint.parent.name)
        save_tensors(
            target / checkpoint.name,
            {name: w.to(torch.bfloat16) for name, w in load_tensors(checkpoint)[0].items()},
        )
        copyfile(checkpoint.parent / "config.json", target / "config.json")
    write_json(
        Path(folder) / "results" / "published.json", {"commit": commit(), "mae_gy": key_numbers(folder)}
    )


def compare_with_published(folder):
    """Lines that say how the fresh numbers stand to the published ones; none if either is missing."""
    published, here = Path(folder) / "results" / "published.json", key_numbers(folder)
    if not published.exists() or not here:
        return []
    stored = read_json(published)
    lines = [f"MAE in Gy here and as published (commit {stored['commit']}):"]
    for method, value in here.items():
        known = stored["mae_gy"].get(method)
        note = (
            ""
            if known is None
            else f"  {known:.2f}  "
            + ("equal" if abs(value - known) <= TOLERANCE_GY else f"{value - known:+.2f}")
        )
        lines.append(f"  {method:<20} {value:.2f}{note}")
    return lines
