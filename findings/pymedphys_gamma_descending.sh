#!/usr/bin/env bash
# pymedphys' gamma on an RTDOSE whose first frame is the highest.
#
# One would guess: gamma asks for points and doses, so that doses written from head to foot give the gamma of the same
# doses written from foot to head; or an error says that axes must grow. SciPy's interpolator, once under it, did so.
# What happens: no voxel is judged. The result is NaN everywhere, with no error and no warning, and a pass rate computed
# from it is NaN or, as (gamma <= 1).mean(), 0 %. interp_algo="scipy" judges all, and so does the default if only the
# reference's axis falls. The axes are those that pymedphys.dicom itself reads from such a file.
# Who is hurt: whoever compares doses from a system that writes frames downwards (offsets 0, -2.5, ...), which DICOM
# allows: a batch reports nothing, or that everything fails.
# Where it comes from: the compiled interpolation (_interp/interp.py) takes the first and last of the evaluated dose's
# axis for its least and greatest, so that every point lies outside.
# Seen with pymedphys 0.41.0, numba 0.68.1, pydicom 3.0.2, numpy 2.4.6; identical doses:
#   judged voxels: upwards 1000, downwards 0, downwards with scipy 1000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pymedphys==0.41.0 numba==0.68.1 pydicom==3.0.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import pydicom
import pymedphys

DOSE_GY = 50 + np.arange(10.0)[:, None, None] + np.zeros((10, 10, 10))  # 1 Gy more per frame of 2.5 mm


def rtdose(direction):
    """The dose as an RTDOSE of frames going up (1) or down (-1)."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.Modality, ds.DoseUnits, ds.DoseGridScaling = "RTDOSE", "GY", "0.001"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0 if direction == 1 else 22.5], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.GridFrameOffsetVector = [2.5, 2.5], list(direction * 2.5 * np.arange(10))
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = 10, 10, 10, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = np.rint(1000 * DOSE_GY[::direction]).astype("<u2").tobytes()
    return ds


def judged(reference, evaluated, interpolation="pymedphys"):
    """Number of voxels with a gamma; of identical doses each passes."""
    doses = [pymedphys.dicom.zyx_and_dose_from_dataset(rtdose(direction)) for direction in (reference, evaluated)]
    options = {"max_gamma": 1.1, "interp_fraction": 5, "lower_percent_dose_cutoff": 10}
    gamma = pymedphys.gamma(*doses[0], *doses[1], 3, 3, interp_algo=interpolation, **options)
    assert (gamma[~np.isnan(gamma)] < 0.01).all()
    return int((~np.isnan(gamma)).sum())


up, down, by_scipy = judged(1, 1), judged(-1, -1), judged(-1, -1, "scipy")
print(f"judged voxels: upwards {up}, downwards {down}, downwards with scipy {by_scipy}")
assert up == by_scipy == DOSE_GY.size, "all voxels are above the cut-off"
assert down == 0, "and none of them has a gamma"
assert judged(-1, 1) == DOSE_GY.size and judged(1, -1) == 0, "the evaluated dose's axis does it"
PYTHON
echo "as found"
