"""An experiment: its folders, cohort and trainings, and where its results came from."""

import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lib.cases.case import Case
from lib.cases.cohort import Cohort, open_cohort, read_card
from lib.device import choose_device, choose_precision, describe
from lib.errors import UserError
from lib.features.channels import channels_of
from lib.features.grid import Grid
from lib.features.samples import Sample, load_sample, load_samples, make_files
from lib.files import ROOT, in_project, read_json
from lib.models.config import TrainConfig, check_fits, config_from
from lib.models.control import Falloff, fit_falloff
from lib.models.methods import find_method
from lib.parallel import in_processes
from lib.prediction.predict import Predictor, load_predictor
from lib.progress import progress
from lib.strict_yaml import read_yaml
from lib.studies.results import Results, load_results, save_results

OUTPUTS = Path("outputs")  # a person's own runs
PUBLISHED = OUTPUTS / "published"  # what the repository holds; nothing but --publish writes there
CARD = "cohort.json"  # in a published experiment, what its cohort's card says


@dataclass(frozen=True)
class Experiment:
    """The common settings of an experiment, as lib.runner.settings explains them."""

    experiment: str
    cohort: str
    first_cases: int
    coarsen: int
    beams_deg: tuple[float, ...]
    seed: int
    device: str
    precision: str
    methods: tuple = ()
    answer: int = 1
    condition: int = 1

    def __post_init__(self):
        # files and notebooks give lists, of 40 or 40.0, which are one angle in the names of files
        object.__setattr__(self, "beams_deg", tuple(float(angle) for angle in self.beams_deg))
        object.__setattr__(self, "methods", tuple(self.methods))
        self.grid.check()

    @property
    def grid(self) -> Grid:
        return Grid(self.coarsen, self.answer, self.condition)

    @property
    def folder(self) -> Path:
        return in_project(OUTPUTS / self.experiment)

    @property
    def prediction_folder(self) -> Path:
        """The folder whose predictions are looked at: the experiment's, or the published one's."""
        published = in_project(PUBLISHED / self.experiment)
        has_none = not (self.folder / "predictions").exists()
        return published if has_none and (published / "predictions").exists() else self.folder

    @property
    def is_published(self) -> bool:
        """Whether it is not a person's own run, but what the repository holds of one."""
        return Path(self.experiment).parent.name == PUBLISHED.name

    def open_cohort(self) -> Cohort:
        """The cohort; of a published experiment its card alone, wherever the patients are."""
        card = self.folder / CARD
        if card.exists():
            return Cohort(in_project(self.cohort), *read_card(card))
        return open_cohort(in_project(self.cohort), self.first_cases)

    def load_case(self, case_id: str) -> Case:
        """A case of the cohort; the last few stay in memory, as a study asks for the same patients again."""
        return cached_case(in_project(self.cohort), self.first_cases, case_id)

    def of_each_case(
        self, function: Callable[[Case], Any], case_ids: Sequence[str], label: str
    ) -> Iterator[tuple[str, Any]]:
        """Pairs (case_id, function(case)), computed by all cores."""
        of_each = in_processes(partial(of_case, self, function), case_ids)
        return zip(case_ids, progress(of_each, label, len(case_ids)))

    def load_samples(self, part: str, first: int | None = None, optional: bool = False) -> list[Sample]:
        """The samples of "train", "validation" or "test", only the `first` so many if given. A part without
        patients raises a UserError unless it is `optional`."""
        cohort = self.open_cohort()
        return load_samples(cohort, patients_of(cohort, part, optional)[:first], self.grid, self.beams_deg)

    def falloff(self) -> Falloff:
        """Of the control, from the training patients."""
        same = {"experiment": "", "seed": 0, "device": "", "precision": "", "methods": ()}
        cohort = {"cohort": str(in_project(self.cohort))}
        return cached_falloff(replace(self, **same, **cohort), self.open_cohort().checksum)

    def checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / name

    def prior_checkpoint(self, name: str) -> Path | None:
        """Folder of the training that a method starts from."""
        prior = find_method(name).prior
        return self.checkpoint(prior) if prior else None

    def load_predictor(self, name: str, weights: str = "weights") -> Predictor:
        """The network of a training, which a UserError refuses if it is of another method, cohort or grid."""
        predictor = load_predictor(self.checkpoint(name), self.device, self.precision, weights)
        if predictor.method != find_method(name):
            there = f"{self.checkpoint(name)} holds a training of {predictor.config.method}"
            raise UserError(f"{there}, not of {name}; train {name} again")
        cohort = self.open_cohort()
        channels = channels_of(cohort.protocol, self.beams_deg)
        check_fits(predictor.config, channels, self.grid, cohort.checksum)
        return predictor

    def config(self, name: str) -> TrainConfig:
        path = self.checkpoint(name) / "config.json"
        return config_from(read_json(path), path)

    def columns(self, name: str) -> dict[str, Any]:
        """The columns of results that say which training a row is of; "control" has no network."""
        if name == "control":
            return {"training": name, "method": name, "group": name}
        config = self.config(name)
        variant = name.removeprefix(config.method).removeprefix("-")
        identity = {"training": name, "method": config.method, "variant": variant, "seed": config.seed}
        return identity | {"group": self.replicates(name)[0]}

    def replicates(self, name: str) -> list[str]:
        """The trainings whose configuration is that of `name` but for the seed, the shortest name first."""
        config, names = replace(self.config(name), seed=0), []
        for path in (self.folder / "checkpoints").glob("*/config.json"):
            with suppress(UserError):  # left there by an older version
                if replace(config_from(read_json(path), path), seed=0) == config:
                    names.append(path.parent.name)
        return sorted(names, key=lambda other: (len(other), other))

    def trained(self, names: list[str]) -> list[str]:
        """The names without those that were tried and have no result."""
        return [name for name in names if name not in self.failures(names)]

    def failures(self, names: list[str]) -> dict[str, str]:
        """name -> why it was not trained, of those that were tried and have no result."""
        tried = {name: self.checkpoint(name) / "failed.json" for name in names}
        return {name: read_json(path)["reason"] for name, path in tried.items() if path.exists()}

    def save_results(self, name: str, settings: dict[str, Any], **frames: pd.DataFrame) -> None:
        """Write results/<name>.json, the settings and where they came from, and its tables as CSV."""
        save_results(self.folder / "results", name, {"made": self.provenance(), **settings}, **frames)

    def load_results(self, name: str) -> Results:
        return load_results(self.folder / "results", name)

    def provenance(self) -> dict[str, Any]:
        """Commit, versions, device, seed and date, for results and the report."""
        device = choose_device(self.device)
        return {
            "commit": commit(),
            "seed": self.seed,
            "device": describe(device, choose_precision(self.precision, device)),
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
            "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "papermill")},
        }


def find_experiment(name: str, device: str = "auto", precision: str = "auto") -> Experiment:
    """An experiment by its name: a person's own run, else what is published of it, else its params file."""
    folders = [in_project(OUTPUTS / name), ROOT / PUBLISHED / name]
    files = [*(folder / "experiment.yaml" for folder in folders), ROOT / "params" / f"{name}.yaml"]
    path = next((path for path in files if path.exists()), None)
    if path is None:
        raise UserError(f"there is no experiment {name!r}; params/ holds the files of those that can be run")
    params = read_yaml(path)
    keys = {"cohort": "outputs/cohorts/phantom", "first_cases": 0, "coarsen": 2, "answer": 1, "condition": 1}
    keys |= {"beams_deg": [], "seed": 42}
    values = {key: params.get(key, usual) for key, usual in keys.items()}
    return Experiment(name, device=device, precision=precision, **values)


def has_study(notebook: str, methods: Iterable[str]) -> bool:
    """Whether an experiment of these methods runs the notebook: that of steps if one is a diffusion,
    that of ensembles if members of one differ."""
    needs = {"02_sampling_ablation": "denoises", "03_ensemble": "sampled"}
    return notebook not in needs or any(getattr(find_method(name), needs[notebook]) for name in methods)


def training_in(experiment: str, name: str) -> str:
    """Folder of the training `name` in the folder of another experiment; "" for none."""
    return str(Path(experiment) / "checkpoints" / name) if experiment else ""


def of_case(run: Experiment, function: Callable[[Case], Any], case_id: str) -> Any:
    return function(run.load_case(case_id))


@lru_cache(maxsize=16)
def cached_case(cohort: Path, first_cases: int, case_id: str) -> Case:
    return open_cohort(cohort, first_cases).load(case_id)


@lru_cache(maxsize=4)
def cached_falloff(run: Experiment, _cohort_sha256: str) -> Falloff:
    cohort = run.open_cohort()
    patients = patients_of(cohort, "train")
    make_files(cohort, patients, run.grid, run.beams_deg)
    # one after the other, as a training holds them all already
    return fit_falloff(load_sample(cohort, case_id, run.grid, run.beams_deg) for case_id in patients)


def patients_of(cohort: Cohort, part: str, optional: bool = False) -> list[str]:
    """The case_ids of a part; none of one that is not `optional` raises a UserError."""
    if not cohort.split[part] and not optional:
        sentence = f"the cohort {cohort.folder} has no {part} patients, which this needs"
        raise UserError(f"{sentence}; its card's split says who is who")
    return cohort.split[part]


def commit() -> str:
    """The commit of the code, with "+ changes" when files of lib or notebooks differ from it."""
    try:
        digits = git("rev-parse", "--short=10", "HEAD")
        return digits + (" + changes" if git("status", "--porcelain", "--", "lib", "notebooks") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
