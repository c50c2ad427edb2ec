"""What an ensemble of samples says: its mean, its spread, and the law of averages.

For N members with mean m and planned dose x, over voxels,  E |mean of n - x|^2 = floor + b / n  is algebra
for any members: b is their variance (ddof 1) and floor = |m - x|^2 - b / N. For an exact posterior floor = b.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes half a second to import


class EnsembleLaw(NamedTuple):
    """`floor_gy2` + `b_gy2` / n is the expected squared error of a mean of n members."""

    floor_gy2: float
    b_gy2: float

    def mse_gy2(self, n: int) -> float:
        return self.floor_gy2 + self.b_gy2 / n


def ensemble_law(members_gy: np.ndarray, dose_gy: np.ndarray) -> EnsembleLaw:
    """The law of members [N,V] against the planned dose [V], N at least 2."""
    n = len(members_gy)
    b_gy2 = float(members_gy.var(axis=0, ddof=1).mean(dtype=np.float64))
    mse_gy2 = float(((members_gy.mean(axis=0) - dose_gy) ** 2).mean(dtype=np.float64))
    return EnsembleLaw(mse_gy2 - b_gy2 / n, b_gy2)


def mean_of_subsets(
    members_gy: np.ndarray, dose_gy: np.ndarray, n: int, draws: int, generator: np.random.Generator
) -> float:
    """Expected MAE in Gy of the mean of n members of [N,V]: every one for n = 1, else random subsets."""
    total = len(members_gy)
    every = {1: [[i] for i in range(total)], total: [list(range(total))]}
    subsets = every.get(n) or [generator.choice(total, n, replace=False) for _ in range(draws)]
    errors_gy = [np.abs(members_gy[s].mean(axis=0) - dose_gy).mean(dtype=np.float64) for s in subsets]
    return float(np.mean(errors_gy))


def spread_gy(members_gy: np.ndarray) -> np.ndarray:
    """Standard deviation over members [N,...] per voxel (ddof 1), in Gy; N at least 2."""
    return members_gy.std(axis=0, ddof=1)


def crps_gy(members_gy: np.ndarray, dose_gy: np.ndarray) -> float:
    """Continuous ranked probability score of members [N,V], mean over voxels, in Gy; of one its |error|.

    E|X - x| - E|X - X'| / 2 over all N^2 pairs (Gneiting & Raftery 2007, JASA 102:359, Eq. 21): the score of
    a forecast that gives each member a share of 1/N. N draws from the truth score sigma / (N sqrt(pi)) more
    than infinitely many; members that were spread by a factor are scored as any others, which the estimator
    for unlimited members (Ferro 2014) is not fit for.
    """
    n = len(members_gy)
    error_gy = np.abs(members_gy - dose_gy).mean(dtype=np.float64)
    ranks = (2 * np.arange(1, n + 1) - n - 1)[:, None]
    return float(error_gy - (ranks * np.sort(members_gy, axis=0)).sum(axis=0).mean(dtype=np.float64) / n**2)


def coverage_pct(members_gy: np.ndarray, dose_gy: np.ndarray, level_pct: float) -> float:
    """Share in % of voxels whose planned dose lies in the central interval that the members [N,V] predict.

    If members and planned dose are N + 1 draws from one Gaussian, (x - mean) / (spread sqrt(1 + 1/N)) is
    Student's t of N - 1 degrees of freedom; the interval is its central `level_pct` %.
    """
    n = len(members_gy)
    half_gy = stdtrit(n - 1, 0.5 + level_pct / 200) * np.sqrt(1 + 1 / n) * spread_gy(members_gy)
    return float(100 * (np.abs(dose_gy - members_gy.mean(axis=0)) <= half_gy).mean())


def spread_skill(
    members_gy: np.ndarray, dose_gy: np.ndarray, edges_gy: Sequence[float]
) -> dict[str, np.ndarray]:
    """Sums over the voxels of each bin of the spread: voxels, (1 + 1/N) spread^2 and squared error of the
    mean, in Gy^2.

    The two agree for members exchangeable with the planned dose. Bin i is edges_gy[i] to [i+1], the last one
    is open.
    """
    n, spread = len(members_gy), spread_gy(members_gy)
    bins = np.clip(np.digitize(spread, edges_gy) - 1, 0, len(edges_gy) - 1)
    error_gy2 = (members_gy.mean(axis=0) - dose_gy) ** 2
    weights = {"voxels": None, "spread_gy2": (1 + 1 / n) * spread**2, "error_gy2": error_gy2}
    return {name: np.bincount(bins, of_voxel, len(edges_gy)) for name, of_voxel in weights.items()}


def spread_skill_ratio(spread_gy2: float, error_gy2: float) -> float | None:
    """Spread over error, the root of summed `spread_skill`; 1 is calibrated, less is too sure."""
    return float(np.sqrt(spread_gy2 / error_gy2)) if error_gy2 else None
