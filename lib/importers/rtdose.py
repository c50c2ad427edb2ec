"""A predicted dose or spread as DICOM RTDOSE in the patient's frame of reference, to load in any viewer.

The file holds the patient's name and birth date, as every viewer expects; that is why it is not written below
outputs.
"""

import math
from pathlib import Path

import numpy as np

from lib.errors import UserError
from lib.files import written_whole
from lib.importers.dicom_files import choose, import_pydicom, need, numbers, read_folder, reading

RT_DOSE_STORAGE = "1.2.840.10008.5.1.4.1.1.481.2"
MAX_STEP_GY = 0.01
PATIENT = ("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")


def write_rtdose(path, dose_gy, case, patient_folder, *, description, method):
    """Write `dose_gy` [D,H,W] on the grid of `case` as RTDOSE to `path`, whole or not at all; returns it.

    case            anything with shape, origin_mm and spacing_mm as lib.importers.dicom_rt made them
    patient_folder  the patient's DICOM folder: gives identity, frame of reference and references
    description     what it is, such as "dose" or "spread of 8 samples"; with `method` in SeriesDescription
    The step between stored values is at most 0.01 Gy. Raises a UserError.
    """
    path, pydicom = Path(path), import_pydicom()
    if "outputs" in path.resolve().parts[:-1]:
        raise UserError(
            f"{path} is not written: it would hold the patient's name, which must not lie below outputs"
        )
    title = f"PREDICTION by {method}: {description}"
    if len(title) > 64 or not title.isprintable() or "\\" in title:
        raise UserError(
            f"{title!r} cannot be a SeriesDescription: at most 64 printable characters, no backslash"
        )
    found = choose(Path(patient_folder), read_folder(Path(patient_folder))[0])
    check_geometry(case, found, path)
    stored, step_gy = encoded(np.asarray(dose_gy, np.float64), case.shape, path)
    ds = pydicom.Dataset()
    with reading(found.slices[0].path):
        fill_identity(ds, found, title, pydicom)
        fill_references(ds, found)
    fill_grid(ds, case, stored, step_gy, pydicom)
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    with written_whole(path) as temporary:
        pydicom.dcmwrite(temporary, ds, enforce_file_format=True)
    return path


def check_geometry(case, found, path):
    """The case's voxels must lie in the CT of the folder, or it is another patient's."""
    with reading(found.slices[0].path):
        first_mm = np.array([numbers(file.ds, "ImagePositionPatient", 3) for file in found.slices])
        ds = found.slices[0].ds
        size_mm = max(numbers(ds, "PixelSpacing", 2)) * max(need(ds, "Rows"), need(ds, "Columns"))
    first_z_mm, last_z_mm = (case.origin_mm[0] + case.spacing_mm[0] * k for k in (0, case.shape[0] - 1))
    margin_mm = case.spacing_mm[0]
    inside = first_mm[:, 2].min() - margin_mm <= first_z_mm <= last_z_mm <= first_mm[:, 2].max() + margin_mm
    if (
        not inside
        or max(abs(case.origin_mm[1] - first_mm[0, 1]), abs(case.origin_mm[2] - first_mm[0, 0])) > size_mm
    ):
        raise UserError(f"{path} is not written: the case does not lie in the CT of the patient's folder")


def encoded(dose_gy, shape, path):
    """uint16 [D,H,W] and the step in Gy, a decimal of at most 16 characters (VR DS)."""
    if dose_gy.shape != tuple(shape) or not np.isfinite(dose_gy).all() or dose_gy.min() < 0:
        raise UserError(
            f"{path} is not written: the dose has another shape than the case, or negative or no numbers"
        )
    step_gy = max(1e-6, math.ceil(dose_gy.max() / 65535 * 1e6) / 1e6)
    if step_gy > MAX_STEP_GY:
        raise UserError(f"{path} is not written: {dose_gy.max():.0f} Gy is not a dose of a plan")
    return np.rint(dose_gy / step_gy).astype("<u2"), step_gy


def fill_identity(ds, found, title, pydicom):
    """Patient, study, series, equipment and frame of reference, from the CT and with new UIDs."""
    ct = found.slices[0].ds
    for keyword in (*PATIENT, *STUDY):
        if keyword in ct or keyword != "SpecificCharacterSet":
            setattr(ds, keyword, ct.get(keyword))
    ds.SOPClassUID, ds.SOPInstanceUID = RT_DOSE_STORAGE, pydicom.uid.generate_uid()
    ds.SeriesInstanceUID = pydicom.uid.generate_uid()
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = need(ct, "FrameOfReferenceUID"), None
    ds.Modality, ds.Manufacturer, ds.OperatorsName, ds.SeriesNumber, ds.InstanceNumber = (
        "RTDOSE",
        None,
        None,
        None,
        1,
    )
    ds.SeriesDescription = ds.DoseComment = title


def fill_references(ds, found):
    """The plan (or the one to which the planned dose refers), the structure set and the CT slices.

    ReferencedStructureSetSequence belongs to the RT DVH module, which would then demand DVHs.
    """
    if found.plan:
        ds.ReferencedRTPlanSequence = [item_for(found.plan.ds, ds)]
    elif found.dose.ds.get("ReferencedRTPlanSequence"):
        ds.ReferencedRTPlanSequence = found.dose.ds.ReferencedRTPlanSequence
    ds.ReferencedImageSequence = [item_for(file.ds, ds) for file in found.slices]
    structures = item_for(found.structures.ds, ds)
    structures.PurposeOfReferenceCodeSequence = [code(ds, "113076", "DCM", "Segmentation")]
    ds.ReferencedInstanceSequence = [structures]


def code(ds, value, scheme, meaning):
    item = type(ds)()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def item_for(target, ds):
    item = type(ds)()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = target.SOPClassUID, target.SOPInstanceUID
    return item


def fill_grid(ds, case, stored, step_gy, pydicom):
    """Image plane, pixels and RT dose modules; frames go from foot to head, so the normal is +z."""

    def decimal(value):
        return pydicom.valuerep.format_number_as_ds(float(value))

    (z, y, x), (dz, dy, dx) = case.origin_mm, case.spacing_mm
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [decimal(v) for v in (x, y, z)], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [decimal(dy), decimal(dx)], decimal(dz)
    ds.GridFrameOffsetVector = [decimal(dz * k) for k in range(len(stored))]
    ds.NumberOfFrames, ds.Rows, ds.Columns = stored.shape
    ds.FrameIncrementPointer = 0x3004000C
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType, ds.DoseGridScaling = (
        "GY",
        "PHYSICAL",
        "PLAN",
        decimal(step_gy),
    )
    ds.PixelData = stored.tobytes()
