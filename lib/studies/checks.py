"""Checks of a cohort before anything is trained on it: what a bad import looks like, in sentences."""

from hashlib import sha256

import numpy as np

from lib.cases.protocols import PROTOCOLS
from lib.features.channels import signed_distance_mm
from lib.metrics.dvh import dose_at_volume_gy, goal_values
from lib.progress import progress

MARGIN_PCT = 10.0  # by which a target's median dose may differ from its prescription


def check_cohort(cohort):
    """One row per case: part of the split, geometry, volumes, planned doses, goals met, findings."""
    rows, first_of = [], {}
    for part, case_ids in cohort.split.items():
        for case_id in progress(case_ids, f"checking {part}"):
            case = cohort.load(case_id)
            row = describe_case(case) | {"part": part}
            row["findings"] += same_patient(
                row, first_of.setdefault(sha256(case.ct_hu.tobytes()).digest(), row)
            )
            rows.append(row)
    return rows


def same_patient(row, first):
    """A sentence if the row's CT is, voxel by voxel, that of a case before: one patient under two names."""
    if first is row:
        return []
    both = (
        f", one of {first['part']} and one of {row['part']}: "
        f"the errors on {row['part']} patients are too good"
        if first["part"] != row["part"]
        else ""
    )
    return [f"its CT is that of {first['case_id']}: one patient under two names{both}"]


def describe_case(case):
    """Plain numbers of one case, for tables and the report."""
    doses_gy = {name: case.dose_gy[mask] for name, mask in sorted(case.masks.items()) if mask.any()}
    return {
        "case_id": case.case_id,
        "shape": list(case.shape),
        "spacing_mm": list(case.spacing_mm),
        "prescription_gy": case.prescription_gy,
        "volume_cc": {name: round(len(dose) * case.voxel_cc, 2) for name, dose in doses_gy.items()},
        "mean_gy": {name: round(float(dose.mean()), 2) for name, dose in doses_gy.items()},
        "d95_gy": {name: dose_at_volume_gy(doses_gy[name], 95) for name in case.prescription_gy},
        "max_gy": float(case.dose_gy.max()),
        "goals": {text: met for text, (_, met) in goal_values(case, case.dose_gy).items()},
        "findings": find_oddities(case),
    }


def find_oddities(case):
    """Sentences on what looks wrong in a case; an empty list if nothing does."""
    checks = (target_doses, dose_outside_targets, structures_inside, sides, ct_range)
    return [sentence for check in checks for sentence in check(case)]


def target_doses(case):
    for name, rx_gy in case.prescription_gy.items():
        median_gy = float(np.median(case.dose_gy[case.masks[name]]))
        if median_gy < rx_gy * (1 - MARGIN_PCT / 100):
            yield f"{name}: the median dose {median_gy:.1f} Gy is far below its prescription of {rx_gy:g} Gy"
    primary = max(case.prescription_gy, key=case.prescription_gy.get)
    if case.dose_gy[case.masks[primary]].mean() > case.rx_gy * (1 + MARGIN_PCT / 100):
        yield f"{primary}: the mean dose is far above its prescription of {case.rx_gy:g} Gy"


def dose_outside_targets(case):
    targets = np.any([case.masks[name] for name in case.prescription_gy], axis=0)
    far = signed_distance_mm(targets, case.spacing_mm) > 15
    if case.dose_gy[far].max(initial=0) > 1.1 * case.rx_gy:
        yield "the dose farther than 15 mm from every target is above 110 % of the prescription"
    if case.dose_gy[~targets & case.dose_mask].mean() > case.dose_gy[targets].mean():
        yield "the mean dose outside the targets is higher than inside"


def structures_inside(case):
    """CT below -400 HU around a structure's voxels means it lies in air: shifted, or another patient's."""
    for name, mask in case.masks.items():
        if mask.any() and (case.ct_hu[mask] < -400).mean() > 0.3:
            yield f"{name}: more than 30 % of its voxels lie in air"


def sides(case):
    """A structure called left must lie to the patient's left of its right twin."""
    for left, right in PROTOCOLS[case.site].mirrored:
        if (
            left in case.masks
            and right in case.masks
            and case.masks[left].any()
            and case.masks[right].any()
            and np.nonzero(case.masks[left])[2].mean() <= np.nonzero(case.masks[right])[2].mean()
        ):
            yield f"{left} lies to the right of {right}: left and right are swapped"


def ct_range(case):
    low, high = np.percentile(case.ct_hu[case.dose_mask], [1, 99])
    if low < -1100 or high > 4000 or not -400 < np.median(case.ct_hu[case.dose_mask]) < 400:
        yield f"the CT inside the dose mask runs from {low:.0f} to {high:.0f} HU, which is no body"
