"""Patients moved at random: mirrored, shifted, turned about the head-foot axis, with noise on the CT."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from lib.features.batches import Batch
from lib.features.samples import TENSORS, Sample

SHIFT_MM, ROTATE_DEG, CT_NOISE = 16.0, 5.0, 0.02  # at most; the noise in units of the CT channel


def augment(batch: Batch, how: str, generator: torch.Generator) -> Batch:
    """Each patient mirrored or not, then moved; all is drawn on the CPU.

    "rotated" is the reference's, with the flip truly left-right and its 16 voxels of translation as 16 mm;
    "whole voxels" rounds the translation to voxels and does not rotate: interpolating voxels of a centimetre
    would blur dose and masks.
    """
    whole, device = how == "whole voxels", batch.cond.device
    draw = torch.rand(len(batch.cond), 5, generator=generator)
    noise = torch.randn(batch.cond[:, :1].shape, generator=generator)
    batch = mirror_some(batch, (draw[:, 0] < 0.5).to(device))
    shift_mm, angle = (2 * draw[:, 1:4] - 1) * SHIFT_MM, (2 * draw[:, 4] - 1) * math.radians(ROTATE_DEG)
    if whole:
        shift_mm, angle = torch.round(shift_mm / batch.spacing_mm) * batch.spacing_mm, torch.zeros_like(angle)
    grid = motion_grid(batch, shift_mm, angle).to(device)
    outside = batch.channels.background().to(device)[None, :, None, None, None]
    volumes = torch.cat([batch.cond - outside, batch.dose, batch.mask], 1)
    moved = F.grid_sample(volumes, grid, "nearest" if whole else "bilinear", align_corners=False)
    cond, dose, mask = moved.split([batch.cond.shape[1], 1, 1], dim=1)
    cond = cond + outside
    cond[:, :1] += CT_NOISE * noise.to(device)
    return replace(batch, cond=cond, dose=dose, mask=mask)


def mirror_some(batch: Batch, chosen: torch.Tensor) -> Batch:
    """The batch with the patients `chosen` (bool [B]) mirrored."""
    image = mirror(batch)

    def pick(name):
        turned, straight = getattr(image, name), getattr(batch, name)
        return torch.where(chosen.view(-1, *[1] * (straight.ndim - 1)), turned, straight)

    return replace(batch, **{name: pick(name) for name in TENSORS})


def mirror(patients: Sample | Batch) -> Sample | Batch:
    """The mirror image, left and right exchanged: channels of paired organs swap, and the flags among the
    constraints [...,K] that say which structures there are follow them."""
    channels, constraints, order = patients.channels, patients.constraints, patients.channels.mirror_order()
    if not channels.protocol.constraint_vector:
        first, n = channels.names.index(channels.structures[0]), len(channels.targets)
        flags = [n + place - first for place in order[first : first + len(channels.structures)]]
        constraints = constraints[..., [*range(n), *flags]]
    cond = patients.cond.flip(-1)[..., order, :, :, :]
    dose, mask = patients.dose.flip(-1), patients.mask.flip(-1)
    return replace(patients, cond=cond, dose=dose, mask=mask, constraints=constraints)


def motion_grid(batch: Batch, shift_mm: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Sampling grid [B,d,h,w,3] of a rotation by `angle` [B] about the centre and a shift [B,3] (z, y, x)."""
    half_mm = batch.spacing_mm * torch.tensor(batch.dose.shape[2:]) / 2
    z, y, x = half_mm.unbind(1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [
        torch.stack([cos, -sin * y / x, zero, shift_mm[:, 2] / x], 1),
        torch.stack([sin * x / y, cos, zero, shift_mm[:, 1] / y], 1),
        torch.stack([zero, zero, zero + 1, shift_mm[:, 0] / z], 1),
    ]
    return F.affine_grid(torch.stack(rows, 1), batch.dose.shape, align_corners=False)
