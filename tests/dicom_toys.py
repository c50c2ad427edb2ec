"""Made-up patients as DICOM-RT folders: what tests read back, bend and damage."""

import io
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds
from skimage.measure import find_contours

from lib.importers.dicom_rt import read_patient

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "RTDOSE": "1.2.840.10008.5.1.4.1.1.481.2",
    "RTPLAN": "1.2.840.10008.5.1.4.1.1.481.5",
}
PRIVATE = {
    "PatientName": "Doe^Jane^Secretia",
    "PatientID": "MRN-8675309",
    "PatientBirthDate": "19470311",
    "PatientSex": "F",
    "StudyDate": "20190823",
    "StudyTime": "101500",
    "ReferringPhysicianName": "Grey^Meredith",
}
POSITIONS = {"HFS": (1, 1), "HFP": (-1, -1), "FFS": (-1, 1), "FFP": (1, -1)}  # directions of columns and rows
PIXELS = b"\xe0\x7f\x10\x00OW\x00\x00"  # tag, VR and reserved bytes of PixelData; four bytes of length follow
NONSENSE = (("LO", "x"), ("US", 0), ("DS", "-1"), ("DS", "1e30"), ("DS", "nan"), ("UI", "1.2.3"), ("CS", ""))
ROI_NAMES = {"Femur_L": "FemoralHead_L", "LeftParotid": "Parotid_L", "Brainstem": "BRAIN STEM"}


def read_case(folder):
    """For make_cohort, whose processes need a function of a module."""
    return read_patient(folder)[0]


def write_patient(
    case, folder, *, position="HFS", reverse=False, absolute=False, dose=None, names=None, edit=None
):
    """`case` as a folder of CT slices, RTSTRUCT, RTDOSE and RTPLAN; returns the folder.

    position   how the patient lies, a key of POSITIONS, or "turned": columns run front to back
    reverse    number the slices, and order the dose's frames, from head to foot
    absolute   GridFrameOffsetVector in patient coordinates
    dose       (dose_gy, origin_mm, spacing_mm) on a grid of its own
    names      protocol name -> ROIName; default: ROI_NAMES
    edit       function (kind, number, dataset) that changes a dataset before it is written; False omits it
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    named = (*CLASSES, "series", "frame", "study")
    uids = {name: generate_uid(entropy_srcs=[case.case_id, name])[:50] + "1" for name in named}
    slices = ct_slices(case, position, uids)
    numbers = range(len(slices))[::-1] if reverse else range(len(slices))
    files = [("CT", k, slices[k]) for k in numbers]
    files.append(("RTSTRUCT", 0, structure_set(case, uids, slices, ROI_NAMES if names is None else names)))
    files.append(
        (
            "RTDOSE",
            0,
            rt_dose(
                dose or (case.dose_gy, case.origin_mm, case.spacing_mm), position, reverse, absolute, uids
            ),
        )
    )
    files.append(("RTPLAN", 0, rt_plan(case, uids)))
    for i, (kind, k, ds) in enumerate(files):
        if edit is None or edit(kind, k, ds) is not False:
            write(folder / f"{kind.lower()}_{i:03d}.dcm", ds)
    return folder


def write(path, ds):
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def edited(path, change):
    """The file with its dataset changed."""
    ds = pydicom.dcmread(path)
    change(ds)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def beam_doses(folder, n):
    """Instead of the planned dose those of the plan's `n` beams, which add up to it; returns their paths."""
    [whole], [plan] = folder.glob("rtdose*"), folder.glob("rtplan*")
    ds = pydicom.dcmread(whole)
    stored = ds.pixel_array.astype("<u2")
    parts = [stored // (n + 1)] * (n - 1)
    parts.append(stored - sum(parts))
    beams = [
        item(BeamNumber=k, TreatmentDeliveryType="TREATMENT" if k <= n else "SETUP") for k in range(1, n + 2)
    ]
    references = [item(ReferencedBeamNumber=beam.BeamNumber) for beam in beams]

    def add_beams(ds):
        ds.BeamSequence = beams
        ds.FractionGroupSequence = [item(FractionGroupNumber=1, ReferencedBeamSequence=references)]

    edited(plan, add_beams)
    paths = [folder / f"beam_{k}.dcm" for k in range(1, n + 1)]
    for k, (path, part) in enumerate(zip(paths, parts), 1):
        ds.SOPInstanceUID, ds.DoseSummationType, ds.PixelData = f"1.2.826.{k}", "BEAM", part.tobytes()
        group = item(ReferencedFractionGroupNumber=1, ReferencedBeamSequence=references[k - 1 : k])
        ds.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence = [group]
        ds.save_as(path)
    whole.unlink()
    return paths


def ds_number(value):
    return format_number_as_ds(float(value))


def common(kind, uids, series=None, uid=None):
    ds = Dataset()
    for keyword, value in PRIVATE.items():
        setattr(ds, keyword, value)
    ds.Modality, ds.SOPClassUID, ds.SOPInstanceUID = kind, CLASSES[kind], uid or uids[kind]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids["study"], series or uids[kind] + ".1"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uids["frame"], ""
    ds.Manufacturer = ds.StudyID = ds.AccessionNumber = ds.OperatorsName = ""
    ds.SeriesNumber = ds.InstanceNumber = 1
    return ds


def item(**values):
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def laid_out(volume, origin_mm, spacing_mm, position):
    """(frames as the patient lies, ImageOrientationPatient, (x, y) of pixel 0, PixelSpacing)."""
    if position == "turned":
        return volume.transpose(0, 2, 1), [0, 1, 0, 1, 0, 0], (origin_mm[2], origin_mm[1]), spacing_mm[:0:-1]
    x, y = POSITIONS[position]
    ends = [o + s * (n - 1) for o, s, n in zip(origin_mm, spacing_mm, volume.shape)]
    first = (origin_mm[2] if x > 0 else ends[2], origin_mm[1] if y > 0 else ends[1])
    return volume[:, ::y, ::x], [x, 0, 0, 0, y, 0], first, spacing_mm[1:]


def fill_pixels(ds, stored, signed=0):
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", signed
    ds.BitsAllocated = ds.BitsStored = 8 * stored.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.PixelData = np.ascontiguousarray(stored).tobytes()


def ct_slices(case, position, uids):
    """One dataset per slice; the rescale differs between slices, as it may."""
    frames, orientation, first, spacing = laid_out(case.ct_hu, case.origin_mm, case.spacing_mm, position)
    slices = []
    for k, frame in enumerate(frames):
        ds = common("CT", uids, uids["series"], f"{uids['CT']}.{k + 1}")
        z = case.origin_mm[0] + k * case.spacing_mm[0]
        ds.ImageType, ds.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "120"
        ds.InstanceNumber, ds.AcquisitionNumber = k + 1, 1
        ds.PatientPosition = position if position in POSITIONS else "HFS"
        ds.ImagePositionPatient = [ds_number(v) for v in (*first, z)]
        ds.ImageOrientationPatient, ds.PixelSpacing = orientation, [ds_number(s) for s in spacing]
        ds.SliceThickness = ds_number(case.spacing_mm[0])
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024" if k % 2 else "-2048", "HU"
        fill_pixels(ds, (frame.astype(int) - int(ds.RescaleIntercept)).astype("<u2"))
        slices.append(ds)
    return slices


def structure_set(case, uids, slices, names):
    ds = common("RTSTRUCT", uids)
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime = "toy", "20190823", "101500"
    ds.ApprovalStatus = "UNAPPROVED"
    images = [
        item(ReferencedSOPClassUID=CLASSES["CT"], ReferencedSOPInstanceUID=s.SOPInstanceUID) for s in slices
    ]
    series = item(SeriesInstanceUID=uids["series"], ContourImageSequence=images)
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=uids["study"],
        RTReferencedSeriesSequence=[series],
    )
    ds.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=uids["frame"], RTReferencedStudySequence=[study])
    ]
    structures = {"BODY": case.dose_mask, **{name: case.masks[name] for name in sorted(case.masks)}}
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for n, (name, mask) in enumerate(structures.items(), 1):
        ds.StructureSetROISequence.append(
            item(
                ROINumber=n,
                ReferencedFrameOfReferenceUID=uids["frame"],
                ROIName=names.get(name, name),
                ROIGenerationAlgorithm="MANUAL",
            )
        )
        ds.ROIContourSequence.append(
            item(ReferencedROINumber=n, ContourSequence=contours(mask, case, images))
        )
        kind = "EXTERNAL" if name == "BODY" else "PTV" if name.startswith("PTV") else "ORGAN"
        ds.RTROIObservationsSequence.append(
            item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType=kind, ROIInterpreter="")
        )
    return ds


def contours(mask, case, images):
    """ContourSequence items of a mask, slice by slice, holes as contours of their own."""
    items = []
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        z = case.origin_mm[0] + k * case.spacing_mm[0]
        for line in find_contours(np.pad(mask[k], 1).astype(float), 0.5):
            y, x = ((line[:-1] - 1) * case.spacing_mm[1:] + case.origin_mm[1:]).T
            points = np.stack([x, y, np.full(len(x), z)], axis=1)
            items.append(
                item(
                    ContourImageSequence=[images[k]],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{v:.3f}" for v in points.ravel()],
                )
            )
    return items


def rt_dose(dose, position, reverse, absolute, uids):
    """Dose in steps of 0.01 Gy; `reverse` writes the highest frame first."""
    dose_gy, origin_mm, spacing_mm = dose
    frames, orientation, first, spacing = laid_out(dose_gy, origin_mm, spacing_mm, position)
    z_mm = origin_mm[0] + np.arange(len(frames)) * spacing_mm[0]
    if reverse:
        frames, z_mm = frames[::-1], z_mm[::-1]
    normal_z = np.cross(orientation[:3], orientation[3:])[2]
    ds = common("RTDOSE", uids)
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType, ds.DoseGridScaling = "GY", "PHYSICAL", "PLAN", "0.01"
    ds.ImagePositionPatient = [ds_number(v) for v in (*first, z_mm[0])]
    ds.ImageOrientationPatient, ds.PixelSpacing = orientation, [ds_number(s) for s in spacing]
    ds.SliceThickness = ds_number(spacing_mm[0])
    ds.NumberOfFrames, ds.FrameIncrementPointer = len(frames), 0x3004000C
    ds.GridFrameOffsetVector = [ds_number(v) for v in (z_mm if absolute else (z_mm - z_mm[0]) * normal_z)]
    ds.ReferencedRTPlanSequence = [
        item(ReferencedSOPClassUID=CLASSES["RTPLAN"], ReferencedSOPInstanceUID=uids["RTPLAN"])
    ]
    fill_pixels(ds, np.rint(frames * 100).astype("<u2"))
    return ds


def rt_plan(case, uids):
    ds = common("RTPLAN", uids)
    ds.RTPlanLabel, ds.RTPlanDate, ds.RTPlanTime, ds.RTPlanGeometry = "toy", "20190823", "101500", "PATIENT"
    ds.ApprovalStatus = "UNAPPROVED"
    numbers = {name: n for n, name in enumerate(["BODY", *sorted(case.masks)], 1)}
    ds.DoseReferenceSequence = [
        item(
            DoseReferenceNumber=k,
            DoseReferenceStructureType="VOLUME",
            ReferencedROINumber=numbers[name],
            DoseReferenceType="TARGET",
            TargetPrescriptionDose=ds_number(gy),
        )
        for k, (name, gy) in enumerate(case.prescription_gy.items(), 1)
    ]
    ds.ReferencedStructureSetSequence = [
        item(ReferencedSOPClassUID=CLASSES["RTSTRUCT"], ReferencedSOPInstanceUID=uids["RTSTRUCT"])
    ]
    return ds


# --- damage: what a broken disk, a cut transfer or a bad exporter leave behind ---


def damage(content, rng):
    """(what was done, the damaged bytes, whether pixel values were touched) of one file's bytes."""
    kind = rng.choice(["flip", "flip", "pixel flip", "cut", "delete", "delete", "change", "change"])
    start = content.find(PIXELS) + len(PIXELS) + 4 if PIXELS in content else len(content)
    if kind == "pixel flip" and start == len(content):
        kind = "flip"
    if kind.endswith("flip"):
        within = (start, len(content)) if kind == "pixel flip" else (128, start)
        return flipped(content, rng, *within) + (kind == "pixel flip",)
    if kind == "cut":
        at = int(rng.integers(0, len(content)))
        return f"cut at {at} of {len(content)}", content[:at], False
    return bent(content, rng, kind) + (False,)


def flipped(content, rng, start, stop):
    """One to three bits between two positions."""
    content, places = bytearray(content), rng.integers(start, stop, rng.integers(1, 4))
    for place in places:
        content[place] ^= 1 << rng.integers(8)
    return f"flipped bits at {sorted(places.tolist())}", bytes(content)


def bent(content, rng, kind):
    """One element at any depth deleted, or its value and type replaced by nonsense."""
    ds = pydicom.dcmread(io.BytesIO(content))
    places = list(elements(ds))
    parent, tag = places[rng.integers(len(places))]
    what = f"{kind} {pydicom.datadict.keyword_for_tag(tag)}"
    if kind == "delete":
        del parent[tag]
    else:
        vr, value = NONSENSE[rng.integers(len(NONSENSE))]
        parent[tag] = pydicom.DataElement(tag, vr, value, validation_mode=pydicom.config.IGNORE)
        what += f" to {vr} {value!r}"
    written = io.BytesIO()
    pydicom.dcmwrite(written, ds, enforce_file_format=False)
    return what, written.getvalue()


def elements(ds):
    """(dataset, tag) of every element, each sequence counted once and one of its items looked into."""
    for element in ds:
        yield ds, element.tag
        if element.VR == "SQ" and len(element.value):
            yield from elements(element.value[len(element.value) // 2])
