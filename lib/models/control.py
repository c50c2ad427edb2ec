"""The control without a network: each target's prescription, falling with the distance as it does on average.

In voxels its edges are as sharp as the targets', so that a network of blocks need not draw them: it corrects
this dose.
"""

from collections.abc import Iterable

import numpy as np
import torch

from lib.features.channels import CLIP_MM
from lib.features.grid import refine
from lib.features.samples import Sample

DEEPEST_MM = 20.0  # inside a target; deeper voxels count as these
REACH_MM = 25.0  # in which the dose is first taken to fall by e, to tell which target a voxel belongs to

Falloff = tuple[float, ...]  # share of a target's prescription at each mm from -DEEPEST_MM to CLIP_MM


def fit_falloff(samples: Iterable[Sample]) -> Falloff:
    """The mean dose at each distance, as a share of the prescription of the target that it belongs to, inside
    the dose masks; a distance that no voxel has takes the line between its neighbours."""
    n = round(DEEPEST_MM + CLIP_MM) + 1
    total, weight = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for sample in samples:
        prescriptions, distance_mm = targets_of(sample)
        most = prescriptions * torch.exp(-distance_mm.clamp(min=0) / REACH_MM)
        belongs = most.argmax(dim=0, keepdim=True)
        prescribed = prescriptions.expand_as(distance_mm).gather(0, belongs).double().flatten()
        at = torch.round(place(distance_mm.gather(0, belongs))).long().flatten()
        share, dose = sample.mask.double().flatten(), sample.dose.double().flatten()
        total += torch.bincount(at, share * dose, n)
        weight += torch.bincount(at, share * prescribed, n)
    known = torch.nonzero(weight).flatten()
    means = np.interp(range(n), known, total[known] / weight[known])
    return tuple(means.round(4).tolist())


def control_dose(falloff: Falloff, sample: Sample) -> torch.Tensor:
    """Dose [1,D,H,W] as a fraction of the prescription: of what each target gives the highest, 0 outside the
    dose mask."""
    prescriptions, distance_mm = targets_of(sample)
    shares, at = torch.tensor(falloff, device=distance_mm.device), place(distance_mm)
    below = at.long().clamp(max=len(shares) - 2)
    given = prescriptions * torch.lerp(shares[below], shares[below + 1], at - below)
    return given.amax(dim=0, keepdim=True) * (sample.mask > 0)


def targets_of(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Prescriptions [S,1,1,1], as fractions of the highest, and signed distances in mm [S,D,H,W]."""
    targets = sample.channels.select(sample.cond, sample.channels.protocol.targets)[None].float()
    distance_mm = refine(targets, sample.grid.answer // sample.grid.condition)[0] * CLIP_MM
    return torch.tensor(sample.prescriptions, device=distance_mm.device)[:, None, None, None], distance_mm


def place(distance_mm: torch.Tensor) -> torch.Tensor:
    """Where a distance stands among those of a Falloff, a real number."""
    return (distance_mm + DEEPEST_MM).clamp(0, DEEPEST_MM + CLIP_MM)
