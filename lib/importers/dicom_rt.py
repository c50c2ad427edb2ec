"""Patients from DICOM: CT, RTSTRUCT, RTDOSE and perhaps RTPLAN as a Case, and a report of what was taken.

Of the patient's identity nothing is kept. Which files belong together: lib.importers.dicom_files; names,
prescriptions and contours: lib.importers.dicom_structures; axes and resampling: lib.importers.dicom_grid.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from lib.cases.case import Case
from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.importers.dicom_files import choose, need, number, numbers, read_folder, reading, text
from lib.importers.dicom_grid import (
    MAX_VOXELS,
    apply,
    even_step,
    fraction,
    linear,
    new_grid,
    resampled,
    turned,
)
from lib.importers.dicom_structures import (
    contour_mask,
    find_body,
    guess_site,
    map_names,
    prescriptions,
    read_rois,
)

FIELD_MM = (100.0, 1200.0)  # width of a CT that is in mm
JUMP_HU = 20.0  # median step between neighbouring slices that two different rescales may leave


def find_patients(folder):
    """Id -> folder of each patient: the folders in `folder`, one per patient, in the order of their names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds one folder per patient")
    found = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if not found or any(folder.glob("*.dcm")):
        raise UserError(f"{folder} must hold one folder per patient and no DICOM files beside them")
    return found


def read_patient(folder, *, spacing_mm=None, aliases=None, prescription_gy=None, site=None, pseudonym=None):
    """(Case, report) of the patient in `folder`; raises a UserError that names the file and tag at fault.

    spacing_mm       (dz, dy, dx) of the grid; None: the CT's own
    aliases          name in lib.cases.protocols -> list of structure names that go before those of ALIASES
    prescription_gy  target -> Gy for targets to which the RTPLAN prescribes nothing
    site             a key of PROTOCOLS; None: the one of which more organs are found
    pseudonym        the case's id; None: the folder's name
    The report holds plain values for the cohort's card: which structure became which, what was ignored or is
    missing, where prescription and dose mask come from, and what deserves a look.
    """
    files, others = read_folder(Path(folder))
    found = choose(Path(folder), files)
    report = {"other_files": others, "warnings": []}
    ct_hu, grid = read_ct(found.slices)
    rois = read_rois(found)
    site = site or guess_site(rois, aliases, found.structures.path)
    if site not in PROTOCOLS:
        raise UserError(f"site={site!r} is not one of {', '.join(PROTOCOLS)}")
    mapped = map_names(rois, PROTOCOLS[site].structures, aliases, found.structures.path)
    rx_gy, report["prescription_from"] = prescriptions(
        mapped, site, rois, found, prescription_gy or {}, report
    )
    masks = {name: contour_mask(roi, grid, found.structures.path, report) for name, roi in mapped.items()}
    report["dose_mask_from"], body = find_body(rois, ct_hu, grid, found.structures.path, report)
    dose_gy = dose_on(grid, found.dose, {name: masks[name] for name in rx_gy}, body, report)
    out = grid if spacing_mm is None else new_grid(grid, spacing_mm)
    masks = {name: fraction(mask, grid, out) for name, mask in masks.items()}
    describe(report, rois, mapped, masks, site, grid)
    case = Case(
        case_id=pseudonym or Path(folder).name,
        ct_hu=np.rint(resampled(ct_hu, grid, out)).astype(np.int16),
        dose_gy=resampled(dose_gy, grid, out),
        dose_mask=fraction(body, grid, out),
        site=site,
        prescription_gy=rx_gy,
        masks={name: mask for name, mask in masks.items() if mask.any() or name in rx_gy},
        spacing_mm=out.spacing_mm,
        origin_mm=out.origin_mm,
    )
    return case, report


def describe(report, rois, mapped, masks, site, grid):
    """Add to the report what became of the structures."""
    lost = [name for name, mask in masks.items() if not mask.any()]
    used = {report["dose_mask_from"], *(roi.name for roi in mapped.values())}
    report["warnings"] += [f"{name}: no voxel of the new grid is at least half inside" for name in lost]
    report.update(
        structures={name: roi.name for name, roi in mapped.items()},
        ignored=sorted({roi.name for roi in rois} - used),
        missing=[name for name in PROTOCOLS[site].structures if name not in mapped or name in lost],
        ct_spacing_mm=list(grid.spacing_mm),
        ct_shape=list(grid.shape),
    )


# --- CT ---


def read_ct(slices):
    """HU float32 [D,H,W] and the Grid of a series of axial slices in any order (CT Image IOD)."""
    headers = []
    for file in slices:
        with reading(file.path):
            headers.append((numbers(file.ds, "ImagePositionPatient", 3), file, layout(file.ds)))
    headers.sort(key=lambda header: header[0][2])
    common = Counter(header[2] for header in headers).most_common(1)[0][0]
    usual_xy = np.median([header[0][:2] for header in headers], axis=0)
    for position, file, own in headers:
        if own != common or abs(position[:2] - usual_xy).max() > 0.01:
            raise UserError(
                f"{file.path.name} differs in size, spacing, orientation or position from the other slices"
            )
    rows, columns, orientation, spacing = common[:4]
    if rows * columns * len(slices) > MAX_VOXELS:
        raise UserError(
            f"{slices[0].path.name}: a CT of {len(slices)} x {rows} x {columns} voxels is too large"
        )
    step_mm = even_step(
        np.array([header[0][2] for header in headers]), f"the CT of {slices[0].path.parent.name}"
    )
    stored = [read_slice(file) for _, file, _ in headers]
    check_rescale(stored, headers)
    volume, grid = turned(
        np.stack([hu for hu, _ in stored]), orientation, headers[0][0], spacing, step_mm, slices[0].path.name
    )
    width_mm = [n * s for n, s in zip(grid.shape[1:], grid.spacing_mm[1:])]
    if min(width_mm) < FIELD_MM[0] or max(width_mm) > FIELD_MM[1]:
        raise UserError(
            f"{slices[0].path.name}: by PixelSpacing the CT is {width_mm[0]:.0f} x {width_mm[1]:.0f} mm "
            f"wide, which is no patient; is it in cm?"
        )
    return volume, grid


def layout(ds):
    """What all slices of a series share."""
    plain = tuple(int(number(ds, keyword)) for keyword in ("Rows", "Columns"))
    bits = tuple(int(number(ds, k)) for k in ("BitsAllocated", "BitsStored", "PixelRepresentation"))
    return (
        *plain,
        tuple(numbers(ds, "ImageOrientationPatient", 6).round(4)),
        tuple(numbers(ds, "PixelSpacing", 2).round(5)),
        bits,
        text(ds, "FrameOfReferenceUID"),
    )


def read_slice(file):
    """HU float32 [H,W] of one slice and its (RescaleSlope, RescaleIntercept)."""
    with reading(file.path):
        rescale = number(file.ds, "RescaleSlope"), number(file.ds, "RescaleIntercept")
        hu = (pixels(file, 1)[0] * rescale[0] + rescale[1]).astype(np.float32)
    if not (-32768 <= hu.min() and hu.max() <= 32767):
        raise UserError(f"{file.path.name}: RescaleSlope and RescaleIntercept give values that are no HU")
    return hu, rescale


def pixels(file, frames):
    """Stored values float64 [frames, rows, columns]; PixelData must be as long as its tags say."""
    ds = file.ds
    rows, columns, bits = (int(number(ds, keyword)) for keyword in ("Rows", "Columns", "BitsAllocated"))
    size = rows * columns * frames * bits // 8
    if (
        not 0 < rows * columns * frames <= MAX_VOXELS
        or bits not in (8, 16, 32)
        or number(ds, "SamplesPerPixel") != 1
    ):
        raise UserError(
            f"{file.path.name}: Rows, Columns, NumberOfFrames, BitsAllocated or SamplesPerPixel cannot be"
        )
    if text(ds, "PhotometricInterpretation") != "MONOCHROME2":
        raise UserError(f"{file.path.name}: PhotometricInterpretation is not MONOCHROME2")
    if not ds.file_meta.TransferSyntaxUID.is_compressed and len(need(ds, "PixelData")) != size + size % 2:
        raise UserError(
            f"{file.path.name} is cut off or changed: PixelData is not of the length that its tags say"
        )
    return np.asarray(ds.pixel_array, np.float64).reshape(frames, rows, columns)


def check_rescale(stored, headers):
    """Slices may differ in their rescale, but anatomy goes on across them."""
    for (hu, rescale), (below, other), (_, file, _) in zip(stored[1:], stored, headers[1:]):
        if rescale != other and abs(np.median(hu - below)) > JUMP_HU:
            raise UserError(
                f"{file.path.name}: RescaleSlope or RescaleIntercept differs from the slice below, and the "
                f"values jump by {np.median(hu - below):.0f} HU"
            )


# --- dose ---


def read_dose(file):
    """Gy float32 [d,h,w] and the Grid of an RTDOSE (PS3.3 C.8.8.3)."""
    with reading(file.path):
        for keyword, allowed in (
            ("DoseUnits", "GY"),
            ("DoseType", "PHYSICAL"),
            ("DoseSummationType", "PLAN"),
        ):
            if text(file.ds, keyword) != allowed:
                raise UserError(
                    f"{file.path.name}: {keyword} is not {allowed}; export the plan's physical dose in Gy"
                )
        orientation = numbers(file.ds, "ImageOrientationPatient", 6)
        first_mm = numbers(file.ds, "ImagePositionPatient", 3)
        offsets_mm = numbers(file.ds, "GridFrameOffsetVector", int(number(file.ds, "NumberOfFrames")))
        dose_gy = (pixels(file, len(offsets_mm)) * number(file.ds, "DoseGridScaling")).astype(np.float32)
        spacing_mm = tuple(numbers(file.ds, "PixelSpacing", 2))
    if not np.isfinite(dose_gy).all() or dose_gy.min() < 0:
        raise UserError(
            f"{file.path.name}: DoseGridScaling and PixelData give doses that are negative or not finite"
        )
    if offsets_mm[0] == 0:
        z_mm = first_mm[2] + offsets_mm * np.cross(orientation[:3], orientation[3:])[2]
    elif abs(offsets_mm[0] - first_mm[2]) < 0.01:
        z_mm = offsets_mm
    else:
        raise UserError(
            f"{file.path.name}: GridFrameOffsetVector starts neither at 0 nor at ImagePositionPatient's z"
        )
    if z_mm[-1] < z_mm[0]:
        z_mm, dose_gy = z_mm[::-1], dose_gy[::-1]
    step_mm = even_step(z_mm, f"{file.path.name} (GridFrameOffsetVector)")
    return turned(dose_gy, orientation, (*first_mm[:2], z_mm[0]), spacing_mm, step_mm, file.path.name)


def dose_on(grid, file, targets, body, report):
    """Gy float32 [D,H,W] on `grid`, 0 outside the dose's own grid, which must hold the targets."""
    dose_gy, own = read_dose(file)
    inside = [linear(grid, own, axis).sum(axis=1) > 0.99 for axis in range(3)]
    covered = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    for name, mask in targets.items():
        if not mask.any() or (mask & ~covered).sum() > 0.01 * mask.sum():
            raise UserError(f"{file.path.name}: the dose grid does not hold {name}, or {name} is empty")
        if (mask & ~body).sum() > 0.05 * mask.sum():
            report["warnings"].append(f"{name}: more than 5 % of it is outside the body")
    report.update(
        dose_spacing_mm=list(own.spacing_mm),
        dose_shape=list(own.shape),
        body_inside_dose_grid_pct=round(100 * float(covered[body].mean()), 1) if body.any() else 0.0,
    )
    return apply(dose_gy, [linear(grid, own, axis) for axis in range(3)])
