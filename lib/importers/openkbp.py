"""OpenKBP patients (Babier et al. 2021, Med. Phys. 48:5549) from the public folders of CSV files.

The folder holds train-pats, validation-pats and perhaps test-pats; each patient is a folder of CSVs that
list flat indices into 128^3 (row, column, slice), for CT and dose with a value. The CT is HU + 1024.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.cases.case import Case, Triple
from lib.cases.cohort import Split
from lib.cases.protocol import PROTOCOLS
from lib.errors import UserError
from lib.importers.cohort import Source

SHAPE = (128, 128, 128)  # rows front to back, columns right to left, slices head to foot
SPLITS = {"train": "train-pats", "validation": "validation-pats", "test": "test-pats"}
HEAD_AND_NECK = PROTOCOLS["head-and-neck"]
VALIDATION_PATIENTS = 25  # taken from training when the published validation patients must be the test


def openkbp_source(folder: str | Path) -> Source:
    """The patients of OpenKBP's provided-data folder."""
    folders = find_patients(folder)
    patients = {path.name: path for paths in folders.values() for path in paths}
    split = split_patients({part: [path.name for path in paths] for part, paths in folders.items()})
    return Source("OpenKBP, public CSV folders", patients, read_patient, split)


def find_patients(folder: str | Path) -> dict[str, list[Path]]:
    """Published split name -> patient folders in the order of their numbers."""
    folder = Path(folder)
    if not folder.is_dir():
        advice = "give the folder that holds train-pats and validation-pats"
        raise UserError(f"{folder} is not a folder; {advice}")
    folders = {part: sorted((folder / sub).glob("pt_*"), key=patient_number) for part, sub in SPLITS.items()}
    if not any(folders.values()):
        raise UserError(f"{folder} holds no train-pats/pt_* folders; give OpenKBP's provided-data folder")
    return folders


def patient_number(folder: Path) -> int:
    """7 of pt_7."""
    digits = folder.name.removeprefix("pt_")
    if not (digits.isascii() and digits.isdigit()):
        raise UserError(f"{folder} is not named pt_<number>; rename or remove it")
    return int(digits)


def split_patients(ids: Split) -> Split:
    """Published split name -> ids in order, as ours: without test patients validation becomes the test.

    Then the training patients of the highest numbers are the validation: 25, or a fifth of a small cohort.
    """
    if ids.get("test"):
        return ids
    train = ids["train"]
    cut = len(train) - (min(VALIDATION_PATIENTS, max(1, len(train) // 5)) if train else 0)
    return {"train": train[:cut], "validation": train[cut:], "test": ids["validation"]}


def read_patient(folder: str | Path) -> Case:
    """One patient's folder of CSVs as a Case; raises a UserError that names the file at fault."""
    folder = Path(folder)
    dose_index, dose = read_csv(folder / "dose.csv", values=True)
    mask_index, _ = read_csv(folder / "possible_dose_mask.csv")
    if not np.array_equal(np.sort(dose_index), np.sort(mask_index)):
        raise UserError(f"{folder / 'dose.csv'} does not cover possible_dose_mask.csv; fetch both again")
    ct_index, ct = read_csv(folder / "ct.csv", values=True)
    paths = {name: folder / f"{name}.csv" for name in HEAD_AND_NECK.structures}
    masks = {name: to_volume(read_csv(path)[0], True, bool) for name, path in paths.items() if path.exists()}
    ct_hu = to_volume(ct_index, np.clip(np.rint(ct), 0, 32000), np.int16) - 1024
    dose_gy, dose_mask = to_volume(dose_index, dose, np.float32), to_volume(mask_index, True, bool)
    spacing_mm = read_spacing(folder / "voxel_dimensions.csv")
    rx_gy = {name: rx for name, rx in HEAD_AND_NECK.targets.items() if name in masks}
    return Case(folder.name, ct_hu, dose_gy, masks, dose_mask, spacing_mm, rx_gy, site="head-and-neck")


def read_csv(path: Path, values: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices int64 [N] and, if `values`, values float64 [N]; refuses a cut, foreign or damaged file."""
    try:
        with open(path, "rb") as file:
            columns = file.readline().count(b",") + 1
            file.seek(-1, 2)
            whole = file.read(1) == b"\n"
        if whole and columns != 2:  # pandas would take the first of three for row names
            raise ValueError(f"{columns} columns instead of 2")
        types = {"index": np.int64, "data": np.float64}
        table = pd.read_csv(path, header=0, names=list(types), dtype=types)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; the patient is not complete") from None
    except (ValueError, OSError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a table of index and value ({reason}); fetch it again") from None
    index, data = table["index"].to_numpy(), table["data"].to_numpy()
    if not whole or len(index) == 0:
        raise UserError(f"{path} is cut off or empty; fetch it again")
    if index.min() < 0 or index.max() >= np.prod(SHAPE) or len(np.unique(index)) != len(index):
        raise UserError(f"{path} has an index that repeats or is outside 128^3; fetch it again")
    if values and not np.isfinite(data).all():
        raise UserError(f"{path} has a value that is not a finite number; fetch it again")
    return index, data


def to_volume(index: np.ndarray, values: np.ndarray | bool, dtype: type) -> np.ndarray:
    """[D,H,W] of values at flat indices, from (row, column, slice head to foot) to (z foot to head, y, x)."""
    volume = np.zeros(np.prod(SHAPE), dtype)
    volume[index] = values
    return np.ascontiguousarray(volume.reshape(SHAPE).transpose(2, 0, 1)[::-1])


def read_spacing(path: Path) -> Triple:
    """The voxel size (z, y, x) in mm; the file says row, column, slice."""
    try:
        y, x, z = (float(word) for word in path.read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        raise UserError(f"{path} must hold three numbers, the voxel size in mm") from None
    return z, y, x
