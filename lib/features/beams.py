"""Where the beams are: the dose of open coplanar fields, from CT, targets and gantry angles alone.

A field of each angle is as wide as the targets seen from the source; inside it the dose falls off with depth
and with the square of the distance. Nothing of the plan but its angles is used: it is what a planner knows
before he plans.
"""

import math

import torch
import torch.nn.functional as F

SOURCE_MM = 1000.0  # from the source to the isocentre
ATTENUATION_PER_MM = 0.0046  # of a 6 MV field in water beyond the maximum, scatter included
STEP_MM = 4.0  # along a ray and between rays
LEAST_SHARE = 0.1  # of the targets in a ray's interpolated voxel, for the ray to be inside the field


def open_fields(targets, density, spacing_mm, angles_deg):
    """Sum over the fields, float32 [D,H,W]; each field alone is at most about 1 where it enters.

    targets     share of each voxel in a target, [D,H,W]; their centre of mass is the isocentre
    density     relative to water, [D,H,W]
    angles_deg  gantry angles (IEC 61217) of a patient on his back, head first: 0 front, 90 his left
    """
    if not targets.any():
        return torch.zeros(targets.shape)
    shape = torch.tensor(targets.shape)
    half_mm = shape * torch.tensor(spacing_mm) / 2
    axes_mm = [(torch.arange(n) + 0.5) * s - h for n, s, h in zip(targets.shape, spacing_mm, half_mm)]
    weights = targets / targets.sum()
    isocentre_mm = [
        float((weights.sum(tuple({0, 1, 2} - {axis})) * axes_mm[axis]).sum()) for axis in range(3)
    ]
    volumes = torch.stack([targets, density])[None].float()
    return sum(open_field(volumes, axes_mm, half_mm, isocentre_mm, angle) for angle in angles_deg) / len(
        angles_deg
    )


def open_field(volumes, axes_mm, half_mm, isocentre_mm, angle_deg):
    """One field [D,H,W]: targets and density (volumes [1,2,D,H,W]) followed along its rays, and what they
    give brought back."""
    angle = math.radians(angle_deg)
    along = (math.cos(angle), -math.sin(angle))  # y, x: the way the beam goes
    across = (math.sin(angle), math.cos(angle))
    z0, y0, x0 = isocentre_mm
    reach_mm = STEP_MM * math.ceil(
        math.hypot(float(half_mm[1]) + abs(y0), float(half_mm[2]) + abs(x0)) / STEP_MM
    )  # the farthest corner
    rays_mm = torch.arange(-reach_mm + STEP_MM / 2, reach_mm, STEP_MM)

    # rays: row z and offset s where they cross the isocentre's plane, depth t beyond it
    z, t, s = torch.meshgrid(axes_mm[0] - z0, rays_mm, rays_mm, indexing="ij")
    spread = (SOURCE_MM + t) / SOURCE_MM
    points = (
        z0 + z * spread,
        y0 + t * along[0] + s * spread * across[0],
        x0 + t * along[1] + s * spread * across[1],
    )
    target, density = F.grid_sample(volumes, to_grid(points, half_mm), align_corners=False)[0]
    field = (target.amax(dim=1, keepdim=True) > LEAST_SHARE).float()
    depth_mm = torch.cumsum(density, dim=1) * STEP_MM
    dose = field * torch.exp(-ATTENUATION_PER_MM * depth_mm) / spread**2

    z, y, x = torch.meshgrid(*axes_mm, indexing="ij")
    t = (y - y0) * along[0] + (x - x0) * along[1]
    s = (y - y0) * across[0] + (x - x0) * across[1]
    spread = (SOURCE_MM + t) / SOURCE_MM
    points = (z0 + (z - z0) / spread, t, s / spread)
    return F.grid_sample(
        dose[None, None], to_grid(points, (half_mm[0], reach_mm, reach_mm)), align_corners=False
    )[0, 0]


def to_grid(points_mm, half_mm):
    """Points (z, y, x) in mm about a volume's centre as torch's sampling grid [1,D,H,W,3]."""
    return torch.stack([p / h for p, h in zip(points_mm, half_mm)][::-1], dim=-1)[None]
