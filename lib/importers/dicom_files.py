"""A patient's DICOM files: read, every damage told in a sentence, and those that belong together chosen.

RTDOSE -> RTPLAN -> RTSTRUCT -> CT series and frame of reference, by their UIDs (DICOM PS3.3 C.8.8).
"""

import io
import re
import struct
import warnings
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.errors import UserError

MAX_FILES, MAX_BYTES = 20_000, 2**30
KINDS = ("CT", "RTSTRUCT", "RTDOSE", "RTPLAN")
DEFLATED = "1.2.840.10008.1.2.1.99"
ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    OSError,
    EOFError,
    MemoryError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)  # what pydicom raises on damage, beside its own


class File(NamedTuple):
    path: Path
    ds: object  # pydicom.Dataset
    uid: str  # SOPInstanceUID


def import_pydicom():
    try:
        import pydicom
        import pydicom.errors
        import pydicom.filereader
    except ImportError:
        raise UserError("reading DICOM needs pydicom; install it with: pip install -e '.[dicom]'") from None
    pydicom.config.logger.setLevel("CRITICAL")  # like pydicom's warnings, its log quotes values
    return pydicom


def read_errors():
    errors = import_pydicom().errors
    return (*ERRORS, errors.InvalidDicomError, errors.BytesLengthException)


@contextmanager
def reading(path):
    """What pydicom raises becomes one sentence on `path`, without values, which may be the patient's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            yield
    except UserError:
        raise
    except AttributeError as error:
        name = (
            error.name if (error.name or "a")[0].isupper() else "a tag"
        )  # else it is an attribute of pydicom's
        raise UserError(
            f"{path.name}: {name} is missing, empty or not what it must be; export again"
        ) from None
    except read_errors() as error:
        raise UserError(
            f"{path.name} is damaged ({type(error).__name__}); export the patient again"
        ) from None


def read_folder(folder):
    """(modality -> Files, what else lies there -> how often) of all files below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not paths or len(paths) > MAX_FILES:
        raise UserError(f"{folder} holds {len(paths)} files; a patient has between 1 and {MAX_FILES}")
    files, others = {kind: [] for kind in KINDS}, Counter()
    for path in paths:
        with reading(path):
            ds = read_file(path)
            modality = "not DICOM" if ds is None else str(ds.get("Modality", "DICOM without modality"))
            if modality in files:
                files[modality].append(File(path, ds, text(ds, "SOPInstanceUID")))
            else:
                others[modality if re.fullmatch("[A-Za-z ]{1,24}", modality) else "unknown modality"] += 1
    return files, dict(others)


def read_file(path):
    """The pydicom Dataset in `path`, or None where a file does not even claim to be DICOM."""
    pydicom = import_pydicom()
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path.name} is larger than {MAX_BYTES} bytes; no CT slice, plan or dose is")
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        if path.suffix.lower() in (".dcm", ".ima") or path.suffix[1:].isdigit():
            raise UserError(f"{path.name} is not a DICOM file in spite of its name; export the patient again")
        return None
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == DEFLATED:  # could inflate to any size
        raise UserError(f"{path.name} is deflated; export it uncompressed")
    return pydicom.dcmread(io.BytesIO(content))  # from memory, so that a false length cannot allocate much


def need(ds, keyword):
    """The value of a tag; one that is missing, empty or not readable is named by an AttributeError."""
    try:
        value = getattr(ds, keyword)
    except read_errors():
        value = None
    if value is None or value == "":
        raise AttributeError(name=keyword)
    return value


def text(ds, keyword):
    return str(need(ds, keyword)).strip()


def numbers(ds, keyword, count=None):
    """float64 [count] of a tag; one that holds anything but finite numbers is named by an AttributeError."""
    try:
        values = np.atleast_1d(np.asarray(need(ds, keyword), np.float64))
    except (ValueError, TypeError):
        values = np.array(np.nan)
    if values.ndim != 1 or not np.isfinite(values).all() or count not in (None, len(values)):
        raise AttributeError(name=keyword)
    return values


def number(ds, keyword):
    return float(numbers(ds, keyword, 1)[0])


def items(ds, keyword):
    """The items of a sequence, none if it is missing; one that swallowed its neighbours is refused."""
    found = list(ds.get(keyword) or [])
    if any(tag >> 16 == 0xFFFE for item in found for tag in item.keys()):
        raise AttributeError(name=keyword)
    return found


def reference(ds, *keywords):
    """The ReferencedSOPInstanceUID at the end of a path of sequences, or None."""
    for keyword in keywords:
        items = ds.get(keyword)
        if not items:
            return None
        ds = items[0]
    return str(ds.get("ReferencedSOPInstanceUID") or "") or None


# --- which files belong together ---


class Chain(NamedTuple):
    """Files that refer to each other; `plan` may be None."""

    dose: File
    plan: File | None
    structures: File
    slices: list


def choose(folder, files):
    """The Chain in a folder's files; raises if one is lacking, foreign, or there is a choice."""
    dose = choose_dose(folder, files)
    with reading(dose.path):
        plan_uid = reference(dose.ds, "ReferencedRTPlanSequence")
        structures_uid = reference(dose.ds, "ReferencedStructureSetSequence")
    plan = pick(folder, "RTPLAN", files["RTPLAN"], plan_uid) if files["RTPLAN"] else None
    if plan:
        with reading(plan.path):
            structures_uid = reference(plan.ds, "ReferencedStructureSetSequence") or structures_uid
    structures = pick(folder, "RTSTRUCT", files["RTSTRUCT"], structures_uid)
    slices = pick_series(folder, files["CT"], structures)
    check_same_patient([slices[0], structures, dose, *([plan] if plan else []), *slices[1:]])
    with reading(dose.path):
        frame_uid = text(dose.ds, "FrameOfReferenceUID")
    if frame_uid != text(slices[0].ds, "FrameOfReferenceUID"):
        raise UserError(
            f"{dose.path.name} has another FrameOfReferenceUID than the CT: it is of another scan"
        )
    return Chain(dose, plan, structures, slices)


def choose_dose(folder, files):
    """The dose of a whole plan rather than of a beam; of several the only one whose plan is here."""
    plans = {plan.uid for plan in files["RTPLAN"]}
    whole, linked = [], []
    for file in files["RTDOSE"]:
        with reading(file.path):
            whole += [file] if file.ds.get("DoseSummationType") == "PLAN" else []
            linked += (
                [file] if file in whole and reference(file.ds, "ReferencedRTPlanSequence") in plans else []
            )
    return pick(folder, "RTDOSE", linked if len(linked) == 1 else whole or files["RTDOSE"], None)


def pick(folder, kind, files, uid):
    """The file with SOPInstanceUID `uid`, or the only one if nothing refers to one."""
    if not files:
        raise UserError(f"{folder.name} holds no {kind}; export it too")
    fitting = [file for file in files if uid in (None, file.uid)]
    if not fitting:
        raise UserError(
            f"{folder.name}: no {kind} is the one that the other files refer to; it has {listed(files)}"
        )
    if len(fitting) > 1:
        raise UserError(
            f"{folder.name} holds several {kind}: {listed(fitting)}; leave one of them in the folder"
        )
    return fitting[0]


def listed(files):
    return ", ".join(file.path.name for file in files[:6]) + (" ..." if len(files) > 6 else "")


def pick_series(folder, slices, structures):
    """The CT slices of the series to which the RTSTRUCT refers, all of them and no other."""
    with reading(structures.path):
        frames = items(
            structures.ds, "ReferencedFrameOfReferenceSequence"
        )  # optional; then there must be one series
        series = [
            s
            for frame in frames
            for study in items(frame, "RTReferencedStudySequence")
            for s in items(study, "RTReferencedSeriesSequence")
        ]
        wanted = {text(s, "SeriesInstanceUID") for s in series}
        images = {
            text(i, "ReferencedSOPInstanceUID") for s in series for i in items(s, "ContourImageSequence")
        }
    found = {}
    for file in slices:
        with reading(file.path):
            found.setdefault(text(file.ds, "SeriesInstanceUID"), []).append(file)
            text(file.ds, "FrameOfReferenceUID")
    fitting = [files for uid, files in found.items() if uid in wanted or not wanted]
    if len(fitting) != 1:
        raise UserError(
            f"{folder.name} holds {len(found)} CT series, of which {structures.path.name} refers to "
            f"{len(fitting)}: {listed([files[0] for files in found.values()]) or 'none'}; it must be one"
        )
    lacking = images - {file.uid for file in fitting[0]}
    if lacking:
        raise UserError(
            f"{folder.name}: {len(lacking)} CT slices are missing to which {structures.path.name} refers"
        )
    return fitting[0]


def check_same_patient(files):
    for file in files:
        with reading(file.path):
            if str(file.ds.get("PatientID") or "") != str(files[0].ds.get("PatientID") or ""):
                raise UserError(f"{file.path.name} has another PatientID than {files[0].path.name}")
