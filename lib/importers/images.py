"""A predicted dose as a file for other programs: RTDOSE beside the patient's DICOM, or, with CT, planned dose
and structures, as images that 3D Slicer, ITK-SNAP, niivue and most others open.

Case arrays grow towards the patient's left, back and head, as ITK's coordinates do (LPS), so an image's
direction cosines are the unit matrix; for NIfTI, whose axes grow towards right, front and head (RAS),
SimpleITK turns the signs. Structures overlap, so each has a mask of its own.
"""

import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lib.cases.case import Case
from lib.errors import UserError
from lib.files import is_below_outputs
from lib.importers.rtdose import write_rtdose

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")
PUBLIC = ("OpenKBP", "phantoms")  # how a card's `source` begins where the patients are no clinic's


def write_dose(
    path: str | Path, dose_gy: np.ndarray, case: Case, source: str, dicom: str | Path = "", **about: str
) -> list[Path]:
    """Write `dose_gy` [D,H,W] as `path` says: RTDOSE if the patient's `dicom` folder is given, else images of
    the kind that the name ends in; returns what was written. Raises a UserError.

    `source` is the cohort's, from its card; `about` is what write_rtdose is told of the dose.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is not written: it is a folder; name a file in it")
    if not dicom:
        return write_images(path, dose_gy, case, source)
    if path.name.lower().endswith(FORMATS):
        how = "end its name in .dcm, or leave the DICOM folder out for images"
        raise UserError(f"{path} is not written: with a DICOM folder it would be RTDOSE; {how}")
    return [write_rtdose(path, dose_gy, case, Path(dicom), **about)]


def write_images(path: Path, dose_gy: np.ndarray, case: Case, source: str) -> list[Path]:
    """Write `dose_gy` on the grid of `case` to `path`, and beside it what it is to be seen with:

    x.nii.gz            dose_gy, float32
    x-planned.nii.gz    planned dose in Gy, float32
    x-ct.nii.gz         HU, int16
    x-structures/       a mask of 0 and 1 for each structure, uint8, named like it
    All or nothing is written; files of these names are replaced. Raises a UserError.
    """
    suffix, itk = image_format(path), import_simpleitk()
    if not source.startswith(PUBLIC) and is_below_outputs(path):
        raise UserError(f"{path} is not written: a clinic's patient must not lie below outputs")
    stem = path.name[: -len(suffix)]
    structures = {f"{name}{suffix}": np.uint8(mask) for name, mask in sorted(case.masks.items())}
    folder = path.with_name(f"{stem}-structures")
    others = {file.name for file in folder.glob(f"*{suffix}")} - {*structures}
    if others:
        raise UserError(f"{path} is not written: {folder} holds also {min(others)}")
    volumes = {f"{folder.name}/{name}": mask for name, mask in structures.items()}
    volumes |= {f"{stem}-ct{suffix}": np.int16(case.ct_hu), f"{stem}-planned{suffix}": case.dose_gy}
    volumes |= {path.name: dose_gy.astype(np.float32)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{stem}.", dir=path.parent) as temporary:
        (Path(temporary) / folder.name).mkdir()
        for name, volume in volumes.items():
            itk.WriteImage(to_image(volume, case, itk), str(Path(temporary) / name), True)
        folder.mkdir(exist_ok=True)
        for name in volumes:
            os.replace(Path(temporary) / name, path.parent / name)
    return [path, *(path.parent / name for name in volumes if name != path.name)]


def image_format(path: Path) -> str:
    """The one of FORMATS that the name ends in; another is a UserError."""
    for suffix in FORMATS:
        if path.name.lower().endswith(suffix):
            return path.name[-len(suffix) :]
    kinds = f"{', '.join(FORMATS)}, or in .dcm if the patient's DICOM folder is given"
    raise UserError(f"{path} is not written: its name must end in {kinds}")


def to_image(volume: np.ndarray, case: Case, itk: ModuleType) -> Any:
    """The SimpleITK image of volume [D,H,W] where the case lies."""
    image = itk.GetImageFromArray(volume)
    image.SetSpacing([float(mm) for mm in case.spacing_mm[::-1]])  # x, y, z
    image.SetOrigin([float(mm) for mm in case.origin_mm[::-1]])
    return image


def import_simpleitk() -> ModuleType:
    """SimpleITK, or a sentence on how to have it."""
    try:
        import SimpleITK
    except ImportError:
        raise UserError("images need SimpleITK; install it with: pip install -e '.[images]'") from None
    return SimpleITK
