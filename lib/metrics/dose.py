"""Errors of a predicted dose, each over a named region, in Gy, and OpenKBP's dose score.

OpenKBP: Babier et al. 2021, Med. Phys. 48:5549, and the challenge's evaluator.
"""

import numpy as np
import torch

from lib.cases.case import Case
from lib.features.samples import Sample


def errors_gy(dose_hat_gy: np.ndarray, dose_gy: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """Mean absolute and root mean square error and bias (predicted - planned) in `region` (bool [D,H,W])."""
    difference_gy = dose_hat_gy[region].astype(np.float64) - dose_gy[region]
    return {
        "mae_gy": float(np.abs(difference_gy).mean()),
        "rmse_gy": float(np.sqrt((difference_gy**2).mean())),
        "bias_gy": float(difference_gy.mean()),
    }


def regions(case: Case) -> dict[str, np.ndarray]:
    """The regions an error is judged in, name -> bool [D,H,W]; the dose mask is the source's, or the body."""
    whole = np.ones(case.shape, bool)
    return {"dose mask": case.dose_mask, "whole volume": whole} | case.judged_masks


def region_errors(case: Case, dose_hat_gy: np.ndarray) -> dict[str, dict[str, float]]:
    """region -> errors_gy, for one patient."""
    return {name: errors_gy(dose_hat_gy, case.dose_gy, region) for name, region in regions(case).items()}


def openkbp_dose_error_gy(case: Case, dose_hat_gy: np.ndarray) -> float:
    """Sum of |difference| over the whole volume / voxels of the dose mask; predictions are 0 outside it."""
    masked_gy = np.where(case.dose_mask, dose_hat_gy, 0.0)
    return float(np.abs(masked_gy - case.dose_gy).sum(dtype=np.float64) / case.dose_mask.sum())


def grid_dose_score_gy(sample: Sample, dose: torch.Tensor) -> float:
    """OpenKBP's dose score of the members' mean [N,1,d,h,w] (fraction of the prescription) on the training
    grid: what the network itself is responsible for.

    A block's dose is its mean with zeros outside the dose mask, so that its error counts in full, and the
    mask by its shares. In float32, as the sum of a sample's halves ends at 65,504.
    """
    difference = (dose.mean(dim=0) * (sample.mask > 0) - sample.dose).abs()
    return float(difference.sum() / sample.mask.float().sum()) * sample.rx_gy
