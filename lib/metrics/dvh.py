"""Dose-volume histograms, their points, OpenKBP's DVH score and clinical goals.

A structure of fewer voxels than a statistic needs yields None, never a number that the statistic does not
have; so does one that is not judged, because the dose's own grid does not hold it.
"""

import numpy as np
from scipy.ndimage import distance_transform_edt

from lib.cases.case import Case
from lib.cases.protocol import BEYOND, Goal

AGREES_PCT = (
    2.0  # by which a prescription may differ from the protocol's, and goals in Gy still mean the plan
)


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


def statistic(goal: Goal, doses_gy: np.ndarray, voxel_cc: float, rx_gy: float = 100.0) -> float | None:
    """The goal's statistic for a structure's voxel doses [N], in the goal's unit, or None.

    `rx_gy` is the prescription of which a relative goal has its dose in %.
    """
    if len(doses_gy) == 0:
        return None
    if goal.statistic in ("V", "Vcc"):
        inside = doses_gy >= (goal.at * rx_gy / 100 if goal.relative else goal.at)
        return float(100.0 * inside.mean() if goal.statistic == "V" else inside.sum() * voxel_cc)
    if goal.statistic == "D":
        value_gy = dose_at_volume_gy(doses_gy, goal.at)
    elif goal.statistic == "Dcc":
        value_gy = dose_at_cc_gy(doses_gy, goal.at, voxel_cc)
    else:
        value_gy = float(doses_gy.mean() if goal.statistic == "mean" else doses_gy.max())
    return value_gy * 100 / rx_gy if goal.relative and value_gy is not None else value_gy


def structure_mask(case: Case, name: str) -> np.ndarray:
    """The mask that a goal names, empty where it is not judged; "A beyond 10 mm of B" is A farther than 10 mm
    from B."""
    name, _, other = name.partition(BEYOND)
    mask = case.judged.get(name)
    if mask is None or (other and other not in case.masks):
        return np.zeros(case.shape, bool)
    return mask & (distance_transform_edt(~case.masks[other], case.spacing_mm) > 10) if other else mask


def prescribed(case: Case, goal: Goal) -> tuple[float, float | None]:
    """What is prescribed by the plan and by the protocol, in Gy, to the goal's target; to the highest one for
    an organ."""
    name = goal.structure.partition(BEYOND)[0]
    name = name if name in case.prescription_gy else case.primary_target
    return case.prescription_gy[name], case.protocol.targets.get(name)


def fits_plan(case: Case, goal: Goal) -> bool:
    """Whether a goal means this plan: one in Gy does not where plan and protocol prescribe differently."""
    rx_gy, usual_gy = prescribed(case, goal)
    return goal.relative or usual_gy is None or abs(rx_gy - usual_gy) <= usual_gy * AGREES_PCT / 100


def goal_values(case: Case, dose_gy: np.ndarray) -> dict[str, tuple[float | None, bool | None]]:
    """goal text -> (value or None, met or None), for every goal of the case's protocol; None where it cannot
    be judged or does not mean this plan."""
    values = {}
    for goal in case.protocol.goals:
        doses_gy = dose_gy[structure_mask(case, goal.structure)] if fits_plan(case, goal) else np.empty(0)
        value = statistic(goal, doses_gy, case.voxel_cc, prescribed(case, goal)[0])
        values[goal.text] = (value, None if value is None else is_met(goal, value))
    return values


def is_met(goal: Goal, value: float) -> bool:
    return bool(value >= goal.limit if goal.sense == ">=" else value <= goal.limit)


def openkbp_dvh_metrics_gy(case: Case, dose_gy: np.ndarray) -> dict[tuple[str, str], float]:
    """(structure, metric) -> Gy: targets D99, D95, D1, organs mean and D_0.1cc, if present."""
    points = {}
    judged = case.judged
    for name in (name for name in case.protocol.structures if name in judged):
        doses_gy = dose_gy[judged[name]].astype(np.float64)
        if name in case.protocol.targets:
            for metric, percentile in (("D99", 1), ("D95", 5), ("D1", 99)):
                points[name, metric] = float(np.percentile(doses_gy, percentile))
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
