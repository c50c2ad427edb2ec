"""The reference study's prostate plans: a folder with one npz per case, as its preprocessing writes them.

What a file holds, arrays in (y, x, z), 512 x 512 x 256 voxels of 1 x 1 x 2 mm:

    ct           clip(HU, -1000, 3000) / 4000 + 0.5
    dose         Gy / 70
    masks        uint8 [8,y,x,z], in the order of STRUCTURES
    masks_sdf    signed distances; not read, because they are computed here from the masks
    constraints  the 13 numbers of the study's conditioning vector; not read, prostate.yaml has them
    metadata     a pickled dict; never opened, because opening a pickle runs what it says

Without the metadata three things are taken for granted: the voxel size above, y from front to back and x from
the patient's right to his left as DICOM has them, and z growing towards the head.
"""

from pathlib import Path
from zipfile import ZipFile

import numpy as np
from scipy import ndimage

from lib.cases.case import Case
from lib.cases.protocol import PROTOCOLS
from lib.errors import UserError
from lib.files import DAMAGED_NPZ
from lib.importers.body import fill_holes, largest_part
from lib.importers.cohort import Source

STRUCTURES = ("PTV70", "PTV56", "Prostate", "Rectum", "Bladder", "Femur_L", "Femur_R", "Bowel")
SPACING_MM = (2.0, 1.0, 1.0)  # z, y, x
DOSE_UNIT_GY = 70.0
BODY_HU = -400.0  # between air and the least dense tissue
MARGIN_MM = 10.0  # kept around the body, the structures and the dose
DOSE_KEPT_GY = 7.0  # a tenth of the prescription: dose that lies outside the body is kept from here on
MAX_BYTES = 2**32  # of an array; no case's is larger


def vmat_source(folder: str | Path) -> Source:
    """The cases in a folder of the study's npz files."""
    return Source("the reference study's npz files", find_cases(folder), read_npz)


def find_cases(folder: str | Path) -> dict[str, Path]:
    """Case id -> file, sorted by id."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the study's case_*.npz")
    paths = {path.stem: path for path in sorted(folder.glob("*.npz"))}
    if not paths:
        raise UserError(f"{folder} holds no .npz; give the folder that holds the study's case_*.npz")
    return paths


def read_npz(path: str | Path) -> Case:
    """One file as a Case on its own grid, cropped; raises a UserError that names the file.

    The dose mask is the body: the largest connected part of the CT above -400 HU (which leaves a couch out
    where air lies between), its holes filled slice by slice. The crop keeps it, the structures and dose from
    7 Gy on, with a margin of 10 mm.
    """
    path = Path(path)
    try:
        with ZipFile(path) as archive:
            return decode(path.stem, archive)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except DAMAGED_NPZ as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged or none of the study's ({reason})") from None


def read_array(archive: ZipFile, name: str, types: tuple[type, ...], low: float, high: float) -> np.ndarray:
    """A member's array of one of the types, with every value between `low` and `high`; NaN is not."""
    if f"{name}.npy" not in archive.namelist():
        raise UserError(f"it has no array {name}")
    if archive.getinfo(f"{name}.npy").file_size > MAX_BYTES:
        raise UserError(f"its array {name} is larger than {MAX_BYTES} bytes")
    with archive.open(f"{name}.npy") as member:
        values = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # also has the checksum compared
            raise UserError(f"its array {name} goes on after its end")
    if not any(np.issubdtype(values.dtype, kind) for kind in types):
        raise UserError("its CT and dose must be floating-point numbers, its masks uint8 or bool")
    least, most = values.min(), values.max()
    if not (low <= least and most <= high):
        raise UserError(f"its {name} runs from {least:g} to {most:g}, not within {low:g} to {high:g}")
    return values


def decode(case_id: str, archive: ZipFile) -> Case:
    """The Case of an open file; one large array at a time is held as stored."""
    ct = read_array(archive, "ct", (np.floating,), 0.249, 1.251)
    ct_hu = np.rint((ct - np.float32(0.5)) * 4000).astype(np.int16)
    del ct
    dose_gy = read_array(archive, "dose", (np.floating,), -0.01, 2.0) * DOSE_UNIT_GY
    dose_gy = np.maximum(dose_gy, 0).astype(np.float32)
    masks = read_array(archive, "masks", (np.uint8, np.bool_), 0, 1).view(bool)
    if ct_hu.ndim != 3 or dose_gy.shape != ct_hu.shape or masks.shape != (len(STRUCTURES), *ct_hu.shape):
        shapes = f"{ct_hu.shape}, {dose_gy.shape}, {masks.shape}"
        must = f"the masks must be {len(STRUCTURES)} of the CT's and the dose's"
        raise UserError(f"its CT, dose and masks have the shapes {shapes}; {must}")
    body = largest_part(ct_hu > BODY_HU)
    if not body.any():
        raise UserError(f"its CT is nowhere above {BODY_HU:g} HU")
    box = box_around(body | (dose_gy >= DOSE_KEPT_GY) | masks.any(axis=0))
    parts = (array[box].transpose(2, 0, 1) for array in (ct_hu, body, dose_gy, *masks))
    ct_hu, body, dose_gy, *masks = map(np.ascontiguousarray, parts)
    masks = {name: mask for name, mask in zip(STRUCTURES, masks) if mask.any()}
    rx_gy = {name: rx for name, rx in PROTOCOLS["prostate"].targets.items() if name in masks}
    return Case(case_id, ct_hu, dose_gy, masks, fill_holes(body), SPACING_MM, rx_gy, site="prostate")


def box_around(mask: np.ndarray) -> tuple[slice, ...]:
    """Slices (y, x, z) of the mask's bounding box with the margin."""
    margins = [round(MARGIN_MM / SPACING_MM[axis]) for axis in (1, 2, 0)]
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    return tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margins))
