"""Laws of the slice renderer."""

import numpy as np
import pytest

from lib.cases.case import Case
from lib.report import slices

SHAPE, SPACING_MM = (12, 16, 20), (5.0, 2.0, 2.0)
MARKER = (9, 3, 4)  # high (head), front, at the patient's right
DOSE = (0.0, 77.0)


def make_case(case_id="pt_1", ct_hu=None):
    """A target in front at the patient's right, and a cord behind it."""
    if ct_hu is None:
        ct_hu = np.full(SHAPE, -1000, np.int16)
        ct_hu[MARKER] = 1000
    target = np.zeros(SHAPE, bool)
    target[:, SHAPE[1] // 4 : SHAPE[1] // 2, SHAPE[2] // 4 : SHAPE[2] // 2] = True
    dose_gy = np.where(target, 70.0, 1.0).astype(np.float32)
    return Case(
        case_id,
        ct_hu,
        dose_gy,
        {"PTV70": target, "SpinalCord": np.roll(target, 4, 2)},
        np.ones(SHAPE, bool),
        SPACING_MM,
        {"PTV70": 70.0},
        "head-and-neck",
    )


def render_slice(case, plane, index, overlay=None, **look):
    return slices.render_slices(case, plane, index, [overlay], **look)[0]


@pytest.fixture
def case():
    return make_case()


@pytest.mark.parametrize(
    "plane, row, column", [("axial", 3, 4), ("coronal", 12 - 10, 4), ("sagittal", 12 - 10, 3)]
)
def test_the_marker_lies_where_radiologists_look_for_it(case, plane, row, column):
    index = MARKER[slices.PLANES[plane]]
    rows, columns = slices.take_slice(case.ct_hu, plane, index).shape
    rgb = render_slice(case, plane, index, size_px=400, ct_hu=(-500, 500))
    y, x = np.argwhere(rgb.min(axis=2) > 235).mean(axis=0) + 0.5  # the marker is white, letters are grey
    assert y / rgb.shape[0] * rows == pytest.approx(row + 0.5, abs=0.1)
    assert x / rgb.shape[1] * columns == pytest.approx(column + 0.5, abs=0.1)


@pytest.mark.parametrize("plane", slices.PLANES)
def test_pictures_have_the_proportions_of_the_patient(case, plane):
    sides_mm = [n * s for axis, (n, s) in enumerate(zip(SHAPE, SPACING_MM)) if axis != slices.PLANES[plane]]
    height, width = render_slice(case, plane, 3, size_px=300).shape[:2]
    assert max(height, width) == 300
    assert height / width == pytest.approx(sides_mm[0] / sides_mm[1], rel=0.02)


@pytest.mark.parametrize(
    "gy, opacity, seen",
    [
        (50.0, 0.5, True),
        (50.0, 0.0, False),
        (1.9, 1.0, False),
        (-1.9, 1.0, False),
        (0.0, 1.0, False),
        (2.1, 1.0, True),
    ],
)
def test_an_overlay_is_seen_above_its_threshold_and_opacity_zero_leaves_the_ct(case, gy, opacity, seen):
    overlay = slices.Overlay(np.full(SHAPE, gy, np.float32), DOSE, hidden_below_gy=2.0)
    rgb = render_slice(case, "axial", 5, overlay, opacity=opacity)
    assert np.array_equal(rgb, render_slice(case, "axial", 5)) != seen


def test_full_opacity_shows_the_colour_of_the_value(case):
    rgb = render_slice(case, "axial", 5, slices.Overlay(np.full(SHAPE, 77.0, np.float32), DOSE), opacity=1.0)
    assert np.array_equal(rgb[60, 60], slices.colour_lut("turbo")[254])
    for colours, most_gy in (("turbo", 80), ("RdBu_r", 80), ("RdBu_r", -80)):
        beyond = slices.Overlay(np.full(SHAPE, most_gy, np.float32), (-77.0, 77.0), colours)
        rgb = render_slice(case, "axial", 5, beyond, opacity=1.0)
        assert "#{:02X}{:02X}{:02X}".format(*rgb[60, 60]) == (slices.ABOVE if most_gy > 0 else "#00E5FF")


def test_a_structure_is_outlined_and_an_absent_one_changes_nothing(case):
    plain = render_slice(case, "axial", 5)
    assert np.array_equal(render_slice(case, "axial", 5, structures=("Larynx",)), plain)
    changed = np.argwhere((render_slice(case, "axial", 5, structures=("PTV70",)) != plain).any(axis=2))
    scale = 320 / SHAPE[2]
    edges = np.array([SHAPE[1] // 4, SHAPE[2] // 4, SHAPE[1] // 2, SHAPE[2] // 2]) * scale
    found = np.array([*changed.min(axis=0), *changed.max(axis=0) + 1])
    assert np.abs(found - edges).max() <= 4  # half the width of the line and its rim


def test_isodoses_enclose_the_dose(case):
    overlays = [slices.Overlay(case.dose_gy, DOSE, isodoses_gy=levels) for levels in ((), (66.5, 500.0))]
    quiet, lined = slices.render_slices(case, "axial", 5, overlays, opacity=0.0)
    changed = np.argwhere((quiet != lined).any(axis=2))
    assert len(changed) and changed.max(axis=0)[1] <= SHAPE[2] // 2 * 320 / SHAPE[2] + 4


@pytest.mark.parametrize("plane", slices.PLANES)
@pytest.mark.parametrize("shape", [(1, 16, 20), (12, 1, 20), (12, 16, 1)])
def test_a_single_slice_is_drawn_in_every_plane(plane, shape):
    everywhere = np.ones(shape, bool)
    case = Case(
        "flat",
        np.zeros(shape, np.int16),
        np.full(shape, 30.0, np.float32),
        {"PTV70": everywhere},
        everywhere,
        SPACING_MM,
        {"PTV70": 70.0},
        "head-and-neck",
    )
    overlay = slices.Overlay(case.dose_gy, DOSE, isodoses_gy=(20.0,))
    rgb = render_slice(case, plane, 0, overlay, structures=("PTV70",), box=slices.body_box(case))
    assert rgb.dtype == np.uint8 and max(rgb.shape[:2]) == 320


def test_no_dose_at_all_and_a_range_without_width_are_drawn(case):
    nothing = slices.Overlay(np.zeros(SHAPE, np.float32), (0.0, 0.0), isodoses_gy=(20.0,))
    assert np.array_equal(render_slice(case, "axial", 5, nothing), render_slice(case, "axial", 5))
    assert slices.colour_bar("turbo", (0.0, 0.0)).shape == (34, 320, 3)


@pytest.mark.parametrize("width_px", [150, 320])
def test_the_colour_beyond_a_scale_has_the_scales_end_below_it(width_px):
    right, bars = (
        width_px - 40,
        [slices.colour_bar("turbo", (-14.0, high), width_px) for high in (14.0, 14.0, 15.0)],
    )
    above, below = [bar[18:, right:] for bar in bars], [bar[18:, :28] for bar in bars]
    assert np.ptp(above[0]) > 200 and np.ptp(below[0]) > 200
    assert np.array_equal(above[0], above[1]) and not np.array_equal(above[0], above[2])
    assert np.array_equal(below[0], below[2])
    gap = bars[0][18:, right - 4 : right]  # no tick's number runs into it
    assert gap.max() == 0


def test_pictures_are_deterministic_to_the_byte(case):
    overlay = slices.Overlay(case.dose_gy, DOSE, isodoses_gy=(20.0,))
    first, second = (
        render_slice(case, "coronal", 5, overlay, structures=tuple(case.masks)) for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_the_central_slice_holds_some_of_the_mask():
    mask = np.zeros((9, 2, 2), bool)
    mask[[1, 8]] = True
    assert mask[slices.central_index(mask, "axial")].any()
    assert slices.central_index(np.zeros((9, 2, 2), bool), "axial") == 4
