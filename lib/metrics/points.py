"""A structure and its dose as points within the voxels, so that no volume is a whole number of voxels.

A case holds masks and no contours. Between voxel centres, mask and dose are interpolated linearly along each
axis, and the points of the highest mask values are taken, as many as fill the volume of the mask's voxels: so
the volume is that of the mask, corners are round, and a slice of contours counts with its thickness, of which
half lies beyond the end slices. `tests/test_points.py` holds it against closed forms.
"""

import numpy as np
import torch

from lib.features.grid import refine

LEAST_POINTS = 5_000  # in a structure
PARTS = (3, 5, 7, 9)  # points along a voxel's edge; odd, so that its centre is one


def dose_points(dose_gy: np.ndarray, mask: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, float]:
    """(doses in Gy [M], voxels per point) of the structure `mask`; all bool or Gy [D,H,W].

    Only voxels where the dose is `known` count in an interpolated dose, as beyond them it is written as 0.
    """
    n = int(mask.sum())
    parts = next((p for p in PARTS if n * p**3 >= LEAST_POINTS), PARTS[-1])
    if n == 0:
        return dose_gy[mask], 1.0
    box = tuple(slice(max(0, at.min() - 1), at.max() + 2) for at in np.nonzero(mask))
    volumes = [mask[box], known[box], np.where(known[box], dose_gy[box], 0)]
    volumes = torch.stack([torch.as_tensor(np.asarray(volume, np.float32)) for volume in volumes])
    share, weight, dose = refine(volumes[:, None], parts).numpy().reshape(3, -1)
    least = np.partition(share, -n * parts**3)[-n * parts**3] - 1e-5  # rounding shall not part equal points
    inside = (share >= least) & (weight > 0)
    return dose[inside] / weight[inside], n / int(inside.sum())
