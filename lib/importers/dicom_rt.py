"""Patients from DICOM: CT, RTSTRUCT, RTDOSE and perhaps RTPLAN as a Case, and a report of what was taken.

Of the patient's identity nothing is kept. Which files belong together: dicom_files; volumes: dicom_images;
names and prescriptions: dicom_structures; contours: dicom_contours; axes and resampling: dicom_grid.
"""

import csv
import hashlib
import io
import math
import os
from functools import partial
from pathlib import Path

import numpy as np

from lib.cases.case import Case
from lib.errors import UserError
from lib.files import is_below_outputs, write_text
from lib.importers.cohort import PERSON, Source
from lib.importers.dicom_contours import contour_mask, find_body
from lib.importers.dicom_files import Chain, optional, read_chain
from lib.importers.dicom_grid import check_spacing, coverage, new_grid, resample
from lib.importers.dicom_images import read_ct, read_doses
from lib.importers.dicom_structures import Roi, choose_protocol, map_names, prescriptions, read_rois
from lib.importers.options import Options


def dicom_source(folder: str | Path, cohort: Path, options: Options, pseudonyms: str | None = None) -> Source:
    """The patients in `folder` for the cohort in the folder `cohort`.

    `pseudonyms` is a file to write, outside the cohort: who is who. The patients are then P001, P002, ... in
    an order that says nothing. A file that says of others who they are is not replaced.
    """
    if options.spacing_mm is not None:
        check_spacing(options.spacing_mm)  # before a night of reading
    patients = find_patients(folder)
    names = {case_id: case_id for case_id in patients}
    if pseudonyms:
        order = sorted(patients, key=lambda case_id: hashlib.sha256(case_id.encode()).digest())
        names = {case_id: f"P{number:03d}" for number, case_id in enumerate(order, 1)}
        if cohort.resolve() in Path(pseudonyms).resolve().parents or is_below_outputs(pseudonyms):
            raise UserError(f"{pseudonyms} lies in outputs or the cohort; who is who belongs elsewhere")
        write_names(Path(pseudonyms), names)
    items = {name: (patients[case_id], name) for case_id, name in names.items()}
    read = partial(read_named, options, bool(pseudonyms), os.urandom(16))
    return Source("DICOM-RT folders", items, read)


def write_names(path: Path, names: dict[str, str]) -> None:
    """Write case id -> pseudonym as CSV, the pseudonym first; a file with another content is refused."""
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows((name, case_id) for case_id, name in names.items())
    if not path.exists():
        write_text(path, content.getvalue())
    elif not path.is_file() or path.read_bytes() != content.getvalue().encode():
        raise UserError(f"{path} exists already and is not that of these patients; give another name")


def find_patients(folder: str | Path) -> dict[str, Path]:
    """Id -> folder of each patient: the folders in `folder`, one per patient, in the order of their names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds one folder per patient")
    paths = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not paths or any(folder.glob("*.dcm")):
        raise UserError(f"{folder} must hold one folder per patient and no DICOM files beside them")
    return {path.name: path for path in paths}


def read_named(options: Options, hide: bool, salt: bytes, item: tuple[Path, str]) -> tuple[Case, dict]:
    """A patient by the name in the cohort, with `hide` in sentences too, and under PERSON what tells whether
    two are one person and nothing else."""
    folder, name = item
    chain = read_chain(folder, name if hide else "")
    case, report = make_case(chain, options, name)
    patient_id = optional(chain.slices[0], "PatientID").strip()
    digest = hashlib.sha256(salt + patient_id.encode(errors="replace")).hexdigest() if patient_id else ""
    return case, report | {PERSON: digest}


def read_patient(folder: str | Path, options: Options | None = None, name: str = "") -> tuple[Case, dict]:
    """(Case, report) of the patient in `folder` by make_case; the case's id is `name` or the folder's."""
    return make_case(read_chain(Path(folder)), options or Options(), name or Path(folder).name)


def make_case(chain: Chain, options: Options, name: str) -> tuple[Case, dict]:
    """(Case, report) of a patient's files; raises a UserError that names the file and tag at fault.

    The report is for the cohort's card: which structure became which, what was ignored or is missing, where
    prescription and dose mask come from, what deserves a look.
    """
    warnings, file = list(chain.notes), chain.structures.name
    ct_hu, ct_grid = read_ct(chain.slices, name)
    grid = new_grid(ct_grid, options.spacing_mm)
    ct_hu = resample(ct_hu, ct_grid, grid)
    rois = read_rois(chain)
    protocol, aliases = choose_protocol(rois, options, chain)
    structures = map_names(rois, protocol, aliases, file)
    rx = prescriptions(structures, protocol, rois, chain, options.prescription_gy or {}, warnings)
    draw = partial(contour_mask, ct_grid=ct_grid, grid=grid, file=file, warnings=warnings)
    masks = {key: draw(roi) for key, roi in structures.items()}
    targets = {key: masks[key] for key in rx}
    outline, body = find_body(rois, targets, ct_hu, draw, warnings)
    dose_gy, dose_grid = read_doses(chain.doses)
    inside = coverage(dose_grid, grid)
    check_targets(targets, inside, body, chain.doses[0].name, warnings)
    lost = [key for key, mask in masks.items() if not mask.any()]
    warnings += [f"{key}: it contains no centre of a voxel; left out" for key in lost]
    covered_pct = {key: share_pct(inside[mask]) for key, mask in masks.items() if not inside[mask].all()}
    case = Case(
        case_id=name,
        ct_hu=np.rint(ct_hu).astype(np.int16),
        dose_gy=resample(dose_gy, dose_grid, grid, beyond=0.0),
        dose_mask=body & inside,
        site=protocol.site,
        protocol=protocol,
        covered_pct=covered_pct,
        prescription_gy={key: gy for key, (gy, _) in rx.items()},
        masks={key: mask for key, mask in masks.items() if key not in lost},
        spacing_mm=grid.spacing_mm,
        origin_mm=grid.origin_mm,
    )
    return case, {
        "other_files": chain.others,
        "warnings": warnings,
        "prescription_from": {key: source for key, (_, source) in rx.items()},
        **names_report(rois, structures, outline),
        "missing": [key for key in protocol.structures if key not in case.masks],
        "covered_pct": covered_pct,
        "ct_spacing_mm": list(ct_grid.spacing_mm),
        "ct_shape": list(ct_grid.shape),
        "dose_spacing_mm": list(dose_grid.spacing_mm),
        "dose_shape": list(dose_grid.shape),
        "body_inside_dose_grid_pct": share_pct(inside[body]),
    }


def names_report(rois: list[Roi], structures: dict[str, Roi], outline: str) -> dict:
    """Which structure became which, and what was ignored."""
    names = {key: roi.name for key, roi in structures.items()}
    ignored = {roi.name for roi in rois} - {outline, *names.values()}
    return {"dose_mask_from": outline, "structures": names, "ignored": sorted(ignored)}


def share_pct(inside: np.ndarray) -> float:
    """The share in % of True in a bool array, rounded down so that only all are 100."""
    return math.floor(1000 * float(inside.mean())) / 10 if inside.size else 0.0


def check_targets(
    targets: dict[str, np.ndarray], inside: np.ndarray, body: np.ndarray, file: str, warnings: list[str]
) -> None:
    """Refuses a target that the dose grid does not hold; warns of one that leaves the body."""
    for name, mask in targets.items():
        if not mask.any():
            advice = "check its contours, or give a finer spacing_mm"
            raise UserError(f"{name} contains no centre of a voxel; {advice}")
        if (mask & ~inside).sum() > 0.01 * mask.sum():
            raise UserError(f"{file}: the dose grid does not hold {name}; export the dose on a larger grid")
        if (mask & ~body).sum() > 0.05 * mask.sum():
            warnings.append(f"{name}: more than 5 % of it is outside the body")
