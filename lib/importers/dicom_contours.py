"""The contours of a structure as a mask, and the patient's outline."""

import itertools

import numpy as np

from lib.errors import UserError
from lib.importers.body import fill_holes, largest_part
from lib.importers.dicom_files import Dataset, explain_damage, number, numbers, text
from lib.importers.dicom_grid import Grid
from lib.importers.dicom_structures import MAX_POINTS, Roi, plain

OFF_SLICE = 0.2  # share of the slice distance by which a contour may miss its slice
OUTSIDE_MM = 10.0  # by which a contour may leave the CT
BODY_HU = -300.0  # above it is body where no structure says so
BODY_NAMES = [plain(name) for name in ("External", "Body", "Skin", "Outer_Contour", "Patient_Outline")]
CLOSED = ("CLOSED_PLANAR", "CLOSED_PLANAR_XOR")


def contour_mask(roi: Roi, grid: Grid, file: str, warnings: list[str]) -> np.ndarray:
    """bool [D,H,W]: voxels whose centre is inside an odd number of the slice's contours."""
    slices = {}
    with explain_damage(file):
        for item in roi.items:
            k, points = read_contour(item, roi, grid, file)
            slices.setdefault(k, []).extend([points] if len(points) > 2 else [])
    mask = np.zeros(grid.shape, bool)
    for k, contours in slices.items():
        mask[k] = fill_contours(contours, grid.shape[1:], file)
    layers = np.flatnonzero(mask.any(axis=(1, 2)))
    gaps = [pair for pair in itertools.pairwise(layers) if pair[1] - pair[0] > 1]
    if len(gaps) > 1 and len(gaps) >= len(layers) / 2:
        thin = f"{roi.name} is contoured on every second slice or fewer"
        raise UserError(f"{file}: {thin}; export it interpolated")
    for pair in gaps:
        low_mm, high_mm = (grid.origin_mm[0] + k * grid.spacing_mm[0] for k in pair)
        warnings.append(f"{roi.name}: no contour between z = {low_mm:.1f} and {high_mm:.1f} mm")
    return mask


def read_contour(item: Dataset, roi: Roi, grid: Grid, file: str) -> tuple[int, np.ndarray]:
    """(slice, (row, column) float64 [N,2] in voxels) of one item of a ContourSequence."""
    points_mm = read_points(item, roi, file)
    index = (points_mm[:, ::-1] - grid.origin_mm) / grid.spacing_mm
    k = int(np.rint(np.clip(np.median(index[:, 0]), -2, grid.shape[0] + 1)))
    where = f"a contour of {roi.name} at z = {points_mm[0, 2]:.2f} mm"
    if abs(index[:, 0] - k).max() > OFF_SLICE or not 0 <= k < grid.shape[0]:
        raise UserError(f"{file}: {where} does not lie on a CT slice")
    margin = OUTSIDE_MM / np.array(grid.spacing_mm[1:])
    if (index[:, 1:] < -margin).any() or (index[:, 1:] > np.array(grid.shape[1:]) - 1 + margin).any():
        raise UserError(f"{file}: {where} leaves the CT")
    return k, index[:, 1:]


def read_points(item: Dataset, roi: Roi, file: str) -> np.ndarray:
    """(x, y, z) float64 [N,3] in mm of a contour."""
    if "ContourData" not in item:
        raise AttributeError(name="ContourData")
    raw, count = item.get_item("ContourData").value, number(item, "NumberOfContourPoints")
    if isinstance(raw, bytes):  # split by hand, because pydicom makes an object of every number
        values = np.array(raw.split(b"\\"), float) if raw.count(b"\\") == 3 * count - 1 else np.zeros(0)
    else:
        values = numbers(item, "ContourData")
    if not count or len(values) != 3 * count or not np.isfinite(values).all():
        raise UserError(f"{file}: ContourData of {roi.name} is not NumberOfContourPoints x 3 numbers")
    if count > 2 and text(item, "ContourGeometricType") not in CLOSED:
        raise UserError(f"{file}: ContourGeometricType of {roi.name} is not closed and planar")
    return values.reshape(-1, 3)


def fill_contours(contours: list[np.ndarray], shape: tuple[int, int], file: str) -> np.ndarray:
    """Even-odd fill, bool [H,W]: crossings of each row with the edges are marked, then counted from the left.

    contours  (row, column) float64 [N,2], in voxels; holes and keyholes come out by themselves
    """
    crossings = np.zeros((shape[0], shape[1] + 1), np.int32)
    for points in contours:
        (r0, c0), (r1, c1) = points.T, np.roll(points, -1, axis=0).T
        first = np.ceil(np.minimum(r0, r1)).clip(0, shape[0]).astype(int)
        count = np.ceil(np.maximum(r0, r1)).clip(0, shape[0]).astype(int) - first
        if count.sum() > MAX_POINTS:
            raise UserError(f"{file}: a contour crosses the rows of its slice more than {MAX_POINTS} times")
        edge = np.repeat(np.arange(len(points)), count)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        column = c0[edge] + (row - r0[edge]) * ((c1 - c0)[edge] / (r1 - r0)[edge])
        np.add.at(crossings, (row, np.ceil(column).clip(0, shape[1]).astype(int)), 1)
    return np.cumsum(crossings[:, :-1], axis=1) % 2 == 1


def find_body(
    rois: list[Roi], ct_hu: np.ndarray, grid: Grid, file: str, warnings: list[str]
) -> tuple[str, np.ndarray]:
    """(structure's name or the rule, bool [D,H,W]) of the patient's outline."""
    outlines = [
        roi for roi in rois if roi.items and (roi.kind == "EXTERNAL" or plain(roi.name) in BODY_NAMES)
    ]
    if outlines:
        best = min(outlines, key=lambda roi: (roi.kind != "EXTERNAL", roi.number))
        return best.name, contour_mask(best, grid, file, warnings)
    return f"CT above {BODY_HU:g} HU", fill_holes(largest_part(ct_hu > BODY_HU))
