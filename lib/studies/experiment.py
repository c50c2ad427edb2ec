"""What every notebook of an experiment shares: folders, cohort, results and where they came from."""

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lib.cases.cohort import open_cohort
from lib.device import choose_device, choose_precision, describe
from lib.errors import UserError
from lib.features.samples import load_samples
from lib.files import ROOT, read_json, write_results
from lib.models.methods import find_method, kind
from lib.prediction.predict import load_predictor

OUTPUTS = Path("outputs")  # a person's own runs, and below `published` what the repository holds


@dataclass(frozen=True)
class Experiment:
    """The common settings of an experiment, as lib.runner.settings explains them."""

    experiment: str
    cohort: str
    first_cases: int
    coarsen: int
    beams_deg: tuple
    seed: int
    device: str
    precision: str
    methods: tuple = ()

    def __post_init__(self):
        object.__setattr__(self, "beams_deg", tuple(self.beams_deg))  # a notebook gives a list
        if Path.cwd() == ROOT / "notebooks":  # a notebook opened by hand
            os.chdir(ROOT)

    @property
    def folder(self):
        return OUTPUTS / self.experiment

    @property
    def prediction_folder(self):
        """The folder whose predictions are looked at: the experiment's or, where that has none, the published
        one's."""
        published = OUTPUTS / "published" / self.experiment
        has_none = not (self.folder / "predictions").exists()
        return published if has_none and (published / "predictions").exists() else self.folder

    def open_cohort(self):
        return open_cohort(self.cohort, self.first_cases)

    def load_case(self, case_id):
        """A case of the cohort; the last few stay in memory, as a study asks for the same patients again."""
        return cached_case(self.cohort, self.first_cases, case_id)

    def load_samples(self, part, first=None, optional=False):
        """The samples of "train", "validation" or "test", on the training grid; only the `first` so many if
        given.

        A part without patients raises a UserError unless it is `optional`.
        """
        cohort = self.open_cohort()
        if not cohort.split[part] and not optional:
            raise UserError(
                f"the cohort {cohort.folder} has no {part} patients, which this needs; "
                "its card's split says who is who"
            )
        return load_samples(cohort, cohort.split[part][:first], self.coarsen, self.beams_deg)

    def checkpoint(self, method):
        return self.folder / "checkpoints" / method

    def prior_checkpoint(self, method):
        """Folder of the training that a method starts from, or None."""
        prior = find_method(method).prior
        return self.checkpoint(prior) if prior else None

    def load_predictor(self, method, weights="weights"):
        predictor = load_predictor(self.checkpoint(method), self.device, self.precision, weights)
        if predictor.config.method != kind(method):
            raise UserError(
                f"{self.checkpoint(method)} holds a training of {predictor.config.method}, "
                f"not of {kind(method)}; train {method} again"
            )
        return predictor

    def is_plain_diffusion(self, name):
        """Whether a training denoises the dose itself, so that it can be shown a noised one."""
        method = find_method(name)
        return method.timed and method.predicts != "velocity" and not method.prior

    def trained(self, names):
        """The names without those that were tried and have no result."""
        failed = self.failures(names)
        return [name for name in names if name not in failed]

    def failures(self, methods):
        """name -> why it was not trained, of those methods that were tried and have no result."""
        tried = {name: self.checkpoint(name) / "failed.json" for name in methods}
        return {name: read_json(path)["reason"] for name, path in tried.items() if path.exists()}

    def save_results(self, name, results):
        """Write results/<name>.json: the numbers and where they came from."""
        write_results(self.folder / "results" / f"{name}.json", {"made": self.provenance(), **results})

    def load_results(self, name):
        return read_json(self.folder / "results" / f"{name}.json")

    def provenance(self):
        """Commit, versions, device, seed and date, for results and the report."""
        device = choose_device(self.device)
        return {
            "commit": commit(),
            "seed": self.seed,
            "device": describe(device, choose_precision(self.precision, device)),
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
            "versions": {name: package_version(name) for name in ("torch", "numpy", "scipy", "papermill")},
        }


def training_in(experiment, name):
    """Folder of the training `name` in the folder of another experiment; "" for none."""
    return str(Path(experiment) / "checkpoints" / name) if experiment else ""


@lru_cache(maxsize=16)
def cached_case(cohort, first_cases, case_id):
    return open_cohort(cohort, first_cases).load(case_id)


def commit():
    """The commit of the code, with "+ changes" when files of lib or notebooks differ from it."""
    try:
        hashed = git("rev-parse", "--short=10", "HEAD")
        return hashed + (" + changes" if git("status", "--porcelain", "--", "lib", "notebooks") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def git(*arguments):
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def package_version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
