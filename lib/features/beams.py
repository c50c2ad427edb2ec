"""Where the beams are: the dose of open coplanar fields, from CT, targets and gantry angles alone.

A field of each angle is as wide as the targets seen from the source; inside it the dose falls off with depth
and with the square of the distance. Nothing of the plan but its angles is used: it is what a planner knows
before planning.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from lib.cases.case import Case
from lib.features.grid import Box, crop, mean_of_blocks

SOURCE_MM = 1000.0  # from the source to the isocentre
ATTENUATION_PER_MM = 0.0046  # of a 6 MV field in water beyond the maximum, scatter included
STEP_MM = 4.0  # along a ray and between rays
LEAST_SHARE = 0.1  # of the targets in a ray's interpolated voxel, for the ray to be inside the field


def beam_channel(case: Case, box: Box, coarsen: int, beams_deg: tuple[float, ...]) -> torch.Tensor:
    """The open fields [1,d,h,w] of the case's targets in the box, made at half the blocks' size."""
    half = coarsen // 2 if coarsen % 2 == 0 else 1
    inside = tuple(slice(b.start * coarsen // half, b.stop * coarsen // half) for b in box)
    masks = [case.masks[name] for name in case.protocol.targets if name in case.masks]
    volumes = (np.any(masks, axis=0), np.clip(1 + case.ct_hu / 1000, 0, 2))
    volumes = (mean_of_blocks(torch.from_numpy(v.astype(np.float32))[None], half) for v in volumes)
    targets, density = (crop(volume, inside)[0] for volume in volumes)
    fields = open_fields(targets, density, tuple(s * half for s in case.spacing_mm), beams_deg)
    return mean_of_blocks(fields[None], coarsen // half)


def open_fields(
    targets: torch.Tensor, density: torch.Tensor, spacing_mm: tuple, angles_deg: tuple[float, ...]
) -> torch.Tensor:
    """Sum over the fields, float32 [D,H,W]; each field alone is at most about 1 where it enters.

    targets     share of each voxel in a target, [D,H,W]; their centre of mass is the isocentre
    density     relative to water, [D,H,W]
    angles_deg  gantry angles (IEC 61217) of a supine patient, head first: 0 front, 90 the patient's left
    """
    if not targets.any():
        return torch.zeros(targets.shape)
    half_mm = torch.tensor(targets.shape) * torch.tensor(spacing_mm) / 2
    axes_mm = [(torch.arange(n) + 0.5) * s - h for n, s, h in zip(targets.shape, spacing_mm, half_mm)]
    weights = targets / targets.sum()
    profiles = [weights.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    isocentre_mm = [float((profile * axis_mm).sum()) for profile, axis_mm in zip(profiles, axes_mm)]
    volumes = torch.stack([targets, density])[None].float()
    fields = [open_field(volumes, axes_mm, half_mm, isocentre_mm, angle) for angle in angles_deg]
    return sum(fields) / len(angles_deg)


def open_field(
    volumes: torch.Tensor, axes_mm: list, half_mm: torch.Tensor, isocentre_mm: list, angle_deg: float
) -> torch.Tensor:
    """One field [D,H,W] from targets and density (`volumes` [1,2,D,H,W]) along its rays."""
    angle = math.radians(angle_deg)
    along = (math.cos(angle), -math.sin(angle))  # y, x: the way the beam goes
    across = (math.sin(angle), math.cos(angle))
    z0, y0, x0 = isocentre_mm
    corner_mm = math.hypot(float(half_mm[1]) + abs(y0), float(half_mm[2]) + abs(x0))  # the farthest one
    reach_mm = STEP_MM * math.ceil(corner_mm / STEP_MM)
    rays_mm = torch.arange(-reach_mm + STEP_MM / 2, reach_mm, STEP_MM)

    # rays: row z and offset s where they cross the isocentre's plane, depth t beyond it
    z, t, s = torch.meshgrid(axes_mm[0] - z0, rays_mm, rays_mm, indexing="ij")
    spread = (SOURCE_MM + t) / SOURCE_MM
    y, x = (at + t * a + s * spread * c for at, a, c in zip((y0, x0), along, across))
    points = to_grid((z0 + z * spread, y, x), half_mm)
    target, density = F.grid_sample(volumes, points, align_corners=False)[0]
    field = (target.amax(dim=1, keepdim=True) > LEAST_SHARE).float()
    depth_mm = torch.cumsum(density, dim=1) * STEP_MM
    dose = field * torch.exp(-ATTENUATION_PER_MM * depth_mm) / spread**2

    z, y, x = torch.meshgrid(*axes_mm, indexing="ij")
    t = (y - y0) * along[0] + (x - x0) * along[1]
    s = (y - y0) * across[0] + (x - x0) * across[1]
    spread = (SOURCE_MM + t) / SOURCE_MM
    points = to_grid((z0 + (z - z0) / spread, t, s / spread), (half_mm[0], reach_mm, reach_mm))
    return F.grid_sample(dose[None, None], points, align_corners=False)[0, 0]


def to_grid(points_mm: tuple, half_mm: tuple | torch.Tensor) -> torch.Tensor:
    """Points (z, y, x) in mm about a volume's centre as torch's sampling grid [1,D,H,W,3]."""
    return torch.stack([p / h for p, h in zip(points_mm, half_mm)][::-1], dim=-1)[None]
