"""One patient: CT, planned dose, structures and prescription on one grid, its checks and its file.

Arrays are [D,H,W]: z from foot to head, y from front to back, x from the patient's right to his left,
the directions in which DICOM's patient coordinates grow.
"""

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from lib.cases.protocol import Protocol, protocol_of
from lib.errors import UserError
from lib.files import DAMAGED_NPZ, replace_file

VERSION = 1
ORIENTATION = "SPL"  # the index grows towards Superior, Posterior, Left
PLAIN_FIELDS = ("case_id", "site", "shape", "spacing_mm", "origin_mm", "prescription_gy")  # as JSON
Triple = tuple[float, float, float]
JUDGED_PCT = 50.0  # of a structure must have a known dose: then it is judged by that part
DOSE_STEPS_GY = (0.01, 0.001)  # steps in which sources write dose; anything finer is kept as float32


@dataclass(frozen=True)
class Case:
    """One patient on one grid.

    ct_hu            int16 [D,H,W]             HU
    dose_gy          float32 [D,H,W]           planned dose, Gy
    masks            name -> bool [D,H,W]      structures that are present
    dose_mask        bool [D,H,W]              where dose is judged: the body, or the source's own mask
    spacing_mm       (dz, dy, dx)
    origin_mm        (z, y, x)                 centre of voxel (0, 0, 0)
    prescription_gy  target name -> Gy
    site             name of the protocol
    protocol         by default the one of lib/cases/protocols that is called so
    covered_pct      structure -> share in % inside the grid on which the dose was computed, of those that
                     reach beyond it: there the dose is not known, so they are not judged
    The axes are those of ORIENTATION.
    """

    case_id: str
    ct_hu: np.ndarray
    dose_gy: np.ndarray
    masks: dict[str, np.ndarray]
    dose_mask: np.ndarray
    spacing_mm: Triple
    prescription_gy: dict[str, float]
    site: str
    origin_mm: Triple = (0.0, 0.0, 0.0)
    protocol: Protocol | None = None
    covered_pct: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", protocol_of(self.protocol or self.site))
        problem = find_problem(self)
        if problem:
            raise UserError(f"{self.case_id}: {problem}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.dose_gy.shape

    @property
    def rx_gy(self) -> float:
        """The highest prescription, the unit of the dose inside models."""
        return max(self.prescription_gy.values())

    @property
    def primary_target(self) -> str:
        """The target with the highest prescription."""
        return max(self.prescription_gy, key=self.prescription_gy.get)

    @cached_property
    def has_dose(self) -> np.ndarray:
        """Where the dose is known: in the dose mask, and where there is some; elsewhere 0 stands for it."""
        return self.dose_mask | (self.dose_gy > 0)

    @cached_property
    def inside_pct(self) -> dict[str, float]:
        """structure -> share in % where the dose is known, of those that reach beyond it."""
        masks = {name: mask for name, mask in sorted(self.masks.items()) if mask.any()}
        shares = {name: 100 * float(self.has_dose[mask].mean()) for name, mask in masks.items()}
        return {name: share for name, share in shares.items() if share < 100} | self.covered_pct

    @cached_property
    def judged_masks(self) -> dict[str, np.ndarray]:
        """The voxels of known dose of the structures that are judged: all of which lie on the dose's own grid
        and JUDGED_PCT where the dose is known."""
        there = sorted(name for name, mask in self.masks.items() if mask.any())
        names = [n for n in there if self.inside_pct.get(n, 100) >= JUDGED_PCT and n not in self.covered_pct]
        return {n: self.masks[n] & self.has_dose if n in self.inside_pct else self.masks[n] for n in names}

    @property
    def voxel_cc(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000.0


def find_problem(case: Case) -> str | None:
    """The first reason why the case cannot be used, as the end of a sentence, or None."""
    shape = case.dose_gy.shape
    arrays = {"CT": case.ct_hu, "dose mask": case.dose_mask, **case.masks}
    wrong = [name for name, array in arrays.items() if array.shape != shape]
    if len(shape) != 3 or wrong:
        return f"the shapes differ: the dose has {shape}, not so {', '.join(wrong) or 'three axes'}"
    if len(case.spacing_mm) != 3 or not all(0.3 <= s <= 20 for s in case.spacing_mm):
        return f"a spacing of {tuple(case.spacing_mm)} mm is not between 0.3 and 20 mm; is it in cm or m?"
    if not np.isfinite(case.dose_gy).all():
        return "the dose holds values that are not finite"
    low, high = case.dose_gy.min(), case.dose_gy.max()
    if low < 0 or not 1 <= high <= 150:
        return f"a dose from {low:.1f} to {high:.1f} Gy is not a plan's; is it in cGy, or empty?"
    if not case.dose_mask.any():
        return "the dose mask is empty"
    if not case.prescription_gy or not all(1 <= rx <= 120 for rx in case.prescription_gy.values()):
        return f"the prescription {case.prescription_gy} is missing or not in Gy"
    empty = [name for name in case.prescription_gy if name not in case.masks or not case.masks[name].any()]
    if empty:
        return f"the target {empty[0]} has a prescription but no voxels"
    return None


def save_case(case: Case, path: str | Path) -> None:
    """Write the case as an npz without pickle; the dose is kept exactly as its source gives it."""
    step_gy, names = dose_step_gy(case.dose_gy), sorted(case.masks)
    meta = {key: getattr(case, key) for key in PLAIN_FIELDS}
    meta |= {"version": VERSION, "masks": names, "orientation": ORIENTATION, "dose_step_gy": step_gy}
    if isinstance(case.protocol.stored, dict):  # no file of this code has it, so the case keeps it
        meta["protocol"] = case.protocol.stored
    if case.covered_pct:
        meta["covered_pct"] = case.covered_pct
    masks = np.packbits(np.stack([case.dose_mask, *(case.masks[name] for name in names)]))
    arrays = {"meta": np.array(json.dumps(meta, sort_keys=True)), "ct_hu": case.ct_hu.astype(np.int16)}
    arrays |= {"dose": encode_dose(case.dose_gy, step_gy), "masks": masks}
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def dose_step_gy(dose_gy: np.ndarray) -> float | None:
    """The coarsest known step of which every dose is a whole multiple, or None."""
    for step_gy in DOSE_STEPS_GY:
        if np.array_equal(decode_dose(encode_dose(dose_gy, step_gy), step_gy), dose_gy.astype(np.float32)):
            return step_gy
    return None


def encode_dose(dose_gy: np.ndarray, step_gy: float | None) -> np.ndarray:
    """The dose as whole steps, or as float32 where there is no step."""
    if step_gy is None:
        return dose_gy.astype(np.float32)
    steps = np.rint(dose_gy.astype(np.float64) / step_gy)
    return steps.astype(np.uint16 if steps.max() < 65536 else np.uint32)


def decode_dose(stored: np.ndarray, step_gy: float | None) -> np.ndarray:
    """Gy float32, exactly what encode_dose was given."""
    if step_gy is None:
        return stored.astype(np.float32)
    # whole numbers below 2^24 are exact in float32, so one division rounds correctly
    return stored.astype(np.float32) / np.float32(round(1 / step_gy))


def load_case(path: str | Path) -> Case:
    """Read a case file; a missing, damaged or foreign one ends in one sentence."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            meta = json.loads(str(stored["meta"]))
            if meta.get("version") != VERSION:
                raise UserError(f"it is of version {meta.get('version')}, this code reads {VERSION}")
            return decode_case(meta, stored["ct_hu"], stored["dose"], stored["masks"])
    except UserError as error:
        raise UserError(f"{path} cannot be used ({error}); make the cohort again") from None
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make the cohort again") from None
    except DAMAGED_NPZ as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged ({reason}); make the cohort again") from None


def decode_case(meta: dict, ct_hu: np.ndarray, dose: np.ndarray, packed: np.ndarray) -> Case:
    """The Case of a file's arrays; `packed` holds the bits of the dose mask and then of each mask."""
    shape = tuple(meta["shape"])
    count = 1 + len(meta["masks"])
    if packed.size != math.ceil(count * math.prod(shape) / 8):  # unpackbits would fill up with zeros
        raise UserError("its masks are not of the case's shape")
    if ct_hu.dtype != np.int16 or dose.dtype not in (np.uint16, np.uint32, np.float32):
        raise UserError(f"its CT is {ct_hu.dtype} and its dose {dose.dtype}, not whole HU and a number of Gy")
    masks = np.unpackbits(packed, count=count * math.prod(shape)).view(bool).reshape(count, *shape)
    return Case(
        case_id=meta["case_id"],
        site=meta["site"],
        ct_hu=ct_hu,
        dose_gy=decode_dose(dose, meta["dose_step_gy"]),
        dose_mask=masks[0],
        masks=dict(zip(meta["masks"], masks[1:])),
        spacing_mm=tuple(meta["spacing_mm"]),
        origin_mm=tuple(meta["origin_mm"]),
        prescription_gy=meta["prescription_gy"],
        protocol=protocol_of(meta.get("protocol", meta["site"])),
        covered_pct=meta.get("covered_pct", {}),
    )
