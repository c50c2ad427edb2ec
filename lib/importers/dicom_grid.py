"""Axial grids and what is carried between them: (z, y, x), the index growing along DICOM's +z, +y, +x."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lib.cases.case import Triple
from lib.errors import UserError

MAX_VOXELS = 600**3
STEP_TOLERANCE = 0.05  # share of the slice distance by which steps may differ


class ImageGrid(NamedTuple):
    """Centre of voxel (0, 0, 0) and voxel size in mm, and the number of voxels, each (z, y, x)."""

    origin_mm: Triple
    spacing_mm: Triple
    shape: tuple[int, int, int]


def even_step(positions_mm: np.ndarray, name: str) -> float:
    """The distance between sorted positions in mm; a gap, a duplicate or an uneven step is refused."""
    steps_mm = np.diff(positions_mm)
    if not len(steps_mm) or steps_mm.min() < 0.01:
        raise UserError(f"{name} has {'two slices at one position' if len(steps_mm) else 'a single slice'}")
    step_mm = float(np.median(steps_mm))
    worst = int(np.argmax(abs(steps_mm - step_mm)))
    if abs(steps_mm[worst] - step_mm) > STEP_TOLERANCE * step_mm:
        what = "slices are missing" if steps_mm[worst] > 1.5 * step_mm else "the slice distance changes"
        low_mm, high_mm = positions_mm[worst : worst + 2]
        raise UserError(f"{name}: {what} between z = {low_mm:.2f} and {high_mm:.2f} mm")
    return float(positions_mm[-1] - positions_mm[0]) / len(steps_mm)


def is_upright(orientation: Sequence[float], name: str) -> bool:
    """Whether rows of pixels run along x, and not along y; what is not axial is refused."""
    directions = np.abs(np.reshape(orientation, (2, 3)))
    axes = np.rint(directions).tolist()
    if abs(directions - axes).max() > 1e-3 or axes not in ([[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [1, 0, 0]]):
        raise UserError(f"{name}: ImageOrientationPatient is not axial; export axial images, no oblique ones")
    return axes[0][0] == 1


def to_patient_axes(
    volume: np.ndarray, orientation: Sequence[float], first_mm: Sequence[float], spacing_mm: Triple, name: str
) -> tuple[np.ndarray, ImageGrid]:
    """Frames [n, rows, columns] in the order of z, turned to the project's axes, and their ImageGrid.

    orientation  ImageOrientationPatient: where columns grow, then where rows grow; any axial one
    first_mm     ImagePositionPatient (x, y, z) of the lowest frame's first pixel
    spacing_mm   from frame to frame, and PixelSpacing: from row to row and from column to column
    """
    directions = np.reshape(orientation, (2, 3))
    step_mm, *pixel_mm = spacing_mm
    if not is_upright(orientation, name):  # columns run front to back
        volume, directions, pixel_mm = volume.transpose(0, 2, 1), directions[::-1], pixel_mm[::-1]
    signs = np.rint([directions[1, 1], directions[0, 0]]).astype(int)
    extent_mm = (np.array(volume.shape[1:]) - 1) * pixel_mm
    origin_yx_mm = np.array(first_mm)[[1, 0]] + np.minimum(signs, 0) * extent_mm
    grid = ImageGrid(round_mm((first_mm[2], *origin_yx_mm)), round_mm((step_mm, *pixel_mm)), volume.shape)
    if min(grid.spacing_mm) <= 0:
        raise UserError(f"{name}: PixelSpacing {tuple(pixel_mm)} is not positive")
    return np.ascontiguousarray(volume[:, :: signs[0], :: signs[1]]), grid


def round_mm(values_mm: Sequence[float]) -> Triple:
    """To a millionth of a mm, so that grids that should be equal are."""
    return tuple(round(float(value), 6) for value in values_mm)


def check_spacing(spacing_mm: Sequence[float]) -> Triple:
    """The spacing that a person asks for, if it can be one."""
    try:
        spacing_mm = tuple(float(s) for s in spacing_mm)
    except (TypeError, ValueError):
        spacing_mm = ()
    if len(spacing_mm) != 3 or not all(0.3 <= s <= 20 for s in spacing_mm):
        raise UserError("spacing_mm must be three numbers between 0.3 and 20: (dz, dy, dx) in mm")
    return spacing_mm


def new_grid(grid: ImageGrid, spacing_mm: Sequence[float] | None) -> ImageGrid:
    """The grid of `spacing_mm` with the same first outer corner, as large as the old within half a voxel.

    None: the same grid.
    """
    if spacing_mm is None:
        return grid
    spacing_mm = check_spacing(spacing_mm)
    sides_mm = np.multiply(grid.shape, grid.spacing_mm).tolist()
    shape = tuple(max(1, round(side_mm / s)) for side_mm, s in zip(sides_mm, spacing_mm))
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise UserError(f"spacing_mm {spacing_mm} would make {shape} voxels, too many")
    origin_mm = grid.origin_mm + np.subtract(spacing_mm, grid.spacing_mm) / 2
    return ImageGrid(round_mm(origin_mm), spacing_mm, shape)


def linear_weights(out: ImageGrid, grid: ImageGrid, axis: int, beyond: float) -> np.ndarray:
    """Weights float32 [n_out, n] of linear interpolation, averaged over points in a coarser voxel.

    More than half a voxel outside `grid` the weights sum to `beyond`: 0, or 1 to go on with the last value.
    """
    step, n = grid.spacing_mm[axis], grid.shape[axis]
    m = max(1, int(np.ceil(out.spacing_mm[axis] / step - 1e-3)))
    weights = np.zeros((out.shape[axis], n), np.float64)
    for part in (np.arange(m) + 0.5) / m - 0.5:
        centres_mm = out.origin_mm[axis] + (np.arange(out.shape[axis]) + part) * out.spacing_mm[axis]
        at = ((centres_mm - grid.origin_mm[axis]) / step).round(4)  # equal grids give whole numbers
        share = np.where((at >= -0.5) & (at <= n - 0.5), 1.0, beyond) / m
        low = np.floor(at.clip(0, n - 1)).astype(int)
        high, rest, rows = np.minimum(low + 1, n - 1), at.clip(0, n - 1) - low, np.arange(len(at))
        np.add.at(weights, (rows, low), share * (1 - rest))
        np.add.at(weights, (rows, high), share * rest)
    return weights.astype(np.float32)


def nearest_slices(out: ImageGrid, grid: ImageGrid) -> list[tuple[int, int]]:
    """For each slice of `out` the nearest of `grid`, twice, or the two between which it lies halfway."""
    z_mm = out.origin_mm[0] + np.arange(out.shape[0]) * out.spacing_mm[0]
    at = ((z_mm - grid.origin_mm[0]) / grid.spacing_mm[0]).round(4)
    return list(zip(np.ceil(at - 0.5).astype(int).tolist(), np.floor(at + 0.5).astype(int).tolist()))


def resample(volume: np.ndarray, grid: ImageGrid, out: ImageGrid, beyond: float = 1.0) -> np.ndarray:
    """A volume float32 on `grid` by linear interpolation on `out`, averaged where that is coarser.

    Outside `grid` it goes on with its last values times `beyond`.
    """
    weights = [linear_weights(out, grid, axis, beyond) for axis in range(3)]
    growth = np.divide(out.shape, grid.shape).tolist()
    for axis in sorted(range(3), key=growth.__getitem__):  # what shrinks it first
        if not np.array_equal(weights[axis], np.eye(volume.shape[axis])):
            volume = np.moveaxis(np.tensordot(weights[axis], volume, (1, axis)), 0, axis)
    return np.ascontiguousarray(volume, np.float32)


def coverage(grid: ImageGrid, out: ImageGrid) -> np.ndarray:
    """bool on `out`: voxels of which no part is more than half a voxel outside `grid`."""
    z, y, x = (linear_weights(out, grid, axis, beyond=0.0).sum(axis=1) > 0.99 for axis in range(3))
    return z[:, None, None] & y[:, None] & x
