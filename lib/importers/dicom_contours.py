"""The contours of a structure as a mask on any grid, and the patient's outline.

A contour counts for the CT slice in which it is drawn, half a slice each way; a voxel belongs to a structure
if its centre lies inside. Contours of a slice are united, but one that lies wholly inside another is a hole.
"""

import itertools
from collections.abc import Callable

import numpy as np
from matplotlib.path import Path as Polygon
from scipy.ndimage import distance_transform_edt

from lib.errors import UserError
from lib.importers.body import fill_holes, largest_part
from lib.importers.dicom_files import Dataset, explain_damage, number, numbers, text
from lib.importers.dicom_grid import ImageGrid, nearest_slices
from lib.importers.dicom_structures import NO_AREA, Roi, plain

MAX_POINTS, MAX_CONTOURS = 10_000_000, 5_000  # of a structure, and of one in a slice
OFF_SLICE = 0.2  # share of the slice distance by which a contour may miss its slice
SAME_MM = 0.1  # of two nested contours that are closer than this on average one is the other, repeated
BODY_HU = -300.0  # above it is body where no structure says so
BODY_NAMES = [plain(name) for name in ("External", "Body", "Skin", "Outer_Contour", "Patient_Outline")]
CLOSED, XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"

Contour = tuple[np.ndarray, bool]  # (y, x) float64 [N,2] in mm, and whether to exclusive-or it


def contour_mask(roi: Roi, ct_grid: ImageGrid, grid: ImageGrid, file: str, warnings: list[str]) -> np.ndarray:
    """bool [D,H,W]: voxels of `grid` whose centre is inside the contours that were drawn on `ct_grid`."""
    if not roi.in_ct_frame:
        elsewhere = "is in another frame of reference than the CT, or in none"
        raise UserError(f"{file}: {roi.name} {elsewhere}; export it drawn on this CT")
    with explain_damage(file):
        contours = read_contours(roi, ct_grid, file, warnings)
    check_gaps(roi.name, sorted(contours), ct_grid, file, warnings)
    pairs = nearest_slices(grid, ct_grid)
    layers = dict.fromkeys(itertools.chain(*pairs), np.zeros(grid.shape[1:], bool))
    layers |= {k: fill_slice(contours[k], grid, f"{file}: {roi.name}") for k in layers if k in contours}
    return np.stack([halfway(layers[low], layers[high], grid) for low, high in pairs])


# --- reading ---


def read_contours(roi: Roi, grid: ImageGrid, file: str, warnings: list[str]) -> dict[int, list[Contour]]:
    """CT slice -> its contours; what encloses no area or leaves the CT is told."""
    slices, flat, outside, total = {}, 0, 0, 0
    last, margin = np.array(grid.shape) - 1, np.array([OFF_SLICE, 0.5, 0.5])
    for item in roi.items:
        points_mm, kind = read_points(item, roi, file)
        total += len(points_mm)
        if total > MAX_POINTS:
            raise UserError(f"{file}: {roi.name} has more than {MAX_POINTS} points; export it simplified")
        if kind in NO_AREA or len(points_mm) < 3:
            flat += 1
            continue
        index = (points_mm[:, ::-1] - grid.origin_mm) / grid.spacing_mm
        low, high, z = index.min(axis=0), index.max(axis=0), round(np.median(index[:, 0]))
        outside += (low < -margin).any() or (high > last + margin).any()
        if (high >= -margin).all() and (low <= last + margin).all():
            if abs(index[:, 0] - z).max() > OFF_SLICE:
                where = f"a contour of {roi.name} at z = {points_mm[0, 2]:.2f} mm"
                raise UserError(f"{file}: {where} does not lie on a CT slice; export it drawn on this CT")
            slices.setdefault(z, []).append((points_mm[:, 1::-1], kind == XOR))
    if outside and not slices:
        raise UserError(f"{file}: {roi.name} does not lie in the CT; export the CT that it was drawn on")
    warnings += [f"{roi.name}: {flat} of its contours enclose no area; left out"] if flat else []
    warnings += [f"{roi.name}: {outside} of its contours leave the CT; cut off there"] if outside else []
    return slices


def read_points(item: Dataset, roi: Roi, file: str) -> tuple[np.ndarray, str]:
    """((x, y, z) float64 [N,3] in mm, ContourGeometricType) of a contour; no points if it says so itself."""
    raw = item.get_item("ContourData").value if "ContourData" in item else None
    if not raw and not item.get("NumberOfContourPoints"):
        return np.zeros((0, 3)), CLOSED
    count = number(item, "NumberOfContourPoints")
    if isinstance(raw, bytes):  # split by hand, because pydicom makes an object of every number
        values = np.array(raw.split(b"\\"), float) if raw.count(b"\\") == 3 * count - 1 else np.zeros(0)
    else:
        values = numbers(item, "ContourData")
    if not count or len(values) != 3 * count or not np.isfinite(values).all():
        raise UserError(f"{file}: ContourData of {roi.name} is not NumberOfContourPoints x 3 numbers")
    kind = text(item, "ContourGeometricType")
    if kind not in (CLOSED, XOR, *NO_AREA):
        raise UserError(f"{file}: ContourGeometricType of {roi.name} is not closed and planar")
    return values.reshape(-1, 3), kind


def check_gaps(name: str, layers: list[int], grid: ImageGrid, file: str, warnings: list[str]) -> None:
    """Tells of slices without a contour; refuses a structure that has one on every second slice, or fewer."""
    gaps = [pair for pair in itertools.pairwise(layers) if pair[1] - pair[0] > 1]
    if len(gaps) > 2 and len(gaps) >= len(layers) / 2:
        slices = f"{len(layers)} of {layers[-1] - layers[0] + 1} slices"
        raise UserError(f"{file}: {name} has contours on only {slices}; export it interpolated")
    for pair in gaps:
        low_mm, high_mm = (grid.origin_mm[0] + k * grid.spacing_mm[0] for k in pair)
        warnings.append(f"{name}: no contour between z = {low_mm:.1f} and {high_mm:.1f} mm")


# --- filling ---


def fill_slice(contours: list[Contour], grid: ImageGrid, name: str) -> np.ndarray:
    """bool [H,W] of the contours of a slice: united, nested ones as holes, then the exclusive-ored."""
    if len(contours) > MAX_CONTOURS:
        raise UserError(f"{name} has more than {MAX_CONTOURS} contours in a slice; export it smoothed")
    mask, united = np.zeros(grid.shape[1:], bool), [points_mm for points_mm, xor in contours if not xor]
    for depth, points_mm in sorted(zip(nesting(united), united), key=lambda pair: pair[0]):
        box, inside = fill_contour(points_mm, grid, name)
        mask[box] = mask[box] & ~inside if depth % 2 else mask[box] | inside
    for points_mm in [points_mm for points_mm, xor in contours if xor]:
        box, inside = fill_contour(points_mm, grid, name)
        mask[box] ^= inside
    return mask


def nesting(polygons: list[np.ndarray]) -> list[int]:
    """For each polygon how many others it lies wholly inside of, one inside the next."""
    low = np.array([points.min(axis=0) for points in polygons])
    high = np.array([points.max(axis=0) for points in polygons])
    depths = [0] * len(polygons)
    for i in sorted(range(len(polygons)), key=lambda i: -area(polygons[i])):  # what is around comes before
        around = np.flatnonzero((low <= low[i]).all(axis=1) & (high >= high[i]).all(axis=1))
        outer = [depths[j] for j in around if j != i and lies_inside(polygons[i], polygons[j])]
        depths[i] = 1 + max(outer, default=-1)
    return depths


def lies_inside(points_mm: np.ndarray, outer_mm: np.ndarray) -> bool:
    """Whether a polygon lies inside another, not counting its own repetition; 500 of its points are tried."""
    perimeter_mm = np.linalg.norm(points_mm - np.roll(points_mm, -1, axis=0), axis=1).sum()
    if area(outer_mm) - area(points_mm) < SAME_MM * perimeter_mm:
        return False
    some = points_mm[:: max(1, len(points_mm) // 500)]
    inwards = some + 1e-3 * (points_mm.mean(axis=0) - some)  # a hole may touch the edge from inside
    return bool(Polygon(outer_mm).contains_points(inwards).all())


def area(points_mm: np.ndarray) -> float:
    """The area of a polygon in mm2."""
    y, x = (points_mm - points_mm[0]).T
    return abs(float(y @ np.roll(x, -1) - x @ np.roll(y, -1))) / 2


def fill_contour(points_mm: np.ndarray, grid: ImageGrid, name: str) -> tuple[tuple[slice, slice], np.ndarray]:
    """(rows and columns, bool there) of pixels round whose centre the contour winds.

    A row's crossings with the edges, +1 upwards and -1 downwards, are added up from the left. A centre on a
    left or upper edge is inside, one on a right or lower edge is not, so that no area is won or lost. A
    contour that winds several times and goes back on one of its edges encloses holes by such keyholes.
    """
    points = ((points_mm - grid.origin_mm[1:]) / grid.spacing_mm[1:]).round(6)
    start = np.ceil(points.min(axis=0)).clip(0, grid.shape[1:]).astype(int)
    stop = np.ceil(points.max(axis=0)).clip(start, grid.shape[1:]).astype(int)
    box = slice(start[0], stop[0]), slice(start[1], stop[1])
    (r0, c0), (r1, c1) = (points - start).T, (np.roll(points, -1, axis=0) - start).T
    rows, columns = stop - start
    first = np.ceil(np.minimum(r0, r1)).clip(0, rows).astype(int)
    count = np.ceil(np.maximum(r0, r1)).clip(0, rows).astype(int) - first
    if count.sum() > MAX_POINTS:
        raise UserError(f"{name}: a contour crosses the rows of its slice more than {MAX_POINTS} times")
    edge = np.repeat(np.arange(len(points)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    column = c0[edge] + (row - r0[edge]) * ((c1 - c0)[edge] / (r1 - r0)[edge])
    crossings = np.zeros((rows, columns + 1), np.int32)
    at = row, np.ceil(column.round(6)).clip(0, columns).astype(int)
    np.add.at(crossings, at, np.where(r1 > r0, 1, -1)[edge])
    winding = np.cumsum(crossings[:, :-1], axis=1)
    keyholes = abs(winding).max(initial=0) > 1 and goes_back(points)
    return box, winding % 2 == 1 if keyholes else winding != 0


def goes_back(points: np.ndarray) -> bool:
    """Whether an edge of a polygon is gone a second time in the other direction: the bridge of a keyhole."""
    here, there = points, np.roll(points, -1, axis=0)
    edges = np.concatenate([here, there], axis=1)[(here != there).any(axis=1)]
    forth, back = (set(map(bytes, np.ascontiguousarray(e + 0.0))) for e in (edges, edges[:, [2, 3, 0, 1]]))
    return bool(forth & back)


def halfway(low: np.ndarray, high: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """bool [H,W] midway between two slices: of their mean area, what both have and what is next to it.

    To take either slice would move every structure by half a slice; to unite them would enlarge it.
    """
    either = low ^ high
    if not either.any():
        return low
    box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(low | high))
    depth_mm = sum(signed_depth_mm(mask[box], grid) for mask in (low, high) if mask.any())
    places = np.argwhere(either)
    depth_mm = depth_mm[tuple((places - [side.start for side in box]).T)]
    scatter = places @ (0.7549, 0.5698) % 1  # equal depths are taken evenly, not from one side
    taken = places[np.lexsort((scatter, -depth_mm.round(3)))[: round(len(places) / 2)]]
    middle = low & high
    middle[tuple(taken.T)] = True
    return middle


def signed_depth_mm(mask: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """Distance to the edge of a mask, positive inside."""
    padded, pixel_mm = np.pad(mask, 1), grid.spacing_mm[1:]
    inside, outside = (distance_transform_edt(m, sampling=pixel_mm) for m in (padded, ~padded))
    return (inside - outside)[1:-1, 1:-1]


# --- the outline ---


def find_body(
    rois: list[Roi], targets: dict[str, np.ndarray], ct_hu: np.ndarray, draw: Callable, warnings: list[str]
) -> tuple[str, np.ndarray]:
    """(structure's name or the rule, bool [D,H,W]) of the patient's outline; `draw` gives a structure's mask
    on the grid of `ct_hu`.

    Of several outlines the largest that holds the targets, one of the type EXTERNAL before others.
    """
    wanted, outlines = np.any(list(targets.values()), axis=0), []
    for roi in rois:
        if roi.items and roi.in_ct_frame and (roi.kind == "EXTERNAL" or plain(roi.name) in BODY_NAMES):
            mask = draw(roi)
            share, size = (wanted & mask).sum() / max(1, wanted.sum()), mask.sum()
            outlines.append(((share > 0.95, share > 0.5, roi.kind == "EXTERNAL", size), roi.name, mask))
    rank, name, body = max(outlines, key=lambda one: one[0], default=((False, False), "", None))
    if not rank[1]:
        name, body = f"CT above {BODY_HU:g} HU", fill_holes(largest_part(ct_hu > BODY_HU))
    others = ", ".join(other for _, other, _ in outlines if other != name)
    if others:
        warnings.append(f"the patient's outline is {name}, not {others}")
    return name, body
