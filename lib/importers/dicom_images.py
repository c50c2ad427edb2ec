"""CT series and RTDOSE files as volumes on the project's axes; what contradicts itself is refused."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from lib.errors import UserError
from lib.importers.dicom_files import WHOLE, File, explain_damage, import_pydicom, need, number, numbers, text
from lib.importers.dicom_grid import MAX_VOXELS, ImageGrid, even_step, is_upright, to_patient_axes

FIELD_MM = (100.0, 1200.0)  # width of a CT that is in mm
JUMP_HU = 20.0  # median step between neighbouring slices that two different rescales may leave
HU_TYPES = ("HU", "US", "UNSPECIFIED", "")  # RescaleType; US is unspecified
PLANNED_DOSE = {"DoseUnits": ("GY",), "DoseType": ("PHYSICAL",), "DoseSummationType": (*WHOLE, "BEAM")}


class Slice(NamedTuple):
    """A CT slice: its file, the (x, y, z) of its first pixel in mm, and what all slices of a series share."""

    file: File
    first_mm: np.ndarray
    layout: tuple


def read_ct(files: list[File], folder: str) -> tuple[np.ndarray, ImageGrid]:
    """HU float32 [D,H,W] and the ImageGrid of a series of axial slices in any order (CT Image IOD)."""
    slices = sorted((read_layout(file) for file in files), key=lambda one: one.first_mm[2])
    is_upright(slices[0].layout[2], slices[0].file.name)
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
        wide = f"{width_mm[0]:.0f} x {width_mm[1]:.0f} mm wide"
        raise UserError(f"{name}: by PixelSpacing the CT is {wide}, which is no patient; is it in cm?")
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
    first_xy_mm = np.array([one.first_mm[:2] for one in slices])
    shift_mm = abs(first_xy_mm - np.median(first_xy_mm, axis=0)).max(axis=1)
    if (shift_mm > 0.01).mean() > 0.5:
        shifted = "its slices are shifted sideways, one against the other, as by a tilted gantry"
        raise UserError(f"{slices[0].file.name}: the CT is an oblique stack: {shifted}; export axial images")
    for one, mm in zip(slices, shift_mm):
        if one.layout != common or mm > 0.01:
            what = "size, bits, spacing, orientation, frame of reference or position"
            raise UserError(f"{one.file.name} differs in {what} from the other slices")


def read_hu(slices: list[Slice]) -> np.ndarray:
    """HU float32 [n, rows, columns]; slices may differ in their rescale, but anatomy goes on across them."""
    volume = np.empty((len(slices), *slices[0].layout[:2]), np.float32)
    before = None
    for k, one in enumerate(slices):
        file = one.file
        with explain_damage(file.name):
            rescale = number(file.ds, "RescaleSlope"), number(file.ds, "RescaleIntercept")
            if str(file.ds.get("RescaleType") or "").strip().upper() not in HU_TYPES:
                raise UserError(f"{file.name}: RescaleType is not HU; export the CT in HU")
            hu = (pixels(file, 1)[0] * rescale[0] + rescale[1]).astype(np.float32)
        if not (-32768 <= hu.min() and hu.max() <= 32767):
            raise UserError(f"{file.name}: RescaleSlope and RescaleIntercept give values that are no HU")
        jump_hu = np.median(hu - volume[k - 1]) if k and rescale != before else 0.0
        if abs(jump_hu) > JUMP_HU:
            differs = f"differs from the slice below, and the values jump by {jump_hu:.0f} HU"
            raise UserError(f"{file.name}: RescaleSlope or RescaleIntercept {differs}")
        volume[k] = hu
        before = rescale
    return volume


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
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        check_decoder(syntax, name)
    elif len(need(ds, "PixelData")) != size + size % 2:
        raise UserError(f"{name} is cut off or changed: PixelData is not of the length that its tags say")
    return np.asarray(ds.pixel_array, np.float64).reshape(frames, rows, columns)


def check_decoder(syntax: str, name: str) -> None:
    """Raises a UserError where nothing that is installed can decode a transfer syntax."""
    try:
        available = import_pydicom().pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        install = "pip install 'pylibjpeg[all]'"
        raise UserError(f"{name} is compressed ({syntax.name}); {install}, or export it uncompressed")


def read_doses(files: list[File]) -> tuple[np.ndarray, ImageGrid]:
    """The sum of doses on one grid, and the ImageGrid; see `read_dose`."""
    total_gy, grid = read_dose(files[0])
    for file in files[1:]:
        dose_gy, other = read_dose(file)
        if other != grid:
            differs = f"{file.name} has another grid than {files[0].name}"
            raise UserError(f"{differs}, so they cannot be added; export the dose of the whole plan")
        total_gy += dose_gy
    return total_gy, grid


def read_dose(file: File) -> tuple[np.ndarray, ImageGrid]:
    """Gy float32 [d,h,w] and the ImageGrid of an RTDOSE (PS3.3 C.8.8.3)."""
    name, ds = file.name, file.ds
    with explain_damage(name):
        for keyword, values in PLANNED_DOSE.items():
            if text(ds, keyword) not in values:
                is_not = f"{keyword} is not {values[0]}"
                raise UserError(f"{name}: {is_not}; export the plan's physical dose in Gy")
        orientation = numbers(ds, "ImageOrientationPatient", 6)
        first_mm = numbers(ds, "ImagePositionPatient", 3)
        offsets_mm = numbers(ds, "GridFrameOffsetVector", int(number(ds, "NumberOfFrames")))
        dose_gy = (pixels(file, len(offsets_mm)) * number(ds, "DoseGridScaling")).astype(np.float32)
        pixel_mm = numbers(ds, "PixelSpacing", 2)
    if not np.isfinite(dose_gy).all() or dose_gy.min() < 0:
        raise UserError(f"{name}: DoseGridScaling and PixelData give doses that are negative or not finite")
    if offsets_mm[0] != 0 and abs(offsets_mm[0] - first_mm[2]) >= 0.01:
        start = "starts neither at 0 nor at ImagePositionPatient's z"
        raise UserError(f"{name}: GridFrameOffsetVector {start}")
    along_z = np.cross(orientation[:3], orientation[3:])[2]
    z_mm = offsets_mm if offsets_mm[0] else first_mm[2] + offsets_mm * along_z
    if z_mm[-1] < z_mm[0]:
        z_mm, dose_gy = z_mm[::-1], dose_gy[::-1]
    step_mm = even_step(z_mm, f"{name} (GridFrameOffsetVector)")
    return to_patient_axes(dose_gy, orientation, (*first_mm[:2], z_mm[0]), (step_mm, *pixel_mm), name)
