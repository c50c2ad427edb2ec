#!/usr/bin/env bash
# scoringrules' CRPS with weights of the members, estimators "pwm" and "fair".
#
# One would guess: "pwm" (probability weighted moments) and "fair" are two ways to one number, as they are without
# weights (equal to the last digit); so they stay with ens_w. And a mirrored forecast, all signs changed, is as good.
# What happens: with weights "pwm" leaves "fair", and by another amount when everything is mirrored: a forecast and its
# mirror image get -0.13, less than a perfect one, and 0.31; "fair" gives both 0.09. "qd" and "nrg" stay together and
# mirror well. The order in which the members are handed over makes no difference.
# Who is hurt: whoever weights members (by likelihood, by age of the forecast) and compares over- with underdosage: one
# side is scored better than the other for no reason.
# Where it comes from: _crps_ensemble_pwm_w. Half of the mean distance of two members is sum w x (2 W - 1 + w) /
# (1 - sum w^2), W being the weight below a member; 2 sum w x W / (1 - sum w^2) - sum w x is taken instead, which is
# the same for equal weights only.
# Seen with scoringrules 0.10.0, numpy 2.4.6:
#   as it is: fair 0.0889, pwm -0.1333 · mirrored: fair 0.0889, pwm 0.3111
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check scoringrules==0.10.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scoringrules

TRUTH, MEMBERS, WEIGHTS = np.array([1.0]), np.array([[0.0, 1.0, 2.0]]), np.array([[0.6, 0.3, 0.1]])


def score(estimator, sign=1, weights=None, order=(0, 1, 2)):
    weights = None if weights is None else weights[:, order]
    members = sign * MEMBERS[:, order]
    return float(scoringrules.crps_ensemble(sign * TRUTH, members, ens_w=weights, estimator=estimator)[0])


as_it_is, mirrored = ({name: score(name, sign, WEIGHTS) for name in ("fair", "pwm", "qd", "nrg")} for sign in (1, -1))
for name, scores in (("as it is", as_it_is), ("mirrored", mirrored)):
    print(f"{name}: fair {scores['fair']:.4f}, pwm {scores['pwm']:.4f}", end=" · " if name == "as it is" else "\n")
assert abs(score("fair") - score("pwm")) < 1e-12, "without weights they are one"
assert abs(score("fair") - score("pwm", weights=np.full((1, 3), 1 / 3))) < 1e-12, "and with equal weights"
for name in ("fair", "qd", "nrg"):
    assert abs(as_it_is[name] - mirrored[name]) < 1e-12, "these do not care about the sign"
assert abs(as_it_is["pwm"] - mirrored["pwm"]) > 0.05, "pwm does"
assert abs(as_it_is["pwm"] - score("pwm", weights=WEIGHTS, order=(2, 0, 1))) < 1e-12, "the order is no matter"
weight, x, y = WEIGHTS[0], MEMBERS[0], TRUTH[0]
pairs = (weight[:, None] * weight * abs(x[:, None] - x)).sum() / (1 - (weight**2).sum())
assert abs(as_it_is["fair"] - ((weight * abs(x - y)).sum() - pairs / 2)) < 1e-12, "fair is the mean over pairs"
PYTHON
echo "as found"
