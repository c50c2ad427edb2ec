"""Open fields against what attenuation, distance and divergence say, and against symmetries."""

import pytest
import torch
from toys import toy_case

from lib.features.beams import ATTENUATION_PER_MM, SOURCE_MM, beam_channel, open_fields
from lib.features.grid import Grid, dose_box
from lib.features.samples import make_sample

SPACING_MM = (4.0, 4.0, 4.0)
SIZE = 61
MIDDLE = SIZE // 2


def box_target(half=3, centre=(MIDDLE,) * 3):
    target = torch.zeros(SIZE, SIZE, SIZE)
    target[tuple(slice(c - half, c + half + 1) for c in centre)] = 1
    return target


def water():
    return torch.ones(SIZE, SIZE, SIZE)


def test_along_the_axis_the_dose_falls_off_with_depth_and_the_square_of_the_distance():
    fields = open_fields(box_target(), water(), SPACING_MM, [0])
    y_mm = (torch.arange(SIZE) - MIDDLE) * SPACING_MM[1]
    along = fields[MIDDLE, 8:-8, MIDDLE]
    expected = torch.exp(-ATTENUATION_PER_MM * y_mm) * (SOURCE_MM / (SOURCE_MM + y_mm)) ** 2
    assert torch.allclose(along / fields[MIDDLE, MIDDLE, MIDDLE], expected[8:-8], rtol=0.02)


def test_air_does_not_attenuate():
    fields = open_fields(box_target(), torch.zeros(SIZE, SIZE, SIZE), SPACING_MM, [0])
    assert float(fields[MIDDLE, MIDDLE, MIDDLE]) == pytest.approx(1, abs=0.01)


def test_the_field_widens_with_the_distance_from_the_source():
    fields = open_fields(box_target(half=5), torch.zeros(SIZE, SIZE, SIZE), SPACING_MM, [0])

    def width(y, axis):
        row = fields[:, y, MIDDLE] if axis == 0 else fields[MIDDLE, y]
        return float(row.sum() / row.max()) * SPACING_MM[axis]

    for axis in (0, 2):
        near, far = width(4, axis), width(SIZE - 5, axis)
        near_mm, far_mm = ((y - MIDDLE) * SPACING_MM[1] for y in (4, SIZE - 5))
        assert far / near == pytest.approx((SOURCE_MM + far_mm) / (SOURCE_MM + near_mm), rel=0.06)


@pytest.mark.parametrize(
    "angle, entrance, exit",
    [
        (0, (MIDDLE, 3, MIDDLE), (MIDDLE, -4, MIDDLE)),
        (180, (MIDDLE, -4, MIDDLE), (MIDDLE, 3, MIDDLE)),
        (90, (MIDDLE, MIDDLE, -4), (MIDDLE, MIDDLE, 3)),
        (270, (MIDDLE, MIDDLE, 3), (MIDDLE, MIDDLE, -4)),
    ],
)
def test_angles_are_those_of_a_patient_on_his_back(angle, entrance, exit):
    """0 enters from the front (low y), 90 from his left (high x); each enters where the dose is highest."""
    fields = open_fields(box_target(), water(), SPACING_MM, [angle])
    assert float(fields[entrance]) > float(fields[MIDDLE, MIDDLE, MIDDLE]) > float(fields[exit]) > 0


def test_mirrored_angles_of_a_mirrored_target_give_the_mirror_image():
    target = box_target(centre=(25, 33, 38))
    one = open_fields(target, water(), SPACING_MM, [40, 130])
    other = open_fields(target.flip(-1), water(), SPACING_MM, [320, 230])
    assert torch.allclose(one, other.flip(-1), atol=2e-3)


def test_a_quarter_turn_of_all_turns_the_fields():
    target = box_target(centre=(28, 33, 35))
    one = open_fields(target, water(), SPACING_MM, [20])
    other = open_fields(torch.rot90(target, 1, (1, 2)), water(), SPACING_MM, [110 - 180])
    assert torch.allclose(torch.rot90(one, 1, (1, 2)), other, atol=2e-3)


def test_fields_of_several_angles_are_their_mean():
    parts = [open_fields(box_target(), water(), SPACING_MM, [angle]) for angle in (0, 40, 250)]
    assert torch.allclose(
        open_fields(box_target(), water(), SPACING_MM, [0, 40, 250]), sum(parts) / 3, atol=1e-6
    )


def test_without_a_target_there_is_no_field():
    assert not open_fields(torch.zeros(4, 5, 6), torch.ones(4, 5, 6), SPACING_MM, [0]).any()


@pytest.mark.parametrize("coarsen", [1, 2, 3, 4])
def test_the_channel_is_the_last_and_on_the_training_grid(coarsen):
    case = toy_case(site="head-and-neck", shape=(24, 40, 36))
    plain, sample = make_sample(case, Grid(coarsen)), make_sample(case, Grid(coarsen), [0, 120, 240])
    assert sample.cond.shape[1:] == sample.dose.shape[1:] and len(sample.cond) == len(plain.cond) + 1
    assert torch.equal(sample.cond[:-1], plain.cond)
    channel = beam_channel(case, dose_box(torch.from_numpy(case.dose_mask), coarsen), coarsen, [0, 120, 240])
    assert torch.equal(sample.cond[-1:], channel.half().float())
    target = plain.cond[1] < 0  # the highest prescription
    assert float(channel[0][target].min()) > float(channel[0][~target].mean())
