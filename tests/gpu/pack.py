"""What comes back of a run on a borrowed machine: at most eight files of 16 MiB, together at most 64 MiB.

    python tests/gpu/pack.py OUT params/openkbp-gpu.yaml

results.tar.xz (tables, figures, params, the course of each training), notebooks.tar.xz, pages.tar.xz and
predictions.tar.xz, beside the log; then the most accurate network in bfloat16, cut into parts, if it fits.
What does not fit stays there, and that is said.
"""

import sys
import tarfile
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
from lib.files import in_project

MOST_FILES, LIMIT, LIMIT_OF_ALL = 8, 16 * 2**20, 64 * 2**20
ARCHIVES = {
    "results": [
        "results/*",
        "figures/*.png",
        "experiment.yaml",
        "checkpoints/*/history.csv",
        "checkpoints/*/*.json",
    ],
    "notebooks": ["0*.ipynb", "checkpoints/unfinished/*.ipynb"],
    "pages": ["report.html", "pages/*.html"],
    "predictions": ["predictions/*/*.npz"],
}


def archive(target: Path, folders: list[Path], patterns: list[str]) -> None:
    """The files of the folders that fit the patterns, as one archive; none if there is no file."""
    paths = [
        (folder, path) for folder in folders for pattern in patterns for path in sorted(folder.glob(pattern))
    ]
    if paths:
        with tarfile.open(target, "w:xz", preset=1) as tar:
            for folder, path in paths:
                tar.add(path, Path(folder.name, path.relative_to(folder)))


def best_training(folder: Path) -> Path | None:
    """The checkpoint of the lowest error on validation patients."""
    errors = {}
    for path in folder.glob("checkpoints/*/history.csv"):
        errors_gy = pd.read_csv(path)["validation_mae_gy"].dropna()
        if (path.parent / "weights.safetensors").exists() and len(errors_gy):
            errors[errors_gy.iloc[-1]] = path.parent
    return errors[min(errors)] if errors else None


def network_parts(checkpoint: Path) -> list[dict]:
    """Its weights in bfloat16, in parts of at most 16 MiB with room for their names."""
    import torch
    from safetensors.torch import load_file

    parts, size = [{}], 0
    for name, value in load_file(checkpoint / "weights.safetensors").items():
        weight = value.to(torch.bfloat16)
        if size + weight.nbytes > LIMIT - 2**18:
            parts, size = [*parts, {}], 0
        parts[-1][name] = weight
        size += weight.nbytes
    return parts


def write_network(out: Path, checkpoint: Path) -> None:
    from safetensors.torch import save_file

    parts, there = network_parts(checkpoint), list(out.iterdir())
    size = sum(value.nbytes for part in parts for value in part.values()) + sum(
        p.stat().st_size for p in there
    )
    if len(there) + len(parts) > MOST_FILES or size > LIMIT_OF_ALL:
        print(
            f"the network {checkpoint.name} stays: {len(parts)} parts, {size / 2**20:.0f} MiB with the rest"
        )
        return
    about = {"training": checkpoint.name, "config": (checkpoint / "config.json").read_text()}
    for number, part in enumerate(parts, 1):
        save_file(part, out / f"network-{number}.safetensors", metadata=about)


def main() -> None:
    out, params = Path(sys.argv[1]), yaml.safe_load(Path(sys.argv[2]).read_text())
    folders = [in_project(f"outputs/{name}") for name in (params["experiment"], "speed-gpu")]
    folders = [folder for folder in folders if folder.exists()]
    for name, patterns in ARCHIVES.items():
        archive(out / f"{name}.tar.xz", folders, patterns)
    for path in out.iterdir():
        if path.stat().st_size > LIMIT:
            print(f"{path.name} has {path.stat().st_size / 2**20:.1f} MiB, too much to come back, and stays")
            path.unlink()
    checkpoint = best_training(folders[0]) if folders else None
    if checkpoint:
        write_network(out, checkpoint)


if __name__ == "__main__":
    main()
