"""The control without a network: the mean training dose as a function of the distance to the targets."""

import numpy as np

from lib.cases.protocols import PROTOCOLS
from lib.features.samples import CLIP_MM

EDGES_MM = np.array([-20.0, -10.0, -5.0, 0.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0])


def distances_mm(sample):
    """Signed distance [d,h,w] to the primary target and to the nearest target of all."""
    n_targets = len(PROTOCOLS[sample.site].targets)
    targets_mm = sample.cond[1 : 1 + n_targets].numpy() * CLIP_MM
    return targets_mm[0], targets_mm.min(axis=0)


def cells(sample):
    """Index of each voxel's pair of distance bins, int [d,h,w]."""
    primary, nearest = (np.digitize(d, EDGES_MM) for d in distances_mm(sample))
    return primary * (len(EDGES_MM) + 1) + nearest


def fit_control(samples):
    """Table of mean dose (fraction of prescription) per cell, inside the dose masks; empty cells are 0."""
    size = (len(EDGES_MM) + 1) ** 2
    total, count = np.zeros(size), np.zeros(size)
    for sample in samples:
        weight = sample.mask[0].numpy().ravel()
        total += np.bincount(cells(sample).ravel(), weight * sample.dose[0].numpy().ravel(), size)
        count += np.bincount(cells(sample).ravel(), weight, size)
    return total / np.maximum(count, 1)


def predict_control(table, sample):
    """Dose [d,h,w] as a fraction of the prescription, 0 outside the dose mask."""
    return (table[cells(sample)] * (sample.mask[0].numpy() > 0)).astype(np.float32)
