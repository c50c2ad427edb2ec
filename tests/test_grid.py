"""Blocks of a training grid, the box around the dose mask, and the way back to a case's grid."""

import numpy as np
import pytest
import torch
from toys import toy_case

from lib.features.grid import (
    LEAST_SHARE,
    Grid,
    crop,
    dose_box,
    mean_of_blocks,
    refine,
    refine_in_mask,
    uncrop,
)
from lib.features.samples import make_sample

SHAPES = [(40, 50, 70), (41, 37, 64), (16, 24, 24), (128, 128, 128)]


def mask_in(shape, rng):
    """A random box of a random size inside the volume, and where it lies."""
    mask = torch.zeros(shape, dtype=torch.bool)
    spans = []
    for n in shape:
        start = int(rng.integers(0, n))
        spans.append(slice(start, int(rng.integers(start + 1, n + 1))))
    mask[tuple(spans)] = True
    return mask


@pytest.mark.parametrize("coarsen", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_box_holds_the_mask_and_is_a_multiple_of_16_where_there_is_room(shape, coarsen):
    rng = np.random.default_rng(sum(shape) + coarsen)
    for _ in range(10):
        mask = mask_in(shape, rng)
        box = dose_box(mask, coarsen)
        blocks = [-(-n // coarsen) for n in shape]
        for span, n, needed in zip(box, blocks, extents(mask, coarsen)):
            size = span.stop - span.start
            assert 0 <= span.start and span.stop <= n and (size % 16 == 0 or size == n)
            assert size == min(n, 16 * -(-needed // 16))
        share = mean_of_blocks(mask[None].float(), coarsen)
        assert float(crop(share, box).sum()) == pytest.approx(float(share.sum()))


def extents(mask, coarsen):
    """How many blocks the mask touches along each axis."""
    where = [torch.nonzero(mask.sum(tuple({0, 1, 2} - {axis}))).flatten() // coarsen for axis in range(3)]
    return [int(w[-1] - w[0]) + 1 for w in where]


def test_an_empty_mask_takes_the_whole_volume():
    assert dose_box(torch.zeros(10, 20, 30, dtype=torch.bool), 4) == (slice(0, 3), slice(0, 5), slice(0, 8))


@pytest.mark.parametrize("coarsen", [1, 2, 4])
def test_what_is_cut_out_goes_back_to_its_place(coarsen):
    rng = np.random.default_rng(coarsen)
    for _ in range(10):
        mask = mask_in((70, 81, 66), rng)
        inside = mean_of_blocks(mask[None].float(), coarsen)
        box = dose_box(mask, coarsen)
        assert torch.equal(uncrop(crop(inside, box)[None], mask, Grid(coarsen)), inside[None])


@pytest.mark.parametrize("coarsen", [2, 3, 4])
def test_coarsened_and_refined_a_ramp_stays_a_ramp_away_from_the_borders(coarsen):
    shape = (24, 24, 36)
    z, y, x = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    ramp = (0.5 * z - 0.2 * y + 0.1 * x + 3)[None]
    found = refine(mean_of_blocks(ramp, coarsen)[None], coarsen, shape)[0]
    inner = (slice(None), *(slice(coarsen, -coarsen),) * 3)
    assert torch.allclose(found[inner], ramp[inner], atol=1e-4)


@pytest.mark.parametrize("coarsen", [1, 2, 4])
def test_coarsening_keeps_the_mean_dose(coarsen):
    case = toy_case()
    sample = make_sample(case, Grid(coarsen))
    assert float(sample.dose.mean()) * 70 == pytest.approx(float(case.dose_gy.mean()), rel=1e-5)
    assert float(sample.mask.mean()) == pytest.approx(case.dose_mask.mean(), rel=1e-5)
    assert sample.spacing_mm == tuple(s * coarsen for s in case.spacing_mm)


@pytest.mark.parametrize("coarsen", [2, 4])
def test_coarsening_averages_blocks(coarsen):
    volume = torch.rand(2, 8, 8, 12, generator=torch.Generator().manual_seed(0))
    blocks = volume.view(2, 8 // coarsen, coarsen, 8 // coarsen, coarsen, 12 // coarsen, coarsen)
    assert torch.allclose(mean_of_blocks(volume, coarsen), blocks.mean(dim=(2, 4, 6)))


@pytest.mark.parametrize("shape", [(7, 9, 10), (8, 8, 9), (5, 4, 4), (3, 3, 3)])
@pytest.mark.parametrize("coarsen", [2, 4])
def test_sizes_that_are_not_divisible_are_padded_with_their_edge(shape, coarsen):
    volume = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    coarse = mean_of_blocks(volume, coarsen)
    assert coarse.shape[1:] == tuple(-(-n // coarsen) for n in shape)
    padded = np.pad(volume[0].numpy(), [(0, -n % coarsen) for n in shape], mode="edge")
    last = padded[tuple(slice(-coarsen, None) for _ in shape)].mean()
    assert float(coarse[0, -1, -1, -1]) == pytest.approx(last, rel=1e-5)
    assert refine(coarse[None], coarsen, shape).shape == (1, 1, *shape)
    ones = torch.ones(1, *shape)
    assert torch.allclose(refine(mean_of_blocks(ones, coarsen)[None], coarsen, shape), ones[None])


@pytest.mark.parametrize("coarsen", [2, 3, 4])
def test_refined_inside_the_mask_a_dose_keeps_its_block_averages_and_its_edge(coarsen):
    """A dose uniform inside the mask stays so up to its edge, where plain interpolation would halve it."""
    case = toy_case()
    mask = torch.from_numpy(case.dose_mask)
    uniform = 0.8 * mask.float()[None]
    fine = refine_in_mask(mean_of_blocks(uniform, coarsen)[None], Grid(coarsen), mask)[0]
    well = refine(mean_of_blocks(mask.float()[None], coarsen)[None], coarsen, mask.shape)[0, 0] >= LEAST_SHARE
    assert (
        torch.allclose(fine[0][mask & well], uniform[0][mask & well], atol=0.03) and not fine[0][~mask].any()
    )
    dose = torch.from_numpy(case.dose_gy * case.dose_mask)[None]
    plain = refine(mean_of_blocks(dose, coarsen)[None], coarsen, case.shape)[0]
    better = refine_in_mask(mean_of_blocks(dose, coarsen)[None], Grid(coarsen), mask)[0]
    error = [float((found - dose).abs()[0][mask].mean()) for found in (plain, better)]
    assert error[1] < 0.75 * error[0]
    missed = [
        float((mean_of_blocks(found, coarsen) - mean_of_blocks(dose, coarsen)).abs().mean())
        for found in (plain, better)
    ]
    assert missed[1] < 0.5 * missed[0]


@pytest.mark.parametrize("coarsen", [1, 2, 4])
def test_a_dose_of_the_box_comes_back_where_it_belongs(coarsen):
    """With a small mask in a far corner the box is part of the volume; a dose of one inside stays one."""
    mask = torch.zeros(80, 96, 80, dtype=torch.bool)
    mask[61:79, 3:40, 44:70] = True
    dose = mask.float()[None]
    box = dose_box(mask, coarsen)
    blocks = crop(mean_of_blocks(dose, coarsen), box)[None]
    assert blocks[0, 0].numel() < dose.numel() / coarsen**3
    fine = refine_in_mask(blocks, Grid(coarsen), mask)[0]
    assert fine.shape == dose.shape and not fine[0][~mask].any()
    inner = (slice(None), slice(63, 77), slice(5, 38), slice(46, 68))
    assert torch.allclose(fine[inner], dose[inner], atol=0.06)
