#!/usr/bin/env bash
# MONAI's RandSimulateLowResolution, and its "nearest" in Resize and Zoom.
#
# One would guess: RandSimulateLowResolution, "corresponding to nnU-Net's", makes a picture coarser and leaves what it
# shows where it was, so that masks need not follow. Resize and Zoom with mode "nearest", for a mask, bring it to where
# "trilinear" brings the dose.
# What happens: over the default range of resolutions a blob moves by 0.47 to 0.95 voxels, 0.64 on the average; always
# towards the higher index, along every axis, so that it does not average out: 3 mm with slices of 5 mm. At a third of
# the resolution it is 1 voxel, at a quarter 1.5. A mask made a third (a quarter) as fine by "nearest" lies 1 (1.5) of
# the old voxels off the dose it belongs to, and its affine says that it does not. No warning.
# Who is hurt: whoever trains with the transform, on pictures that are displaced against their masks and doses by an
# amount that differs from draw to draw; and whoever resizes dose and masks together and computes a DVH.
# Where it comes from: torch's "nearest" takes the voxel at floor(i * scale), the first of each group and not its
# middle; torch keeps it for OpenCV's sake and has "nearest-exact" beside it. The transform's default for going down
# is "nearest"; the one of batchgenerators that it is modelled on resizes about centres.
# (At a half any "nearest" is half a voxel off to one side or the other; between, "nearest-exact" is right.)
# Seen with MONAI 1.6.1, torch 2.13.0, numpy 2.4.6, voxels moved:
#   default range: 0.64 on the average, downsample_mode "nearest-exact" -0.05, "area" 0.00 · a quarter 1.50
#   Resize and Zoom to a third and a quarter: "nearest" 1.00 1.50, "trilinear" 0.00 0.00, "nearest-exact" at 1/3 0.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    torch==2.13.0 monai==1.6.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandSimulateLowResolution, Resize, Zoom

SIZE = 48
CENTRE = np.array([21.3, 24.6, 25.2])  # of a smooth blob, in voxels, which are its position in mm as well
axes = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"))
blob = np.exp(-((axes - CENTRE[:, None, None, None]) ** 2).sum(0) / (2 * 5**2))
image = MetaTensor(torch.tensor(blob[None], dtype=torch.float32), affine=torch.eye(4, dtype=torch.float64))


def moved(transform):
    """How far the centre of mass comes to lie from where it was, by the affine, in voxels of the image given."""
    result = transform(image)
    values, affine = np.asarray(result, float)[0], np.asarray(result.affine)
    grid = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"))
    centre = (grid * values).sum((1, 2, 3)) / values.sum()
    shift = affine[:3, :3] @ centre + affine[:3, 3] - CENTRE
    assert np.ptp(shift) < 0.4, "much the same along every axis"
    return float(shift.mean())


def coarser(sizes=range(SIZE // 2, SIZE), **options):
    """Moves at each of these numbers of voxels per axis, by default those of the default range, 0.5 to 1."""
    return [moved(RandSimulateLowResolution(prob=1.0, zoom_range=(n / SIZE, n / SIZE), **options)) for n in sizes]


def smaller(mode, factors=(3, 4)):
    """Moves when a third and a quarter of the voxels are left, by Resize; by Zoom it is the same."""
    found = [moved(Resize((SIZE // n,) * 3, mode=mode)) for n in factors]
    assert np.allclose(found, [moved(Zoom(1 / n, mode=mode, keep_size=False)) for n in factors], atol=0.05)
    return found


low, exact, area = coarser(), coarser(downsample_mode="nearest-exact"), coarser(downsample_mode="area")
print(f"low resolution: {np.min(low):.2f} to {np.max(low):.2f}, mean {np.mean(low):.2f}; with nearest-exact"
      f" {np.mean(exact):.2f}, with area {np.mean(area):.2f}; at a quarter {coarser([SIZE // 4])[0]:.2f}")
nearest, linear, centred = smaller("nearest"), smaller("trilinear"), smaller("nearest-exact", [3])
print("made smaller: nearest {:.2f} {:.2f}, trilinear {:.2f} {:.2f}, nearest-exact {:.2f}".format(
    *map(abs, nearest + linear + centred)))
assert min(low) > 0.4 and np.mean(low) > 0.6, "always to the same side"
assert abs(np.mean(exact)) < 0.1 and np.allclose(area, 0, atol=0.03), "about centres nothing moves"
assert np.allclose(coarser([SIZE // 4]), 1.5, atol=0.02) and np.allclose(nearest, (1, 1.5), atol=0.02)
assert np.allclose(linear + centred, 0, atol=0.02)
PYTHON
echo "as found"
