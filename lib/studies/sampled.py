"""What the studies predict: doses of one training, kept as soon as made, so that a killed study goes on."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib.cache import FEATURES_VERSION, PREDICTION_VERSION, digest
from lib.device import choose_device, choose_precision
from lib.diffusion.samplers import Sampler, as_dict
from lib.errors import UserError
from lib.features.samples import Sample
from lib.files import sha256
from lib.models.control import fit_control, predict_control
from lib.models.methods import Method
from lib.prediction.predict import Predictor, predict
from lib.studies.experiment import Experiment
from lib.tensors import load_tensors, save_tensors


class Prediction(NamedTuple):
    """Members of every patient's dose, and what they are of.

    columns   of the rows that are made of it, such as training and averaged_over
    doses     [N,1,d,h,w] of each patient, fractions of the prescription
    seconds   for a patient's N members
    nfe       network calls for a patient's N members
    one_pass  whether any number of members comes of the same calls: of a network that predicts a deviation
    """

    columns: dict[str, Any]
    doses: list[torch.Tensor]
    seconds: float
    nfe: int
    one_pass: bool = False

    def cost(self, members: int) -> dict[str, float]:
        """Columns `members` and `nfe` of so many members."""
        size = len(self.doses[0])
        return {"members": members, "nfe": self.nfe if self.one_pass else self.nfe * members // size}

    def seconds_of(self, members: int) -> float:
        """Of a network that predicts a deviation every member took a call, of which one is enough."""
        return self.seconds * (1 if self.one_pass else members) / len(self.doses[0])


def predict_members(
    run: Experiment, name: str, samples: list[Sample], sampler: Sampler | None, members: int, **options: Any
) -> Prediction:
    """So many members by a training; a regression has one, and a method that needs no steps needs no more
    network calls for more members."""
    method = run.method(name)
    members = members if method.sampled else 1
    doses, seconds = sampled_doses(run, name, samples, sampler, tuple(range(members)), **options)
    columns = run.columns(name) | ({"n_steps": sampler.n_steps} if method.timed else {})
    nfe = sampler.nfe * members if method.timed else 1
    return Prediction(columns, doses, seconds / len(samples), nfe, one_pass=not method.timed)


def sampled_doses(
    run: Experiment,
    name: str,
    samples: list[Sample],
    sampler: Sampler | None = None,
    members: tuple[int, ...] = (0,),
    *,
    weights: str = "weights",
    label: str | None = None,
    **options: Any,
) -> tuple[list[torch.Tensor], float]:
    """`predict` of a training of the experiment, and the seconds it took; from disk where made before.

    `options` are window, window_noise and temperature. What is kept is named by all that decides it.
    """
    key = key_of(run, name, samples, weights, [decisive(run.method(name), sampler), list(members), options])
    path = run.folder / "checkpoints" / "doses" / f"{key}.safetensors"
    kept = read_kept(path, samples)
    if kept:
        return kept
    predictor, started = run.load_predictor(name, weights), time.monotonic()
    refuse_seen(predictor, samples)
    doses = predict(predictor, samples, sampler, members=members, seed=run.seed, label=label, **options)
    seconds = time.monotonic() - started
    save_tensors(path, {sample.case_id: dose for sample, dose in zip(samples, doses)}, seconds=repr(seconds))
    return doses, seconds


def refuse_seen(predictor: Predictor, samples: list[Sample]) -> None:
    """A network is not judged on patients that it was trained on."""
    seen = [sample.case_id for sample in samples if sample.case_id in predictor.config.case_ids]
    if seen:
        raise UserError(
            f"{predictor.config.method} was trained on the patient {seen[0]}, so it cannot be judged there; "
            "train it again or make the cohort's split again"
        )


def key_of(run: Experiment, name: str, samples: list[Sample], weights: str, asked: list) -> str:
    """Name of doses: by network, patients, grid, what was asked, machine and versions."""
    folder, device = run.checkpoint(name), choose_device(run.device)
    files = [folder / f"{weights}.safetensors", folder / "config.json", folder / "prior/weights.safetensors"]
    decided = [sha256(path) if path.exists() else None for path in files]
    decided += [sha256(run.open_cohort().folder / "card.json"), [sample.case_id for sample in samples]]
    decided += [run.grid, run.beams_deg, run.seed, device.type, choose_precision(run.precision, device)]
    return digest([*decided, asked, FEATURES_VERSION, PREDICTION_VERSION])[:32]


def decisive(method: Method, sampler: Sampler | None) -> dict[str, Any]:
    """What of a sampler decides the doses: its times, so that what two names of a grid have in common is
    sampled once; nothing where the method is not sampled in steps."""
    if not method.timed:
        return {}
    given = {key: value for key, value in as_dict(sampler).items() if key not in ("n_steps", "grid", "start")}
    return {"times": sampler.times(), **given}


def read_kept(path: Path, samples: list[Sample]) -> tuple[list[torch.Tensor], float] | None:
    """Doses and seconds, or None if they are not there or damaged."""
    if not path.exists():
        return None
    try:
        tensors, about = load_tensors(path)
        doses, seconds = [tensors[sample.case_id] for sample in samples], float(about["seconds"])
    except (UserError, KeyError, ValueError):
        return None
    return (doses, seconds) if all(torch.isfinite(dose).all() for dose in doses) else None


def predict_naive(run: Experiment, samples: list[Sample]) -> Prediction:
    """The doses of the control without a network."""
    table = fit_control(run.load_samples("train"))
    started = time.monotonic()
    doses = [torch.from_numpy(predict_control(table, sample))[None, None] for sample in samples]
    return Prediction(run.columns("control"), doses, (time.monotonic() - started) / len(samples), 0)
