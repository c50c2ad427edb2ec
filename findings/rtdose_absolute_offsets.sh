#!/usr/bin/env bash
# An RTDOSE whose frame offsets are the patient's z, read by dicompyler-core, pymedphys and SimpleITK.
#
# One would guess: GridFrameOffsetVector is in every RTDOSE, so every reader knows both forms that DICOM allows (PS3.3
# C.8.8.3.2): offsets from the first frame, or z itself, then beginning with the z of ImagePositionPatient.
# What happens: SimpleITK reads both alike. pymedphys adds the position to offsets that hold it already, so that the
# dose lies at twice its z. dicompyler-core does the same and gives a full DVH from the contours that still meet some
# dose: mean 56 Gy instead of 40. Its note says only that the grid does not reach every contour.
# Who is hurt: whoever mixes vendors, or anonymises with a tool that rewrites offsets. By how much depends on where
# the patient lies: at a first frame of z = 0 nothing is wrong.
# Where it comes from: dicomparser.GetDoseGrid and pymedphys' _dicom/coords.py: position[2] + offsets in both cases.
# Seen with dicompyler-core 0.5.6, pymedphys 0.41.0, SimpleITK 2.5.7, pydicom 2.4.4, numpy 1.26.4:
#   first frame's z, relative and absolute offsets: SimpleITK -40 -40, pymedphys -40 -80
#   mean dose by dicompyler-core: relative 40.0 Gy, absolute 56.3 Gy
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    dicompyler-core==0.5.6 pymedphys==0.41.0 SimpleITK==2.5.7 pydicom==2.4.4 numpy==1.26.4
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
import pydicom
import pymedphys
import SimpleITK
from dicompylercore import dvhcalc
from pydicom.dataset import Dataset, FileMetaDataset

Z_MM = -40 + 2.5 * np.arange(33)  # of the frames; the dose is 40 Gy + 0.5 Gy per mm of z
DOSE_GY = (40 + 0.5 * Z_MM)[:, None, None] + np.zeros((33, 33, 33))


def dataset(modality, uid):
    ds = Dataset()
    ds.file_meta, ds.Modality, ds.is_little_endian, ds.is_implicit_VR = FileMetaDataset(), modality, True, False
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1." + uid
    ds.SOPInstanceUID = ds.SeriesInstanceUID = ds.StudyInstanceUID = ds.FrameOfReferenceUID = "2.25.1"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, "2.25.1"
    return ds


def item(**tags):
    ds = Dataset()
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


def write_dose(name, offsets_mm):
    ds = dataset("RTDOSE", "481.2")
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType, ds.DoseGridScaling = "GY", "PHYSICAL", "PLAN", "0.001"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-40, -40, -40], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.GridFrameOffsetVector, ds.FrameIncrementPointer = [2.5, 2.5], list(offsets_mm), 0x3004000C
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = *DOSE_GY.shape, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PhotometricInterpretation, ds.PixelData = "MONOCHROME2", np.rint(1000 * DOSE_GY).astype("<u2").tobytes()
    ds.save_as(name, write_like_original=False)


def write_structures(name):
    ds, square = dataset("RTSTRUCT", "481.3"), ((-10, -10), (10, -10), (10, 10), (-10, 10))
    slices = [[value for x, y in square for value in (x, y, z)] for z in range(-15, 16, 3)]
    contours = [item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=4, ContourData=c) for c in slices]
    ds.StructureSetLabel = "made up"
    ds.StructureSetROISequence = [item(ROINumber=1, ROIName="cube", ReferencedFrameOfReferenceUID="2.25.1")]
    ds.ROIContourSequence = [item(ReferencedROINumber=1, ROIDisplayColor=[255, 0, 0], ContourSequence=contours)]
    ds.RTROIObservationsSequence = [item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="ORGAN")]
    ds.save_as(name, write_like_original=False)


write_structures("structures.dcm")
names, itk_mm, pymedphys_mm, mean_gy = ("relative", "absolute"), [], [], []
for name, offsets_mm in zip(names, (Z_MM - Z_MM[0], Z_MM)):
    write_dose(name, offsets_mm)
    itk_mm.append(SimpleITK.ReadImage(name, imageIO="GDCMImageIO").GetOrigin()[2])
    pymedphys_mm.append(pymedphys.dicom.zyx_and_dose_from_dataset(pydicom.dcmread(name))[0][0][0])
    mean_gy.append(float(dvhcalc.get_dvh("structures.dcm", name, 1).mean))
print("first frame's z: SimpleITK {:g} {:g}".format(*itk_mm) + ", pymedphys {:g} {:g}".format(*pymedphys_mm))
print("mean dose by dicompyler-core: relative {:.1f} Gy, absolute {:.1f} Gy".format(*mean_gy))
assert itk_mm == [-40, -40] and pymedphys_mm == [-40, -80], "pymedphys adds the position twice"
assert abs(mean_gy[0] - 40) < 0.1 and abs(mean_gy[1] - 40) > 10, "and so does dicompyler-core"
PYTHON
echo "as found"
