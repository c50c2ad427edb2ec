"""What the studies predict: doses of one training, kept as soon as made, so that a killed study goes on."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lib.cache import FEATURES_VERSION, PREDICTION_VERSION, digest
from lib.cases.case import Case
from lib.device import choose_device, choose_precision
from lib.diffusion.samplers import Sampler, as_dict
from lib.errors import UserError
from lib.features.augmentation import mirror, shift, shift_patient
from lib.features.samples import Sample
from lib.files import sha256
from lib.models.control import control_dose
from lib.models.methods import Method, find_method
from lib.parallel import in_processes
from lib.prediction.predict import Predictor, on_case_grid, predict
from lib.progress import progress
from lib.studies.experiment import Experiment
from lib.tensors import load_tensors, save_tensors

Row = dict[str, Any]
Shift = tuple[int, int, int]  # along z, y, x, in values that a network sees


class Prediction(NamedTuple):
    """Members of every patient's dose, and what they are of.

    columns   of the rows that are made of it, such as training and averaged_over
    doses     [N,1,d,h,w] of each patient, fractions of the prescription
    seconds   for a patient's N members
    nfe       network calls for a patient's N members; fewer than N if any number of members comes of the
              same calls, as of a network that predicts a deviation
    """

    columns: Row
    doses: list[torch.Tensor]
    seconds: float
    nfe: int

    def named(self, **columns: Any) -> "Prediction":
        """The same, of whose rows more is said."""
        return self._replace(columns=self.columns | columns)

    def cost(self, members: int) -> dict[str, float]:
        """Columns `members` and `nfe` of so many members."""
        size = len(self.doses[0])
        return {"members": members, "nfe": self.nfe if self.nfe < size else self.nfe * members // size}

    def seconds_of(self, members: int) -> float:
        """Of a network that predicts a deviation every member took a call, of which one is enough."""
        size = len(self.doses[0])
        return self.seconds * (1 if self.nfe < size else members) / size


def predict_members(
    run: Experiment,
    name: str,
    samples: list[Sample],
    sampler: Sampler | None = None,
    members: int = 1,
    *,
    weights: str = "weights",
    label: str | None = None,
    keep: bool = True,
    **options: Any,
) -> Prediction:
    """So many members by a training of the experiment, from disk where made before; a regression has one.

    `options` are window, window_noise and temperature. What is kept is named by all that decides it; with
    `keep` False nothing is read or written.
    """
    method = find_method(run.config(name).method)
    numbers = list(range(members if method.sampled else 1))
    doses, seconds = [], 0.0
    if keep:
        key = key_of(run, name, samples, weights, [decisive(method, sampler), numbers, options])
        path = run.folder / "checkpoints" / "doses" / f"{key}.safetensors"
        doses, seconds = read_kept(path, samples)
    if not doses:
        predictor, started = run.load_predictor(name, weights), time.monotonic()
        refuse_seen(predictor, samples)
        doses = predict(predictor, samples, sampler, members=numbers, seed=run.seed, label=label, **options)
        seconds = time.monotonic() - started
        if keep:
            of_patients = {sample.case_id: dose for sample, dose in zip(samples, doses)}
            save_tensors(path, of_patients, seconds=repr(seconds))
    columns = run.columns(name) | ({"n_steps": sampler.n_steps} if method.timed else {})
    nfe = sampler.nfe * len(numbers) if method.timed else 1
    return Prediction(columns, doses, seconds / len(samples), nfe)


def refuse_seen(predictor: Predictor, samples: list[Sample]) -> None:
    """A network is not judged on patients that it was trained on."""
    config = predictor.config
    for case_id in [sample.case_id for sample in samples if sample.case_id in config.case_ids]:
        sentence = f"{config.method} was trained on the patient {case_id}, so it cannot be judged there"
        raise UserError(f"{sentence}; train it again or make the cohort's split again")


def key_of(run: Experiment, name: str, samples: list[Sample], weights: str, asked: list) -> str:
    """Name of doses: by network, patients, grid, what was asked, machine and versions."""
    folder, device = run.checkpoint(name), choose_device(run.device)
    files = [folder / f"{weights}.safetensors", folder / "config.json", folder / "prior/weights.safetensors"]
    decided = [sha256(path) if path.exists() else None for path in files]
    decided += [run.open_cohort().checksum, [sample.case_id for sample in samples]]
    decided += [run.grid, run.beams_deg, run.seed, device.type, choose_precision(run.precision, device)]
    return digest([*decided, asked, FEATURES_VERSION, PREDICTION_VERSION])[:32]


def decisive(method: Method, sampler: Sampler | None) -> dict[str, Any]:
    """What of a sampler decides the doses: its times, not the name of its grid, as two grids may give
    the same times; nothing where the method is not sampled in steps."""
    if not method.timed:
        return {}
    given = {key: value for key, value in as_dict(sampler).items() if key not in ("n_steps", "grid", "start")}
    return {"times": sampler.times(), **given}


def read_kept(path: Path, samples: list[Sample]) -> tuple[list[torch.Tensor], float]:
    """Doses and seconds; no doses if they are not there or damaged."""
    try:
        tensors, about = load_tensors(path)
        doses, seconds = [tensors[sample.case_id] for sample in samples], float(about["seconds"])
    except (UserError, KeyError, ValueError):
        return [], 0.0
    return (doses, seconds) if all(torch.isfinite(dose).all() for dose in doses) else ([], 0.0)


def predict_naive(run: Experiment, samples: list[Sample]) -> Prediction:
    """The doses of the control without a network."""
    falloff, started = run.falloff(), time.monotonic()
    doses = [control_dose(falloff, sample)[None] for sample in samples]
    return Prediction(run.columns("control"), doses, (time.monotonic() - started) / len(samples), 0)


def pool(predictions: Sequence[Prediction]) -> Prediction:
    """The members of trainings that differ in their seed, together."""
    first = min(predictions, key=lambda one: one.columns["training"] != one.columns["group"])
    columns = first.columns | {"training": first.columns["group"], "seed": None}
    doses = [torch.cat(of_patient) for of_patient in zip(*(one.doses for one in predictions))]
    seconds, nfe = sum(one.seconds for one in predictions), sum(one.nfe for one in predictions)
    return Prediction(columns, doses, seconds, nfe)


def predict_both_sides(
    run: Experiment, name: str, samples: list[Sample], shifts: Sequence[Shift] = ()
) -> Prediction:
    """One regression on each patient and on the mirror image, turned back: two members, and two more for each
    of the `shifts`, by which both are moved."""
    predictor = run.load_predictor(name)
    refuse_seen(predictor, samples)
    started = time.monotonic()
    straight = predict_shifted(predictor, samples, shifts)
    turned = predict_shifted(predictor, [mirror(sample) for sample in samples], shifts)
    doses = [torch.cat([a, b.flip(-1)]) for a, b in zip(straight, turned)]
    seconds = (time.monotonic() - started) / len(samples)
    return Prediction(run.columns(name), doses, seconds, 2 + 2 * len(shifts))


def predict_shifted(
    predictor: Predictor, samples: list[Sample], shifts: Sequence[Shift]
) -> list[torch.Tensor]:
    """Doses [1+len(shifts),1,d,h,w] of each patient as he is, then moved and moved back; what left the box is
    answered as it was without."""
    unmoved = predict(predictor, samples)
    views, finer = [unmoved], predictor.config.answer // predictor.config.condition
    for steps in shifts:
        voxels = torch.tensor([steps]) * finer
        moved = predict(predictor, [shift_patient(sample, steps) for sample in samples])
        stayed = [shift(shift(torch.ones_like(dose), voxels), -voxels) > 0 for dose in unmoved]
        back = [shift(dose, -voxels) for dose in moved]
        views.append([torch.where(*of_patient) for of_patient in zip(stayed, back, unmoved)])
    return [torch.cat(of_patient) for of_patient in zip(*views)]


Judge = Callable[[Prediction, Case, np.ndarray], list[Row]]  # of a patient's members


def judged_rows(
    run: Experiment, judge: Judge, predictions: Sequence[Prediction], samples: list[Sample], label: str = ""
) -> list[Row]:
    """The rows by `judge` of every prediction and patient, computed on all cores, with their columns.

    `judge` is given the prediction of that patient alone, the case, and the members in Gy on the case's own
    grid, float32 [N,D,H,W]. `label` is of the progress.
    """
    pairs = [(one, *of_patient) for one in predictions for of_patient in zip(samples, one.doses)]
    items = [(one._replace(doses=[dose.numpy()]), sample.case_id) for one, sample, dose in pairs]
    judged = in_processes(partial(judge_one, run, judge), items)
    return [row for rows in progress(judged, label, len(items)) for row in rows]


def judge_one(run: Experiment, judge: Judge, item: tuple[Prediction, str]) -> list[Row]:
    """The rows of one patient's doses, arrays on the training grid."""
    (one, case_id), case = item, run.load_case(item[1])
    members_gy = on_case_grid(torch.from_numpy(one.doses[0]), case, run.grid)
    return [one.columns | {"case_id": case_id} | row for row in judge(one, case, members_gy)]


def in_dose_mask(case: Case, members_gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Members [N,V] and planned dose [V] in the dose mask, in double precision."""
    return members_gy[:, case.dose_mask].astype(np.float64), case.dose_gy[case.dose_mask].astype(np.float64)
