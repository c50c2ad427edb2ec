"""From a case to tensors: distances, coarsening, batches, motion against closed forms; random streams."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from toys import BREAST, LUNG, SITES, toy_case, toy_cohort

from lib.cases.case import load_case, save_case
from lib.cases.protocol import PROTOCOLS
from lib.errors import UserError
from lib.features import augmentation, samples
from lib.features.augmentation import augment, mirror, motion
from lib.features.batches import Batch, cut, make_batch, patch_start
from lib.features.channels import (
    Channels,
    channels_of,
    condition_channels,
    constraint_vector,
    scale_ct,
    signed_distance_mm,
)
from lib.features.grid import Grid, dose_box
from lib.features.samples import Sample, add_prior, load_samples, make_sample
from lib.seeds import generator_for

SPACING_MM = (3.0, 2.0, 1.0)
CHANNELS = {"prostate": 9, "head-and-neck": 12}


def coordinates_mm(shape, spacing_mm=SPACING_MM):
    """Coordinates of the voxel centres from the middle of the volume, [3,*shape]."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def plain_distance_mm(mask, spacing_mm, clip_mm=50.0):
    """The same distance from the whole volume, padded by one voxel that is outside."""
    if not mask.any():
        return np.full(mask.shape, clip_mm)
    padded = np.pad(mask, 1)
    signed = distance_transform_edt(~padded, spacing_mm) - distance_transform_edt(padded, spacing_mm)
    return np.clip(signed[1:-1, 1:-1, 1:-1], -clip_mm, clip_mm)


def sample_of(dose, site="prostate", cond=None, mask=None, spacing_mm=(1.0, 1.0, 1.0), constraints=None):
    """A sample around the given dose [d,h,w]; the rest is background unless given."""
    dose = torch.as_tensor(dose, dtype=torch.float32)[None]
    cond = (
        channels_of(site).background()[:, None, None, None].expand(-1, *dose.shape[1:]).clone()
        if cond is None
        else cond
    )
    mask = torch.ones_like(dose) if mask is None else mask
    constraints = torch.zeros(13) if constraints is None else constraints
    prior = torch.zeros_like(dose)
    return Sample(
        channels_of(site), cond, dose, mask, prior, constraints, spacing_mm, Grid(1), "a", 70.0, (1.0, 0.8)
    )


# --- signed distances ---


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_distance_to_a_half_space_is_the_distance_along_its_axis(axis):
    shape = (24, 24, 24)
    index = np.indices(shape)[axis]
    found = signed_distance_mm(index < 10, SPACING_MM, clip_mm=9.0)
    # between centres of voxels on both sides; the border at index -1 is a surface as well
    steps = np.where(index < 10, -np.minimum(10 - index, index + 1), index - 9)
    # the other borders are farther than the clip from the middle
    middle = tuple(slice(None) if a == axis else slice(9, 15) for a in range(3))
    assert np.allclose(found[middle], np.clip(steps * SPACING_MM[axis], -9, 9)[middle])


def test_the_distance_to_a_sphere_is_the_analytic_one_within_a_voxel():
    radius_mm, shape = 13.0, (31, 41, 61)
    from_centre_mm = np.linalg.norm(coordinates_mm(shape), axis=0)
    found = signed_distance_mm(from_centre_mm <= radius_mm, SPACING_MM)
    # a surface made of voxel centres is off by at most the diagonal of a voxel
    assert np.abs(found - np.clip(from_centre_mm - radius_mm, -50, 50)).max() <= math.sqrt(3**2 + 2**2 + 1**2)
    assert ((found < 0) == (from_centre_mm <= radius_mm)).all()


@pytest.mark.parametrize("clip_mm", [2.0, 7.5, 50.0])
def test_distances_are_clipped_on_both_sides(clip_mm):
    mask = np.linalg.norm(coordinates_mm((21, 31, 61)), axis=0) <= 20
    found = signed_distance_mm(mask, SPACING_MM, clip_mm)
    assert found.max() <= clip_mm and found.min() >= -clip_mm
    assert np.allclose(found, plain_distance_mm(mask, SPACING_MM, clip_mm))


def test_an_absent_structure_is_at_the_clip_everywhere():
    assert (signed_distance_mm(np.zeros((4, 5, 6), bool), SPACING_MM) == 50).all()


def test_a_structure_that_fills_the_volume_ends_at_its_border():
    found = signed_distance_mm(np.ones((9, 9, 9), bool), (1, 1, 1))
    assert found[4, 4, 4] == -5 and found[0, 4, 4] == -1


def random_masks():
    rng = np.random.default_rng(3)
    masks = {f"random {k}": rng.random((7, 9, 30)) < 0.02 for k in range(4)}
    for axis in range(3):
        for side in (0, -1):
            mask = np.zeros((12, 14, 40), bool)
            mask[tuple(side if a == axis else slice(3, 6) for a in range(3))] = True
            masks[f"at border {axis} {side}"] = mask
    masks["one voxel in a corner"] = np.indices((12, 40, 80)).sum(axis=0) == 0
    masks["two pieces far apart"] = np.isin(np.indices((12, 14, 150))[2], [2, 140])
    return masks


@pytest.mark.parametrize("name", random_masks())
@pytest.mark.parametrize("clip_mm", [6.0, 50.0])
def test_the_box_gives_what_the_whole_volume_gives(name, clip_mm):
    mask = random_masks()[name]
    assert np.allclose(
        signed_distance_mm(mask, SPACING_MM, clip_mm), plain_distance_mm(mask, SPACING_MM, clip_mm)
    )


# --- channels and vectors ---


@pytest.mark.parametrize("site, channels", [("prostate", 9), ("head-and-neck", 12)])
def test_the_network_gets_the_channels_of_the_protocol(site, channels):
    case = toy_case(site=site)
    found = condition_channels(case).numpy()
    assert found.shape == (channels, *case.shape) and found.dtype == np.float32
    assert np.array_equal(found[0], scale_ct(case.ct_hu, PROTOCOLS[site]))
    for k, name in enumerate(PROTOCOLS[site].structures, start=1):
        assert np.allclose(found[k] * 50, plain_distance_mm(case.masks[name], case.spacing_mm), atol=1e-4)
    if site == "head-and-neck":
        assert np.array_equal(found[-1], case.dose_mask)
    assert len(channels_of(site).background()) == len(channels_of(site).names) == channels


def test_an_absent_structure_is_a_channel_of_one():
    case = toy_case()
    without = dataclasses.replace(case, masks={n: m for n, m in case.masks.items() if n != "Bowel"})
    channel = 1 + PROTOCOLS["prostate"].structures.index("Bowel")
    assert (condition_channels(without)[channel] == 1).all()


def test_ct_is_scaled_as_the_reference_did():
    hu = np.array([-2000.0, -1000, 0, 1000, 3000, 5000])
    assert np.allclose(scale_ct(hu, PROTOCOLS["prostate"]), np.clip(hu, -1000, 3000) / 4000 + 0.5)
    assert np.allclose(scale_ct(hu, PROTOCOLS["head-and-neck"]), np.clip(hu, -1024, 1500) / 1000)


@pytest.mark.parametrize("site", SITES)
def test_background_is_what_a_voxel_of_air_far_from_everything_gets(site):
    case = toy_case(site=site)
    shape, far = (2, 2, 30), np.zeros((2, 2, 30), bool)
    far[:, :, 0] = True
    masks = {name: far for name in case.masks}
    air = dataclasses.replace(
        case,
        ct_hu=np.full(shape, -3000, np.int16),
        dose_gy=np.ones(shape, np.float32),
        masks=masks,
        dose_mask=far,
        spacing_mm=(5.0, 5.0, 5.0),
    )
    assert torch.equal(condition_channels(air)[:, 1, 1, -1], channels_of(site).background())


@pytest.mark.parametrize("site", SITES)
def test_a_sample_carries_its_protocols_constraints_and_dose_as_a_fraction(site):
    case = toy_case(site=site)
    sample = make_sample(case, Grid(1))
    n = {LUNG: 1 + 7, BREAST: 1 + 7}.get(site, 13)
    assert sample.constraints.shape == (n,) and sample.constraints.tolist() == pytest.approx(
        constraint_vector(case)
    )
    box = dose_box(torch.from_numpy(case.dose_mask), 1)
    assert torch.allclose(sample.dose[0] * case.rx_gy, torch.from_numpy(case.dose_gy)[box], atol=1e-5)
    assert torch.equal(sample.mask[0], torch.from_numpy(case.dose_mask).float()[box])


# --- batches and patches ---


def dosed_corner(shape=(20, 20, 20)):
    """Dose in one far corner only, numbered by its voxel so that a patch can be found again."""
    dose = torch.zeros(shape)
    dose[16:18, 16:18, 16:18] = 1.0
    return sample_of(dose)


def test_whole_volumes_are_padded_at_the_far_ends_with_background():
    small, large = sample_of(torch.ones(4, 5, 6)), sample_of(torch.ones(6, 5, 7))
    batch = make_batch([small, large])
    assert batch.cond.shape == (2, 9, 6, 5, 7) and batch.dose.shape == batch.mask.shape == (2, 1, 6, 5, 7)
    assert torch.equal(batch.cond[0, :, -1, -1, -1], channels_of("prostate").background())
    for volume in (batch.dose[0, 0], batch.mask[0, 0]):
        assert (volume[4:] == 0).all() and (volume[:, :, 6:] == 0).all()
    assert (batch.dose[0, 0, :4, :, :6] == 1).all()


@pytest.mark.parametrize("site", SITES)
def test_a_patch_larger_than_the_volume_is_the_volume_and_background(site):
    sample = make_sample(toy_case(site=site, shape=(8, 12, 12)), Grid(1))
    cond, dose, mask, _ = cut(sample, (0, 0, 0), (16, 12, 20))
    assert torch.allclose(cond[:, :8, :, :12], sample.cond, atol=1e-6)
    assert torch.allclose(
        cond[:, 8:], channels_of(site).background()[:, None, None, None].expand(-1, 8, 12, 20)
    )
    assert dose[:, 8:].sum() == 0 and mask[:, :, :, 12:].sum() == 0
    assert patch_start(sample, (16, 12, 20), torch.Generator()) == (0, 0, 0)


def test_a_prior_is_one_more_channel_that_stays_in_place_when_flipped_and_is_0_outside():
    sample = make_sample(toy_case(site="head-and-neck"), Grid(1))
    primed = add_prior(sample, sample.dose)
    assert primed.channels.mirror_order() == [*sample.channels.mirror_order(), 12]
    assert float(primed.channels.background()[-1]) == 0
    assert torch.equal(mirror(primed).cond[-1], sample.dose[0].flip(-1))
    assert torch.equal(make_batch([primed]).prior[0], sample.dose) and not make_batch([sample]).prior.any()


@pytest.mark.parametrize("site", ["prostate", "head-and-neck"])
def test_a_mirror_image_of_a_mirror_image_is_the_patient(site):
    sample = make_sample(toy_case(site=site), Grid(1))
    twice = mirror(mirror(sample))
    assert all(
        torch.equal(getattr(twice, name), getattr(sample, name))
        for name in ("cond", "dose", "mask", "constraints")
    )
    assert not torch.equal(mirror(sample).cond, sample.cond)


def test_half_of_the_patches_are_centred_on_dose():
    sample, generator = dosed_corner(), torch.Generator().manual_seed(0)
    n, size = 3000, (4, 4, 4)
    centred = 0
    for _ in range(n):
        start = patch_start(sample, size, generator)
        assert all(0 <= a <= 16 for a in start)
        _, dose, *_ = cut(sample, start, size)
        centred += bool(dose.sum() > 0)
    # the others meet the corner with probability (5/17)^3 = 0.025; four standard deviations of a binomial
    expected = 0.5 + 0.5 * (5 / 17) ** 3
    assert abs(centred / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_the_other_half_of_the_patches_start_anywhere():
    dose = torch.zeros(12, 12, 12)
    dose[6, 6, 6] = 1.0
    generator = torch.Generator().manual_seed(1)
    starts = np.array([patch_start(sample_of(dose), (8, 8, 8), generator) for _ in range(400)])
    assert all(set(starts[:, axis]) == {0, 1, 2, 3, 4} for axis in range(3))


def test_a_case_without_dose_above_a_tenth_still_gives_patches():
    sample = sample_of(torch.full((8, 8, 8), 0.05))
    for k in range(20):
        assert make_batch([sample], (4, 4, 4), torch.Generator().manual_seed(k)).dose.shape == (1, 1, 4, 4, 4)


def test_patches_are_the_same_for_the_same_stream():
    samples = [make_sample(toy_case(seed=k), Grid(1)) for k in range(2)]
    a, b, c = (make_batch(samples, (8, 8, 8), generator_for(name)) for name in ("one", "one", "two"))
    assert torch.equal(a.cond, b.cond) and not torch.equal(a.cond, c.cond)


def test_one_batch_does_not_mix_sites():
    with pytest.raises(UserError, match="mix"):
        make_batch([make_sample(toy_case(site=site), Grid(1)) for site in SITES])


# --- flips ---


@pytest.mark.parametrize("site", SITES)
def test_flipping_twice_is_the_identity_on_channels(site):
    order = channels_of(site).mirror_order()
    assert [order[k] for k in order] == list(range(len(order))) and order != list(range(len(order)))


@pytest.mark.parametrize("site", SITES)
def test_flipping_swaps_the_paired_organs_and_nothing_else(site):
    names = ["ct", *PROTOCOLS[site].structures, *["dose mask"] * PROTOCOLS[site].dose_mask_channel]
    moved = {names[k]: names[j] for k, j in enumerate(channels_of(site).mirror_order()) if j != k}
    pairs = PROTOCOLS[site].mirrored
    assert moved == dict(pairs) | {right: left for left, right in pairs}


@pytest.mark.parametrize("site", SITES)
def test_left_organs_stay_left_after_augmentation(site):
    sample = make_sample(toy_case(site=site), Grid(1))
    sides = sample.channels.protocol.mirrored[0]
    generator, doses = torch.Generator().manual_seed(5), set()
    for _ in range(30):
        batch = augment(make_batch([sample]), "rotated", generator)
        organs = batch.channels.select(batch.cond, sides)[0] < 0
        x_left, x_right = (float(torch.nonzero(organ)[:, 2].float().mean()) for organ in organs)
        assert x_left > x_right
        doses.add(round(float(batch.dose.sum()), 3))
    assert len(doses) == 30


@pytest.fixture
def only_flips(monkeypatch):
    """Augmentation without motion and noise: what remains is the flip."""
    for name in ("SHIFT_MM", "ROTATE_DEG", "CT_NOISE"):
        monkeypatch.setattr(augmentation, name, 0.0)


@pytest.mark.parametrize("site", SITES)
def test_without_motion_and_noise_a_sample_comes_back_flipped_or_as_it_was(site, only_flips):
    batch = make_batch([make_sample(toy_case(site=site), Grid(1))])
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(12):
        moved = augment(batch, "rotated", generator)
        flipped = not torch.allclose(moved.dose, batch.dose, atol=1e-4)
        cond, dose, mask = (batch.cond, batch.dose, batch.mask)
        if flipped:
            cond, dose, mask = (
                cond.flip(-1)[:, channels_of(site).mirror_order()],
                dose.flip(-1),
                mask.flip(-1),
            )
        assert torch.allclose(moved.cond, cond, atol=1e-4) and torch.allclose(moved.mask, mask, atol=1e-4)
        assert torch.allclose(moved.dose, dose, atol=1e-4)
        seen.add(flipped)
    assert seen == {True, False}


def test_presence_flags_follow_the_organs_they_speak_of(only_flips):
    case = toy_case(site="head-and-neck")
    case = dataclasses.replace(case, masks={n: m for n, m in case.masks.items() if n != "LeftParotid"})
    structures = PROTOCOLS["head-and-neck"].structures
    batch, generator = make_batch([make_sample(case, Grid(1))]), torch.Generator().manual_seed(0)
    for _ in range(10):
        moved = augment(batch, "rotated", generator)
        for k, flag in enumerate(moved.constraints[0, 3:].tolist()):
            assert flag == float((moved.cond[0, 1 + k] < 0.999).any()), structures[k]
        assert torch.equal(moved.constraints[0, :3], batch.constraints[0, :3])


def test_moved_by_whole_voxels_every_value_stays_what_it_was():
    """No interpolation: doses of a moved patient are his doses, and those that left were at a border."""
    sample = make_sample(toy_case(), Grid(1))
    inside = sample.dose[0, 3:-3, 3:-3, 3:-3]
    assert float(sample.dose.max()) == float(inside.max())
    for seed in range(6):
        moved = augment(make_batch([sample]), "whole voxels", torch.Generator().manual_seed(seed))
        values = set(sample.dose.ravel().tolist()) | {0.0}
        assert set(moved.dose.ravel().tolist()) <= values and set(moved.mask.unique().tolist()) <= {0.0, 1.0}
        assert float(moved.dose.max()) == float(sample.dose.max())


def test_augmentation_moves_no_more_than_it_says():
    """The centre of a small blob near the middle moves by at most the shift, in mm, along each axis."""
    spacing_mm, shape = (4.0, 2.0, 3.0), (15, 31, 21)
    grid_mm = coordinates_mm(shape, spacing_mm)
    dose = np.exp(-(grid_mm**2).sum(axis=0) / (2 * 5**2))
    batch, generator = make_batch([sample_of(dose, spacing_mm=spacing_mm)]), torch.Generator().manual_seed(3)
    found = []
    for _ in range(40):
        moved = augment(batch, "rotated", generator).dose[0, 0].numpy()
        found.append([(moved * g).sum() / moved.sum() for g in grid_mm])
    reach = np.abs(found).max(axis=0)
    # 0.5 mm: the blob's tail, cut off at the border
    assert (reach <= augmentation.SHIFT_MM + 0.5).all() and (reach > augmentation.SHIFT_MM / 2).all()


# --- motion ---


def batch_of(volume, spacing_mm):
    volume = torch.as_tensor(volume, dtype=torch.float32)[None, None]
    channels, volumes = Channels(PROTOCOLS["prostate"], ("ct",)), [volume] * 4
    return Batch(channels, *volumes, torch.zeros(1, 13), torch.tensor([spacing_mm]), Grid(1))


def moved(volume, spacing_mm, shift_mm=(0.0, 0.0, 0.0), angle=0.0):
    batch = batch_of(volume, spacing_mm)
    rows = motion(batch, torch.tensor([shift_mm]), torch.tensor([angle]))
    grid = torch.nn.functional.affine_grid(rows, batch.dose.shape, align_corners=False)
    return torch.nn.functional.grid_sample(batch.dose, grid, align_corners=False)[0, 0].numpy()


def test_no_motion_is_the_identity():
    volume = np.random.default_rng(0).random((5, 6, 7))
    assert np.allclose(moved(volume, SPACING_MM), volume, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_by_one_voxel_shifts_by_one_voxel(axis):
    volume = np.random.default_rng(0).random((5, 6, 7))
    shift_mm = tuple(s * (a == axis) for a, s in enumerate(SPACING_MM))
    found = moved(volume, SPACING_MM, shift_mm)
    rolled = np.roll(volume, -1, axis)  # the grid says where to look, so contents move the other way
    inner = tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))
    assert np.allclose(found[inner], rolled[inner], atol=1e-5)


def second_moments_mm2(volume, spacing_mm):
    _, y, x = coordinates_mm(volume.shape, spacing_mm)
    weight = volume / volume.sum()
    y, x = y - (weight * y).sum(), x - (weight * x).sum()
    return np.array([[(weight * a * b).sum() for b in (y, x)] for a in (y, x)])


def blob(shape, spacing_mm, covariance_mm2, centre_mm=(0.0, 0.0)):
    _, y, x = coordinates_mm(shape, spacing_mm)
    offset = np.stack([y - centre_mm[0], x - centre_mm[1]], axis=-1)
    return np.exp(-0.5 * np.einsum("...i,ij,...j", offset, np.linalg.inv(covariance_mm2), offset))


@pytest.mark.parametrize("spacing_mm", [(3.0, 2.0, 2.0), (3.0, 2.0, 4.0), (2.0, 3.0, 1.5)])
@pytest.mark.parametrize("angle", [0.3, -1.0, math.pi / 2])
def test_a_rotation_turns_a_body_by_its_angle_and_does_not_shear_it(spacing_mm, angle):
    shape = (2, int(160 / spacing_mm[1]), int(220 / spacing_mm[2]))  # unequal in voxels and in mm
    covariance = np.array([[200.0, 0.0], [0.0, 60.0]])
    found = second_moments_mm2(
        moved(blob(shape, spacing_mm, covariance), spacing_mm, angle=angle), spacing_mm
    )
    turns = [np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in (angle, -angle)]
    errors = [np.abs(found - turn @ covariance @ turn.T).max() for turn in turns]
    assert (
        min(errors) < 6
    )  # linear interpolation widens by up to a sixth of a voxel squared twice, below 6 mm^2


@pytest.mark.parametrize("spacing_mm", [(3.0, 2.0, 4.0), (2.0, 3.0, 1.5)])
def test_a_disc_stays_round_and_keeps_its_distance_from_the_centre(spacing_mm):
    shape = (2, int(160 / spacing_mm[1]), int(220 / spacing_mm[2]))  # unequal in voxels and in mm
    disc = blob(shape, spacing_mm, np.eye(2) * 100, centre_mm=(0.0, 40.0))
    turned = moved(disc, spacing_mm, angle=0.6)
    moments = second_moments_mm2(turned, spacing_mm)
    assert moments[0, 0] == pytest.approx(moments[1, 1], rel=0.04) and abs(moments[0, 1]) < 3
    _, y, x = coordinates_mm(shape, spacing_mm)
    centre = [(turned * axis).sum() / turned.sum() for axis in (y, x)]
    assert np.hypot(*centre) == pytest.approx(40, abs=0.3)
    assert abs(math.atan2(centre[0], centre[1])) == pytest.approx(0.6, abs=0.01)


# --- cache ---


FIELDS = ("cond", "dose", "mask", "constraints")


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return toy_cohort(tmp_path / "toys", n=3, site="head-and-neck")


def cache_files(tmp_path):
    return sorted((tmp_path / "outputs" / "features").rglob("*.safetensors"))


def test_the_cache_gives_equal_samples(cohort, tmp_path):
    made = load_samples(cohort, ["toy_1", "toy_3"], Grid(2))
    files = cache_files(tmp_path)
    again = load_samples(cohort, ["toy_1", "toy_3"], Grid(2))
    assert len(files) == 2 and cache_files(tmp_path) == files
    for a, b in zip(made, again):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)
        assert all(
            getattr(a, name) == getattr(b, name)
            for name in ("case_id", "channels", "spacing_mm", "rx_gy", "grid")
        )


def test_the_cache_is_read_and_not_made_again(cohort, monkeypatch):
    load_samples(cohort, ["toy_1"], Grid(2))
    monkeypatch.setattr(samples, "make_sample", None)
    load_samples(cohort, ["toy_1"], Grid(2))


CACHE_DAMAGES = {
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not tensors"),
    "foreign": lambda p: samples.save_tensors(p, {"a": torch.zeros(1)}),
    "of other fields": lambda p: samples.save_tensors(p, {"a": torch.zeros(1)}, case_id="toy_1"),
}


@pytest.mark.parametrize("damage", CACHE_DAMAGES)
def test_a_damaged_cache_file_is_made_again(damage, cohort, tmp_path):
    (made,) = load_samples(cohort, ["toy_1"], Grid(2))
    (path,) = cache_files(tmp_path)
    CACHE_DAMAGES[damage](path)
    (again,) = load_samples(cohort, ["toy_1"], Grid(2))
    assert all(torch.equal(getattr(made, name), getattr(again, name)) for name in FIELDS)
    assert all(torch.equal(getattr(made, name), getattr(samples.read_sample(path), name)) for name in FIELDS)


def test_another_case_file_coarsening_set_of_beams_or_protocol_is_another_cache_file(
    cohort, tmp_path, monkeypatch
):
    load_samples(cohort, ["toy_1"], Grid(2))
    load_samples(cohort, ["toy_1"], Grid(4))
    (with_beams,) = load_samples(cohort, ["toy_1"], Grid(2), [0, 180])
    assert len(with_beams.cond) == CHANNELS["head-and-neck"] + 1
    assert with_beams.channels.names[-1] == "open fields" and with_beams.channels.beams_deg == (0, 180)
    case = load_case(cohort.path("toy_1"))
    save_case(dataclasses.replace(case, dose_gy=case.dose_gy / 2), cohort.path("toy_1"))
    cohort.card["cases"]["toy_1"]["sha256"] = "0" * 64
    (halved,) = load_samples(cohort, ["toy_1"], Grid(2))
    assert float(halved.dose.max()) == pytest.approx(0.5, abs=0.01) and len(cache_files(tmp_path)) == 4
    site = PROTOCOLS["head-and-neck"]
    one_more = dataclasses.replace(site, organs=(*site.organs, "Lips"), content=site.content | {"more": 1})
    monkeypatch.setitem(PROTOCOLS, "head-and-neck", one_more)
    (wider,) = load_samples(cohort, ["toy_1"], Grid(2))
    assert len(wider.cond) == CHANNELS["head-and-neck"] + 1 and wider.channels.names[-1] != "open fields"


# --- streams of random numbers ---


def test_the_same_names_give_the_same_numbers():
    a, b = (torch.rand(5, generator=generator_for(42, "step", 7)) for _ in range(2))
    assert torch.equal(a, b)


def test_other_names_give_other_numbers():
    names = [
        (42, "step", 7),
        (42, "step", 8),
        (43, "step", 7),
        (42, "noise", 7),
        (42, "step7"),
        (42, "step", "7"),
        ("42", "step", 7),
    ]
    draws = [tuple(torch.rand(3, generator=generator_for(*name)).tolist()) for name in names]
    assert len(set(draws)) == len(names)


def test_numbers_do_not_depend_on_what_was_drawn_before():
    first = torch.rand(3, generator=generator_for("a"))
    torch.rand(100)
    torch.rand(100, generator=generator_for("b"))
    assert torch.equal(torch.rand(3, generator=generator_for("a")), first)


def test_numbers_do_not_depend_on_pythons_hash_seed():
    code = "from lib.seeds import generator_for; print(generator_for(42, 'step', 7).initial_seed())"
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # unset here, it is random
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": other},
        check=True,
        text=True,
        capture_output=True,
        cwd=Path(__file__).parents[1],
    )
    assert int(run.stdout) == generator_for(42, "step", 7).initial_seed()
