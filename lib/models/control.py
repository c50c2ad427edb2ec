"""The control without a network: the mean training dose as a function of the distance to the targets."""

import numpy as np

from lib.features.channels import CLIP_MM
from lib.features.grid import refine
from lib.features.samples import Sample

EDGES_MM = np.array([-20.0, -10.0, -5.0, 0.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0])


def fit_control(samples: list[Sample]) -> np.ndarray:
    """Table of mean dose (fraction of prescription) per cell, inside the dose masks; empty cells are 0."""
    size = (len(EDGES_MM) + 1) ** 2
    total, count = np.zeros(size), np.zeros(size)
    for sample in samples:
        weight = sample.mask[0].float().numpy().ravel()
        total += np.bincount(cells(sample).ravel(), weight * sample.dose[0].float().numpy().ravel(), size)
        count += np.bincount(cells(sample).ravel(), weight, size)
    return total / np.maximum(count, 1)


def predict_control(table: np.ndarray, sample: Sample) -> np.ndarray:
    """Dose [d,h,w] as a fraction of the prescription, 0 outside the dose mask."""
    return (table[cells(sample)] * (sample.mask[0].numpy() > 0)).astype(np.float32)


def cells(sample: Sample) -> np.ndarray:
    """Each voxel's bins of distance to the primary target and to the nearest of all, as one index [d,h,w]."""
    targets = sample.channels.select(sample.cond, sample.channels.protocol.targets)[None].float()
    targets_mm = refine(targets, sample.grid.answer // sample.grid.condition)[0].numpy() * CLIP_MM
    primary, nearest = (np.digitize(mm, EDGES_MM) for mm in (targets_mm[0], targets_mm.min(axis=0)))
    return primary * (len(EDGES_MM) + 1) + nearest
