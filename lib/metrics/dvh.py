"""Dose-volume histograms, their points, OpenKBP's DVH score and clinical goals.

A volume in cc is a few voxels, so the dose of a goal's hottest cc is taken on points within the voxels
(points.py). Shares of a structure, means and OpenKBP's score count whole voxels, as the challenge and the
goals' sources do. A structure smaller than a statistic needs yields None, never a number that the statistic
does not have; so does one that is not judged, because too little of it has a known dose.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt

from lib.cases.case import Case
from lib.cases.protocol import BEYOND, Goal
from lib.metrics.points import dose_points

# by which a prescription may differ from the protocol's, and goals in Gy still mean the plan
AGREES_PCT = 2.0


def dvh_curve(dose_gy: np.ndarray, mask: np.ndarray, edges_gy: np.ndarray) -> np.ndarray:
    """Share of the structure in % that gets at least each dose of `edges_gy`."""
    counts = np.searchsorted(np.sort(dose_gy[mask]), edges_gy, side="left")
    return 100.0 * (1 - counts / mask.sum())


def dose_at_volume_gy(doses_gy: np.ndarray, volume_pct: float) -> float | None:
    """D_x: least dose of the hottest x % of a structure's voxels [N]; None if x or 100 - x % is no voxel."""
    if len(doses_gy) * min(volume_pct, 100 - volume_pct) / 100 < 1:
        return None
    return float(np.percentile(doses_gy, 100 - volume_pct))


def dose_at_cc_gy(doses_gy: np.ndarray, volume_cc: float, voxel_cc: float) -> float | None:
    """OpenKBP's D_0.1cc: percentile 100 - 100 n / N with n = max(1, round(volume / voxel)); None if N < n."""
    n = max(1, round(volume_cc / voxel_cc))
    if len(doses_gy) < n:
        return None
    return float(np.percentile(doses_gy, 100 - 100 * n / len(doses_gy)))


def hottest_gy(doses_gy: np.ndarray, n: float) -> float | None:
    """Least dose of the hottest `n` of a structure's points [N], not always a whole number; None if N < n."""
    share = n / len(doses_gy)
    return float(np.percentile(doses_gy, 100 * max(0.0, 1 - share))) if share <= 1 + 1e-9 else None


def statistic(goal: Goal, doses_gy: np.ndarray, point_cc: float, rx_gy: float = 100.0) -> float | None:
    """The goal's statistic for the doses [N] of a structure's voxels or points, in the goal's unit, or None.

    `rx_gy` is the prescription of which a relative goal has its dose in %.
    """
    if len(doses_gy) == 0:
        return None
    if goal.statistic in ("V", "Vcc"):
        inside = doses_gy >= (goal.at * rx_gy / 100 if goal.relative else goal.at)
        return float(100.0 * inside.mean() if goal.statistic == "V" else inside.sum() * point_cc)
    if goal.statistic == "D":
        value_gy = dose_at_volume_gy(doses_gy, goal.at)
    elif goal.statistic == "Dcc":
        value_gy = hottest_gy(doses_gy, goal.at / point_cc)
    else:
        value_gy = float(doses_gy.mean() if goal.statistic == "mean" else doses_gy.max())
    return value_gy * 100 / rx_gy if goal.relative and value_gy is not None else value_gy


def structure_mask(case: Case, name: str) -> np.ndarray:
    """The mask that a goal names, empty where it is not judged; of "A beyond 10 mm of B" what is farther."""
    name, _, other = name.partition(BEYOND)
    mask = case.judged_masks.get(name)
    if mask is None or (other and other not in case.masks):
        return np.zeros(case.shape, bool)
    return mask & (distance_transform_edt(~case.masks[other], case.spacing_mm) > 10) if other else mask


def prescriptions_gy(case: Case, goal: Goal) -> tuple[float, float | None]:
    """Gy prescribed by the plan and by the protocol to the goal's target, for an organ to the highest one."""
    name = goal.structure.partition(BEYOND)[0]
    name = name if name in case.prescription_gy else case.primary_target
    return case.prescription_gy[name], case.protocol.targets.get(name)


def fits_plan(case: Case, goal: Goal) -> bool:
    """Whether a goal means this plan: one in Gy does not where plan and protocol prescribe differently."""
    rx_gy, usual_gy = prescriptions_gy(case, goal)
    return goal.relative or usual_gy is None or abs(rx_gy - usual_gy) <= usual_gy * AGREES_PCT / 100


def goal_values(case: Case, dose_gy: np.ndarray) -> dict[str, tuple[float | None, bool | None]]:
    """goal text -> (value or None, met or None), for every goal of the case's protocol; None where it cannot
    be judged or does not mean this plan."""
    values = {}
    for goal in case.protocol.goals:
        mask = structure_mask(case, goal.structure) if fits_plan(case, goal) else np.zeros(case.shape, bool)
        in_cc = goal.statistic == "Dcc"
        doses_gy, voxels = dose_points(dose_gy, mask, case.has_dose) if in_cc else (dose_gy[mask], 1.0)
        value = statistic(goal, doses_gy, voxels * case.voxel_cc, prescriptions_gy(case, goal)[0])
        is_met = value is not None and bool(
            value >= goal.limit if goal.sense == ">=" else value <= goal.limit
        )
        values[goal.text] = (value, None if value is None else is_met)
    return values


def openkbp_dvh_metrics_gy(case: Case, dose_gy: np.ndarray) -> dict[tuple[str, str], float]:
    """(structure, metric) -> Gy of the structures that are present; as the challenge has it, of all voxels,
    also where no dose is known."""
    masks = {name: case.masks[name] for name in case.protocol.structures if name in case.masks}
    whole = {name: mask for name, mask in masks.items() if mask.any() and name not in case.covered_pct}
    return openkbp_points_gy(case, dose_gy.astype(np.float64), whole)


def organ_points_inside_gy(case: Case, dose_gy: np.ndarray) -> dict[tuple[str, str], float]:
    """(organ, metric) -> Gy as openkbp_dvh_metrics_gy, but of the voxels of known dose alone, for the judged
    organs that reach beyond them."""
    names = [name for name in case.protocol.organs if name in case.judged_masks and name in case.inside_pct]
    return openkbp_points_gy(case, dose_gy, {name: case.judged_masks[name] for name in names})


def openkbp_points_gy(
    case: Case, dose_gy: np.ndarray, masks: dict[str, np.ndarray]
) -> dict[tuple[str, str], float]:
    """Of the voxels of each mask a target's D99, D95 and D1, an organ's mean and D_0.1cc."""
    points = {}
    for name, mask in masks.items():
        doses_gy = dose_gy[mask]
        if name in case.protocol.targets:
            points |= {(name, f"D{100 - p}"): float(np.percentile(doses_gy, p)) for p in (1, 5, 99)}
        else:
            points[name, "mean"] = float(doses_gy.mean(dtype=np.float64))
            points[name, "D0.1cc"] = dose_at_cc_gy(doses_gy, 0.1, case.voxel_cc)
    return {key: value for key, value in points.items() if value is not None}


def openkbp_dvh_points_gy(case: Case, dose_hat_gy: np.ndarray) -> dict[tuple[str, str], tuple[float, float]]:
    """(structure, metric) -> (predicted, planned) in Gy, the prediction 0 outside the dose mask.

    OpenKBP's DVH score is the mean |predicted - planned| over patients and metrics.
    """
    planned = openkbp_dvh_metrics_gy(case, case.dose_gy)
    predicted = openkbp_dvh_metrics_gy(case, np.where(case.dose_mask, dose_hat_gy, 0.0))
    return {key: (value, planned[key]) for key, value in predicted.items()}
