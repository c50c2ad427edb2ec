"""A patient's DICOM files: read, every damage told in a sentence, and those that belong together chosen.

RTDOSE -> RTPLAN -> RTSTRUCT -> CT series and frame of reference, by their UIDs (DICOM PS3.3 C.8.8).
"""

import io
import os
import re
import warnings
from collections import Counter, defaultdict
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
IMAGES = "1.2.840.10008.5.1.4.1.1."
CLASSES = {  # SOPClassUID, which is right where Modality is not, -> kind
    IMAGES + "2": "CT",
    IMAGES + "2.1": "enhanced CT",
    IMAGES + "2.2": "enhanced CT",
    IMAGES + "7": "secondary capture",
    IMAGES + "481.2": "RTDOSE",
    IMAGES + "481.3": "RTSTRUCT",
    IMAGES + "481.5": "RTPLAN",
    IMAGES + "481.8": "RTPLAN",  # of ions
}
IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99"
INSTEAD = {  # kind -> what may lie there instead, and what to do then
    "RTDOSE": ("predicted dose", "export the plan's dose too"),
    "CT": ("enhanced CT", "multi-frame files are not supported yet; export single slices (CT Image Storage)"),
}
WHOLE = ("PLAN", "MULTI_PLAN")  # DoseSummationType of a dose of all beams
UID_ROOT = "2.25.100024279102817142078670145393106942425."  # of what this project writes
PREDICTION = "PREDICTION by"  # how its series descriptions begin


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


def read_folder(folder: Path, pseudonym: str) -> tuple[dict[str, list[File]], Counter]:
    """(kind -> Files, what else lies there -> how often) of all files below `folder`; with a pseudonym a file
    is called by its number in the order of the paths, because its name may be the patient's."""
    files, others, first_of = {kind: [] for kind in KINDS}, Counter(), {}
    paths = find_paths(folder)
    if not 0 < len(paths) <= MAX_FILES:
        of = pseudonym or folder.name
        raise UserError(f"{of} holds {len(paths)} files; a patient has between 1 and {MAX_FILES}")
    for nth, path in enumerate(paths, 1):
        name = f"file {nth}" if pseudonym else path.name
        with explain_damage(name):
            ds = read_file(path, name)
            kind = "not DICOM" if ds is None else kind_of(ds)
            file = File(name, ds, text(ds, "SOPInstanceUID")) if kind in files else None
            if file and is_copy(file, first_of.setdefault(file.uid, file)):
                kind, file = f"copy of {kind}", None
        if file:
            files[kind].append(file)
        else:
            others[kind if re.fullmatch("[A-Za-z ]{1,24}", kind) else "unknown modality"] += 1
    return files, others


def find_paths(folder: Path) -> list[Path]:
    """The files below `folder`, also in linked folders, none twice."""
    paths, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        paths += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in paths if path.is_file())


def kind_of(ds: Dataset) -> str:
    """One of KINDS, or what else a file is."""
    modality = str(ds.get("Modality") or "DICOM without modality")
    kind = CLASSES.get(str(ds.get("SOPClassUID")), modality)
    if kind == "CT" and "LOCALIZER" in str(ds.get("ImageType")):
        return "CT localizer"
    return "predicted dose" if kind == "RTDOSE" and is_prediction(ds) else kind


def is_prediction(ds: Dataset) -> bool:
    """Whether rtdose.py wrote a dose, or one of its marks outlived a system that changed the others."""
    uids = [str(ds.get(keyword)) + "." for keyword in ("SOPInstanceUID", "InstanceCreatorUID")]
    texts = [str(ds.get(keyword)) for keyword in ("SeriesDescription", "DoseComment")]
    return any(uid.startswith(UID_ROOT) for uid in uids) or any(t.startswith(PREDICTION) for t in texts)


def is_copy(file: File, first: File) -> bool:
    """Whether `first`, of the same SOPInstanceUID, is another file that says the same of the patient."""
    if file is first:
        return False
    if file.ds[0x00180000:] != first.ds[0x00180000:]:  # before are dates, names and addresses
        names = f"{first.name} and {file.name}"
        raise UserError(f"{names} have one SOPInstanceUID and different contents; remove the wrong one")
    return True


def read_file(path: Path, name: str) -> Dataset | None:
    """The content of `path`, or None where a file does not even claim to be DICOM."""
    pydicom = import_pydicom()
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{name} is larger than {MAX_BYTES} bytes; no CT slice, plan or dose is")
    content = path.read_bytes()
    if content[128:132] != b"DICM" and content[:2] in (b"\2\0", b"\b\0") and content[3:4] == b"\0":
        content = bytes(128) + b"DICM" + content  # it begins with a tag, without preamble
    if content[128:132] != b"DICM":
        if path.suffix.lower() in (".dcm", ".ima") or path.suffix[1:].isdigit():
            raise UserError(f"{name} is not a DICOM file in spite of its name; export the patient again")
        return None
    if DEFLATED in content[:4096]:  # could inflate to any size
        raise UserError(f"{name} is deflated; export it uncompressed")
    ds = pydicom.dcmread(io.BytesIO(content))  # from memory, so that a false length cannot allocate much
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = EXPLICIT if ds.original_encoding[0] is False else IMPLICIT
    return ds


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


def items(ds: Dataset, *keywords: str) -> list[Dataset]:
    """The items of a sequence, or of sequences in its items; one that swallowed its neighbours is refused."""
    datasets = [ds]
    for keyword in keywords:
        datasets = [item for one in datasets for item in one.get(keyword) or []]
        if any(tag >> 16 == 0xFFFE for item in datasets for tag in item.keys()):
            raise AttributeError(name=keyword)
    return datasets


def optional(file: File, keyword: str) -> str:
    """The value of a tag as text, "" where it is missing."""
    with explain_damage(file.name):
        return str(file.ds.get(keyword) or "")


def references(file: File, keyword: str) -> list[str]:
    """The SOPInstanceUIDs to which a sequence's items refer."""
    with explain_damage(file.name):
        uids = [str(item.get("ReferencedSOPInstanceUID") or "") for item in file.ds.get(keyword) or []]
        return [uid for uid in uids if uid]


# --- which files belong together ---


class Chain(NamedTuple):
    """Files that refer to each other.

    doses   that of the whole plan, or those of all its beams
    plan    None where there is none, or where the dose is of several plans
    others  what else lies in the folder -> how often
    notes   sentences for the card
    """

    doses: list[File]
    plan: File | None
    structures: File
    slices: list[File]
    others: dict[str, int]
    notes: list[str]


def read_chain(folder: Path, pseudonym: str = "") -> Chain:
    """The Chain in a patient's folder; a UserError if a file is damaged, lacking, foreign or ambiguous."""
    name, (files, others) = pseudonym or folder.name, read_folder(folder, pseudonym)
    for kind, (instead, advice) in INSTEAD.items():
        if instead in others and not files[kind]:
            raise UserError(f"{name} holds no {kind} but {instead}; {advice}")
    n = others["predicted dose"]
    notes = [f"{n} predicted doses that were exported are left aside: they are no plan's"] if n else []
    doses = choose_doses(name, files, notes)
    plan, structures_uid = choose_plan(name, files["RTPLAN"], doses[0], notes)
    structures = pick(name, "RTSTRUCT", files["RTSTRUCT"], structures_uid)
    if "rt-utils" in optional(structures, "ManufacturerModelName"):
        text = "is by rt-utils: unless voxel edges were asked for, each structure is half a pixel too small"
        notes.append(f"{structures.name} {text} all round")  # findings/rt_utils_half_pixel.sh
    slices = pick_series(name, files["CT"], structures)
    for file in (structures, *doses, *([plan] if plan else []), *slices[1:]):
        if optional(file, "PatientID") != optional(slices[0], "PatientID"):
            raise UserError(f"{file.name} has another PatientID than {slices[0].name}")
    frame_uids = {optional(file, "FrameOfReferenceUID") for file in (*doses, slices[0])}
    if len(frame_uids) > 1 or "" in frame_uids:
        raise UserError(f"{doses[0].name} has another FrameOfReferenceUID than the CT: it is of another scan")
    return Chain(doses, plan, structures, slices, dict(others), notes)


def choose_doses(name: str, files: dict[str, list[File]], notes: list[str]) -> list[File]:
    """The dose of a whole plan, of several the only one whose plan is here, unless another is the sum of
    several plans and may be that of the whole treatment; else those of all its beams."""
    doses, plans = files["RTDOSE"], {plan.uid for plan in files["RTPLAN"]}
    whole = [file for file in doses if optional(file, "DoseSummationType") in WHOLE]
    beams = [file for file in doses if optional(file, "DoseSummationType") == "BEAM"]
    if beams and not whole:
        return check_beams(name, beams, files["RTPLAN"], notes)
    linked = [file for file in whole if plans.intersection(references(file, "ReferencedRTPlanSequence"))]
    chosen = pick(name, "RTDOSE", linked if len(linked) == 1 else whole or doses)
    sums = [file for file in whole if optional(file, "DoseSummationType") == "MULTI_PLAN"]
    if sums and chosen not in sums:
        both = f"{name} holds the dose of a plan and a sum of several: {names_of([chosen, *sums])}"
        raise UserError(f"{both}; leave one of them in the folder: the sum for the whole treatment")
    if len(whole) > 1:
        notes.append(f"of {len(whole)} doses of plans the one is taken whose plan is here")
    return [chosen]


def check_beams(name: str, doses: list[File], plans: list[File], notes: list[str]) -> list[File]:
    """The doses of single beams, if they are those of all beams of one plan, each once."""
    only = f"{name} holds only doses of beams"
    uids = {uid for file in doses for uid in references(file, "ReferencedRTPlanSequence")}
    if len(uids) != 1:
        raise UserError(f"{only}, of no plan or of several; export the dose of a whole plan")
    plan = pick(name, "RTPLAN", plans, *uids)
    with explain_damage(plan.name):
        beams = items(plan.ds, "BeamSequence") + items(plan.ds, "IonBeamSequence")
        setup = {number(b, "BeamNumber") for b in beams if b.get("TreatmentDeliveryType") == "SETUP"}
    planned = sorted({*beam_numbers(plan, "FractionGroupSequence")} - setup)
    path = "ReferencedRTPlanSequence", "ReferencedFractionGroupSequence"
    counts = Counter(n for file in doses for n in beam_numbers(file, *path))
    if missing := ", ".join(f"{n:g}" for n in planned if n not in counts):
        lacks = f"none of beam {missing} of {plan.name}"
        raise UserError(f"{only}, and {lacks}; export them too, or the dose of the whole plan")
    if sorted(counts.elements()) != planned or not planned:
        lacks = f"not each beam of {plan.name} once: {names_of(doses)}"
        raise UserError(f"{only}, and {lacks}; export the dose of the whole plan")
    notes.append(f"the dose is the sum of the doses of the plan's {len(planned)} beams")
    return doses


def beam_numbers(file: File, *keywords: str) -> list[float]:
    """The beams to which the items of a sequence refer."""
    with explain_damage(file.name):
        beams = items(file.ds, *keywords, "ReferencedBeamSequence")
        return [number(beam, "ReferencedBeamNumber") for beam in beams]


def choose_plan(name: str, plans: list[File], dose: File, notes: list[str]) -> tuple[File | None, str | None]:
    """(the dose's plan or None, the UID of the structure set to which it or the dose refers, or None)."""
    uids = references(dose, "ReferencedRTPlanSequence")
    structures_uid = next(iter(references(dose, "ReferencedStructureSetSequence")), None)
    if not plans:
        notes.append("there is no RTPLAN")
        return None, structures_uid
    several = optional(dose, "DoseSummationType") == "MULTI_PLAN" or len(set(uids)) > 1
    if several:
        notes.append("the dose is of several plans, whose prescriptions are not added up; they are not taken")
        fitting = [plan for plan in plans if plan.uid in uids]
    else:
        fitting = [pick(name, "RTPLAN", plans, next(iter(uids), None))]
    of_plans = {uid for plan in fitting for uid in references(plan, "ReferencedStructureSetSequence")}
    if len(of_plans) == 1:
        [structures_uid] = of_plans
    return None if several else fitting[0], structures_uid


def pick(name: str, kind: str, files: list[File], uid: str | None = None) -> File:
    """The file with SOPInstanceUID `uid`, or the only one if nothing refers to one."""
    if not files:
        raise UserError(f"{name} holds no {kind}; export it too")
    fitting = [file for file in files if uid in (None, file.uid)]
    if not fitting:
        why = f"no {kind} is the one that the other files refer to"
        raise UserError(f"{name}: {why}; it has {names_of(files)}")
    if len(fitting) > 1:
        several = names_of(fitting)
        raise UserError(f"{name} holds several {kind}: {several}; leave one of them in the folder")
    return fitting[0]


def names_of(files: list[File]) -> str:
    """The names of the first six files, for a sentence."""
    return ", ".join(file.name for file in files[:6]) + (" ..." if len(files) > 6 else "")


def pick_series(name: str, slices: list[File], structures: File) -> list[File]:
    """All CT slices of the series to which the RTSTRUCT refers, or if these are several its contours."""
    referenced, series = referenced_images(structures), defaultdict(list)
    for file in slices:
        series[optional(file, "SeriesInstanceUID")].append(file)
    fitting = {uid: files for uid, files in series.items() if uid in referenced or not referenced}
    if len(fitting) > 1:
        with explain_damage(structures.name):
            drawn = images_of(structures.ds, "ROIContourSequence", "ContourSequence")
        fitting = {u: f for u, f in fitting.items() if any(file.uid in drawn for file in f)} or fitting
    if len(fitting) != 1:
        first = names_of([files[0] for files in (fitting or series).values()]) or "none"
        which = f"of which {structures.name} refers to {len(fitting)}: {first}; it must be one"
        raise UserError(f"{name} holds {len(series)} CT series, {which}")
    [(uid, chosen)] = fitting.items()
    missing = len(referenced.get(uid, set()) - {file.uid for file in chosen})
    if missing:
        raise UserError(f"{name}: {missing} CT slices are missing to which {structures.name} refers")
    return chosen


def referenced_images(structures: File) -> dict[str, set[str]]:
    """UID of each series to which an RTSTRUCT refers, as it need not, -> UIDs of the images there."""
    images, path = defaultdict(set), ("RTReferencedStudySequence", "RTReferencedSeriesSequence")
    with explain_damage(structures.name):
        for series in items(structures.ds, "ReferencedFrameOfReferenceSequence", *path):
            images[text(series, "SeriesInstanceUID")] |= images_of(series)
    return images


def images_of(ds: Dataset, *keywords: str) -> set[str]:
    """The UIDs of the images to which the items of a sequence refer, as far as they say so."""
    return {text(i, "ReferencedSOPInstanceUID") for i in items(ds, *keywords, "ContourImageSequence")}
