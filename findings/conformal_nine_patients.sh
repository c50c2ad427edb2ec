#!/usr/bin/env bash
# Split conformal intervals at 90 % from few calibration patients, in crepes, MAPIE and puncc.
#
# One would guess: three libraries of one formula give one interval. With n residuals it is the k-th smallest, k being
# 0.9 (n + 1) rounded up: nine patients are just enough and the largest residual is taken, of 19 the 18th; eight are
# too few, and whoever allows infinite bounds gets them.
# What happens: of nine, puncc takes the ninth, MAPIE refuses, crepes answers infinity. Of 19, puncc and MAPIE take the
# 18th, crepes the 19th: 95 % instead of 90 %. Of three, MAPIE with allow_infinite_bounds=True refuses too, tells that
# four are enough (with four: five) and names a keyword, unbounded, that predict_interval does not have.
# Who is hurt: whoever compares widths of methods over libraries, or calibrates one structure on 9 or 19 patients,
# where it matters most.
# Where it comes from: crepes takes the int of (1 - 0.9) (n + 1), which is 0.9999999999999998 for nine; MAPIE asks for
# n of 1 / (1 - 0.9) unless infinite bounds are allowed, and those it gives to asymmetric scores only.
# Seen with crepes 0.9.1, MAPIE 1.6.0, puncc 0.9.3, numpy 1.26.4; half width from residuals 1, 2, ... n:
#   9 patients: crepes inf, MAPIE refused, puncc 9
#   19 patients: crepes 19, MAPIE 18, puncc 18
#   25 patients: crepes 24, MAPIE 24, puncc 24
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    crepes==0.9.1 mapie==1.6.0 puncc==0.9.3 numpy==1.26.4
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import warnings

import numpy as np
from crepes import ConformalRegressor
from deel.puncc.api.prediction import BasePredictor
from deel.puncc.regression import SplitCP
from mapie.regression import SplitConformalRegressor
from sklearn.dummy import DummyRegressor

warnings.simplefilter("ignore")
POINT = np.zeros((1, 1))
ZERO = DummyRegressor(strategy="constant", constant=0.0).fit(np.zeros((2, 1)), np.zeros(2))


def by_crepes(residuals):
    model = ConformalRegressor()
    model.fit(residuals=residuals)
    return model.predict_int(y_hat=np.zeros(1), confidence=0.9)[0, 1]


def by_mapie(residuals, **options):
    model = SplitConformalRegressor(ZERO, confidence_level=0.9, prefit=True)
    model.conformalize(np.zeros((len(residuals), 1)), residuals)
    return model.predict_interval(POINT, **options)[1][0, 1, 0]


def by_puncc(residuals):
    model = SplitCP(BasePredictor(ZERO, is_trained=True), train=False)
    model.fit(X_calib=np.zeros((len(residuals), 1)), y_calib=residuals)
    return np.ravel(model.predict(POINT, alpha=0.1)[2])[0]


def half_width(method, n, **options):
    """Of the interval from residuals 1 to n, or the error's text."""
    try:
        return float(method(np.arange(1.0, n + 1), **options))
    except ValueError as error:
        return str(error)


METHODS = {"crepes": by_crepes, "MAPIE": by_mapie, "puncc": by_puncc}
widths = {n: {name: half_width(method, n) for name, method in METHODS.items()} for n in (9, 19, 25)}
for n, row in widths.items():
    texts = [f"{name} " + ("refused" if isinstance(value, str) else f"{value:g}") for name, value in row.items()]
    print(f"{n} patients: " + ", ".join(texts))
assert set(widths[25].values()) == {24.0}, "with 25 they agree"
assert list(widths[19].values()) == [19.0, 18.0, 18.0], "with 19 crepes takes the largest"
assert widths[9]["crepes"] == np.inf and widths[9]["puncc"] == 9.0 and isinstance(widths[9]["MAPIE"], str)
assert half_width(by_mapie, 9, allow_infinite_bounds=True) == 9.0, "MAPIE can, but must be allowed what is not needed"
for n in (3, 4, 8):
    text = half_width(by_mapie, n, allow_infinite_bounds=True)
    assert f"at least {n + 1} or set unbounded=True" in text, "always one more, by a keyword that is none"
assert isinstance(half_width(by_puncc, 8), str), "puncc refuses where it should"
PYTHON
echo "as found"
