"""What an ensemble of samples says: its mean, its spread, and the law of averages.

For N members with mean m and planned dose x, over voxels,  E |mean of n - x|^2 = floor + b / n  is algebra
for any members: b is their variance (ddof 1) and floor = |m - x|^2 - b / N. For an exact posterior floor = b.
"""
from typing import NamedTuple

import numpy as np


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
    """Expected MAE in Gy of the mean of n of the members [N,V]: over every member for n = 1, else random subsets."""
    total = len(members_gy)
    if n == 1:
        subsets = [[i] for i in range(total)]
    elif n == total:
        subsets = [list(range(total))]
    else:
        subsets = [generator.choice(total, n, replace=False) for _ in range(draws)]
    return float(np.mean([np.abs(members_gy[s].mean(axis=0) - dose_gy).mean(dtype=np.float64) for s in subsets]))


def spread_gy(members_gy):
    """Standard deviation over members [N,...] per voxel (ddof 1), in Gy; N at least 2."""
    return members_gy.std(axis=0, ddof=1)
