"""Volumes in overlapping windows: where they start, and how what was made of each is blended.

Half a window is shared with the next one, as in the reference study (128 with an overlap of 64); the weights
are Gaussian, of a quarter of the window as deviation.
"""

import torch

from lib.errors import UserError


def window_starts(size, window):
    """First voxels (z, y, x) of the windows that cover `size`; an axis shorter than a window has one."""
    if window < 2:
        raise UserError(f"a window must have at least 2 voxels along each axis, not {window}")
    axes = [sorted({*range(0, max(1, n - window + 1), window // 2), max(0, n - window)}) for n in size]
    return [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]


def blended(parts, size, window):
    """Weighted mean [B,C,*size] of `parts`, pairs of a window's start and result [B,C,w,w,w]."""
    total = weights = None
    for start, part in parts:
        if total is None:
            total, weights = part.new_zeros(*part.shape[:2], *size), part.new_zeros(size)
        box = tuple(slice(a, a + n) for a, n in zip(start, part.shape[2:]))
        weight = gaussian(part.shape[2:], window).to(part)
        total[(slice(None), slice(None), *box)] += weight * part
        weights[box] += weight
    return total / weights


def gaussian(size, window):
    """Weights [d,h,w] that are largest in the middle."""
    axes = [torch.exp(-(((torch.arange(n) - (n - 1) / 2) / (window / 4)) ** 2) / 2) for n in size]
    return torch.einsum("i,j,k->ijk", *axes)
