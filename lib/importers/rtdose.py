"""A predicted dose or spread as DICOM RTDOSE in the patient's frame of reference, to load in any viewer.

The file holds the patient's name and birth date, as every viewer expects; that is why it is not written below
outputs.
"""

import math
from functools import partial
from pathlib import Path

import numpy as np

from lib.cases.case import Case
from lib.errors import UserError
from lib.files import is_below_outputs, replace_file
from lib.importers import dicom_files
from lib.importers.dicom_files import PREDICTION, UID_ROOT, Chain, Dataset, explain_damage, import_pydicom
from lib.importers.dicom_grid import ImageGrid, resample
from lib.importers.dicom_images import read_ct

RT_DOSE_STORAGE = "1.2.840.10008.5.1.4.1.1.481.2"
MAX_STEP_GY = 0.01
PATIENT = ("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
EMPTY = ("PositionReferenceIndicator", "Manufacturer", "OperatorsName", "SeriesNumber")


def write_rtdose(
    path: Path, dose_gy: np.ndarray, case: Case, patient_folder: Path, *, description: str, method: str
) -> Path:
    """Write `dose_gy` [D,H,W] on the grid of `case` as RTDOSE to `path`, whole or not at all; returns it.

    path            of the files there only an earlier prediction is replaced
    case            as lib.importers.dicom_rt made it; its CT must be the folder's
    patient_folder  the patient's DICOM folder: gives identity, frame of reference and references
    description     what it is, such as "dose" or "spread of 8 samples"; with `method` in SeriesDescription
    The step between stored values is at most 0.01 Gy. Raises a UserError.
    """
    pydicom = import_pydicom()
    if is_below_outputs(path):
        private = "it would hold the patient's name, which must not lie below outputs"
        raise UserError(f"{path} is not written: {private}")
    if path.exists() and not holds_prediction(path):
        raise UserError(f"{path} is not written: it exists already; name another file")
    title = f"{PREDICTION} {method}: {description}"
    if len(title) > 64 or not title.isprintable() or "\\" in title:
        rule = "at most 64 printable characters, no backslash"
        raise UserError(f"{title!r} cannot be a SeriesDescription: {rule}")
    chain = dicom_files.read_chain(patient_folder)
    check_ct(case, chain, path)
    stored, step_gy = encode(np.asarray(dose_gy, np.float64), case.shape, path)
    ds = pydicom.Dataset()
    with explain_damage(chain.slices[0].name):
        fill_identity(ds, chain, title)
        fill_references(ds, chain)
    fill_grid(ds, case, stored, step_gy)
    with replace_file(path) as temporary:
        pydicom.dcmwrite(temporary, ds, enforce_file_format=True)
    return path


def holds_prediction(path: Path) -> bool:
    """Whether a file is a dose that this project wrote."""
    try:
        with explain_damage(path.name):
            ds = dicom_files.read_file(path, path.name)
            return ds is not None and dicom_files.kind_of(ds) == "predicted dose"
    except UserError:
        return False


def check_ct(case: Case, chain: Chain, path: Path) -> None:
    """The CT of the folder must be the case's, voxel by voxel, or it is another patient's."""
    ct_hu, grid = read_ct(chain.slices, "the patient's folder")
    here_hu = resample(ct_hu, grid, ImageGrid(case.origin_mm, case.spacing_mm, case.shape))
    if abs(here_hu - case.ct_hu).max() > 1:
        raise UserError(f"{path} is not written: the CT of the patient's folder is not that of the case")


def encode(dose_gy: np.ndarray, shape: tuple[int, ...], path: Path) -> tuple[np.ndarray, float]:
    """uint16 [D,H,W] and the step in Gy, a decimal of at most 16 characters (VR DS)."""
    if dose_gy.shape != tuple(shape) or not np.isfinite(dose_gy).all() or dose_gy.min() < 0:
        reason = "the dose has another shape than the case, or negative or no numbers"
        raise UserError(f"{path} is not written: {reason}")
    step_gy = max(1e-6, math.ceil(dose_gy.max() / 65535 * 1e6) / 1e6)
    if step_gy > MAX_STEP_GY:
        raise UserError(f"{path} is not written: {dose_gy.max():.0f} Gy is not a dose of a plan")
    return np.rint(dose_gy / step_gy).astype("<u2"), step_gy


def fill_identity(ds: Dataset, chain: Chain, title: str) -> None:
    """Patient, study, series, equipment and frame of reference, from the CT and with new UIDs.

    By UID_ROOT and `title` the import knows that it is no plan's dose.
    """
    ct, new_uid = chain.slices[0].ds, partial(import_pydicom().uid.generate_uid, UID_ROOT)
    for keyword in (*PATIENT, *STUDY):
        if keyword in ct or keyword != "SpecificCharacterSet":
            setattr(ds, keyword, ct.get(keyword))
    for keyword in EMPTY:
        setattr(ds, keyword, None)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = RT_DOSE_STORAGE, new_uid(), new_uid()
    ds.FrameOfReferenceUID = dicom_files.need(ct, "FrameOfReferenceUID")
    ds.Modality, ds.InstanceNumber = "RTDOSE", 1
    ds.SeriesDescription = ds.DoseComment = title
    ds.InstanceCreatorUID = UID_ROOT.rstrip(".")


def fill_references(ds: Dataset, chain: Chain) -> None:
    """The plan (or the one to which the planned dose refers), the structure set and the CT slices.

    ReferencedStructureSetSequence belongs to the RT DVH module, which would then demand DVHs.
    """

    def item(**tags: object) -> Dataset:
        item = type(ds)()
        item.update(tags)
        return item

    def reference(to: Dataset, **tags: object) -> Dataset:
        return item(ReferencedSOPClassUID=to.SOPClassUID, ReferencedSOPInstanceUID=to.SOPInstanceUID, **tags)

    if chain.plan:
        ds.ReferencedRTPlanSequence = [reference(chain.plan.ds)]
    elif chain.doses[0].ds.get("ReferencedRTPlanSequence"):
        ds.ReferencedRTPlanSequence = chain.doses[0].ds.ReferencedRTPlanSequence
    ds.ReferencedImageSequence = [reference(file.ds) for file in chain.slices]
    code = item(CodeValue="113076", CodingSchemeDesignator="DCM", CodeMeaning="Segmentation")
    ds.ReferencedInstanceSequence = [reference(chain.structures.ds, PurposeOfReferenceCodeSequence=[code])]


def fill_grid(ds: Dataset, case: Case, stored: np.ndarray, step_gy: float) -> None:
    """Image plane, pixels and RT dose modules; frames go from foot to head, so the normal is +z."""

    def decimals(*values: float) -> list[str]:
        return [import_pydicom().valuerep.format_number_as_ds(float(value)) for value in values]

    dz, *pixel_mm = case.spacing_mm
    ds.ImagePositionPatient, ds.ImageOrientationPatient = decimals(*case.origin_mm[::-1]), [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, [ds.SliceThickness] = decimals(*pixel_mm), decimals(dz)
    ds.GridFrameOffsetVector, ds.FrameIncrementPointer = decimals(*dz * np.arange(len(stored))), 0x3004000C
    ds.set_pixel_data(stored, "MONOCHROME2", bits_stored=16, generate_instance_uid=False)
    ds.NumberOfFrames = len(stored)  # also where there is but one
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    [ds.DoseGridScaling] = decimals(step_gy)
