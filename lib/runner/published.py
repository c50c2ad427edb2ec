"""What the repository publishes of an experiment: written by --publish alone, compared with a fresh run.

    python -m lib.runner.published outputs/phantom-quick    exits with 1 where a number differs too much

The weights are put beside a person's own results in bf16 as weights/<method>/, half the size, to be published
elsewhere: copied to checkpoints/<method>/ of an experiment they are sampled from without training.
"""

import re
import sys
from pathlib import Path
from shutil import copyfile, rmtree

import torch

from lib.files import read_json, write_json, write_text
from lib.studies.experiment import commit
from lib.studies.results import by_patient, read_frame, select
from lib.tensors import load_tensors, save_tensors

# A code host shows notebooks by itself, so their pages stay away; the report's notebook is its page
PARTS = ("experiment.yaml", "0[0-46]*.ipynb", "results/*")
PATIENTS = 2  # whose predictions are published, for the explorer
EQUAL_GY = 0.005  # numbers are compared as they are printed
# What another processor changes, since its kernels add in another order; measured in tests/README.md
OTHER_PROCESSOR_GY = 0.2
OTHER_PROCESSOR_DDPM_GY = 1.0  # its sampler multiplies small differences


def published_folder(folder: Path) -> Path:
    """Where the repository keeps what it publishes of the experiment in `folder`."""
    folder = Path(folder)
    return folder if folder.parent.name == "published" else folder.parent / "published" / folder.name


def read_published(folder: Path) -> dict | None:
    """The commit, device and key numbers of what is published of the experiment in `folder`, if any is."""
    path = published_folder(folder) / "results" / "published.json"
    return read_json(path) if path.exists() else None


def comparison(folder: Path) -> dict:
    """results/04_comparison.json; an empty dict if the experiment compares no methods."""
    path = Path(folder) / "results" / "04_comparison.json"
    return read_json(path) if path.exists() else {}


def key_numbers(folder: Path) -> dict[str, float]:
    """label of an answer -> mean MAE in Gy over the test patients; none where no methods are compared."""
    path = Path(folder) / "results" / "04_comparison.csv"
    if not path.exists():
        return {}
    rows = select(read_frame(path), measure="mae_gy", region="dose mask")
    return by_patient(rows).mean().round(3).to_dict()


def publish(folder: Path) -> None:
    """Put what the repository publishes of `folder`, with its page, in place of what it published before."""
    folder, target = Path(folder), published_folder(folder)
    if target.exists():
        rmtree(target)
    paths = [path for part in PARTS for path in sorted(folder.glob(part))]
    paths += [path for part in folder.glob("predictions/*") for path in sorted(part.glob("*.npz"))[:PATIENTS]]
    for path in paths:
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copyfile(path, copy)
    for page in folder.glob("report.html"):
        text = re.sub(r' <a href="figures/[^"]*">PDF</a>', "", page.read_text(encoding="utf-8"))
        write_text(target / page.name, re.sub(r'href="pages/(\w[\w-]*)\.html"', r'href="\1.ipynb"', text))
    device = comparison(folder).get("made", {}).get("device", "")
    stored = {"commit": commit(), "device": device, "mae_gy": key_numbers(folder)}
    write_json(target / "results" / "published.json", stored)


def write_weights(folder: Path) -> None:
    """Put the weights of an experiment in bf16 beside its results."""
    for checkpoint in sorted(Path(folder, "checkpoints").glob("*/weights.safetensors")):
        target = Path(folder, "weights", checkpoint.parent.name)
        weights = {name: w.to(torch.bfloat16) for name, w in load_tensors(checkpoint)[0].items()}
        save_tensors(target / checkpoint.name, weights)
        copyfile(checkpoint.parent / "config.json", target / "config.json")


def allowed_gy(method: str, same_device: bool) -> float:
    """By how much a method's MAE may differ from the published one."""
    if same_device:
        return EQUAL_GY
    noise = method.partition(",")[0].partition("-")[0] == "ddpm"
    return OTHER_PROCESSOR_DDPM_GY if noise else OTHER_PROCESSOR_GY


def compare_with_published(folder: Path) -> tuple[list[str], list[str]]:
    """(lines that say how the fresh numbers stand to the published ones, the methods that differ by more
    than they may); both empty if there is nothing to compare."""
    stored, fresh = read_published(folder), key_numbers(folder)
    if not stored or not fresh:
        return [], []
    device = comparison(folder)["made"]["device"]
    same = device == stored.get("device")
    origin = f"{stored.get('device')}, commit {stored['commit']}"
    lines, differing = [f"MAE in Gy here ({device}) and as published ({origin}):"], []
    for method, value in fresh.items():
        known = stored["mae_gy"].get(method)
        note = "" if known is None else f"  {known:.2f}  {judge(method, value - known, same)}"
        lines.append(f"  {method:<20} {value:.2f}{note}")
        if known is not None and abs(value - known) > allowed_gy(method, same):
            differing.append(method)
    return lines, differing


def judge(method: str, off_gy: float, same_device: bool) -> str:
    """Whether a method's MAE is the published one, in words."""
    if abs(off_gy) <= EQUAL_GY:
        return "equal"
    as_it_may = abs(off_gy) <= allowed_gy(method, same_device)
    return f"{off_gy:+.2f}, {'as another processor may' if as_it_may else 'more than it may'}"


if __name__ == "__main__":
    comparison_lines, too_far = compare_with_published(Path(sys.argv[1]))
    print("\n".join(comparison_lines or ["there is nothing to compare"]))
    sys.exit(1 if too_far or not comparison_lines else 0)
