#!/usr/bin/env bash
# pylinac's gamma_2d: the dose threshold and the local criterion.
#
# One would guess: dose_threshold=10 leaves out what is under 10 % of the reference's maximum ("evaluated against the
# global max dose, period"), and global_dose=False takes the dose criterion from the reference point under evaluation;
# so a curve moved by one pixel has a local gamma of at most 0.5 if the distance criterion is two pixels.
# What happens: the threshold is multiplied by the dose criterion: of 10 % at a criterion of 3 % there remains 0.3 %
# of the maximum. What scatters around a field is judged, and passes: a field that is 4 % too low in all its pixels,
# of which at 3 % none pass, gets 91 %. And the local gamma does not search: a falling exponential moved by one pixel
# gets 4.4 instead of 0.5. pylinac's own gamma_1d gets both right on a row of the same pictures.
# Who is hurt: whoever quotes pass rates of planar doses (portal images, fluence, slices of a predicted dose): global
# ones are too high, by the size of the margin around the field; local ones far too low in gradients.
# Where it comes from: pylinac/core/gamma.py. Doses are divided by the criterion before the loop, the threshold is
# not. For the local criterion the evaluated picture is divided by the reference at its own pixel, not at the pixel
# under evaluation, so that a neighbour is compared with its own reference, and the search finds no distance.
# Seen with pylinac 3.49.0 (and 3.26.0), numpy 2.4.6:
#   threshold 10 %, outside at 2 %: judged 2500 of 2500 pixels, passed 91.0 % (gamma_1d: none outside, 0 %)
#   the limit lies between 0.29 and 0.31 % of the maximum · local gamma at most 4.44 (gamma_1d 0.50)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile pylinac==3.49.0 numpy==2.4.6
cd "$folder"
MPLBACKEND=agg "$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
from pylinac.core.gamma import gamma_1d, gamma_2d

CRITERIA = {"dose_to_agreement": 3, "distance_to_agreement": 2}  # in %, and in pixels
FIELD = np.zeros((50, 50), bool)
FIELD[17:32, 17:32] = True


def passed(gamma):
    return 100 * float(np.mean(gamma[np.isfinite(gamma)] <= 1))


def judged_outside(outside, threshold=10):
    """Share of the pixels outside the field that have a gamma, at this dose in % of the maximum."""
    reference = np.where(FIELD, 100.0, outside)
    gamma = gamma_2d(reference, reference, dose_threshold=threshold, **CRITERIA)
    return float(np.isfinite(gamma[~FIELD]).mean())


reference, evaluated = np.where(FIELD, 100.0, 2.0), np.where(FIELD, 96.0, 2.0)
plane = gamma_2d(reference, evaluated, dose_threshold=10, **CRITERIA)
row = gamma_1d(reference[25], evaluated[25], dose_threshold=10, **CRITERIA)[0]
assert np.array_equal(np.isfinite(row), FIELD[25]) and passed(row) == 0, "gamma_1d judges the field, which fails"
assert np.isfinite(plane).all() and (plane[FIELD] > 1).all() and passed(plane) > 90, "gamma_2d judges all"
print(f"threshold 10 %, outside at 2 %: judged {np.isfinite(plane).sum()} of {plane.size}, passed {passed(plane):.1f} %"
      f" (gamma_1d {passed(row):.1f} %)"
      f" · judged of the outside at 0.29 and 0.31 %: {judged_outside(0.29)} {judged_outside(0.31)}")
assert (judged_outside(0.29), judged_outside(0.31), judged_outside(9.9)) == (0, 1, 1), "it is 3 % of 10 % = 0.3 %"

curve, moved = (np.tile(100 * np.exp(-(np.arange(40.0) - shift) / 8), (20, 1)) for shift in (0, 1))
local = {"global_dose": False, "dose_threshold": 0, "gamma_cap_value": 10, **CRITERIA}
plane, row = gamma_2d(curve, moved, **local)[10, 3:-3], gamma_1d(curve[10], moved[10], **local)[0][3:-3]
print(f"moved by one pixel of two, local gamma at most: gamma_2d {plane.max():.2f}, gamma_1d {row.max():.2f}")
assert row.max() < 0.5 + 1e-9, "one pixel of two: at most 0.5"
assert np.allclose(plane, np.expm1(1 / 8) / 0.03), "the dose difference alone: exp(1/8) - 1 in units of 3 %"
PYTHON
echo "as found"
