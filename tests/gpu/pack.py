"""What comes back of a run on a borrowed machine: at most eight files of 16 MiB, together at most 64 MiB.

    python tests/gpu/pack.py OUT params/openkbp-gpu.yaml

results.tar.xz (tables, figures, params, the course of each training), notebooks.tar.xz, pages.tar.xz and
predictions.tar.xz, beside the log; then networks in bfloat16, the most accurate first, of those that fit.
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
from lib.runner.published import PATIENTS, is_shown

MOST_FILES, LIMIT, LIMIT_OF_ALL = 8, 16 * 2**20, 64 * 2**20
ARCHIVES = {
    "results": [
        "results/*",
        "figures/*.png",
        "experiment.yaml",
        "checkpoints/*/history.csv",
        "checkpoints/*/*.json",
        "checks/*.html",
    ],
    "notebooks": ["0*.ipynb", "checkpoints/unfinished/*.ipynb"],
    "pages": ["report.html", "pages/*.html"],
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


def shown(folder: Path) -> list[Path]:
    """The predictions that are published, in the folder."""
    parts = [part for part in sorted(folder.glob("predictions/*")) if is_shown(part.name)]
    return [path.relative_to(folder) for part in parts for path in sorted(part.glob("*.npz"))[:PATIENTS]]


def trainings(folder: Path) -> list[Path]:
    """The checkpoints with weights, that of the lowest error on validation patients first."""
    errors = {}
    for path in folder.glob("checkpoints/*/history.csv"):
        errors_gy = pd.read_csv(path)["validation_mae_gy"].dropna()
        if (path.parent / "weights.safetensors").exists() and len(errors_gy):
            errors[path.parent] = errors_gy.iloc[-1]
    return sorted(errors, key=errors.get)


def write_network(out: Path, checkpoint: Path) -> None:
    """Its weights in bfloat16, with its configuration, if there is room."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = {
        name: w.to(torch.bfloat16) for name, w in load_file(checkpoint / "weights.safetensors").items()
    }
    size = sum(w.nbytes for w in weights.values()) + 2**18  # with room for their names
    there = list(out.iterdir())
    if size > min(LIMIT, LIMIT_OF_ALL - sum(p.stat().st_size for p in there)) or len(there) == MOST_FILES:
        print(f"the network {checkpoint.name} stays: {size / 2**20:.0f} MiB")
        return
    about = {"training": checkpoint.name, "config": (checkpoint / "config.json").read_text()}
    save_file(weights, out / f"network-{checkpoint.name}.safetensors", metadata=about)


def main() -> None:
    out, params = Path(sys.argv[1]), yaml.safe_load(Path(sys.argv[2]).read_text())
    folders = [in_project(f"outputs/{name}") for name in (params["experiment"], "speed-gpu")]
    folders = [folder for folder in folders if folder.exists()]
    for name, patterns in ARCHIVES.items():
        archive(out / f"{name}.tar.xz", folders, patterns)
    archive(out / "predictions.tar.xz", folders, [str(path) for path in shown(folders[0])] if folders else [])
    for path in out.iterdir():
        if path.stat().st_size > LIMIT:
            print(f"{path.name} has {path.stat().st_size / 2**20:.1f} MiB, too much to come back, and stays")
            path.unlink()
    for checkpoint in trainings(folders[0]) if folders else []:
        write_network(out, checkpoint)


if __name__ == "__main__":
    main()
