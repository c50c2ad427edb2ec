"""How unlike a patient's anatomy is that of the patients a network was trained on.

A network answers any patient, also one of whose kind it saw none. What sticks out here is a structure's
volume, its place, or its distance to the target; how much is said by the rank among patients who were kept
from training (a conformal test for outliers: Bates et al. 2023, Ann. Statist. 51:149).
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.cases.case import Case
from lib.features.channels import signed_distance_mm
from lib.parallel import in_processes
from lib.progress import progress
from lib.studies.experiment import Experiment
from lib.studies.results import make_frame, make_rows

LEAST_PATIENTS = 4  # with a structure, for a mean and a deviation of it
LEAST_DEVIATION = {"volume": 0.1, "": 3.0}  # of log volumes; of lengths in mm
FAR_MM = 100.0  # what is farther from the target lies so far from it
AXES = ("towards the head", "towards the back", "towards the left")
DISTANCE, VOLUME = "distance to the target / mm", "volume / cc"
UNLIKE_SHARE = 0.1
SAME = 1e-4  # relative difference below which two volumes are one


class Likeness(NamedTuple):
    """How a patient stands to those of a training.

    distance    the largest deviation from the training patients' mean, in their standard deviations
    structure, measure, value, usual   what deviates so, and the training patients' mean
    above       how many of the `n` calibration patients it deviates more than
    unseen      structures that no training patient has
    lacking     structures that every training patient has and this one has not
    """

    distance: float
    structure: str
    measure: str
    value: float
    usual: float
    above: int
    n: int
    unseen: list[str]
    lacking: list[str]

    @property
    def is_unlike(self) -> bool:
        """Whether at most 1 in 10 patients like those of the calibration deviates so; of few, none."""
        return self.at_least <= max(1, UNLIKE_SHARE * (self.n + 1))

    @property
    def at_least(self) -> int:
        """Of n + 1 patients like those of the calibration so many deviate as much."""
        return self.n - self.above + 1


def describe(case: Case) -> dict[tuple[str, str], float]:
    """(structure, measure) -> value: volume, distance of the nearest voxel to the primary target (negative
    inside it), and where its middle lies from the target's."""
    target = case.masks[case.primary_target]
    middle_mm, from_target_mm = centre_mm(case, target), signed_distance_mm(target, case.spacing_mm, FAR_MM)
    values = {}
    for name, mask in case.masks.items():
        if mask.any():
            values[name, VOLUME] = float(mask.sum() * case.voxel_cc)
            if name != case.primary_target:
                values[name, DISTANCE] = float(from_target_mm[mask].min())
                offsets_mm = centre_mm(case, mask) - middle_mm
                values |= {(name, f"{axis} / mm"): float(mm) for axis, mm in zip(AXES, offsets_mm)}
    return values


def centre_mm(case: Case, mask: np.ndarray) -> np.ndarray:
    """The mean position of a mask's voxels, (z, y, x) from the first voxel."""
    shares = [mask.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return np.array([np.average(np.arange(len(n)), weights=n) * mm for n, mm in zip(shares, case.spacing_mm)])


def anatomies(run: Experiment) -> pd.DataFrame:
    """The frame 07_anatomy of training and validation patients."""
    split = run.open_cohort().split
    parts = [(case_id, part) for part in ("train", "validation") for case_id in split[part]]
    of_each = in_processes(partial(anatomy_rows, run), parts)
    rows = [row for rows in progress(of_each, "anatomies", len(parts)) for row in rows]
    return make_frame("07_anatomy", rows)


def anatomy_rows(run: Experiment, patient: tuple[str, str]) -> list[dict[str, Any]]:
    """The rows of one patient, (case_id, part)."""
    rows, (case_id, part) = [], patient
    for (structure, measure), value in describe(run.load_case(case_id)).items():
        rows += make_rows({"part": part, "case_id": case_id, "structure": structure}, {measure: value})
    return rows


def table(anatomy: pd.DataFrame) -> pd.DataFrame:
    """07_anatomy as [patient, (structure, measure)], volumes as their logarithms."""
    volumes = anatomy["measure"] == VOLUME
    logs = np.log(anatomy["value"].where(volumes, 1.0))
    return anatomy.assign(value=logs.where(volumes, anatomy["value"])).pivot(
        index="case_id", columns=["structure", "measure"], values="value"
    )


def deviations(patients: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """How many standard deviations of the training patients each number lies from their mean; of what too
    few of them have, NaN."""
    least = [LEAST_DEVIATION["volume" if measure == VOLUME else ""] for _, measure in training]
    spread = np.maximum(training.std(ddof=1), least).where(training.count() >= LEAST_PATIENTS)
    return (patients.reindex(columns=training.columns) - training.mean()) / spread


def likeness(case: Case, anatomy: pd.DataFrame) -> Likeness:
    """How the patient stands to the training patients of 07_anatomy, and among its validation patients."""
    names = ["part", "case_id", "structure", "measure", "value"]
    numbers = pd.DataFrame([("", "", *key, value) for key, value in describe(case).items()], columns=names)
    training = table(anatomy[anatomy["part"] == "train"])
    others = anatomy[(anatomy["part"] == "validation") & (anatomy["case_id"] != case.case_id)]
    patient, usual = deviations(table(numbers), training).iloc[0].abs(), training.mean()
    known = deviations(table(others), training).abs().max(axis=1)
    structure, measure = patient.idxmax()
    values = [table(numbers).iloc[0][structure, measure], usual[structure, measure]]
    values = np.exp(values) if measure == VOLUME else values
    has = training.xs(VOLUME, axis=1, level="measure").notna()
    return Likeness(
        distance=float(patient.max()),
        structure=structure,
        measure=measure,
        value=float(values[0]),
        usual=float(values[1]),
        above=int((known < patient.max()).sum()),
        n=len(known),
        unseen=sorted(name for name in case.judged_masks if name not in has),
        lacking=sorted(name for name in has if has[name].all() and name not in case.judged_masks),
    )


def same_patient(case: Case, anatomy: pd.DataFrame) -> str:
    """The training patient most of whose structures have just these volumes, or "": a target or an organ may
    be drawn anew, and no two of OpenKBP's patients share more than a quarter of theirs."""
    volumes = pd.Series(
        {name: value for (name, measure), value in describe(case).items() if measure == VOLUME}
    )
    training = anatomy[(anatomy["part"] == "train") & (anatomy["measure"] == VOLUME)]
    known = training.pivot(index="case_id", columns="structure", values="value").reindex(
        columns=volumes.index
    )
    alike = np.isclose(known, volumes, rtol=SAME, atol=0).mean(axis=1) > 0.5
    return next(iter(known.index[alike]), "")
