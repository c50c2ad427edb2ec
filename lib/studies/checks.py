"""Checks of a cohort before anything is trained on it: what a bad import looks like, in sentences."""

from collections.abc import Container, Iterator
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd

from lib.cases.case import Case
from lib.cases.cohort import Cohort
from lib.features.channels import signed_distance_mm
from lib.metrics.dvh import AGREES_PCT, dose_at_volume_gy, fits_plan, goal_values
from lib.progress import progress
from lib.studies.results import make_frame, make_rows, select

LOW_GY = 1.0  # a voxel of less adds nothing to a plan, and makes a mean error over the dose mask smaller
MARGIN_PCT = 10.0  # by which a target's median dose may differ from its prescription
ODD_TIMES, LEAST_ORGANS = 8.0, 8  # so many times the median volume, of at least so many patients, is odd
Finding = dict[str, str]  # part, case_id, text


def check_cohort(cohort: Cohort) -> tuple[pd.DataFrame, list[Finding]]:
    """What each patient is like, as the frame 00_cohort, and what looks wrong."""
    rows, findings, first_of = [], [], {}
    for part, case_ids in cohort.split.items():
        for case_id in progress(case_ids, f"checking {part}"):
            case = cohort.load(case_id)
            named = {"part": part, "case_id": case_id}
            first = first_of.setdefault(sha256(case.ct_hu.tobytes()).digest(), named)
            rows += [named | row for row in describe_case(case)]
            sentences = find_oddities(case) + same_patient(named, first)
            findings += [named | {"text": text} for text in sentences]
    frame = make_frame("00_cohort", rows)
    return frame, findings + odd_volumes(frame, cohort.protocol.targets)


def odd_volumes(frame: pd.DataFrame, targets: Container[str]) -> list[Finding]:
    """A sentence for each organ that is many times larger or smaller than in most patients of 00_cohort: it
    may be another structure under its name."""
    organs = select(frame, measure="volume_cc")
    organs = organs[~organs["structure"].isin(list(targets))]
    of_all = organs.groupby("structure")["value"]
    organs = organs.assign(times=organs["value"] / of_all.transform("median"), n=of_all.transform("size"))
    odd = organs[(organs["n"] >= LEAST_ORGANS) & ~organs["times"].between(1 / ODD_TIMES, ODD_TIMES)]
    text = "{}: its volume of {:.1f} cc is {:.2g} times that of most patients; is it another structure?"
    return [
        {"part": row.part, "case_id": row.case_id, "text": text.format(row.structure, row.value, row.times)}
        for row in odd.itertuples()
    ]


def same_patient(named: Finding, first: Finding) -> list[str]:
    """A sentence if the CT is, voxel by voxel, that of a case before: one patient under two names."""
    here, there = named["part"], first["part"]
    harm = f", one of {there} and one of {here}: the errors on {here} patients are too good"
    text = f"its CT is that of {first['case_id']}: one patient under two names"
    return [] if first is named else [text + (harm if here != there else "")]


def describe_case(case: Case) -> list[dict[str, Any]]:
    """Grid, CT, prescriptions, volumes, overlaps, doses and goals of a planned case as rows of 00_cohort."""
    low = case.dose_gy[case.dose_mask] < LOW_GY
    rows = make_rows({}, {"max_gy": float(case.dose_gy.max()), "low_dose_pct": 100 * float(low.mean())})
    rows += make_rows({}, {"ct_least_hu": int(case.ct_hu.min()), "ct_most_hu": int(case.ct_hu.max())})
    rows += overlaps(case)
    for axis, voxels, spacing_mm in zip("zyx", case.shape, case.spacing_mm):
        rows += make_rows({}, {f"voxels_{axis}": voxels, f"spacing_{axis}_mm": spacing_mm})
    doses_gy = {name: case.dose_gy[mask] for name, mask in case.judged_masks.items()}
    for name, mask in sorted(case.masks.items()):
        if mask.any():
            measures = {"volume_cc": mask.sum() * case.voxel_cc, "covered_pct": case.inside_pct.get(name)}
            measures["mean_gy"] = float(doses_gy[name].mean()) if name in doses_gy else None
            rows += make_rows({"structure": name}, measures)
    for name, rx_gy in case.prescription_gy.items():
        d95_gy = dose_at_volume_gy(doses_gy.get(name, ()), 95)
        rows += make_rows({"structure": name}, {"prescription_gy": rx_gy, "d95_gy": d95_gy})
    values = goal_values(case, case.dose_gy)
    for goal in case.protocol.goals:
        value, met = values[goal.text]
        rows += make_rows({"structure": goal.structure, "met": met}, {goal.text: value})
    return rows


def overlaps(case: Case) -> list[dict[str, Any]]:
    """The volume that each target shares with each structure after it in the protocol."""
    names = [name for name in case.protocol.structures if case.masks.get(name, np.False_).any()]
    targets = [name for name in names if name in case.protocol.targets]
    pairs = [(target, name) for i, target in enumerate(targets) for name in names[i + 1 :]]
    shared = {f"{a} and {b}": int((case.masks[a] & case.masks[b]).sum()) * case.voxel_cc for a, b in pairs}
    return [{"structure": pair, "measure": "overlap_cc", "value": cc} for pair, cc in shared.items()]


def find_oddities(case: Case) -> list[str]:
    """Sentences on what looks wrong in a case; an empty list if nothing does."""
    checks = plan_as_protocol, coverage, target_doses, dose_outside_targets, structures_inside
    return [sentence for check in (*checks, sides, ct_range) for sentence in check(case)]


def plan_as_protocol(case: Case) -> Iterator[str]:
    for name, rx_gy in case.prescription_gy.items():
        usual_gy = case.protocol.targets.get(name)
        if usual_gy and abs(rx_gy - usual_gy) > usual_gy * AGREES_PCT / 100:
            text = f"{name}: the plan prescribes {rx_gy:g} Gy, the protocol {case.site} {usual_gy:g} Gy"
            out = sum(not fits_plan(case, goal) for goal in case.protocol.goals)
            yield f"{text}: {out} goals in Gy are not judged"


def coverage(case: Case) -> Iterator[str]:
    for name, pct in sorted(case.covered_pct.items()):
        yield f"{name}: the dose grid holds {pct:.1f} % of it, so its dose is not judged"


def target_doses(case: Case) -> Iterator[str]:
    for name, rx_gy in case.prescription_gy.items():
        median_gy = float(np.median(case.dose_gy[case.masks[name]]))
        if median_gy < rx_gy * (1 - MARGIN_PCT / 100):
            yield f"{name}: the median dose {median_gy:.1f} Gy is far below its prescription of {rx_gy:g} Gy"
    primary = case.primary_target
    if case.dose_gy[case.masks[primary]].mean() > case.rx_gy * (1 + MARGIN_PCT / 100):
        yield f"{primary}: the mean dose is far above its prescription of {case.rx_gy:g} Gy"


def dose_outside_targets(case: Case) -> Iterator[str]:
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    far = signed_distance_mm(targets, case.spacing_mm) > 15
    if case.dose_gy[far].max(initial=0) > 1.1 * case.rx_gy:
        yield "the dose farther than 15 mm from every target is above 110 % of the prescription"
    if case.dose_gy[~targets & case.dose_mask].mean() > case.dose_gy[targets].mean():
        yield "the mean dose outside the targets is higher than inside"


def structures_inside(case: Case) -> Iterator[str]:
    """Outside of the dose mask, CT below -400 HU is the air around the patient; a structure there is shifted,
    or another patient's."""
    air = (case.ct_hu < -400) & ~case.dose_mask
    for name in case.masks.keys() - case.covered_pct.keys():
        mask = case.masks[name]
        if mask.any() and air[mask].mean() > 0.3:
            yield f"{name}: more than 30 % of its voxels lie in air"


def sides(case: Case) -> Iterator[str]:
    """A structure called left must lie to the patient's left of its right twin."""
    middle = {name: np.nonzero(mask)[2].mean() for name, mask in case.masks.items() if mask.any()}
    for left, right in case.protocol.mirrored:
        if {left, right} <= middle.keys() and middle[left] <= middle[right]:
            yield f"{left} lies to the right of {right}: left and right are swapped"


def ct_range(case: Case) -> Iterator[str]:
    low, high = np.percentile(case.ct_hu[case.dose_mask], [1, 99])
    if low < -1100 or high > 4000 or not -900 < np.median(case.ct_hu[case.dose_mask]) < 400:
        yield f"the CT inside the dose mask runs from {low:.0f} to {high:.0f} HU, which is no body"
