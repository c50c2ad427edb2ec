"""Contours as masks: analytic bodies, what overlaps and what is a hole, and the patient's outline."""

from functools import partial

import numpy as np
import pytest
from bodies import BODIES, body_mask, body_roi, contour, cylinder, field, roi_of, sphere

from lib.errors import UserError
from lib.importers.dicom_contours import contour_mask, find_body
from lib.importers.dicom_grid import ImageGrid, new_grid, resample
from lib.metrics.dvh import dose_at_cc_gy, dose_at_volume_gy

GRID = ImageGrid((0.0, 0.0, 0.0), (2.0, 1.0, 1.0), (5, 40, 40))  # a pixel is 1 mm2
CT_GRIDS = [(1.0, 1.0, 1.0), (2.0, 3.0, 3.0), (5.0, 1.2, 1.2), (5.0, 3.0, 3.0)]
PAIRS = [  # CT voxel -> asked voxel in mm; in the first two every new slice is halfway between two old ones
    ((1.5, 1.5, 1.5), (3.0, 3.0, 3.0)),
    ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0)),
    ((3.0, 1.0, 1.0), (3.0, 2.0, 2.0)),
    ((2.5, 1.27, 1.27), (2.5, 2.5, 2.5)),
]
POSITIONS = np.outer(np.arange(1, 13), (0.8191725134, 0.6710436067, 0.5497004779)) % 1 - 0.5  # evenly spread


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("spacing_mm", CT_GRIDS, ids=str)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_the_voxels_whose_centre_lies_inside(name, spacing_mm):
    grid = field(spacing_mm, 105.0)
    for offset in ((0, 0, 0), (0.37, 0.41, 0.23)):
        centre_mm = np.multiply(offset, spacing_mm)
        exact = body_mask(BODIES[name], grid, centre_mm)
        mask = contour_mask(body_roi(BODIES[name], grid, centre_mm), grid, grid, "", [])
        assert dice(mask, exact) > 0.99 and abs(mask.sum() / exact.sum() - 1) < 0.01


@pytest.mark.parametrize("radius_mm", [10.0, 20.0])
@pytest.mark.parametrize("ct_mm, asked_mm", PAIRS, ids=str)
def test_on_another_grid_a_sphere_keeps_its_volume_and_its_place(ct_mm, asked_mm, radius_mm):
    ct_grid = field(ct_mm, 2 * radius_mm + 10)
    grid = new_grid(ct_grid, asked_mm)
    volumes, shifts_mm = [], []
    for position in POSITIONS:
        centre_mm = position * asked_mm
        mask = contour_mask(body_roi(sphere(radius_mm), ct_grid, centre_mm), ct_grid, grid, "", [])
        middle_mm = np.argwhere(mask).mean(axis=0) * asked_mm + grid.origin_mm
        volumes.append(mask.sum() * np.prod(asked_mm) / sphere(radius_mm).volume_mm3)
        shifts_mm.append(middle_mm - centre_mm)
    assert abs(np.mean(volumes) - 1) < 0.01
    assert abs(np.mean(shifts_mm, axis=0)).max() < 0.1


# --- DVH points, with the dose on a grid of its own ---

DOSE_GRID, SLOPE = field((2.5, 2.5, 2.5), 130.0), 0.5  # Gy per mm


def dvh_errors_gy(body, dose_gy, closed_form_gy, spacing_mm):
    """Errors of D_x, with the body's edges in z between slices and its dose a function of the place in it."""
    grid = field(spacing_mm, 105.0)
    centre_mm = (grid.origin_mm[0] + spacing_mm[0] * (grid.shape[0] // 2 - 0.5), 0.4, -0.3)
    mask = contour_mask(body_roi(body, grid, centre_mm), grid, grid, "", [])
    axes_mm = [o + s * np.arange(n) - c for o, s, n, c in zip(*DOSE_GRID, centre_mm)]
    planned_gy = dose_gy(*np.meshgrid(*axes_mm, indexing="ij")).astype(np.float32)
    inside_gy = resample(planned_gy, DOSE_GRID, grid, beyond=0.0)[mask]
    shares_pct = (2, 5, 30, 50, 80, 95, 98)
    return [dose_at_volume_gy(inside_gy, pct) - closed_form_gy(pct / 100) for pct in shares_pct]


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.2, 1.2), (3.0, 3.0, 3.0)], ids=str)
def test_dvh_points_are_within_half_a_voxels_dose_of_the_closed_form(spacing_mm):
    ramp = dvh_errors_gy(
        cylinder(30.2, 36.0),
        lambda z, y, x: 40 + SLOPE * z,
        lambda share: 40 + SLOPE * 36 * (1 - 2 * share),
        spacing_mm,
    )
    radial = dvh_errors_gy(
        sphere(40.0),
        lambda z, y, x: 70 - SLOPE * np.sqrt(z**2 + y**2 + x**2),
        lambda share: 70 - SLOPE * 40 * share ** (1 / 3),
        spacing_mm,
    )
    assert np.abs([ramp, radial]).max() < SLOPE * spacing_mm[0] / 2 + 1e-3


def test_a_structure_of_one_voxel_has_that_voxels_dose():
    mask = contour_mask(roi_of([contour(box(20, 30, 21, 31), 4.0)]), GRID, GRID, "", [])
    doses_gy = np.broadcast_to(np.arange(40.0), GRID.shape)[mask]
    assert doses_gy.tolist() == [30.0] and dose_at_cc_gy(doses_gy, 0.1, 0.002) is None
    assert dose_at_cc_gy(doses_gy, 0.002, 0.002) == 30.0 and dose_at_volume_gy(doses_gy, 95) is None


# --- contours of one slice ---


def box(top, left, bottom, right):
    """A rectangle with its edges between pixels."""
    edges = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return np.array(edges, float) - 0.5


def area(*contours, kind="CLOSED_PLANAR"):
    """The pixels of contours in one slice."""
    items = [contour(points, 4.0, kind) for points in contours]
    mask = contour_mask(roi_of(items), GRID, GRID, "", [])
    assert not mask[[0, 1, 3, 4]].any()
    return int(mask.sum())


A = box(10, 10, 16, 16)  # 36 pixels
KEYHOLE = np.concatenate([A, A[:1], box(12, 12, 14, 14)[[0, 3, 2, 1, 0]]])  # the hole the other way round
SAME_WAY = np.concatenate([A, A[:1], box(12, 12, 14, 14)[[0, 1, 2, 3, 0]]])
NEAR = A + np.random.default_rng(0).uniform(-0.02, 0.02, A.shape)


@pytest.mark.parametrize(
    "pixels, contours",
    [
        (36, [A]),
        (54, [A, box(10, 13, 16, 19)]),  # three of six columns are both's
        (36, [A, A]),
        (36, [A, A[::-1]]),
        (36, [A, np.roll(A, 2, axis=0)]),
        (36, [A, NEAR]),
        (36, [NEAR, A, A]),
        (32, [box(12, 12, 14, 14), A, NEAR]),
        (50, [A, box(10, 13, 16, 19), box(12, 13, 14, 15), box(12, 13, 14, 15)]),  # a hole in what both have
        (36, [np.concatenate([A, A[:3]])]),  # a stroke that runs round one and a half times
        (32, [A, box(12, 12, 14, 14)]),
        (32, [box(12, 12, 14, 14), A, A]),
        (30, [A, box(10, 12, 12, 15)]),  # a hole that touches the edge from inside
        (33, [A, box(12, 12, 14, 14), box(12, 12, 13, 13)]),  # an island in the hole
        (32, [KEYHOLE]),
        (32, [SAME_WAY]),
        (33, [KEYHOLE, box(13, 13, 14, 14)]),
        (50, [A, box(10, 13, 16, 19), box(11, 11, 13, 13)]),  # a hole in one of two
        (41, [A, box(0, 0, 1, 5)]),
        (5, [box(-9, -9, 1, 5), box(-9, -9, -3, -3)]),  # cut off at the CT's edge
        (40 * 40, [box(-9, -9, 99, 99)]),
    ],
)
def test_contours_are_united_but_nested_ones_are_holes(pixels, contours):
    assert area(*contours) == pixels


def test_only_where_the_file_says_so_contours_are_exclusive_ored():
    kind = "CLOSEDPLANAR_XOR"
    assert area(A, box(10, 13, 16, 19), kind=kind) == 36
    assert area(A, box(12, 12, 14, 14), kind=kind) == 32 and area(A, A, kind=kind) == 0


def test_a_shifted_triangle_is_filled_by_pixel_centres():
    rows, columns = np.mgrid[:40, :40]
    inside = (rows > 0.5) & (columns > 0.5) & (rows + columns < 9.0)
    assert area([(0.5, 0.5), (0.5, 8.5), (8.5, 0.5)]) == inside.sum()


def test_edges_through_pixel_centres_neither_win_nor_lose_area():
    squares = [A + 0.5 + shift for shift in ((0, 0), (0, 6), (6, 0), (6, 6))]
    assert area(squares[0]) == 36 and area(*squares) == 144


# --- slices ---


def mask_of(*z_mm, points=A, warnings=None):
    items = [contour(points, z) for z in z_mm]
    return contour_mask(roi_of(items), GRID, GRID, "rs.dcm", [] if warnings is None else warnings)


def test_contours_beyond_the_ct_are_cut_off_and_told():
    warnings = []
    assert mask_of(6.0, 8.0, 8.7, 10.0, warnings=warnings)[3:].sum() == 72
    assert warnings == ["A: 2 of its contours leave the CT; cut off there"]
    warnings.clear()
    assert mask_of(4.0, points=A + [0, 27], warnings=warnings).sum() == 6 * 3
    assert warnings == ["A: 1 of its contours leave the CT; cut off there"]


@pytest.mark.parametrize("z_mm, shift", [(20.0, 0), (-3.0, 0), (4.0, 90)])
def test_a_structure_wholly_beyond_the_ct_is_refused(z_mm, shift):
    with pytest.raises(UserError, match=r"rs.dcm: A does not lie in the CT; export the CT"):
        mask_of(z_mm, points=A + shift)


def test_a_structure_in_another_frame_of_reference_is_refused():
    with pytest.raises(UserError, match=r"rs.dcm: A is in another frame of reference than the CT"):
        contour_mask(roi_of([contour(A, 4.0)], in_ct_frame=False), GRID, GRID, "rs.dcm", [])


def test_a_contour_between_slices_is_refused():
    with pytest.raises(UserError, match=r"a contour of A at z = 5.00 mm does not lie on a CT slice"):
        mask_of(4.0, 5.0)


def test_three_separate_slices_are_taken_and_told_but_every_second_is_refused():
    warnings = []
    assert mask_of(0.0, 4.0, 8.0, warnings=warnings).any(axis=(1, 2)).tolist() == [True, False] * 2 + [True]
    assert [w for w in warnings if w.startswith("A: no contour between")] == warnings and len(warnings) == 2
    tall = GRID._replace(shape=(9, 40, 40))
    items = [contour(A, z) for z in (0.0, 4.0, 8.0, 12.0)]
    with pytest.raises(UserError, match="A has contours on only 4 of 7 slices; export it interpolated"):
        contour_mask(roi_of(items), tall, tall, "", [])
    steady = [contour(A, z) for z in np.arange(9) * 2.0]  # the advice, followed
    assert contour_mask(roi_of(steady), tall, tall, "", []).sum() == 9 * 36


@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_contours_on_every_nth_slice_are_refused_and_two_separate_parts_are_not(step):
    tall = GRID._replace(shape=(41, 40, 40))
    items = [contour(A, z) for z in np.arange(0.0, 82, 2 * step)]
    with pytest.raises(UserError, match=rf"on only {len(items)} of {step * (len(items) - 1) + 1} slices"):
        contour_mask(roi_of(items), tall, tall, "", [])
    warnings, parts = [], np.r_[0:4, 4 + step : 8 + step]
    mask = contour_mask(roi_of([contour(A, 2.0 * k) for k in parts]), tall, tall, "", warnings)
    assert np.array_equal(np.flatnonzero(mask.any(axis=(1, 2))), parts) and len(warnings) == 1


def test_what_encloses_no_area_is_left_out_and_told():
    flat = [contour(A[:1], 4.3, "POINT"), contour(A, 4.0, "OPEN_PLANAR"), contour(A[:2], 4.0)]
    empty = contour(A, 4.0)
    empty.NumberOfContourPoints, empty.ContourData = 0, None
    warnings = []
    mask = contour_mask(roi_of([*flat, empty, contour(A, 6.0)]), GRID, GRID, "", warnings)
    assert mask.sum() == 36 and warnings == ["A: 4 of its contours enclose no area; left out"]


# --- the outline ---

TARGET = np.zeros(GRID.shape, bool)
TARGET[2, 18:22, 18:22] = True
BODY, RIM, HALF = box(5, 5, 35, 35), box(7, 7, 33, 33), box(5, 5, 35, 20)


def outline(*structures, ct_hu=-1000.0):
    """(name, pixels, warnings) of the outline among (name, type, contours)."""
    rois = [roi_of([contour(p, 4.0) for p in points], name, kind) for name, kind, *points in structures]
    warnings = []
    ct_hu = np.full(GRID.shape, ct_hu, np.float32)
    draw = partial(contour_mask, ct_grid=GRID, grid=GRID, file="", warnings=warnings)
    name, body = find_body(rois, {"PTV": TARGET}, ct_hu, draw, warnings)
    return name, int(body.sum()), warnings


def test_the_outline_is_the_largest_that_holds_the_targets_and_is_told():
    told = ["the patient's outline is BODY, not Skin"]
    assert outline(("Skin", "", BODY, RIM), ("BODY", "", BODY)) == ("BODY", 900, told)
    assert outline(("Body", "", RIM), ("Skin", "", BODY))[:2] == ("Skin", 900)
    assert outline(("Body", "EXTERNAL", RIM), ("Skin", "", BODY))[:2] == ("Body", 26 * 26)
    assert outline(("Body", "EXTERNAL", HALF), ("Skin", "", RIM))[:2] == ("Skin", 26 * 26)
    assert outline(("Body", "", BODY)) == ("Body", 900, [])
    assert outline(("Bladder", "ORGAN", BODY), ct_hu=0.0)[:2] == ("CT above -300 HU", GRID.shape[0] * 1600)
    assert outline(("Skin", "", BODY, RIM), ct_hu=0.0)[0] == "CT above -300 HU"
