"""Volumes in overlapping windows: a network called window by window, and the reference study's windows apart.

Half a window is shared with the next one, as in the reference study (128 with an overlap of 64). What is made
of each is blended with Gaussian weights, of a quarter of the window as deviation. A window is given by its
box of blocks, an index of volumes [B,C,d,h,w].
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from lib.errors import UserError
from lib.features.batches import Batch
from lib.features.grid import finer
from lib.seeds import generator_for


def window_boxes(size: Sequence[int], window: int) -> list[tuple]:
    """The windows that cover `size` (z, y, x); an axis shorter than a window has one."""
    if window < 2:
        raise UserError(f"a window must have at least 2 voxels along each axis, not {window}")
    starts = [sorted({*range(0, max(1, n - window + 1), window // 2), max(0, n - window)}) for n in size]
    return [(..., *(slice(a, a + window) for a in start)) for start in product(*starts)]


def windows_of(batch: Batch, window: int) -> tuple[list[tuple], list[Batch]]:
    """The windows that cover a batch: the boxes of their answers, and the batch in each."""
    grid, boxes = batch.grid, window_boxes(batch.blocks, window)
    answers, parts = [finer(box, grid.answer) for box in boxes], []
    for box, answer in zip(boxes, answers):
        volumes = {name: getattr(batch, name)[answer] for name in ("dose", "mask", "prior")}
        parts.append(replace(batch, cond=batch.cond[finer(box, grid.condition)], **volumes))
    return answers, parts


def denoise_windows(network_of: Callable, batch: Batch, window: int) -> Callable:
    """`network_of(batch)`, a function of (x_t, t), called on each window and blended into one volume."""
    boxes, parts = windows_of(batch, window)
    networks = [network_of(part) for part in parts]

    def network(x_t: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        pieces = (None if x_t is None else x_t[box] for box in boxes)
        # copied, as a compiled network writes its next output over this one
        outputs = (of_window(piece, t).clone() for of_window, piece in zip(networks, pieces))
        return blend(zip(boxes, outputs), batch.dose.shape[2:], window * batch.grid.answer)

    return network


def sample_windows(
    sample: Callable, batch: Batch, window: int, temperature: float, seed: int, names: Sequence[tuple]
) -> Tensor:
    """The reference's way: `sample(part, noise)` of each window from its own noise, as if it were a patient.

    Noise is named by the seed, the window's number and the patient's of the `names` (case_id, member).
    """

    def sample_window(number, part):
        generators = [generator_for(seed, "window", number, *name) for name in names]
        noise = torch.stack([torch.randn(part.dose.shape[1:], generator=g) for g in generators])
        return sample(part, temperature * noise.to(part.dose.device))

    boxes, parts = windows_of(batch, window)
    doses = (sample_window(number, part) for number, part in enumerate(parts))
    return blend(zip(boxes, doses), batch.dose.shape[2:], window * batch.grid.answer)


def blend(parts: Iterable[tuple], size: Sequence[int], window: int) -> Tensor:
    """Weighted mean [B,C,*size] of `parts`, pairs of a window's box and result [B,C,w,w,w]."""
    total = weights = None
    for box, part in parts:
        if total is None:
            total, weights = part.new_zeros(*part.shape[:2], *size), part.new_zeros(size)
        places = [(torch.arange(n) - (n - 1) / 2) / (window / 4) for n in part.shape[2:]]
        z, y, x = (torch.exp(-(place**2) / 2) for place in places)
        weight = (z[:, None, None] * y[:, None] * x).to(part)
        total[box] += weight * part
        weights[box] += weight
    return total / weights
