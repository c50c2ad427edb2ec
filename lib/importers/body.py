"""The patient's outline on a CT that has no contour of it."""

import numpy as np
from scipy import ndimage


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask: the patient without a couch that air parts from it."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    return labels == 1 + sizes.argmax() if sizes.size else labels > 0


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """[D,H,W] without the holes that are closed in an axial slice, such as gas in the bowel."""
    return np.stack([ndimage.binary_fill_holes(layer) for layer in mask])
