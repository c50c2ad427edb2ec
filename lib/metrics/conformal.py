"""Intervals that hold whatever the network is: conformal prediction, with patients as what is exchanged.

Vovk, Gammerman & Shafer 2005; Angelopoulos & Bates 2021, arXiv 2107.07511. A score says by how much a plan
lies above its prediction. If n calibration patients and a new one could be swapped, the new score is at most
the k-th smallest of theirs in k of n + 1 cases.
"""

import math

import numpy as np
from scipy.special import betaincinv  # scipy.stats takes half a second to import

from lib.errors import UserError

Values = float | np.ndarray
ROUNDING = 1e-9  # 20 x 95 % may come out as 18.999999999 or 19.000000001


def rank(n: int, level_pct: float) -> int:
    """The least k whose k-th smallest of n scores is an interval's edge: k / (n + 1) is at least the level.

    Raises a UserError if n patients cannot promise the level.
    """
    if not 0 < level_pct < 100:
        raise UserError(f"an interval of {level_pct:g} % cannot be; a level lies between 0 and 100 %")
    k = max(1, math.ceil((n + 1) * level_pct / 100 - ROUNDING))
    if not can_promise(n, level_pct):
        patients = f"{n} calibration patient{'' if n == 1 else 's'}"
        least = least_patients(level_pct)
        raise UserError(f"no interval of {level_pct:g} % can be promised from {patients}; it takes {least}")
    return k


def least_patients(level_pct: float) -> int:
    """The fewest calibration patients that can promise a level: n of n + 1 is at least that, and one alone
    does not say how plans differ."""
    return max(2, math.ceil(level_pct / (100 - level_pct) - ROUNDING))


def can_promise(n: int, level_pct: float) -> bool:
    return n >= least_patients(level_pct)


def quantile(scores: np.ndarray, level_pct: float) -> float:
    """What a new patient's score exceeds in at most 100 - `level_pct` % of cases: the bound of one side, an
    order statistic of the calibration patients' scores [n], one a patient."""
    return float(np.sort(scores)[rank(len(scores), level_pct) - 1])


def interval(scores: np.ndarray, level_pct: float) -> tuple[float, float]:
    """Where a new patient's score lies in at least `level_pct` % of cases, given those [n] of calibration
    patients, about their mean: a prediction that is wrong by the same for all needs no wider interval.

    Full conformal prediction whose nonconformity is |r - mean of all n + 1|. The new r is no farther from
    that mean than r_i just where it lies between r_i and (2 sum - (n + 1) r_i) / (n - 1). All these stretches
    hold the mean of the n; what n + 1 - k of them cover is the interval.
    """
    scores, n = np.asarray(scores, float), len(scores)
    k = rank(n, level_pct)
    mirrored = (2 * scores.sum() - (n + 1) * scores) / (n - 1)
    low, high = np.minimum(scores, mirrored), np.maximum(scores, mirrored)
    return float(np.sort(low)[-k]), float(np.sort(high)[k - 1])


def percentile(score: float, scores: np.ndarray) -> float:
    """Where a new score lies among those [n] of calibration patients, in %: strictly between the k-th and
    the next one (k + 1/2) / (n + 1). Of exchangeable patients every place is as likely."""
    scores = np.asarray(scores, float)
    below, equal = (scores < score).sum(), (scores == score).sum()
    return float(100 * (below + (equal + 1) / 2) / (len(scores) + 1))


def clopper_pearson(hits: Values, n: Values, level_pct: float = 95.0) -> tuple[np.ndarray, np.ndarray]:
    """The exact interval in % of shares of which `hits` of n were seen (Clopper & Pearson 1934)."""
    hits, tail = np.asarray(hits, float), (1 - level_pct / 100) / 2
    low = np.where(hits == 0, 0.0, betaincinv(np.maximum(hits, 1), n - hits + 1, tail))
    high = np.where(hits == n, 1.0, betaincinv(hits + 1, np.maximum(n - hits, 1), 1 - tail))
    return 100 * low, 100 * high


def coverage_of_draws(n: int, level_pct: float, draws_pct: float = 90.0) -> tuple[float, float]:
    """What one draw of n calibration patients may lead to: coverage in %, in the central `draws_pct` % of
    draws. It is Beta(k, n + 1 - k) (Vovk 2012, arXiv 1209.2673)."""
    k, tail = rank(n, level_pct), (1 - draws_pct / 100) / 2
    return tuple(float(100 * betaincinv(k, n + 1 - k, p)) for p in (tail, 1 - tail))


def chance_of_so_few(hits: int, patients: int, n: int, level_pct: float) -> float:
    """How likely `hits` or fewer of so many new patients lie inside if they and the n calibration patients
    could be swapped: beta-binomial, as both the edge and who is judged are drawn."""
    from scipy.stats import betabinom  # here: it takes half a second

    k = rank(n, level_pct)
    return float(betabinom(patients, k, n + 1 - k).cdf(hits))


def promise(n: int, level_pct: float) -> str:
    """What n calibration patients promise, in words."""
    k, (low, high) = rank(n, level_pct), coverage_of_draws(n, level_pct)
    return (
        f"{n} calibration patients promise that at least {level_pct:g} % of plans of such patients lie "
        f"inside ({k} of {n + 1}, {100 * k / (n + 1):.0f} %), over all draws of calibration patients; "
        f"with just these it is {low:.0f} to {high:.0f} % in 9 of 10 draws"
    )


def interval_score(low: Values, high: Values, value: Values, level_pct: Values) -> Values:
    """Width and, 2 / (1 - level) times, by how far it misses: the score in which intervals compete, low is
    good (Gneiting & Raftery 2007, JASA 102:359, Eq. 43); in the unit of the values."""
    missed = np.maximum(low - value, 0) + np.maximum(value - high, 0)
    return high - low + 2 / (1 - level_pct / 100) * missed
