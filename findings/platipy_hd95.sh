#!/usr/bin/env bash
# platipy's compute_surface_metrics: the 95 % Hausdorff distance and the spread of the surface distances.
#
# One would guess: hausdorffDistance95 leaves out the worst 5 % of the surface, so that one stray voxel hardly counts;
# and sigmaSurfaceDistance, a standard deviation of distances, is not above the largest of them.
# What happens: for a cube and the same cube with one voxel 57 mm away, HD95 is 54 mm, by medpy's count 0.
# A cube moved by 6 mm has a sigma of 175 mm. Mean, maximum and surface Dice are right.
# Who is hurt: whoever compares segmentations with it, and with pydicer, which calls it and lists both: its HD95 is HD
# by another name and cannot be set beside published ones; sigma grows with the structure's size and with finer
# voxels.
# Where it comes from: platipy/imaging/label/comparison.py. The percentile is taken of two numbers, the largest
# distances of the two directions, so it is their maximum less 5 % of how they differ. For sigma the squares are
# weighted by the number of points, and not divided by it: a factor of its square root.
# Seen with platipy 0.7.2, SimpleITK 2.5.7, medpy 0.5.2, scipy 1.17.1, numpy 2.4.6 (platipy without its pins):
#   one stray voxel: HD 57.0, HD95 54.1 mm, medpy HD95 0.0 mm · moved: sigma 175.0 mm, largest distance 6.0 mm
#   the same in voxels half as large: sigma 356.5 mm
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" numpy==2.4.6 scipy==1.17.1 SimpleITK==2.5.7 matplotlib==3.11.2 pandas==2.3.3 scikit-image==0.26.0
"${pip[@]}" --no-deps platipy==0.7.2 medpy==0.5.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
import SimpleITK
from medpy.metric.binary import hd, hd95
from platipy.imaging.label.comparison import compute_surface_metrics

SPACING_MM = np.array([3.0, 2.0, 2.0])  # of slices, rows, columns


def metrics(one, other, finer=1):
    images = []
    for mask in (one, other):
        image = SimpleITK.GetImageFromArray(np.kron(mask, np.ones((finer,) * 3, "u1")))
        image.SetSpacing((SPACING_MM / finer)[::-1].tolist())
        images.append(image)
    return compute_surface_metrics(*images)


cube = np.zeros((50, 50, 50), "u1")
cube[10:30, 10:30, 10:30] = 1
stray = cube.copy()
stray[48, 20, 20] = 1  # 19 slices of 3 mm above the cube
found = metrics(cube, stray)
theirs = hd(cube, stray, SPACING_MM), hd95(cube, stray, SPACING_MM)
print(f"one stray voxel: HD {found['hausdorffDistance']:.1f}, HD95 {found['hausdorffDistance95']:.1f} mm;"
      f" medpy HD {theirs[0]:.1f}, HD95 {theirs[1]:.1f} mm")
assert theirs == (57, 0) and found["hausdorffDistance"] == 57 and found["meanSurfaceDistance"] < 0.02
assert abs(found["hausdorffDistance95"] - 0.95 * 57) < 0.01, "95 % of the way from 0 to 57 mm"

moved = np.roll(cube, 2, 0)
found, finer = metrics(cube, moved), metrics(cube, moved, finer=2)
print(f"moved by 6 mm: largest {found['maximumSurfaceDistance']:.1f} mm, sigma {found['sigmaSurfaceDistance']:.1f} mm;"
      f" in voxels half as large {finer['maximumSurfaceDistance']:.1f} mm, {finer['sigmaSurfaceDistance']:.1f} mm")
for one in (found, finer):
    assert abs(one["maximumSurfaceDistance"] - 6) < 0.01 and 1 < one["meanSurfaceDistance"] < 3, "these are right"
assert found["sigmaSurfaceDistance"] > 20 * found["maximumSurfaceDistance"], "no spread is that wide"
assert 1.8 < finer["sigmaSurfaceDistance"] / found["sigmaSurfaceDistance"] < 2.2, "and it doubles with finer voxels"
PYTHON
echo "as found"
