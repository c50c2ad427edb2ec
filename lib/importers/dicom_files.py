"""A patient's DICOM files: read, every damage told in a sentence, and those that belong together chosen.

RTDOSE -> RTPLAN -> RTSTRUCT -> CT series and frame of reference, by their UIDs (DICOM PS3.3 C.8.8).
"""

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lib.errors import UserError
from lib.files import DAMAGED_NPZ

Dataset = Any  # pydicom.Dataset; pydicom is needed only where DICOM is read
MAX_FILES, MAX_BYTES = 20_000, 2**30
KINDS = ("CT", "RTSTRUCT", "RTDOSE", "RTPLAN")
DEFLATED = "1.2.840.10008.1.2.1.99"


class File(NamedTuple):
    """A DICOM file: its name without folders, its content, its SOPInstanceUID."""

    name: str
    ds: Dataset
    uid: str


def import_pydicom() -> ModuleType:
    """pydicom, silenced: like its warnings, its log quotes values; a UserError where it is not installed."""
    try:
        import pydicom
    except ImportError:
        raise UserError("reading DICOM needs pydicom; install it with: pip install -e '.[dicom]'") from None
    pydicom.config.logger.setLevel("CRITICAL")
    return pydicom


def damage() -> tuple[type[Exception], ...]:
    """What pydicom raises on damage."""
    errors = import_pydicom().errors
    return *DAMAGED_NPZ, LookupError, AssertionError, errors.InvalidDicomError, errors.BytesLengthException


@contextmanager
def explain_damage(name: str) -> Iterator[None]:
    """What pydicom raises becomes one sentence on the file `name`, without values, which may be private."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            yield
    except AttributeError as error:  # of pydicom's own, or a tag, whose name begins with a capital
        tag = error.name if (error.name or "a")[0].isupper() else "a tag"
        raise UserError(f"{name}: {tag} is missing, empty or not what it must be; export again") from None
    except damage() as error:
        raise UserError(f"{name} is damaged ({type(error).__name__}); export the patient again") from None


def read_folder(folder: Path) -> tuple[dict[str, list[File]], dict[str, int]]:
    """(modality -> Files, what else lies there -> how often) of all files below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not paths or len(paths) > MAX_FILES:
        raise UserError(f"{folder} holds {len(paths)} files; a patient has between 1 and {MAX_FILES}")
    files, others = {kind: [] for kind in KINDS}, Counter()
    for path in paths:
        with explain_damage(path.name):
            ds = read_file(path)
            modality = "not DICOM" if ds is None else str(ds.get("Modality", "DICOM without modality"))
            if modality in files:
                files[modality].append(File(path.name, ds, text(ds, "SOPInstanceUID")))
            else:
                others[modality if re.fullmatch("[A-Za-z ]{1,24}", modality) else "unknown modality"] += 1
    return files, dict(others)


def read_file(path: Path) -> Dataset | None:
    """The content of `path`, or None where a file does not even claim to be DICOM."""
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


# --- values of tags ---


def need(ds: Dataset, keyword: str) -> Any:
    """The value of a tag; one that is missing, empty or not readable is named by an AttributeError."""
    try:
        value = getattr(ds, keyword)
    except damage():
        value = None
    if value is None or value == "":
        raise AttributeError(name=keyword)
    return value


def text(ds: Dataset, keyword: str) -> str:
    """The value of a tag as text; raises as `need` does."""
    return str(need(ds, keyword)).strip()


def numbers(ds: Dataset, keyword: str, count: int | None = None) -> np.ndarray:
    """float64 [count] of a tag; one that holds anything but finite numbers is named by an AttributeError."""
    try:
        values = np.atleast_1d(np.asarray(need(ds, keyword), np.float64))
    except (ValueError, TypeError):
        values = np.array(np.nan)
    if values.ndim != 1 or not np.isfinite(values).all() or count not in (None, len(values)):
        raise AttributeError(name=keyword)
    return values


def number(ds: Dataset, keyword: str) -> float:
    """The one finite number of a tag; raises as `numbers` does."""
    return float(numbers(ds, keyword, 1)[0])


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none if it is missing; one that swallowed its neighbours is refused."""
    sequence = list(ds.get(keyword) or [])
    if any(tag >> 16 == 0xFFFE for item in sequence for tag in item.keys()):
        raise AttributeError(name=keyword)
    return sequence


def optional(file: File, keyword: str) -> str:
    """The value of a tag as text, "" where it is missing."""
    with explain_damage(file.name):
        return str(file.ds.get(keyword) or "")


def reference(file: File, keyword: str) -> str | None:
    """The SOPInstanceUID to which a sequence's first item refers, or None."""
    with explain_damage(file.name):
        sequence = file.ds.get(keyword)
        return str(sequence[0].get("ReferencedSOPInstanceUID") or "") or None if sequence else None


# --- which files belong together ---


class Chain(NamedTuple):
    """Files that refer to each other; `plan` may be None. `others` counts what else lies in the folder."""

    dose: File
    plan: File | None
    structures: File
    slices: list[File]
    others: dict[str, int]


def read_chain(folder: Path) -> Chain:
    """The Chain in a patient's folder; a UserError if a file is damaged, lacking, foreign or ambiguous."""
    files, others = read_folder(folder)
    dose, plan = choose_dose(folder, files), None
    structures_uid = reference(dose, "ReferencedStructureSetSequence")
    if files["RTPLAN"]:
        plan = pick(folder, "RTPLAN", files["RTPLAN"], reference(dose, "ReferencedRTPlanSequence"))
        structures_uid = reference(plan, "ReferencedStructureSetSequence") or structures_uid
    structures = pick(folder, "RTSTRUCT", files["RTSTRUCT"], structures_uid)
    slices = pick_series(folder, files["CT"], structures)
    for file in (structures, dose, *([plan] if plan else []), *slices[1:]):
        if optional(file, "PatientID") != optional(slices[0], "PatientID"):
            raise UserError(f"{file.name} has another PatientID than {slices[0].name}")
    with explain_damage(dose.name):
        frame_uid = text(dose.ds, "FrameOfReferenceUID")
    if frame_uid != text(slices[0].ds, "FrameOfReferenceUID"):
        raise UserError(f"{dose.name} has another FrameOfReferenceUID than the CT: it is of another scan")
    return Chain(dose, plan, structures, slices, others)


def choose_dose(folder: Path, files: dict[str, list[File]]) -> File:
    """The dose of a whole plan rather than of a beam; of several the only one whose plan is here."""
    plans = {plan.uid for plan in files["RTPLAN"]}
    whole = [file for file in files["RTDOSE"] if optional(file, "DoseSummationType") == "PLAN"]
    linked = [file for file in whole if reference(file, "ReferencedRTPlanSequence") in plans]
    return pick(folder, "RTDOSE", linked if len(linked) == 1 else whole or files["RTDOSE"])


def pick(folder: Path, kind: str, files: list[File], uid: str | None = None) -> File:
    """The file with SOPInstanceUID `uid`, or the only one if nothing refers to one."""
    if not files:
        raise UserError(f"{folder.name} holds no {kind}; export it too")
    fitting = [file for file in files if uid in (None, file.uid)]
    if not fitting:
        why = f"no {kind} is the one that the other files refer to"
        raise UserError(f"{folder.name}: {why}; it has {names_of(files)}")
    if len(fitting) > 1:
        several = names_of(fitting)
        raise UserError(f"{folder.name} holds several {kind}: {several}; leave one of them in the folder")
    return fitting[0]


def names_of(files: list[File]) -> str:
    """The names of the first six files, for a sentence."""
    return ", ".join(file.name for file in files[:6]) + (" ..." if len(files) > 6 else "")


def pick_series(folder: Path, slices: list[File], structures: File) -> list[File]:
    """The CT slices of the series to which the RTSTRUCT refers, all of them and no other."""
    series_uids, images = referenced_images(structures)
    series = {}
    for file in slices:
        with explain_damage(file.name):
            uid, _ = text(file.ds, "SeriesInstanceUID"), text(file.ds, "FrameOfReferenceUID")
            series.setdefault(uid, []).append(file)
    fitting = [files for uid, files in series.items() if uid in series_uids or not series_uids]
    if len(fitting) != 1:
        first = names_of([files[0] for files in series.values()]) or "none"
        raise UserError(
            f"{folder.name} holds {len(series)} CT series, of which {structures.name} refers to "
            f"{len(fitting)}: {first}; it must be one"
        )
    missing = len(images - {file.uid for file in fitting[0]})
    if missing:
        raise UserError(f"{folder.name}: {missing} CT slices are missing to which {structures.name} refers")
    return fitting[0]


def referenced_images(structures: File) -> tuple[set[str], set[str]]:
    """(UIDs of series, UIDs of images) to which an RTSTRUCT refers; both may be empty, as it need not."""
    with explain_damage(structures.name):
        frames = items(structures.ds, "ReferencedFrameOfReferenceSequence")
        studies = [study for frame in frames for study in items(frame, "RTReferencedStudySequence")]
        series = [one for study in studies for one in items(study, "RTReferencedSeriesSequence")]
        images = [image for one in series for image in items(one, "ContourImageSequence")]
        return (
            {text(one, "SeriesInstanceUID") for one in series},
            {text(image, "ReferencedSOPInstanceUID") for image in images},
        )
