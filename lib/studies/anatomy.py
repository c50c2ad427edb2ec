"""How unlike a patient's anatomy is that of the patients a network was trained on.

A network answers any patient, also one of whose kind it saw none. What sticks out here is a structure's
volume, its place, or its distance to the target; how much is said by the rank among patients who were kept
from training (a conformal test for outliers: Bates et al. 2023, Ann. Statist. 51:149).
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.cases.case import Case
from lib.features.channels import signed_distance_mm
from lib.studies.experiment import Experiment
from lib.studies.results import make_frame, select

LEAST_PATIENTS = 4  # with a structure, for a mean and a deviation of it
LEAST_LOG, LEAST_MM = 0.1, 3.0  # deviations of log volumes and of lengths
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
    split, rows = run.open_cohort().split, []
    for part in ("train", "validation"):
        for case_id, of_case in run.of_each_case(anatomy_rows, split[part], f"anatomies, {part}"):
            rows += [{"part": part, "case_id": case_id} | row for row in of_case]
    return make_frame("07_anatomy", rows)


def anatomy_rows(case: Case) -> list[dict[str, Any]]:
    return [{"structure": s, "measure": m, "value": value} for (s, m), value in describe(case).items()]


def table(anatomy: pd.DataFrame) -> pd.DataFrame:
    """07_anatomy as [patient, (structure, measure)], volumes as their logarithms."""
    values, columns = anatomy["value"].to_numpy(float), ["structure", "measure"]
    logs = np.log(values, out=values.copy(), where=(anatomy["measure"] == VOLUME).to_numpy())
    return anatomy.assign(value=logs).pivot(index="case_id", columns=columns, values="value")


def deviations(patients: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """Standard deviations of the training patients from their mean; NaN of what too few of them have."""
    least = [LEAST_LOG if measure == VOLUME else LEAST_MM for _, measure in training]
    spread = np.maximum(training.std(ddof=1), least).where(training.count() >= LEAST_PATIENTS)
    return (patients.reindex(columns=training.columns) - training.mean()) / spread


def likeness(case: Case, anatomy: pd.DataFrame) -> Likeness:
    """How the patient stands to the training patients of 07_anatomy, and among its validation patients."""
    named = {"part": "", "case_id": case.case_id}
    numbers = table(pd.DataFrame([named | row for row in anatomy_rows(case)]))
    training, others = (select(anatomy, part=part) for part in ("train", "validation"))
    training, others = table(training), table(others[others["case_id"] != case.case_id])
    patient = deviations(numbers, training).iloc[0].abs()
    known = deviations(others, training).abs().max(axis=1)
    structure, measure = patient.idxmax()
    values = [table_of[structure, measure].mean() for table_of in (numbers, training)]
    value, usual = np.exp(values) if measure == VOLUME else values
    has = training.xs(VOLUME, axis=1, level="measure").notna()
    return Likeness(
        distance=float(patient.max()),
        structure=structure,
        measure=measure,
        value=float(value),
        usual=float(usual),
        above=int((known < patient.max()).sum()),
        n=len(known),
        unseen=sorted(name for name in case.judged_masks if name not in has),
        lacking=sorted(name for name in has if has[name].all() and name not in case.judged_masks),
    )


def same_patient(case: Case, anatomy: pd.DataFrame) -> str:
    """The training patient most of whose structures have just these volumes, or "": a target or an organ may
    be drawn anew, and no two of OpenKBP's patients share more than a quarter of theirs."""
    volumes = pd.Series({name: cc for (name, measure), cc in describe(case).items() if measure == VOLUME})
    training = select(anatomy, part="train", measure=VOLUME)
    known = training.pivot(index="case_id", columns="structure", values="value")
    alike = np.isclose(known.reindex(columns=volumes.index), volumes, rtol=SAME, atol=0).mean(axis=1) > 0.5
    return next(iter(known.index[alike]), "")
