"""Predicted doses on disk: predictions/<method>/<case>.npz on the training grid, in steps of 0.01 Gy."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lib.errors import UserError
from lib.features.grid import Grid, dose_box, finer, refine_in_mask
from lib.files import DAMAGED_NPZ, replace_file

STEP_GY = 0.01


class StoredDose(NamedTuple):
    """`dose_gy` and, of several samples, `spread_gy` (their standard deviation): float32 [D,H,W]."""

    dose_gy: np.ndarray
    spread_gy: np.ndarray | None = None


class Steps(NamedTuple):
    """Dose estimates along one start noise's sampling steps, in one slice: fractions of the prescription.

    planned     float32 [h,w]
    estimates   setting -> float32 [calls,h,w]
    labels      setting -> what each call is, such as "call 3, t = 960"
    """

    case_id: str
    planned: np.ndarray
    estimates: dict[str, np.ndarray]
    labels: dict[str, list[str]]


def prediction_path(folder: str | Path, method: str, case_id: str) -> Path:
    return Path(folder) / "predictions" / method / f"{case_id}.npz"


def predicted_methods(folder: str | Path) -> list[str]:
    """The methods that have a prediction of any case, sorted."""
    return sorted({path.parent.name for path in Path(folder).glob("predictions/*/*.npz")})


def predicted_cases(folder: str | Path, method: str) -> list[str]:
    """Ids of the cases that have a prediction by the method, sorted."""
    return sorted(path.stem for path in prediction_path(folder, method, "").parent.glob("*.npz"))


def save_prediction(path: Path, dose_gy: np.ndarray, grid: Grid, spread_gy: np.ndarray | None = None) -> None:
    """Write volumes [d,h,w] of the training grid; what is stored is rounded to 0.01 Gy."""
    volumes = {"dose": dose_gy} if spread_gy is None else {"dose": dose_gy, "spread": spread_gy}
    if not all(np.isfinite(volume).all() for volume in volumes.values()):
        raise UserError(f"{path} is not written: the prediction holds values that are not finite")
    steps = {name: np.rint(np.asarray(volume) / STEP_GY).clip(0, 65535) for name, volume in volumes.items()}
    write_npz(path, **grid._asdict(), **{name: volume.astype(np.uint16) for name, volume in steps.items()})


def load_prediction(path: Path, dose_mask: np.ndarray) -> StoredDose:
    """The prediction on the case's own grid, that of its `dose_mask` (bool [D,H,W]), and 0 outside it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            grid = Grid(*(int(stored[name]) for name in Grid._fields if name in stored.files))
            names = ["dose", *({"spread"} & {*stored.files})]
            volumes = [stored[name] for name in names]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run 04_comparison first") from None
    except DAMAGED_NPZ as error:
        raise UserError(f"{path} is damaged ({error}); run 04_comparison again") from None
    mask = torch.from_numpy(dose_mask)
    box = tuple(span.stop - span.start for span in finer(dose_box(mask, grid.coarsen), grid.answer))
    if any(volume.dtype != np.uint16 for volume in volumes):
        raise UserError(f"{path} does not hold doses in steps of {STEP_GY} Gy; run 04_comparison again")
    if any(volume.shape != box for volume in volumes):
        raise UserError(f"{path} is of a grid that does not fit the case; run 04_comparison again")
    in_gy = [torch.from_numpy(volume.astype(np.float32) * STEP_GY)[None, None] for volume in volumes]
    return StoredDose(*(refine_in_mask(volume, grid, mask)[0, 0].numpy() for volume in in_gy))


def save_steps(path: Path, steps: Steps) -> None:
    """Write Steps; estimates are rounded to 0.001 of the prescription, within -30 to 30."""
    estimates = {f"estimates{n}": thousandths(v) for n, v in enumerate(steps.estimates.values())}
    labels = {f"labels{n}": steps.labels[name] for n, name in enumerate(steps.estimates)}
    planned, settings = thousandths(steps.planned), list(steps.estimates)
    write_npz(path, case_id=steps.case_id, settings=settings, planned=planned, **estimates, **labels)


def load_steps(path: Path) -> Steps | None:
    """Steps as `save_steps` wrote them, or None if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            numbers = {str(name): n for n, name in enumerate(stored["settings"])}
            estimates = {name: stored[f"estimates{n}"] / np.float32(1000) for name, n in numbers.items()}
            labels = {name: [str(label) for label in stored[f"labels{n}"]] for name, n in numbers.items()}
            return Steps(str(stored["case_id"]), stored["planned"] / np.float32(1000), estimates, labels)
    except DAMAGED_NPZ:
        return None


def thousandths(values: np.ndarray) -> np.ndarray:
    return np.rint(np.nan_to_num(np.asarray(values, np.float32)) * 1000).clip(-30000, 30000).astype(np.int16)


def write_npz(path: Path, **arrays) -> None:
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{name: np.array(values) for name, values in arrays.items()})
