"""Patients moved at random: mirrored, shifted, turned about the head-foot axis, with noise on the CT."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from lib.features.batches import Batch
from lib.features.samples import Patients, Sample
from lib.seeds import normal

SHIFT_MM, ROTATE_DEG, CT_NOISE = 16.0, 5.0, 0.02  # at most; the noise in units of the CT channel


def augment(batch: Batch, how: str, generator: torch.Generator) -> Batch:
    """Each patient mirrored or not, then moved; nothing here waits for a GPU.

    "rotated" is the reference's, with the flip truly left-right and its 16 voxels of translation as 16 mm;
    "whole voxels" rounds the translation to what a network sees as one value, which may be a part of a block,
    and does not rotate: interpolating voxels of a centimetre would blur dose and masks.
    """
    whole, device = how == "whole voxels", batch.cond.device
    seen_mm = batch.spacing_mm * (batch.grid.answer // batch.grid.condition)
    draw = torch.rand(len(batch.cond), 5, generator=generator)
    noise = normal(batch.cond[:, :1].shape, generator, device)
    batch = mirror_some(batch, (draw[:, 0] < 0.5).to(device, non_blocking=True))
    shift_mm, angle = (2 * draw[:, 1:4] - 1) * SHIFT_MM, (2 * draw[:, 4] - 1) * math.radians(ROTATE_DEG)
    steps = torch.round(shift_mm / seen_mm).int()
    rows = None if whole else motion(batch, shift_mm, angle).to(device, non_blocking=True)

    def move(volume, finer):
        if whole:
            return shift(volume, steps * finer)
        points = F.affine_grid(rows, volume.shape, align_corners=False)
        return F.grid_sample(volume, points, align_corners=False)

    batch = change_volumes(batch, move)
    batch.cond[:, :1] += CT_NOISE * noise
    return batch


def change_volumes(patients: Patients, change: Callable) -> Patients:
    """The patients with `change(volume, finer)` done to the channels and to all that lies on the grid of the
    answers, where `finer` values are one that a network sees; what comes in from outside is background."""
    outside = patients.channels.background()[:, None, None, None]
    outside = outside.to(patients.cond.device, non_blocking=True)
    cond = (change(patients.cond - outside, 1) + outside).to(patients.cond.dtype)
    finer = patients.grid.answer // patients.grid.condition
    answers = {name: change(getattr(patients, name), finer) for name in patients.channels.answered}
    return replace(patients, cond=cond, **answers)


def shift(volume: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """[B,C,d,h,w] of which voxel i is now what i + `voxels` (int [B,3]) was; 0 where that is outside."""
    most = torch.tensor(volume.shape[2:])
    ends = [
        [end for step in reversed(steps) for end in (-step, step)]
        for steps in voxels.clamp(-most, most).tolist()
    ]
    return torch.stack([F.pad(of, end) for of, end in zip(volume, ends)])  # less than nothing is cut off


def shift_patient(sample: Sample, steps: tuple[int, int, int]) -> Sample:
    """The patient of whom the network sees (z, y, x) values where it saw them `steps` further on; what leaves
    the box is lost."""
    voxels = torch.tensor([steps])
    return change_volumes(sample, lambda volume, finer: shift(volume[None], voxels * finer)[0])


def mirror_some(batch: Batch, chosen: torch.Tensor) -> Batch:
    """The batch with the patients `chosen` (bool [B]) mirrored."""
    image = mirror(batch)

    def pick(name):
        turned, straight = getattr(image, name), getattr(batch, name)
        return torch.where(chosen.view(-1, *[1] * (straight.ndim - 1)), turned, straight)

    return replace(batch, **{name: pick(name) for name in ("cond", "constraints", *batch.channels.answered)})


def mirror(patients: Patients) -> Patients:
    """The mirror image, left and right exchanged: channels of paired organs swap, and the flags among the
    constraints [...,K] that say which structures there are follow them."""
    channels, constraints, order = patients.channels, patients.constraints, patients.channels.mirror_order()
    if not channels.protocol.constraint_vector:
        structures, n = channels.protocol.structures, len(channels.protocol.targets)
        first = channels.names.index(structures[0])
        flags = [n + place - first for place in order[first : first + len(structures)]]
        constraints = torch.stack([constraints[..., place] for place in [*range(n), *flags]], -1)
    turned = patients.cond.flip(-1).unbind(-4)
    cond = torch.stack([turned[place] for place in order], -4)
    answers = {name: getattr(patients, name).flip(-1) for name in channels.answered}
    return replace(patients, cond=cond, constraints=constraints, **answers)


def motion(batch: Batch, shift_mm: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Matrices [B,3,4] for affine_grid: a turn by `angle` [B] about the centre, a shift [B,3] (z, y, x)."""
    half_mm = batch.spacing_mm * torch.tensor(batch.dose.shape[2:]) / 2
    (_, y, x), (up, back, left) = half_mm.unbind(1), (shift_mm / half_mm).unbind(1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [cos, -sin * y / x, zero, left, sin * x / y, cos, zero, back, zero, zero, zero + 1, up]
    return torch.stack(rows, 1).unflatten(1, (3, 4))
