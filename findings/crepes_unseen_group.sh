#!/usr/bin/env bash
# crepes' Mondrian conformal regressor and a group that the calibration does not have.
#
# One would guess: for a group without any calibration patient the interval is infinite with a warning, as crepes gives
# it for a group with too few; or an error says that the group is not known.
# What happens: the interval is [0, 0] whatever the prediction, with no warning. One patient of a group gives infinite
# width, none gives none, and at a value that nobody predicted. The predictive system does the same.
# Who is hurt: whoever calibrates by site, structure or hospital and meets a new one, or writes its name otherwise
# ("parotid_l"): the least known case comes out as the surest.
# Where it comes from: predict_int fills an array of zeros group by group, over the groups of the calibration only.
# Seen with crepes 0.9.1, numpy 1.26.4, at 90 %:
#   prediction 31.0 · 25 patients: [7.0, 55.0] · 3 patients: [-inf, inf] · none: [0.0, 0.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    crepes==0.9.1 scikit-learn==1.9.1 numpy==1.26.4
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
from crepes import ConformalPredictiveSystem, ConformalRegressor

CALIBRATION = {"rectum": np.arange(1.0, 26.0), "bladder": np.arange(1.0, 4.0)}  # residuals in Gy
GROUPS = np.repeat(list(CALIBRATION), [len(residuals) for residuals in CALIBRATION.values()])


def interval(kind, group):
    """(low, high, number of warnings that name the group) for a prediction of 31 Gy at 90 %."""
    model = kind()
    model.fit(residuals=np.concatenate(list(CALIBRATION.values())), bins=GROUPS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        [[low, high]] = model.predict_int(y_hat=np.array([31.0]), bins=np.array([group]), confidence=0.9)
    return float(low), float(high), sum(group in str(warning.message) for warning in caught)


asked = {group: interval(ConformalRegressor, group) for group in ("rectum", "bladder", "prostate")}
texts = [f"[{low}, {high}]" for low, high, _ in asked.values()]
print("prediction 31.0 · 25 patients: {} · 3 patients: {} · none: {}".format(*texts))
assert asked["rectum"][:2] == (7.0, 55.0), "the 24th of 25 residuals on both sides"
assert asked["bladder"][:2] == (-np.inf, np.inf) and asked["bladder"][2] > 0, "three cannot promise 90 %"
assert asked["prostate"] == (0.0, 0.0, 0), "none at all is no width at all, in silence"
assert interval(ConformalPredictiveSystem, "prostate") == (0.0, 0.0, 0), "nor from the predictive system"
PYTHON
echo "as found"
