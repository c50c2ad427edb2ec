"""Whether an experiment can check plans: it was calibrated, with the networks and patients of now."""

from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.files import in_project, sha256
from lib.studies.experiment import OUTPUTS, PUBLISHED, Experiment
from lib.studies.results import Results


def weights_of(run: Experiment, how: dict[str, Any]) -> dict[str, str]:
    """training -> checksum of its weights, of those that answer, and that of the cohort's card."""
    names = dict.fromkeys([how["regression"], *how["sampled"], *how["deep"]])
    files = {name: run.checkpoint(name) / "weights.safetensors" for name in names}
    sums = {name: sha256(path) for name, path in files.items() if path.exists()}
    return sums | {"cohort": run.open_cohort().checksum}


def is_calibrated(folder: Path) -> bool:
    return (folder / "results" / "07_check.json").exists()


def load_calibration(run: Experiment) -> Results:
    """What a calibration kept; a UserError where there is none, or networks or patients changed since."""
    if problem := calibration_problem(run):
        raise UserError(problem)
    return run.load_results("07_check")


def calibration_problem(run: Experiment) -> str:
    """Why a plan cannot be checked, and what to do; "" if it can."""
    name = Path(run.experiment).name
    command, published = f"python -m lib check {OUTPUTS / name}", PUBLISHED / name
    if not is_calibrated(run.folder):
        other = f", or check by {published}" if is_calibrated(in_project(published)) else ""
        return f"{run.experiment} is not calibrated; first {command}{other}"
    settings = run.load_results("07_check").settings
    stored, here = settings["weights"], weights_of(run, settings["answers"])
    if missing := sorted(stored.keys() - here.keys()):
        return f"{run.checkpoint(missing[0])} holds no weights; train {missing[0]} first"
    other = f"networks or patients of {run.experiment} are not those it was calibrated with; {command}"
    return other if stored != here else ""
