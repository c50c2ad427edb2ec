"""Between a case's grid and a training grid: averaged blocks, the dose mask's box, and the way back.

A network works on blocks of voxels. It sees each by one value of every condition channel, or by several, and
answers it with one dose, or with several, laid out in space.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from lib.errors import UserError

MULTIPLE = 16  # blocks; the network's four halvings
LEAST_SHARE = 0.25

Box = tuple[slice, slice, slice]


class Grid(NamedTuple):
    """What a network sees and answers: blocks of `coarsen`^3 voxels of the case, in each `condition`^3 values
    of a channel and `answer`^3 doses."""

    coarsen: int
    answer: int = 1
    condition: int = 1

    @property
    def voxels(self) -> int:
        """Voxels of the case along the edge of an answered dose."""
        return self.coarsen // self.answer

    def check(self, where: str = "") -> None:
        """A UserError if its numbers do not go together; `where` comes before their names."""
        for part, whole in (("answer", "coarsen"), ("condition", "answer")):
            number, of = getattr(self, part), getattr(self, whole)
            if of % number:
                raise UserError(f"{where}{part} is {number}; it must divide {whole}, which is {of}")


def finer(box: Box, parts: int) -> Box:
    """A box of blocks as one of `parts`^3 values in each, also as an index whose first part is all."""
    return tuple(slice(b.start * parts, b.stop * parts) if isinstance(b, slice) else b for b in box)


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
        start, stop = int(inside[0]) // coarsen, int(inside[-1]) // coarsen + 1
        length = stop - start
        wanted = min(n, -(-length // MULTIPLE) * MULTIPLE)
        first = min(max(0, start - (wanted - length) // 2), n - wanted)
        spans.append(slice(first, first + wanted))
    return tuple(spans)


def crop(volume: torch.Tensor, box: Box) -> torch.Tensor:
    """[C,d,h,w] inside the box."""
    return volume[(slice(None), *box)].contiguous()


def uncrop(volume: torch.Tensor, mask: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Answers [N,C,...] in the box of the mask on all blocks of the case that it is of; 0 outside."""
    size = (-(-n // grid.coarsen) * grid.answer for n in mask.shape)
    whole = volume.new_zeros(*volume.shape[:2], *size)
    whole[(slice(None), slice(None), *finer(dose_box(mask, grid.coarsen), grid.answer))] = volume
    return whole


def mean_of_blocks(volume: torch.Tensor, coarsen: int, parts: int = 1) -> torch.Tensor:
    """[C,D,H,W] averaged over blocks of coarsen^3 voxels, or over each of `parts`^3 parts of a block.

    Sizes are padded with edge values to a multiple of `coarsen`.
    """
    if coarsen == 1:
        return volume
    pad = [p for n in reversed(volume.shape[1:]) for p in (0, -n % coarsen)]
    return F.avg_pool3d(F.pad(volume[None], pad, mode="replicate"), coarsen // parts)[0]


def split_blocks(volume: torch.Tensor, answer: int) -> torch.Tensor:
    """Answers [B,C,d*answer,...] as blocks [B,C*answer^3,d,...]: sub-pixel convolution's inverse."""
    if answer == 1:
        return volume
    for axis in (4, 3, 2):
        volume = volume.unflatten(axis, (-1, answer))  # at last [B,C,d,answer,h,answer,w,answer]
    return volume.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def join_blocks(volume: torch.Tensor, answer: int) -> torch.Tensor:
    """Blocks [B,C*answer^3,d,h,w] as answers [B,C,d*answer,...] (Shi et al. 2016, arXiv 1609.05158)."""
    if answer == 1:
        return volume
    parts = volume.unflatten(1, (-1, answer, answer, answer)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def refine(volume: torch.Tensor, parts: int, shape: tuple = (None, None, None)) -> torch.Tensor:
    """[B,C,d,h,w] of blocks at `parts`^3 points in each, trilinear between their centres, cut to `shape`."""
    if parts == 1:
        return volume
    fine = F.interpolate(volume, scale_factor=parts, mode="trilinear", align_corners=False)
    return fine[:, :, : shape[0], : shape[1], : shape[2]]


def refine_in_mask(volume: torch.Tensor, grid: Grid, mask: torch.Tensor) -> torch.Tensor:
    """Answered doses [N,1,d,h,w] in the box of the mask (bool [D,H,W]) as doses [N,1,D,H,W], 0 outside it.

    Trilinear between their centres, divided by the mask interpolated alike, so that the zeros outside do not
    pull down the dose at the edge (by at least LEAST_SHARE, for what lies in a sliver of the mask is mostly
    error); then what the result's own block averages miss is added back once (Irani & Peleg 1991, CVGIP
    53:231). More rounds follow a true dose ever closer, and the errors of a predicted one as well. Never
    negative.
    """
    volume = uncrop(volume, mask, grid)
    if grid.voxels == 1:
        depth, height, width = mask.shape
        return volume[..., :depth, :height, :width] * mask
    answers_of = partial(mean_of_blocks, coarsen=grid.coarsen, parts=grid.answer)
    voxels_of = partial(refine, parts=grid.voxels, shape=mask.shape)
    share = voxels_of(answers_of(mask[None].float())[None]).clamp(min=LEAST_SHARE)

    def inside(answers):
        return (voxels_of(answers) / share * mask).clamp(min=0)

    return inside(2 * volume - answers_of(inside(volume)[:, 0])[:, None])
