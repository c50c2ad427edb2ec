"""What an ensemble of samples says: its mean, its spread, and the law of averages.

For N members with mean m and planned dose x, over voxels,  E |mean of n - x|^2 = floor + b / n  is algebra
for any members: b is their variance (ddof 1) and floor = |m - x|^2 - b / N. For an exact posterior floor = b.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes half a second to import


class EnsembleLaw(NamedTuple):
    """`floor_gy2` + `b_gy2` / n is the expected squared error of a mean of n members."""

    floor_gy2: float
    b_gy2: float

    def mse_gy2(self, n):
        return self.floor_gy2 + self.b_gy2 / n


def ensemble_law(members_gy, dose_gy):
    """The law of members [N,V] against the planned dose [V], N at least 2."""
    n = len(members_gy)
    b_gy2 = float(members_gy.var(axis=0, ddof=1).mean(dtype=np.float64))
    mse_gy2 = float(((members_gy.mean(axis=0) - dose_gy) ** 2).mean(dtype=np.float64))
    return EnsembleLaw(mse_gy2 - b_gy2 / n, b_gy2)


def mean_of_subsets(members_gy, dose_gy, n, draws, generator):
    """Expected MAE in Gy of the mean of n members of [N,V]: every one for n = 1, else random subsets."""
    total = len(members_gy)
    if n == 1:
        subsets = [[i] for i in range(total)]
    elif n == total:
        subsets = [list(range(total))]
    else:
        subsets = [generator.choice(total, n, replace=False) for _ in range(draws)]
    return float(
        np.mean([np.abs(members_gy[s].mean(axis=0) - dose_gy).mean(dtype=np.float64) for s in subsets])
    )


def spread_gy(members_gy):
    """Standard deviation over members [N,...] per voxel (ddof 1), in Gy; N at least 2."""
    return members_gy.std(axis=0, ddof=1)


def crps_gy(members_gy, dose_gy):
    """Continuous ranked probability score of members [N,V] as they are issued, mean over voxels, in Gy:
    |error| if there is one.

    E|X - x| - E|X - X'| / 2 over all N^2 pairs (Gneiting & Raftery 2007, JASA 102:359, Eq. 21): the score of
    a forecast that gives each member a share of 1/N. N draws from the truth score sigma / (N sqrt(pi)) more
    than infinitely many; members that were spread by a factor are scored as any others, which the estimator
    for unlimited members (Ferro 2014) is not fit for.
    """
    n = len(members_gy)
    error_gy = np.abs(members_gy - dose_gy).mean(dtype=np.float64)
    ranks = (2 * np.arange(1, n + 1) - n - 1)[:, None]
    return float(error_gy - (ranks * np.sort(members_gy, axis=0)).sum(axis=0).mean(dtype=np.float64) / n**2)


def coverage_pct(members_gy, dose_gy, level_pct):
    """Share in % of voxels whose planned dose lies in the central interval that the members [N,V] predict.

    If members and planned dose are N + 1 draws from one Gaussian, (x - mean) / (spread sqrt(1 + 1/N)) is
    Student's t of N - 1 degrees of freedom; the interval is its central `level_pct` %.
    """
    n = len(members_gy)
    half_gy = stdtrit(n - 1, 0.5 + level_pct / 200) * np.sqrt(1 + 1 / n) * spread_gy(members_gy)
    return float(100 * (np.abs(dose_gy - members_gy.mean(axis=0)) <= half_gy).mean())


def spread_skill(members_gy, dose_gy, edges_gy):
    """Sums over the voxels of each bin of the spread: voxels, (1 + 1/N) spread^2 and squared error of the
    mean, lists in Gy^2.

    The two agree for members exchangeable with the planned dose. Bin i is edges_gy[i] to [i+1], the last one
    is open.
    """
    n, spread = len(members_gy), spread_gy(members_gy)
    bins = np.clip(np.digitize(spread, edges_gy) - 1, 0, len(edges_gy) - 1)
    sums = (
        np.bincount(bins, weights, len(edges_gy))
        for weights in (None, (1 + 1 / n) * spread**2, (members_gy.mean(axis=0) - dose_gy) ** 2)
    )
    return dict(zip(("voxels", "spread_gy2", "error_gy2"), ([float(v) for v in s] for s in sums)))


def spread_skill_ratio(tables):
    """Spread over error, root of the pooled sums of `spread_skill` tables; 1 is calibrated, less too sure."""
    spread_gy2, error_gy2 = (sum(sum(table[key]) for table in tables) for key in ("spread_gy2", "error_gy2"))
    return float(np.sqrt(spread_gy2 / error_gy2)) if error_gy2 else None
