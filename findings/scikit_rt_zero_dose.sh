#!/usr/bin/env bash
# scikit-rt: the dose statistics of an organ that lies partly where the dose is 0.
#
# One would guess: Dose.get_dose_in_roi gives, as its documentation says, "all of the dose values for the voxels inside
# an ROI", so the mean dose of a box half in 40 Gy and half in 0 Gy is 20 Gy, and the dose that three quarters of it
# get is 0.
# What happens: voxels of dose 0 are left out. The mean is 40 Gy, the 25 % quantile 40 Gy, the number of values half of
# the box's voxels. With 0.001 Gy in place of 0 everything is right. No warning. plot_dvh
# and get_dose_quantile take the same values.
# Who is hurt: whoever has doses that are exactly 0 somewhere in an organ: Monte Carlo and proton doses, doses set to 0
# outside the body, below a threshold or outside a mask (OpenKBP), networks that end in a ReLU. Mean doses of lungs,
# bowel or cord come out too high, and by how much differs from one algorithm to the next: a prediction that says
# 0.01 Gy where the plan says 0 looks better than the plan.
# Where it comes from: skrt/dose.py. The dose is multiplied by the mask and what is not above 0 is dropped, as if only
# the mask could have made it 0. ROI.get_intensities, for any image, marks the outside by NaN and is right.
# Seen with scikit-rt 0.8.2, numpy 1.26.4 (its own pins are older than Python 3.11, so it is installed without them):
#   0 Gy in one half: mean 40.0 Gy, quantile 40.0 Gy, 600 of 1200 voxels; 0.001 Gy: 20.0 Gy, 0.0 Gy, 1200;
#   get_intensities: 20.0 Gy, 1200
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" numpy==1.26.4 scipy==1.13.1 shapely==2.0.7 pandas==2.2.3 nibabel==5.3.2 pydicom==2.4.4 matplotlib==3.9.4 \
    scikit-image==0.24.0 ipywidgets==8.1.5 tomli==2.5.0
"${pip[@]}" --no-deps scikit-rt==0.8.2
cd "$folder"
MPLBACKEND=agg "$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
from skrt.dose import Dose
from skrt.structures import ROI

GEOMETRY = {"voxel_size": (1, 2, 3), "origin": (0, 0, 0)}  # mm, along x, y and z
BOX = np.zeros((20, 30, 24), bool)  # rows, columns, slices
BOX[5:15, 10:20, 6:18] = True


def statistics(low_gy):
    """Mean, 25 % quantile and number of values in the box, half of which lies in 40 Gy."""
    values = np.full(BOX.shape, low_gy)
    values[:, :15] = 40.0
    dose = Dose(values, **GEOMETRY)
    box = ROI(BOX, image=dose, name="box")
    inside = box.get_intensities(dose)
    assert box.get_volume("voxels", method="mask") == BOX.sum() == inside.size and abs(inside.mean() - 20) < 0.001
    return dose.get_mean_dose(box), dose.get_dose_quantile(box, 0.25), dose.get_dose_in_roi(box).size


zero, nearly_zero = statistics(0.0), statistics(0.001)
for name, (mean, quantile, size) in (("0 Gy", zero), ("0.001 Gy", nearly_zero)):
    print(f"40 Gy and {name}: mean {mean:.1f} Gy, 25 % quantile {quantile:.1f} Gy, {size} of {BOX.sum()} voxels")
assert zero == (40, 40, 600), "voxels of dose 0 are left out"
assert np.allclose(nearly_zero, (20.0005, 0.001, 1200)), "and all are there with a little dose"
PYTHON
echo "as found"
