#!/usr/bin/env bash
# scoringrules' CRPS of an ensemble, estimator "akr", with and without numba.
#
# One would guess: backend="numba" makes the score faster, not other, and is taken where numba is installed: the
# docstring of crps_ensemble says so.
# What happens: with estimator="akr" numba gives another number. For two members it is wrong, not only other: forecasts
# as good as they can be (members and truth from one Gaussian) score 0.85 on average, where the estimator's expectation
# is 0.56 and numpy gives that. From three members on the average is right, the single scores differ. nrg, qd, pwm and
# fair agree to the last digits. The default gives numpy's number, also with numba installed, so that whoever asks for
# speed is the one who gets the other score.
# Who is hurt: whoever compares scores of two groups, or speeds up an evaluation half way through a study.
# Where it comes from: the numba loop pairs each member with the one before it, and the first one, instead of with the
# last, with the last but one; of two members that is itself, at distance 0.
# Seen with scoringrules 0.10.0, numba 0.68.1, numpy 2.4.6:
#   members 2: numpy 0.565, numba 0.848 · members 6, one forecast: numpy 0.1000, numba 0.0833
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    scoringrules==0.10.0 numba==0.68.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scoringrules

BACKENDS = ("numpy", "numba")


def score(truth, members, estimator="akr"):
    return [scoringrules.crps_ensemble(truth, members, estimator=estimator, backend=name) for name in BACKENDS]


draws = np.random.default_rng(0).normal(size=(200_000, 3))
average = [float(scores.mean()) for scores in score(draws[:, 0], draws[:, 1:])]
members = np.array([[0.0, 1.0, 0.2, 0.5, 0.9, 0.7]])
single = [float(scores[0]) for scores in score(np.array([0.3]), members)]
print(
    "members 2: numpy {:.3f}, numba {:.3f}".format(*average)
    + " · members 6, one forecast: numpy {:.4f}, numba {:.4f}".format(*single)
)
expected = 1 / np.pi**0.5  # E|X - x| - E|X - X'| / 2, all standard Gaussian
assert abs(average[0] - expected) < 0.005, "numpy's is the estimator"
assert abs(average[1] - 1.5 * expected) < 0.005, "numba's is half as much again"
assert abs(single[0] - single[1]) > 0.005, "with six members they differ too"
for estimator in ("nrg", "qd", "pwm", "fair"):
    by_numpy, by_numba = score(draws[:, 0], draws[:, 1:], estimator)
    assert np.allclose(by_numpy, by_numba, atol=1e-12), "the others do not depend on the backend"
default = scoringrules.crps_ensemble(draws[:9, 0], draws[:9, 1:], estimator="akr")
assert np.array_equal(default, score(draws[:9, 0], draws[:9, 1:])[0]), "numba is not the default"
PYTHON
echo "as found"
