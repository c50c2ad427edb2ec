"""Predicted doses on disk: predictions/<method>/<case>.npz on the training grid, in steps of 0.01 Gy."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lib.errors import UserError
from lib.features.grid import dose_box, refine_in_mask
from lib.files import DAMAGED_NPZ, written_whole

STEP_GY = 0.01


class Prediction(NamedTuple):
    """`dose_gy` and, of several samples, `spread_gy` (their standard deviation): float32 [D,H,W]."""

    dose_gy: np.ndarray
    spread_gy: np.ndarray | None


def prediction_path(folder, method, case_id):
    return Path(folder) / "predictions" / method / f"{case_id}.npz"


def save_prediction(path, dose_gy, coarsen, spread_gy=None):
    """Write volumes [d,h,w] of the training grid; what is stored is rounded to 0.01 Gy."""
    volumes = {"dose": np.asarray(dose_gy)} | ({} if spread_gy is None else {"spread": np.asarray(spread_gy)})
    if not all(np.isfinite(volume).all() for volume in volumes.values()):
        raise UserError(f"{path} is not written: the prediction holds values that are not finite")
    stored = {
        name: np.rint(volume / STEP_GY).clip(0, 65535).astype(np.uint16) for name, volume in volumes.items()
    }
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, coarsen=np.array(coarsen), **stored)


def load_prediction(path, dose_mask):
    """The prediction on the case's own grid, that of its `dose_mask` (bool [D,H,W]), and 0 outside it."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            coarsen = int(stored["coarsen"])
            volumes = {name: stored[name] for name in ("dose", "spread") if name == "dose" or name in stored}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run 04_comparison first") from None
    except DAMAGED_NPZ as error:
        raise UserError(f"{path} is damaged ({error}); run 04_comparison again") from None
    mask = torch.from_numpy(dose_mask)
    if any(volume.dtype != np.uint16 for volume in volumes.values()):
        raise UserError(f"{path} does not hold doses in steps of {STEP_GY} Gy; run 04_comparison again")
    if any(
        volume.shape != tuple(b.stop - b.start for b in dose_box(mask, coarsen))
        for volume in volumes.values()
    ):
        raise UserError(f"{path} is of a grid that does not fit the case; run 04_comparison again")
    fine = {
        name: refine_in_mask(
            torch.from_numpy(volume.astype(np.float32) * STEP_GY)[None, None], coarsen, mask
        )[0, 0].numpy()
        for name, volume in volumes.items()
    }
    return Prediction(fine["dose"], fine.get("spread"))


class Steps(NamedTuple):
    """Dose estimates along one start noise's sampling steps, in one slice: fractions of the prescription.

    planned     float32 [h,w]
    estimates   setting -> float32 [calls,h,w]
    labels      setting -> what each call is, such as "call 3, t = 960"
    """

    case_id: str
    planned: np.ndarray
    estimates: dict
    labels: dict


def save_steps(path, steps):
    """Write Steps; estimates are rounded to 0.001 of the prescription, within -30 to 30."""
    stored = {
        "case_id": np.array(steps.case_id),
        "settings": np.array(list(steps.estimates)),
        "planned": thousandths(steps.planned),
    }
    for number, setting in enumerate(steps.estimates):
        stored[f"estimates{number}"], stored[f"labels{number}"] = (
            thousandths(steps.estimates[setting]),
            np.array(steps.labels[setting]),
        )
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **stored)


def thousandths(values):
    return np.rint(np.nan_to_num(np.asarray(values, np.float32)) * 1000).clip(-30000, 30000).astype(np.int16)


def load_steps(path):
    """Steps as `save_steps` wrote them, or None if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            settings = [str(name) for name in stored["settings"]]
            return Steps(
                str(stored["case_id"]),
                stored["planned"] / np.float32(1000),
                {name: stored[f"estimates{n}"] / np.float32(1000) for n, name in enumerate(settings)},
                {name: [str(label) for label in stored[f"labels{n}"]] for n, name in enumerate(settings)},
            )
    except DAMAGED_NPZ:
        return None


def predicted_cases(folder, method):
    """Ids of the cases that have a prediction by the method, sorted."""
    return sorted(path.stem for path in (Path(folder) / "predictions" / method).glob("*.npz"))


def predicted_methods(folder):
    return sorted(path.name for path in (Path(folder) / "predictions").glob("*") if any(path.glob("*.npz")))
