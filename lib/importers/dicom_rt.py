"""Patients from DICOM: CT, RTSTRUCT, RTDOSE and perhaps RTPLAN as a Case, and a report of what was taken.

Of the patient's identity nothing is kept. Which files belong together: dicom_files; volumes: dicom_images;
names and prescriptions: dicom_structures; contours: dicom_contours; axes and resampling: dicom_grid.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.cases.case import Case
from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.files import write_text
from lib.importers.cohort import Source
from lib.importers.dicom_contours import contour_mask, find_body
from lib.importers.dicom_files import Chain, File, choose, read_folder
from lib.importers.dicom_grid import Grid, covered, new_grid, resample, resample_mask
from lib.importers.dicom_images import read_ct, read_dose
from lib.importers.dicom_structures import Roi, guess_site, map_names, prescriptions, read_rois


def dicom_source(
    folder: str | Path, cohort: str | Path, pseudonyms: str | Path | None = None, **options: object
) -> Source:
    """The patients in `folder` for the cohort in the folder `cohort`; `options` go to read_patient.

    `pseudonyms` is a file to write, outside the cohort: who is who. The patients are then P001, P002, ... in
    an order that says nothing.
    """
    patients = find_patients(folder)
    names = {case_id: case_id for case_id in patients}
    if pseudonyms:
        names = number_patients(patients)
        if Path(cohort).resolve() in Path(pseudonyms).resolve().parents:
            raise UserError(f"{pseudonyms} lies in the cohort's folder; who is who belongs elsewhere")
        write_text(Path(pseudonyms), "".join(f"{name},{case_id}\n" for case_id, name in names.items()))
    items = {names[case_id]: (path, names[case_id]) for case_id, path in patients.items()}
    return Source("DICOM-RT folders", items, partial(read_named, options))


def find_patients(folder: str | Path) -> dict[str, Path]:
    """Id -> folder of each patient: the folders in `folder`, one per patient, in the order of their names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds one folder per patient")
    paths = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not paths or any(folder.glob("*.dcm")):
        raise UserError(f"{folder} must hold one folder per patient and no DICOM files beside them")
    return {path.name: path for path in paths}


def number_patients(case_ids: Sequence[str]) -> dict[str, str]:
    """Case id -> P001, P002, ... in the order of the ids' hashes."""
    shuffled = sorted(case_ids, key=lambda case_id: hashlib.sha256(case_id.encode()).digest())
    return {case_id: f"P{number:03d}" for number, case_id in enumerate(shuffled, 1)}


def read_named(options: dict, item: tuple[Path, str]) -> tuple[Case, dict]:
    """A patient by the name in the cohort; an error does not give another one away."""
    folder, name = item
    try:
        return read_patient(folder, name=name, **options)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name).replace(folder.name, name)) from None


def read_patient(
    folder: str | Path,
    *,
    spacing_mm: Sequence[float] | None = None,
    aliases: dict | None = None,
    prescription_gy: dict[str, float] | None = None,
    site: str | None = None,
    name: str | None = None,
) -> tuple[Case, dict]:
    """(Case, report) of the patient in `folder`; raises a UserError that names the file and tag at fault.

    spacing_mm       (dz, dy, dx) of the grid; None: the CT's own
    aliases          name in lib.cases.protocols -> list of structure names that go before those of ALIASES
    prescription_gy  target -> Gy for targets to which the RTPLAN prescribes nothing
    site             a key of PROTOCOLS; None: the one of which more organs are there
    name             the case's id; None: the folder's name
    The report holds plain values for the cohort's card: which structure became which, what was ignored or is
    missing, where prescription and dose mask come from, and what deserves a look.
    """
    folder, warnings = Path(folder), []
    files, others = read_folder(folder)
    chain = choose(folder, files)
    ct_hu, grid = read_ct(chain.slices, folder.name)
    anatomy = read_anatomy(chain, ct_hu, grid, site, aliases, prescription_gy or {}, warnings)
    dose_gy, of_dose = read_planned_dose(chain.dose, grid, anatomy, warnings)
    out = grid if spacing_mm is None else new_grid(grid, spacing_mm)
    masks = {key: resample_mask(mask, grid, out) for key, mask in anatomy.masks.items()}
    case = Case(
        case_id=name or folder.name,
        ct_hu=np.rint(resample(ct_hu, grid, out)).astype(np.int16),
        dose_gy=resample(dose_gy, grid, out),
        dose_mask=resample_mask(anatomy.body, grid, out),
        site=anatomy.site,
        prescription_gy={key: gy for key, (gy, _) in anatomy.prescriptions.items()},
        masks={key: mask for key, mask in masks.items() if mask.any() or key in anatomy.prescriptions},
        spacing_mm=out.spacing_mm,
        origin_mm=out.origin_mm,
    )
    report = {"other_files": others, "warnings": warnings, **of_dose, **describe(anatomy, masks, warnings)}
    return case, report | {"ct_spacing_mm": list(grid.spacing_mm), "ct_shape": list(grid.shape)}


class Anatomy(NamedTuple):
    """What an RTSTRUCT says, on the CT's grid.

    mapped         protocol name -> structure
    prescriptions  target -> (Gy, where from)
    outline        the structure, or the rule, that gives the body
    """

    site: str
    rois: list[Roi]
    mapped: dict[str, Roi]
    prescriptions: dict[str, tuple[float, str]]
    masks: dict[str, np.ndarray]
    outline: str
    body: np.ndarray


def read_anatomy(
    chain: Chain,
    ct_hu: np.ndarray,
    grid: Grid,
    site: str | None,
    aliases: dict | None,
    given_gy: dict[str, float],
    warnings: list[str],
) -> Anatomy:
    """The structures of the site, their masks and what is prescribed to them."""
    file, rois = chain.structures.name, read_rois(chain)
    site = site or guess_site(rois, aliases, file)
    if site not in PROTOCOLS:
        raise UserError(f"site={site!r} is not one of {', '.join(PROTOCOLS)}")
    mapped = map_names(rois, PROTOCOLS[site].structures, aliases, file)
    prescribed = prescriptions(mapped, site, rois, chain, given_gy, warnings)
    masks = {name: contour_mask(roi, grid, file, warnings) for name, roi in mapped.items()}
    return Anatomy(site, rois, mapped, prescribed, masks, *find_body(rois, ct_hu, grid, file, warnings))


def read_planned_dose(
    file: File, grid: Grid, anatomy: Anatomy, warnings: list[str]
) -> tuple[np.ndarray, dict]:
    """(Gy float32 [D,H,W], report): 0 outside the dose's own grid, which must hold the targets."""
    dose_gy, dose_grid = read_dose(file)
    inside, body = covered(dose_grid, grid), anatomy.body
    for name in anatomy.prescriptions:
        mask = anatomy.masks[name]
        if not mask.any() or (mask & ~inside).sum() > 0.01 * mask.sum():
            raise UserError(f"{file.name}: the dose grid does not hold {name}, or {name} is empty")
        if (mask & ~body).sum() > 0.05 * mask.sum():
            warnings.append(f"{name}: more than 5 % of it is outside the body")
    return resample(dose_gy, dose_grid, grid, beyond=0.0), {
        "dose_spacing_mm": list(dose_grid.spacing_mm),
        "dose_shape": list(dose_grid.shape),
        "body_inside_dose_grid_pct": round(100 * float(inside[body].mean()), 1) if body.any() else 0.0,
    }


def describe(anatomy: Anatomy, masks: dict[str, np.ndarray], warnings: list[str]) -> dict:
    """What became of the structures, whose `masks` are on the case's grid."""
    lost = [name for name, mask in masks.items() if not mask.any()]
    warnings += [f"{name}: no voxel of the new grid is at least half inside" for name in lost]
    used = {anatomy.outline, *(roi.name for roi in anatomy.mapped.values())}
    structures = PROTOCOLS[anatomy.site].structures
    return {
        "prescription_from": {name: source for name, (_, source) in anatomy.prescriptions.items()},
        "dose_mask_from": anatomy.outline,
        "structures": {name: roi.name for name, roi in anatomy.mapped.items()},
        "ignored": sorted({roi.name for roi in anatomy.rois} - used),
        "missing": [name for name in structures if name not in masks or name in lost],
    }
