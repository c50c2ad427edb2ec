#!/usr/bin/env bash
# SimpleITK on an RTDOSE whose frames are not evenly apart.
#
# One would guess: an image of SimpleITK has one slice distance, so that a dose with frames 2.5 mm apart in the target
# and 5 mm apart elsewhere is refused, resampled, or at least read with the warning about uneven sampling that a series
# of CT slices gets.
# What happens: it is read in silence with the distance of the first two frames. All frames behind the first change lie
# at wrong places: a grid of 80 mm is 55 mm long, and at z = 60 mm, where 60 Gy were
# calculated, GetPixel has nothing. The same frames from head to foot make a grid of 110 mm.
# Who is hurt: whoever resamples doses to a CT by SimpleITK (or a package on top of it): organs above the change get the
# dose of others, and the length depends on the end at which the file begins.
# Where it comes from: GDCM's image reader behind SimpleITK, which takes GridFrameOffsetVector's first difference.
# Seen with SimpleITK 2.5.7, pydicom 3.0.2, numpy 2.4.6:
#   frames from 0 to 80 mm · read upwards: 0 to 55 mm · read downwards: 80 to -30 mm · warnings: none
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
import pydicom
import SimpleITK

Z_MM = np.r_[np.arange(0, 30, 2.5), np.arange(30, 81, 5.0)]


def write_dose(name, z_mm):
    """An RTDOSE of as many Gy as z has mm."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"
    ds.SOPInstanceUID = ds.SeriesInstanceUID = ds.StudyInstanceUID = ds.FrameOfReferenceUID = "2.25.1"
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType, ds.DoseGridScaling = "GY", "PHYSICAL", "PLAN", "0.1"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, z_mm[0]], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.GridFrameOffsetVector, ds.FrameIncrementPointer = [3, 3], list(z_mm - z_mm[0]), 0x3004000C
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = len(z_mm), 4, 4, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    stored = np.rint(10 * z_mm)[:, None, None] + np.zeros((1, 4, 4))
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", stored.astype("<u2").tobytes()
    ds.save_as(name, enforce_file_format=True)


def ends_mm(name, z_mm):
    """z of the first and last frame as SimpleITK has them; the stored numbers are those of the true places."""
    write_dose(name, z_mm)
    image = SimpleITK.ReadImage(name, imageIO="GDCMImageIO")
    assert np.array_equal(SimpleITK.GetArrayFromImage(image)[:, 0, 0], np.rint(10 * z_mm))
    return [image.TransformIndexToPhysicalPoint((0, 0, k))[2] for k in (0, len(z_mm) - 1)]


up, down = ends_mm("up.dcm", Z_MM), ends_mm("down.dcm", Z_MM[::-1].copy())
warnings = open("log").read().strip() or "none"
print("frames from 0 to 80 mm · read upwards: {:g} to {:g} mm".format(*up), end=" · ")
print("read downwards: {:g} to {:g} mm".format(*down), end=f" · warnings: {warnings}\n")
assert up == [0, 55] and down == [80, -30], "the first distance is taken for all"
assert warnings == "none"
PYTHON
echo "as found"
