#!/usr/bin/env bash
# pylinac's gamma of profiles, with positions in mm and in cm.
#
# One would guess: gamma has no unit, so the same two profiles get the same gamma with positions in mm and a distance
# criterion of 3 as in cm and 0.3; the criterion is said to be "in the units of the x-values".
# What happens: in cm gamma_1d finds a profile different from itself: gamma at least 1 at every point. gamma_geometric
# gives a profile moved by 2 mm a gamma of 2, its cap, instead of 2/3. It is the same in mm with a criterion below 1
# mm: a profile moved by 0.48 mm fails at 0.5 mm.
# Who is hurt: whoever has profiles in cm, as water phantoms and many planning systems export them, and whoever takes
# 0.5 mm for small fields and stereotactic ones: good profiles fail, and one looks for the fault in the machine.
# Where it comes from: pylinac/core/gamma.py. gamma_1d takes int(criterion * 3 * 2 + 1) points of the evaluated profile:
# two for 0.3, its ends, and never the middle if the number is even (1.5 mm). Its type hint says int, its text does
# not, and it takes a fraction. gamma_geometric (float; "generally this should be mm") looks for points within the
# criterion in positions that it has divided by the criterion already, so within its square: 9 mm for 3 mm, but 0.9
# mm for 0.3 cm and 0.25 mm for 0.5 mm.
# Seen with pylinac 3.49.0, numpy 2.4.6, largest gamma at 3 % and 3 mm, in mm and in cm:
#   gamma_1d of a profile with itself 0.00 2.00 (least in cm 1.00) · gamma_geometric, moved by 2 mm 0.67 2.00
#   gamma_geometric, moved by 0.48 mm, at 0.5 mm: 2.00 instead of 0.97
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile pylinac==3.49.0 numpy==2.4.6
cd "$folder"
MPLBACKEND=agg "$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
from pylinac.core.gamma import gamma_1d, gamma_geometric

X_MM = np.arange(-120, 121) / 10  # every 0.1 mm


def profile(shift_mm=0.0):
    """A field of 16 mm with steep edges."""
    return 100 / (1 + np.exp((np.abs(X_MM - shift_mm) - 8) / 0.1))


def largest(function, evaluated, distance_mm, unit_mm):
    """The least and the largest gamma, with positions in this unit."""
    found = function(
        profile(), evaluated, X_MM / unit_mm, X_MM / unit_mm, dose_to_agreement=3,
        distance_to_agreement=distance_mm / unit_mm)
    found = found[0] if isinstance(found, tuple) else found
    return float(np.nanmin(found)), float(np.nanmax(found))


itself = [largest(gamma_1d, profile(), 3, unit_mm) for unit_mm in (1, 10)]
moved = [largest(gamma_geometric, profile(2.0), 3, unit_mm)[1] for unit_mm in (1, 10)]
small = [largest(gamma_geometric, profile(0.48), 0.5, unit_mm)[1] for unit_mm in (1, 0.1)]
print("gamma_1d of a profile with itself, least and largest: in mm {:.2f} {:.2f}, in cm {:.2f} {:.2f}".format(
    *itself[0], *itself[1]))
print("gamma_geometric, moved by 2 mm, at 3 mm: in mm {:.2f}, in cm {:.2f}".format(*moved))
print("gamma_geometric, moved by 0.48 mm, at 0.5 mm: in mm {:.2f}, in tenths of a mm {:.2f}".format(*small))
assert max(itself[0]) < 1e-9 and itself[1][0] > 0.999, "equal in mm, different from itself in cm"
assert 0.6 < moved[0] < 0.67 and moved[1] == 2, "2 mm of 3 in mm, the cap in cm"
assert small[0] == 2 and 0.9 < small[1] < 0.97, "0.48 mm of 0.5 if the criterion is 5 tenths"
PYTHON
echo "as found"
