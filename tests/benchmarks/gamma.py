"""Gamma of lib against pymedphys, both on one thread: processor seconds, their ratio, and the pass rates.

    OMP_NUM_THREADS=1 python tests/benchmarks/gamma.py [--size 128]

A dose of three smooth maxima on a grid of 2.5 x 3 x 3 mm; the other dose is it with smooth errors that grow
until about 99, 90 and 50 % of the voxels pass at 3 % / 3 mm, cut-off 10 %, 10 search points or lines per
distance criterion.
"""

import argparse
import time

import numpy as np
import pymedphys
import torch
from scipy.ndimage import gaussian_filter

from lib.metrics.gamma import gamma_index, pass_pct

SPACING_MM = (2.5, 3.0, 3.0)
RX_GY, CUTOFF_PCT, MAX_GAMMA, INTERP = 70.0, 10.0, 1.1, 10
WANTED_PCT = (99, 90, 50)


def planned_dose(size):
    """Gy [size]^3: a plateau of the prescription that falls off over a few centimetres."""
    axes = [(np.arange(size) - (size - 1) / 2) * s for s in SPACING_MM]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    scale = size / 128
    blobs = [
        np.exp(-(((z - a) / 70) ** 2 + ((y - b) / 60) ** 2 + ((x - c) / 80) ** 2) / scale**2)
        for a, b, c in ((0, 0, 0), (50 * scale, 20, 30), (-40 * scale, -20, -40))
    ]
    return (RX_GY * np.minimum(1.0, sum(blobs))).astype(np.float32)


def with_errors(dose_gy, amplitude_gy, rng_seed=0):
    noise = gaussian_filter(np.random.default_rng(rng_seed).normal(size=dose_gy.shape), 3)
    return np.maximum(0, dose_gy + (amplitude_gy * noise / noise.std()).astype(np.float32))


def ours(dose_gy, dose_hat_gy):
    return gamma_index(
        dose_gy,
        dose_hat_gy,
        SPACING_MM,
        dose_pct=3,
        distance_mm=3,
        global_gy=RX_GY,
        cutoff_pct=CUTOFF_PCT,
        max_gamma=MAX_GAMMA,
        interp_fraction=INTERP,
    )


def theirs(dose_gy, dose_hat_gy):
    axes = tuple(np.arange(n) * s for n, s in zip(dose_gy.shape, SPACING_MM))
    return pymedphys.gamma(
        axes,
        dose_gy,
        axes,
        dose_hat_gy,
        3,
        3,
        lower_percent_dose_cutoff=CUTOFF_PCT,
        interp_fraction=INTERP,
        max_gamma=MAX_GAMMA,
        global_normalisation=RX_GY,
    )


def amplitude_for(dose_gy, wanted_pct):
    """The error in Gy at which about the wanted share passes, by bisection on the middle third of slices."""
    third = slice(len(dose_gy) // 3, 2 * len(dose_gy) // 3)
    low, high = 0.1, 40.0
    for _ in range(9):
        middle = (low * high) ** 0.5
        passed = pass_pct(ours(dose_gy[third], with_errors(dose_gy, middle)[third]))
        low, high = (middle, high) if passed > wanted_pct else (low, middle)
    return low


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=128)
    size = parser.parse_args().size
    torch.set_num_threads(1)
    dose_gy = planned_dose(size)
    print(f"{size}^3 voxels; processor seconds of one run each")
    for wanted_pct in WANTED_PCT:
        dose_hat_gy = with_errors(dose_gy, amplitude_for(dose_gy, wanted_pct))
        seconds, passed = [], []
        for compute in (ours, theirs):
            started = time.process_time()
            index = compute(dose_gy, dose_hat_gy)
            seconds.append(time.process_time() - started)
            passed.append(pass_pct(index))
        print(
            f"pass {passed[0]:6.2f} % here, {passed[1]:6.2f} % pymedphys; {seconds[0]:7.2f} s here, "
            f"{seconds[1]:7.2f} s pymedphys: {seconds[1] / seconds[0]:5.1f} times as fast",
            flush=True,
        )


if __name__ == "__main__":
    main()
