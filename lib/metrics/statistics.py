"""Paired comparison of two methods over patients, and the verdict that its interval allows.

The rule is set before the run: a difference is called so only if its 95 % interval lies beyond a margin.
"""

import math
from typing import NamedTuple

import numpy as np

from lib.seeds import generator_for


class Difference(NamedTuple):
    """Mean paired difference (first - second) of n patients; what needs 3 patients or a spread is else None.

    low, high  bootstrap 95 % interval of the mean
    p          Wilcoxon's signed-rank test
    effect     Cohen's d_z: mean / standard deviation of the differences
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    effect: float | None


def paired_difference(first, second, seed=42):
    """Difference of two lists of values, one per patient in the same order; fewer than 3 give no interval."""
    from scipy.stats import (
        wilcoxon,  # here, because scipy.stats takes half a second, which the explorer need not wait for
    )

    difference = np.asarray(first, float) - np.asarray(second, float)
    difference = difference[~np.isnan(difference)]  # a patient without one of the two values does not count
    n = len(difference)
    if n < 3:
        return Difference(n, float(difference.mean()) if n else math.nan, None, None, None, None)
    low, high = interval(difference, seed)
    p = float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
    sd = float(difference.std(ddof=1))
    return Difference(
        n, float(difference.mean()), low, high, p, float(difference.mean()) / sd if sd > 0 else None
    )


def holm(p_values):
    """p-values of several comparisons, corrected for their number (Holm 1979, Scand. J. Stat. 6:65); None
    stays None."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected, highest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[i] = highest
    return corrected


def interval(values, seed=42):
    """Bootstrap 95 % interval of the mean over patients (percentile, 10,000 resamples)."""
    from scipy.stats import bootstrap

    values = np.asarray(values, float)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    rng = np.random.default_rng(generator_for(seed, "bootstrap").initial_seed())
    found = bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=rng
    ).confidence_interval
    return float(found.low), float(found.high)


def verdict(difference, margin):
    """ "higher", "lower", "equal" (within the margin) or "cannot be said"."""
    if difference.low is None:
        return "cannot be said"
    if difference.low > margin:
        return "higher"
    if difference.high < -margin:
        return "lower"
    if -margin <= difference.low and difference.high <= margin:
        return "equal"
    return "cannot be said"
