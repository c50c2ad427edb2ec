"""Between a case's grid and a training grid: averaged blocks, the dose mask's box, and the way back."""

import torch
import torch.nn.functional as F

MULTIPLE = 16  # blocks; the network's four halvings
LEAST_SHARE = 0.25

Box = tuple[slice, slice, slice]


def dose_box(mask: torch.Tensor, coarsen: int) -> Box:
    """Slices (z, y, x) of the blocks around the dose mask (bool tensor [D,H,W]) that networks see.

    The box is grown about its middle to multiples of 16 blocks as far as the volume has room, so that
    patients share few sizes. An empty mask gives the whole volume.
    """
    blocks = [-(-n // coarsen) for n in mask.shape]
    if not mask.any():
        return tuple(slice(0, n) for n in blocks)
    spans = []
    for axis, n in enumerate(blocks):
        inside = torch.nonzero(mask.sum(tuple({0, 1, 2} - {axis}))).flatten()
        spans.append(grow_span(int(inside[0]) // coarsen, int(inside[-1]) // coarsen + 1, n))
    return tuple(spans)


def grow_span(start: int, stop: int, size: int) -> slice:
    """The span start..stop as a slice of a multiple of 16 about its middle, or of `size` if that is less."""
    wanted = min(size, -(-(stop - start) // MULTIPLE) * MULTIPLE)
    first = min(max(0, start - (wanted - (stop - start)) // 2), size - wanted)
    return slice(first, first + wanted)


def crop(volume: torch.Tensor, box: Box) -> torch.Tensor:
    """[C,d,h,w] inside the box."""
    return volume[(slice(None), *box)].contiguous()


def uncrop(volume: torch.Tensor, box: Box, mask: torch.Tensor, coarsen: int) -> torch.Tensor:
    """[N,C,...] of the box on all blocks of the case that `mask` is of; 0 outside."""
    whole = volume.new_zeros(*volume.shape[:2], *(-(-n // coarsen) for n in mask.shape))
    whole[(slice(None), slice(None), *box)] = volume
    return whole


def mean_of_blocks(volume: torch.Tensor, coarsen: int) -> torch.Tensor:
    """[C,D,H,W] averaged over blocks of coarsen^3 voxels; sizes are padded with edge values to a multiple."""
    if coarsen == 1:
        return volume
    pad = [p for n in reversed(volume.shape[1:]) for p in (0, -n % coarsen)]
    return F.avg_pool3d(F.pad(volume[None], pad, mode="replicate"), coarsen)[0]


def refine(volume: torch.Tensor, coarsen: int, shape: tuple) -> torch.Tensor:
    """[B,1,d,h,w] of blocks on the grid [B,1,*shape] of voxels, trilinear between block centres."""
    if coarsen == 1:
        return volume
    fine = F.interpolate(volume, scale_factor=coarsen, mode="trilinear", align_corners=False)
    return fine[:, :, : shape[0], : shape[1], : shape[2]]


def refine_in_mask(volume: torch.Tensor, coarsen: int, mask: torch.Tensor) -> torch.Tensor:
    """Doses of blocks [N,1,d,h,w] in the box of the mask (bool [D,H,W]) as doses [N,1,D,H,W], 0 outside it.

    Trilinear between block centres, divided by the mask interpolated alike, so that the zeros outside do not
    pull down the dose at the edge (by at least LEAST_SHARE, for what lies in a sliver of the mask is mostly
    error); then what the result's own block averages miss is added back once (Irani & Peleg 1991, CVGIP
    53:231). More rounds follow a true dose ever closer, and the errors of a predicted one as well. Never
    negative.
    """
    volume = uncrop(volume, dose_box(mask, coarsen), mask, coarsen)
    if coarsen == 1:
        return volume * mask
    fine_mask = mask[None, None].float()
    share = refine(mean_of_blocks(fine_mask[0], coarsen)[None], coarsen, mask.shape).clamp(min=LEAST_SHARE)

    def inside(blocks):
        return (refine(blocks, coarsen, mask.shape) / share * fine_mask).clamp(min=0)

    return inside(2 * volume - mean_of_blocks(inside(volume)[:, 0], coarsen)[:, None])
