"""Gamma index of a predicted dose: one number per voxel for its nearest agreement in space and dose.

Low et al. 1998 (Med. Phys. 25:656), Eq. 4 to 6: the least distance from a reference point to the evaluated dose,
with space in units of the distance criterion and dose in units of the dose criterion. It is found without a search
grid (Ju et al. 2008, Med. Phys. 35:879): the evaluated dose is linear on simplices between voxel centres, and the
distance to a simplex has a closed form. The reference is the planned dose, the evaluation the predicted one.

Each cell of 2 x 2 x 2 voxel centres is cut along the paths that step from its first corner to its last (Kuhn's
triangulation). The steps of a path are at right angles, so a simplex with first corner x_0 and steps s_1 .. s_k is
x_0 + sum t_j s_j with 1 >= t_1 >= .. >= t_k >= 0, and all formulas below are sums over j.
"""
import itertools
from typing import NamedTuple

import numpy as np
import torch

CHUNK = 8192  # reference points at a time: what one step needs then stays in a processor's cache


class Simplices(NamedTuple):
    """All simplices of one number of steps k that start at a cell's first corner.

    corners  int64 [S,k+1]    their corners, as numbers of the cell's corners
    steps    float64 [S,k,n]  s_j in units of the distance criterion
    """

    corners: torch.Tensor
    steps: torch.Tensor


def gamma_index(dose_gy, dose_hat_gy, spacing_mm, *, dose_pct, distance_mm, global_gy=None, local=False,
                cutoff_pct=10.0, max_gamma=1.1, device="cpu"):
    """Gamma index of `dose_hat_gy` at every voxel of the planned `dose_gy`, both of one shape in 1, 2 or 3 dimensions.

    spacing_mm   voxel size in array order
    dose_pct     dose criterion in % of `global_gy`, or if `local` in % of the planned dose at the voxel
    distance_mm  distance criterion
    global_gy    the stated dose, usually the prescription; the cut-off is relative to it, also if `local`
    cutoff_pct   voxels planned below this share of `global_gy` are not judged
    max_gamma    nothing above it is searched for; a voxel with more gets this value
    Returns float32 of the same shape, NaN where not judged. Raises ValueError for what cannot be computed.
    """
    dose_gy, dose_hat_gy = np.asarray(dose_gy), np.asarray(dose_hat_gy)
    check_doses(dose_gy, dose_hat_gy, spacing_mm)
    check_criteria(dose_pct, distance_mm, global_gy, cutoff_pct, max_gamma)
    steps = np.divide(spacing_mm, distance_mm)
    pad = [int(np.ceil(max_gamma / step)) + 1 for step in steps]
    evaluated = torch.as_tensor(np.pad(dose_hat_gy.astype(np.float32), [(p, p) for p in pad], constant_values=np.nan))
    surface = make_surface(evaluated.to(device), steps, max_gamma)
    judged = dose_gy >= cutoff_pct / 100 * global_gy
    criterion_gy = dose_pct / 100 * (dose_gy[judged] if local else np.full(judged.sum(), global_gy))
    places = np.ravel_multi_index([axis + p for axis, p in zip(np.nonzero(judged), pad)], evaluated.shape)
    gamma = np.full(dose_gy.shape, np.nan, np.float32)
    gamma[judged] = search(surface, places, dose_gy[judged], criterion_gy, max_gamma)
    return gamma
