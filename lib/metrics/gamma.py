"""Gamma index of a predicted dose: how far, in space and dose, each planned voxel is from the predicted dose.

Low et al. 1998 (Med. Phys. 25:656), Eq. 4 to 6: the least distance from a reference point to the evaluated
dose, with space in units of the distance criterion and dose in units of the dose criterion. Reference is the
planned dose, evaluated the predicted one, interpolated linearly along each axis between voxel centres.

Along a line parallel to an axis the interpolated dose is linear from one face of a cell (the box between 2^n
neighbouring voxel centres) to the other, and the least distance to such a piece of line has a closed form. So
gamma is the least over a lattice of lines parallel to each axis: no minimum is too narrow to be seen, as it
is for a lattice of points (for that reason Ju et al. 2008, Med. Phys. 35:879, take simplices), and how dense
the lines are changes gamma in the second order only. Both doses lie on one grid, so that a line has the same
weights for every voxel, and the pieces in one cell are two products of a matrix with the doses at its
corners. The search goes from near to far and leaves a voxel as soon as nothing farther away can be less
(Wendling et al. 2007, Med. Phys. 34:1647).
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

CHUNK = 2**13  # reference points at a time; on a CPU their work shall fit its cache
CHUNK_CUDA = 2**18
RING = 0.3  # width of the rings in which the search grows, in units of the distance criterion
ROUNDING = 1e-5  # by which float32 may miss a gamma of exactly 1


class Patch(NamedTuple):
    """Pieces of lines in one cell and ring, seen from a reference point, in units of the distance criterion.

    start     (n)              voxels from the reference point to the cell's first corner
    inner2    number           least squared distance of a piece from the reference point
    begin     float32 [K,1]    where a piece begins, along its line from the reference point's foot
    length    float32 [K,1]    of the pieces
    across2   float32 [K,1]    squared distance of the lines from the reference point
    weights   float32 [K,2^n]  of the doses at the cell's corners, for the dose at a piece's beginning
    slopes    float32 [K,2^n]  and for its slope
    """

    start: tuple
    inner2: float
    begin: torch.Tensor
    length: torch.Tensor
    across2: torch.Tensor
    weights: torch.Tensor
    slopes: torch.Tensor


def gamma_index(
    dose_gy: np.ndarray,
    dose_hat_gy: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    dose_pct: float,
    distance_mm: float,
    global_gy: float | None = None,
    local: bool = False,
    cutoff_pct: float = 10.0,
    max_gamma: float = 1.1,
    interp_fraction: int = 5,
    device: str = "cpu",
) -> np.ndarray:
    """Gamma index of `dose_hat_gy` at every voxel of the planned `dose_gy`, both of 1, 2 or 3 axes.

    spacing_mm       voxel size in array order
    dose_pct         dose criterion in % of `global_gy`, or if `local` in % of the voxel's planned dose
    distance_mm      distance criterion
    global_gy        the stated dose in Gy, usually the prescription; the cut-off is of it, also if `local`
    cutoff_pct       voxels planned below this share of `global_gy` are not judged
    max_gamma        nothing farther away is looked at; a voxel with more gets this value
    interp_fraction  lines per distance criterion
    Returns float32, NaN where not judged. ValueError if the doses do not fit or a number is missing or not
    positive.
    """
    dose_gy, dose_hat_gy = (np.asarray(dose, np.float32, order="C") for dose in (dose_gy, dose_hat_gy))
    check_doses(dose_gy, dose_hat_gy, spacing_mm)
    if not 0 <= cutoff_pct < np.inf:
        raise ValueError(f"cutoff_pct must be at least 0, not {cutoff_pct}")
    check_positive(dose_pct=dose_pct, distance_mm=distance_mm, global_gy=global_gy)
    check_positive(max_gamma=max_gamma, interp_fraction=interp_fraction)
    judged = (dose_gy >= cutoff_pct / 100 * global_gy) & (dose_gy > 0 if local else True)
    unit_gy = dose_pct / 100 * (dose_gy[judged] if local else np.full(judged.sum(), global_gy))
    patches = make_patches(np.divide(spacing_mm, distance_mm), max_gamma, interp_fraction, device)
    gamma = np.full(dose_gy.shape, np.nan, np.float32)
    planned = np.nonzero(judged), dose_gy[judged], unit_gy
    gamma[judged] = search(dose_hat_gy, *planned, patches, max_gamma, device)
    return gamma


def pass_pct(gamma: np.ndarray, region: np.ndarray | None = None) -> float | None:
    """% of the judged voxels, in `region` (bool) if given, with gamma <= 1; None if none is judged."""
    if region is not None and np.shape(region) != gamma.shape:
        raise ValueError(f"the region has the shape {np.shape(region)}, the doses have {gamma.shape}")
    judged = gamma[~np.isnan(gamma) & (True if region is None else np.asarray(region, bool))]
    return float(100.0 * (judged <= 1 + ROUNDING).mean()) if len(judged) else None


def check_doses(dose_gy, dose_hat_gy, spacing_mm):
    shapes = dose_gy.shape, dose_hat_gy.shape
    if shapes[0] != shapes[1] or not 1 <= dose_gy.ndim <= 3:
        raise ValueError("the doses must have one shape of 1 to 3 axes, not {} and {}".format(*shapes))
    if np.shape(spacing_mm) != (dose_gy.ndim,) or not all(0 < s < np.inf for s in spacing_mm):
        raise ValueError(f"spacing_mm must hold {dose_gy.ndim} positive numbers, not {spacing_mm}")
    if not (np.isfinite(dose_gy).all() and np.isfinite(dose_hat_gy).all()):
        raise ValueError("a dose holds values that are not finite")


def check_positive(**numbers):
    for name, value in numbers.items():
        if value is None or not 0 < value < np.inf:
            raise ValueError(f"{name} must be a positive number, not {value}")


def make_patches(steps, max_gamma, interp_fraction, device):
    """All pieces of lines within `max_gamma`, for voxels of `steps` distance criteria, from near to far."""
    lines = [lines_along(axis, steps, max_gamma, interp_fraction) for axis in range(len(steps))]
    starts, inner2, *columns = (np.concatenate(arrays) for arrays in zip(*lines))
    rings = np.floor(np.sqrt(inner2) / RING + 1e-9).astype(int)
    kinds, kind = np.unique(np.column_stack([rings, starts]), axis=0, return_inverse=True)
    patches = []
    for i, (_, *start) in enumerate(kinds):
        members = kind.ravel() == i
        tensors = (torch.as_tensor(c[members], dtype=torch.float32, device=device) for c in columns)
        patches.append(Patch(tuple(start), inner2[members].min(), *tensors))
    return sorted(patches, key=lambda patch: patch.inner2)


def lines_along(axis, steps, max_gamma, interp_fraction):
    """The pieces of lines parallel to `axis`: the fields of a Patch as arrays, with `inner2` of each."""
    reach, cells = int(max_gamma * interp_fraction + 1e-9), int(np.ceil(max_gamma / steps[axis] - 1e-9))
    ranges = [range(-reach, reach + 1)] * len(steps)
    ranges[axis] = range(-cells, cells)
    at = np.array(list(product(*ranges)), float) / interp_fraction
    at[:, axis] *= interp_fraction * steps[axis]
    begin, length = at[:, axis : axis + 1], steps[axis]
    across2 = (at**2).sum(1, keepdims=True) - begin**2
    inner2 = (across2 + np.maximum(0, np.maximum(begin, -begin - length)) ** 2).ravel()
    near = inner2 <= max_gamma**2 + 1e-9
    at, begin, across2 = at[near], begin[near], across2[near]
    voxels = np.round(at / steps, 9)  # a line through voxel centres must not lie beside them
    starts = np.floor(voxels).astype(int)
    weights = corner_weights(voxels - starts)
    slopes = (corner_weights(voxels - starts + np.eye(len(steps))[axis]) - weights) / length
    return starts, inner2[near], begin, np.full_like(begin, length), across2, weights, slopes


def corner_weights(inside):
    """Weights [K,2^n] of a cell's corners for points `inside` [K,n] it, in voxels: linear along each axis."""
    corners = np.array(list(product((0, 1), repeat=inside.shape[1])))
    return np.where(corners, inside[:, None], 1 - inside[:, None]).prod(-1)


def search(dose_hat_gy, index, dose_gy, unit_gy, patches, max_gamma, device):
    """Gamma [N] at voxels `index` (n arrays [N]) of planned `dose_gy` [N], dose criterion `unit_gy` [N]."""
    pads = [max(map(abs, starts)) + 1 for starts in zip(*(patch.start for patch in patches))]
    # beyond the volume the dose is that of its edge, which is always nearer: nothing there is ever the least
    padded = np.pad(dose_hat_gy, [(p, p) for p in pads], mode="edge")
    places = np.ravel_multi_index([i + p for i, p in zip(index, pads)], padded.shape)
    points = [torch.as_tensor(a, device=device) for a in (places, dose_gy, unit_gy.astype(np.float32))]
    padded = torch.as_tensor(padded, device=device)
    low = high = padded  # the least and greatest dose at the corners of the cell that begins at each voxel
    for axis in range(padded.ndim):
        low, high = torch.minimum(low, low.roll(-1, axis)), torch.maximum(high, high.roll(-1, axis))
    size = CHUNK_CUDA if padded.is_cuda else CHUNK
    chunks = zip(*(array.split(size) for array in points))
    gammas = [search_chunk(padded, low, high, *chunk, patches, max_gamma) for chunk in chunks]
    return torch.cat(gammas).cpu().numpy()


def search_chunk(padded, low, high, places, dose_gy, unit_gy, patches, max_gamma):
    """Gamma [N] of the reference points; each patch is computed for the points that it could improve."""
    values, low, high = padded.ravel(), low.ravel(), high.ravel()
    corners = [flat(corner, padded) for corner in product((0, 1), repeat=padded.ndim)]
    corners = torch.tensor(corners, device=places.device)[:, None]
    gamma2 = torch.full_like(dose_gy, max_gamma**2)
    for patch in patches:
        point = torch.nonzero(gamma2 > patch.inner2).ravel()
        if len(point) == 0:
            break
        first, dose, unit = places[point] + flat(patch.start, padded), dose_gy[point], unit_gy[point]
        gap = torch.maximum(low[first] - dose, dose - high[first]).clamp(min=0) / unit
        near = torch.nonzero(gap**2 + patch.inner2 < gamma2[point]).ravel()
        point, first, dose, unit = point[near], first[near], dose[near], unit[near]
        distance2 = nearest2(patch, (values[first + corners] - dose) / unit)
        gamma2[point] = torch.minimum(gamma2[point], distance2)
    return gamma2.sqrt()


def nearest2(patch, difference):
    """Least squared distance [N] of the patch's pieces, from `difference` [2^n,N] between the doses at the
    cell's corners and the planned one, in dose criteria.

    On a piece, dose difference d + k s and place begin + s, 0 <= s <= length, are nearest to (0, 0) at
    s = -(begin + k d) / (1 + k^2).
    """
    d, k = patch.weights @ difference, patch.slopes @ difference
    s = (k * d).add_(patch.begin).div_(k.square().add_(1)).neg_()
    s = torch.minimum(s.clamp_(min=0), patch.length)
    distance2 = d.addcmul_(k, s).square_().add_(s.add_(patch.begin).square_())
    return distance2.add_(patch.across2).amin(0)


def flat(offset, volume):
    """An offset in voxels as an offset in the flattened volume."""
    return int(sum(o * s for o, s in zip(offset, volume.stride())))
