#!/usr/bin/env bash
# platipy's calculate_dvh_for_labels with max_dose.
#
# One would guess: max_dose, "the maximum dose of the DVH", says where the table of bins ends; V55 and D50, which lie
# below it, do not depend on it.
# What happens: voxels above it are taken out of the structure. With doses evenly from 50 to 70 Gy and max_dose=60 the
# V55 falls from 75 to 51 % and D50 from 60 to 55 Gy, while the mean in the same row stays 60 Gy and the volume that of
# all. No warning.
# Who is hurt: whoever sets one axis for all patients or for plan and prediction, such as the prescription or
# a round number: only the hottest structures change, targets first, and the hotter the plan, the colder it looks.
# Where it comes from: platipy/imaging/dose/dvh.py. numpy.histogram drops what lies beyond the last edge, and the curve
# is then divided by its own first value, so that it begins at 100 % again.
# Seen with platipy 0.7.2 (without its pins), SimpleITK 2.5.7, pandas 2.3.3, numpy 2.4.6, max_dose none, 80, 60:
#   V55 75.3 75.3 51.0 % · D50 60.1 60.1 55.1 Gy · mean 60.0 60.0 60.0 Gy
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" numpy==2.4.6 SimpleITK==2.5.7 matplotlib==3.11.2 pandas==2.3.3 scikit-image==0.26.0
"${pip[@]}" --no-deps platipy==0.7.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
import SimpleITK
from platipy.imaging.dose.dvh import calculate_d_x, calculate_dvh_for_labels, calculate_v_x
from platipy.imaging.dose.metric import calculate_d_to_volume, calculate_v_receiving_dose

values = np.broadcast_to(np.linspace(50, 70, 401), (10, 10, 401)).copy()  # Gy, evenly
dose, label = SimpleITK.GetImageFromArray(values), SimpleITK.GetImageFromArray(np.ones(values.shape, "u1"))


def statistics(max_dose):
    """V55 in %, D50 and mean in Gy."""
    dvh = calculate_dvh_for_labels(dose, {"target": label}, max_dose=max_dose)
    assert abs(dvh.cc[0] - values.size / 1000) < 1e-6, "the volume is that of all voxels"
    return 100 * calculate_v_x(dvh, 55).V55[0] / dvh.cc[0], calculate_d_x(dvh, 50).D50[0], dvh["mean"][0]


rows = {limit: statistics(limit) for limit in (None, 80, 60)}
for limit, (v55, d50, mean) in rows.items():
    print(f"max_dose {limit}: V55 {v55:.1f} %, D50 {d50:.1f} Gy, mean {mean:.1f} Gy")
true = calculate_v_receiving_dose(dose, label, 55), calculate_d_to_volume(dose, label, 50), 60
assert abs(true[0] - 75) < 0.5 and abs(true[1] - 60) < 0.1, "platipy's other functions, from the voxels"
for limit in (None, 80):
    assert np.allclose(rows[limit], true, atol=0.5), "right where nothing lies above the limit"
assert np.allclose(rows[60], (51, 55.1, 60), atol=0.5), "and of the colder half otherwise, but for the mean"
PYTHON
echo "as found"
