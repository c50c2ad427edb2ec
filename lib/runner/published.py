"""What the repository publishes of an experiment: written by --publish alone, compared with a fresh run.

python -m lib.runner.published outputs/phantom-quick    exits with 1 where a number differs too much
"""

import re
import sys
from pathlib import Path
from shutil import copyfile, rmtree

import pandas as pd

from lib.files import read_json, sha256, write_json, write_text
from lib.models.methods import find_method, kind
from lib.report.interval_figures import with_names
from lib.runner.check import open_check
from lib.strict_yaml import read_yaml
from lib.studies.calibration import is_calibrated, load_calibration
from lib.studies.experiment import CARD, Experiment, commit
from lib.studies.results import FRAMES, Results, add_labels, make_frame, read_frame, save_results, select
from lib.tensors import load_tensors, save_tensors

# A code host shows notebooks by itself, so their pages stay away; the report's notebook is its page
PARTS = ("experiment.yaml", "0[0-46]*.ipynb", "results/*")
# of patients that a checkout does not hold: the page, and the tables that are cited, without their structures
COMMITTED, CITED = "outputs/cohorts/phantom", ("02_steps", "03_ensemble", "04_comparison")
PATIENTS = 1  # whose predictions are published, for the explorer; in voxels they are large
# Networks multiply in bfloat16 where the hardware does, so weights are published in it; but a layer of so
# few as norms, biases and the last one have, which are small and matter, as it is
FEW_WEIGHTS = 4096
EQUAL_GY = 0.005  # numbers are compared as they are printed
# What another processor changes, since its kernels add in another order; measured in tests/README.md
OTHER_PROCESSOR_GY = 0.2
OTHER_PROCESSOR_DDPM_GY = 3.0  # its sampler multiplies small differences


def published_folder(folder: Path) -> Path:
    """Where the repository keeps what it publishes of the experiment in `folder`."""
    return folder if folder.parent.name == "published" else folder.parent / "published" / folder.name


def device_of(folder: Path) -> str:
    """Where the methods of an experiment were compared; "" if none were."""
    path = folder / "results" / "04_comparison.json"
    return read_json(path)["made"]["device"] if path.exists() else ""


def mean_gy(folder: Path, measure: str = "mae_gy", region: str = "dose mask") -> pd.Series:
    """An error averaged over the test patients, by label of the answer; empty if nothing was compared."""
    path = folder / "results" / "04_comparison.csv"
    frame = read_frame(path) if path.exists() else make_frame(path.stem, [])
    rows = add_labels(select(frame, measure=measure, region=region, structure=""))
    return rows.groupby("label", sort=False)["value"].mean()


def is_shown(training: str) -> bool:
    """Whether its predictions are published: of the regressions, which look alike, one."""
    return training in ("control", "baseline") or find_method(training).timed


def publish(folder: Path) -> None:
    """Put what the repository publishes of `folder`, with its page, in place of what it published before."""
    target, whole, check = published_folder(folder), has_committed_patients(folder), None
    if is_calibrated(folder) and not whole:
        run, *_ = open_check(folder)
        check = run, load_calibration(run)  # refused before anything is removed
    if target.exists():
        rmtree(target)
    for path in published_files(folder) if whole else folder.glob("experiment.yaml"):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copyfile(path, copy)
    if not whole:
        write_cited(folder, target)
    if check:
        write_check(*check, target)
    links = (r'href="pages/(\w[\w-]*)\.html"', r'href="\1.ipynb"')
    if not whole:  # the pages' notebooks are not published
        links = (r'<a href="pages/[^"]*">(.*?)</a>', r"\1")
    for page in folder.glob("report.html"):
        text = re.sub(r' <a href="figures/[^"]*">PDF</a>', "", page.read_text(encoding="utf-8"))
        write_text(target / page.name, re.sub(*links, text))
    maes_gy = mean_gy(folder).round(3).to_dict()
    stored = {"commit": commit(), "device": device_of(folder), "mae_gy": maes_gy}
    write_json(target / "results" / "published.json", stored)


def has_committed_patients(folder: Path) -> bool:
    path = folder / "experiment.yaml"
    params = read_yaml(path) if path.exists() else {}
    return params.get("cohort", COMMITTED) == COMMITTED


def published_files(folder: Path) -> list[Path]:
    """The files that are published as they are, where a checkout holds the patients."""
    paths = [path for part in PARTS for path in sorted(folder.glob(part))]
    shown = [part for part in folder.glob("predictions/*") if is_shown(part.name)]
    return paths + [path for part in shown for path in sorted(part.glob("*.npz"))[:PATIENTS]]


def write_cited(folder: Path, target: Path) -> None:
    """The cited tables, of 04 the rows of whole patients."""
    for name in CITED:
        path = folder / "results" / f"{name}.csv"
        if path.exists():
            rows = pd.read_csv(path, dtype=str, keep_default_na=False)
            whole = rows[rows["structure"] == ""] if "structure" in rows else rows
            write_text(target / "results" / path.name, whole.to_csv(index=False))


def write_check(run: Experiment, calibration: Results, target: Path) -> None:
    """What checks a plan where neither these patients nor their trainings are: the network of one regression,
    the tables of the answers that it gives alone, and what of the cohort's card is asked."""
    answers, frames = calibration.settings["answers"], calibration.frames
    name, weights = answers["regression"], "weights.safetensors"
    source, copy = run.checkpoint(name), target / "checkpoints" / name
    for path in (source / weights, source / "prior" / weights):
        if path.exists():
            at, (layers, _) = copy / path.relative_to(source), load_tensors(path)
            short = {key: layer.bfloat16() for key, layer in layers.items() if layer.numel() > FEW_WEIGHTS}
            save_tensors(at, layers | short)
            copyfile(path.with_name("config.json"), at.with_name("config.json"))
    cohort = run.open_cohort()
    write_json(target / CARD, cohort.short_card)
    judged = with_names(frames["07_intervals"])
    alone = judged["source"].isin(["none", "sides"]) & (judged["training"] == name)
    settings = calibration.settings | {"answers": answers | {"sampled": [], "deep": []}}
    settings["weights"] = {name: sha256(copy / weights), "cohort": cohort.checksum}
    settings["not_published"] = list(judged.loc[~alone, "answer"].unique())
    keys = judged.loc[alone, ["source", "training"]].drop_duplicates()
    tables = {
        "values": select(frames["07_values"], part="validation").merge(keys),
        "anatomy": frames["07_anatomy"],
        "intervals": judged[alone & (judged["case_id"] != "")].drop(columns="answer"),
    }
    tables = {key: frame[list(FRAMES[f"07_{key}"])] for key, frame in tables.items()}
    save_results(target / "results", "07_check", settings, **tables)


def allowed_gy(method: str, same_device: bool) -> float:
    """By how much a method's MAE may differ from the published one."""
    other_gy = OTHER_PROCESSOR_DDPM_GY if method == "ddpm" else OTHER_PROCESSOR_GY
    return EQUAL_GY if same_device else other_gy


def compare_with_published(folder: Path) -> tuple[list[str], list[str]]:
    """(lines that say how the fresh numbers stand to the published ones, the answers that differ by more
    than they may); both empty if there is nothing to compare."""
    path, fresh = published_folder(folder) / "results" / "published.json", mean_gy(folder).round(3)
    if not path.exists() or fresh.empty:
        return [], []
    stored, device = {"device": "another device"} | read_json(path), device_of(folder)  # older ones lack it
    origin = f"{stored['device']}, commit {stored['commit']}"
    lines, differing = [f"MAE in Gy here ({device}) and as published ({origin}):"], []
    for label, value in fresh.items():
        known, note = stored["mae_gy"].get(label), ""
        if known is not None:
            off_gy, most_gy = value - known, allowed_gy(kind(label), device == stored["device"])
            words = "more than it may" if abs(off_gy) > most_gy else "as another processor may"
            note = f"  {known:.2f}  " + ("equal" if abs(off_gy) <= EQUAL_GY else f"{off_gy:+.2f}, {words}")
            differing += [label] if abs(off_gy) > most_gy else []
        lines.append(f"  {label:<20} {value:.2f}{note}")
    return lines, differing


if __name__ == "__main__":
    comparison_lines, too_far = compare_with_published(Path(sys.argv[1]))
    print("\n".join(comparison_lines or ["there is nothing to compare"]))
    sys.exit(1 if too_far or not comparison_lines else 0)
