"""Indices of one number: how a dose lies to its target, and how two doses' isodose volumes overlap."""

from collections.abc import Sequence

import numpy as np

from lib.metrics.dvh import dose_at_volume_gy


def conformity_index(dose_gy: np.ndarray, target: np.ndarray, rx_gy: float) -> float | None:
    """TV_PIV^2 / (TV PIV), 1 if the isodose of `rx_gy` is the target (Paddick 2000, J. Neurosurg. 93 S3:219).

    TV is the target (bool, of the dose's shape), PIV where the dose is at least `rx_gy`, TV_PIV both. None
    without a target; 0 where no voxel gets the prescription.
    """
    covered = dose_gy >= rx_gy
    if not target.any():
        return None
    both = int((covered & target).sum())
    return both**2 / (int(target.sum()) * int(covered.sum())) if both else 0.0


def homogeneity_index(dose_gy: np.ndarray, target: np.ndarray) -> float | None:
    """(D2 - D98) / D50 of the target's voxels, 0 for a uniform dose (ICRU Report 83, 2010).

    None where the target has too few voxels for D2 and D98, or its median dose is 0.
    """
    d2_gy, d50_gy, d98_gy = (dose_at_volume_gy(dose_gy[target], volume_pct) for volume_pct in (2, 50, 98))
    return (d2_gy - d98_gy) / d50_gy if d2_gy is not None and d50_gy else None


def isodose_dice(
    dose_gy: np.ndarray, dose_hat_gy: np.ndarray, levels_gy: Sequence[float]
) -> dict[float, float | None]:
    """level in Gy -> 2 |A and B| / (|A| + |B|) of the volumes at or above it (Dice 1945, Ecology 26:297).

    A is planned, B predicted; None where both are empty.
    """
    overlaps = {}
    for level_gy in levels_gy:
        planned, predicted = dose_gy >= level_gy, dose_hat_gy >= level_gy
        size = int(planned.sum()) + int(predicted.sum())
        overlaps[float(level_gy)] = 2 * int((planned & predicted).sum()) / size if size else None
    return overlaps
