"""CT series and RTDOSE files as volumes on the project's axes; what contradicts itself is refused."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from lib.errors import UserError
from lib.importers.dicom_files import File, explain_damage, need, number, numbers, text
from lib.importers.dicom_grid import MAX_VOXELS, Grid, even_step, to_patient_axes

FIELD_MM = (100.0, 1200.0)  # width of a CT that is in mm
JUMP_HU = 20.0  # median step between neighbouring slices that two different rescales may leave
PLANNED_DOSE = {"DoseUnits": "GY", "DoseType": "PHYSICAL", "DoseSummationType": "PLAN"}


class Slice(NamedTuple):
    """A CT slice: its file, the (x, y, z) of its first pixel in mm, and what all slices of a series share."""

    file: File
    first_mm: np.ndarray
    layout: tuple


def read_ct(files: list[File], folder: str) -> tuple[np.ndarray, Grid]:
    """HU float32 [D,H,W] and the Grid of a series of axial slices in any order (CT Image IOD)."""
    slices = sorted((read_layout(file) for file in files), key=lambda one: one.first_mm[2])
    check_alike(slices)
    rows, columns, orientation, pixel_mm = slices[0].layout[:4]
    name = files[0].name
    if rows * columns * len(slices) > MAX_VOXELS:
        raise UserError(f"{name}: a CT of {len(slices)} x {rows} x {columns} voxels is too large")
    step_mm = even_step(np.array([one.first_mm[2] for one in slices]), f"the CT of {folder}")
    volume = read_hu(slices)
    volume, grid = to_patient_axes(volume, orientation, slices[0].first_mm, (step_mm, *pixel_mm), name)
    width_mm = [n * s for n, s in zip(grid.shape[1:], grid.spacing_mm[1:])]
    if min(width_mm) < FIELD_MM[0] or max(width_mm) > FIELD_MM[1]:
        raise UserError(
            f"{name}: by PixelSpacing the CT is {width_mm[0]:.0f} x {width_mm[1]:.0f} mm "
            f"wide, which is no patient; is it in cm?"
        )
    return volume, grid


def read_layout(file: File) -> Slice:
    """A slice without its pixels."""
    with explain_damage(file.name):
        ds, first_mm = file.ds, numbers(file.ds, "ImagePositionPatient", 3)
        size = [int(number(ds, keyword)) for keyword in ("Rows", "Columns")]
        bits = tuple(int(number(ds, k)) for k in ("BitsAllocated", "BitsStored", "PixelRepresentation"))
        orientation = tuple(numbers(ds, "ImageOrientationPatient", 6).round(4))
        pixel_mm = tuple(numbers(ds, "PixelSpacing", 2).round(5))
        return Slice(file, first_mm, (*size, orientation, pixel_mm, bits, text(ds, "FrameOfReferenceUID")))


def check_alike(slices: list[Slice]) -> None:
    """Raises a UserError that names the first slice unlike most."""
    common = Counter(one.layout for one in slices).most_common(1)[0][0]
    usual_xy_mm = np.median([one.first_mm[:2] for one in slices], axis=0)
    for one in slices:
        if one.layout != common or abs(one.first_mm[:2] - usual_xy_mm).max() > 0.01:
            what = "size, spacing, orientation or position"
            raise UserError(f"{one.file.name} differs in {what} from the other slices")


def read_hu(slices: list[Slice]) -> np.ndarray:
    """HU float32 [n, rows, columns]; slices may differ in their rescale, but anatomy goes on across them."""
    volume, before = [], None
    for one in slices:
        file = one.file
        with explain_damage(file.name):
            rescale = number(file.ds, "RescaleSlope"), number(file.ds, "RescaleIntercept")
            hu = (pixels(file, 1)[0] * rescale[0] + rescale[1]).astype(np.float32)
        if not (-32768 <= hu.min() and hu.max() <= 32767):
            raise UserError(f"{file.name}: RescaleSlope and RescaleIntercept give values that are no HU")
        jump_hu = np.median(hu - volume[-1]) if volume and rescale != before else 0.0
        if abs(jump_hu) > JUMP_HU:
            raise UserError(
                f"{file.name}: RescaleSlope or RescaleIntercept differs from the slice below, and the "
                f"values jump by {jump_hu:.0f} HU"
            )
        volume.append(hu)
        before = rescale
    return np.stack(volume)


def pixels(file: File, frames: int) -> np.ndarray:
    """Stored values float64 [frames, rows, columns]; PixelData must be as long as its tags say."""
    ds, name = file.ds, file.name
    rows, columns, bits = (int(number(ds, keyword)) for keyword in ("Rows", "Columns", "BitsAllocated"))
    voxels = rows * columns * frames
    if not 0 < voxels <= MAX_VOXELS or bits not in (8, 16, 32) or number(ds, "SamplesPerPixel") != 1:
        tags = "Rows, Columns, NumberOfFrames, BitsAllocated or SamplesPerPixel"
        raise UserError(f"{name}: {tags} cannot be")
    if text(ds, "PhotometricInterpretation") != "MONOCHROME2":
        raise UserError(f"{name}: PhotometricInterpretation is not MONOCHROME2")
    size = voxels * bits // 8
    if not ds.file_meta.TransferSyntaxUID.is_compressed and len(need(ds, "PixelData")) != size + size % 2:
        raise UserError(f"{name} is cut off or changed: PixelData is not of the length that its tags say")
    return np.asarray(ds.pixel_array, np.float64).reshape(frames, rows, columns)


def read_dose(file: File) -> tuple[np.ndarray, Grid]:
    """Gy float32 [d,h,w] and the Grid of an RTDOSE (PS3.3 C.8.8.3)."""
    name, ds = file.name, file.ds
    with explain_damage(name):
        for keyword, value in PLANNED_DOSE.items():
            if text(ds, keyword) != value:
                raise UserError(f"{name}: {keyword} is not {value}; export the plan's physical dose in Gy")
        orientation = numbers(ds, "ImageOrientationPatient", 6)
        first_mm = numbers(ds, "ImagePositionPatient", 3)
        offsets_mm = numbers(ds, "GridFrameOffsetVector", int(number(ds, "NumberOfFrames")))
        dose_gy = (pixels(file, len(offsets_mm)) * number(ds, "DoseGridScaling")).astype(np.float32)
        pixel_mm = numbers(ds, "PixelSpacing", 2)
    if not np.isfinite(dose_gy).all() or dose_gy.min() < 0:
        raise UserError(f"{name}: DoseGridScaling and PixelData give doses that are negative or not finite")
    if offsets_mm[0] == 0:
        z_mm = first_mm[2] + offsets_mm * np.cross(orientation[:3], orientation[3:])[2]
    elif abs(offsets_mm[0] - first_mm[2]) < 0.01:
        z_mm = offsets_mm
    else:
        start = "starts neither at 0 nor at ImagePositionPatient's z"
        raise UserError(f"{name}: GridFrameOffsetVector {start}")
    if z_mm[-1] < z_mm[0]:
        z_mm, dose_gy = z_mm[::-1], dose_gy[::-1]
    step_mm = even_step(z_mm, f"{name} (GridFrameOffsetVector)")
    return to_patient_axes(dose_gy, orientation, (*first_mm[:2], z_mm[0]), (step_mm, *pixel_mm), name)
