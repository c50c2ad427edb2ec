"""Dose-volume histograms, their points, OpenKBP's DVH score and clinical goals.

A structure of fewer voxels than a statistic needs yields None, never a number that the statistic does not
have.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt

from lib.cases.protocols import PROTOCOLS

TARGET_POINTS = ("D98", "D95", "D50", "D2")


def dvh_curve(dose_gy, mask, edges_gy):
    """Share of the structure in % that gets at least each dose of `edges_gy`."""
    counts = np.searchsorted(np.sort(dose_gy[mask]), edges_gy, side="left")
    return 100.0 * (1 - counts / mask.sum())


def dose_at_volume_gy(doses_gy, volume_pct):
    """D_x: least dose of the hottest x % of a structure's voxels [N]; None if x or 100 - x % is no voxel."""
    if len(doses_gy) * min(volume_pct, 100 - volume_pct) / 100 < 1:
        return None
    return float(np.percentile(doses_gy, 100 - volume_pct))


def dose_at_cc_gy(doses_gy, volume_cc, voxel_cc):
    """OpenKBP's D_0.1cc: percentile 100 - 100 n / N with n = max(1, round(volume / voxel)); None if N < n."""
    n = max(1, round(volume_cc / voxel_cc))
    if len(doses_gy) < n:
        return None
    return float(np.percentile(doses_gy, 100 - 100 * n / len(doses_gy)))


def statistic(goal, doses_gy, voxel_cc):
    """The goal's statistic for a structure's voxel doses [N], in the goal's unit, or None."""
    if len(doses_gy) == 0:
        return None
    if goal.statistic == "V":
        return float(100.0 * (doses_gy >= goal.at).mean())
    if goal.statistic == "Vcc":
        return float((doses_gy >= goal.at).sum() * voxel_cc)
    if goal.statistic == "D":
        return dose_at_volume_gy(doses_gy, goal.at)
    if goal.statistic == "Dcc":
        return dose_at_cc_gy(doses_gy, goal.at, voxel_cc)
    return float(doses_gy.mean() if goal.statistic == "mean" else doses_gy.max())


def structure_mask(case, name):
    """The mask that a goal names; "A beyond 10 mm of B" is A farther than 10 mm from B."""
    if " beyond 10 mm of " not in name:
        return case.masks.get(name, np.zeros(case.shape, bool))
    own, other = name.split(" beyond 10 mm of ")
    if own not in case.masks or other not in case.masks:
        return np.zeros(case.shape, bool)
    return case.masks[own] & (distance_transform_edt(~case.masks[other], case.spacing_mm) > 10)


def goal_values(case, dose_gy):
    """goal text -> (value or None, met or None), for every goal of the case's protocol."""
    found = {}
    for goal in PROTOCOLS[case.site].goals:
        value = statistic(goal, dose_gy[structure_mask(case, goal.structure)], case.voxel_cc)
        met = (
            None
            if value is None
            else bool(value >= goal.limit if goal.sense == ">=" else value <= goal.limit)
        )
        found[goal.text] = (value, met)
    return found


def openkbp_dvh_metrics_gy(case, dose_gy):
    """(structure, metric) -> Gy: targets D99, D95, D1, organs mean and D_0.1cc, if present."""
    found = {}
    for name in PROTOCOLS[case.site].structures:
        doses_gy = dose_gy[case.masks[name]].astype(np.float64) if name in case.masks else np.empty(0)
        if len(doses_gy) == 0:
            continue
        if name in PROTOCOLS[case.site].targets:
            for metric, percentile in (("D99", 1), ("D95", 5), ("D1", 99)):
                found[name, metric] = float(np.percentile(doses_gy, percentile))
        else:
            found[name, "mean"] = float(doses_gy.mean(dtype=np.float64))
            found[name, "D0.1cc"] = dose_at_cc_gy(doses_gy, 0.1, case.voxel_cc)
    return {key: value for key, value in found.items() if value is not None}


def openkbp_dvh_errors_gy(case, dose_hat_gy):
    """(structure, metric) -> |predicted - planned| in Gy; the score averages patients and metrics."""
    masked_gy = np.where(case.dose_mask, dose_hat_gy, 0.0)
    planned = openkbp_dvh_metrics_gy(case, case.dose_gy)
    return {key: abs(value - planned[key]) for key, value in openkbp_dvh_metrics_gy(case, masked_gy).items()}
