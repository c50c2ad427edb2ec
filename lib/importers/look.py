"""What lies in DICOM folders and what would be taken for what, before a cohort is made.

Nothing is written but, where it is asked for, a first protocol.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from lib.cases.protocol import FROM_PLAN, make_protocol, plain
from lib.errors import UserError
from lib.files import write_text
from lib.importers import dicom_structures
from lib.importers.dicom_contours import contour_mask
from lib.importers.dicom_files import Chain, read_chain
from lib.importers.dicom_grid import ImageGrid, coverage, resample
from lib.importers.dicom_images import read_ct, read_doses
from lib.importers.dicom_rt import find_patients
from lib.importers.dicom_structures import Roi, planned_fractions, read_rois
from lib.importers.options import Options

ORGANS = ("ORGAN", "AVOIDANCE", "")  # RTROIInterpretedType of what a first protocol takes for an organ
OUTLINES = ("body", "external", "skin")
SIDES = (("L", "R"), ("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
GOALS = """# goals: doses in Gy or in % of the prescription, such as
#   - PTV D98 % >= 95 %
#   - Heart V25 Gy <= 10 %
#   - SpinalCord Dmax <= 45 Gy
"""


def look(folder: str | Path, options: Options) -> list[pd.DataFrame]:
    """Print what each patient in `folder` has; the tables of structures of those that can be read."""
    tables = []
    for case_id, path in find_patients(folder).items():
        try:
            sentences, table = look_at(path, options)
        except UserError as error:
            print(f"{case_id}: {error}\n")
            continue
        print(f"{case_id}: {'; '.join(sentences)}\n{table.to_string(index=False, na_rep='')}\n")
        tables.append(table)
    return tables


def look_at(folder: Path, options: Options) -> tuple[list[str], pd.DataFrame]:
    """(what is there, a row for each structure) of one patient; a UserError where he cannot be read."""
    chain = read_chain(folder)
    grid, rois = read_ct(chain.slices, folder.name)[1], read_rois(chain)
    dose_gy, dose_grid = read_doses(chain.doses)
    sentences = [f"CT {size_text(grid)}", f"dose {size_text(dose_grid)}, at most {dose_gy.max():.1f} Gy"]
    in_plan = {one.roi: one.gy for one in dicom_structures.plan_doses(chain.plan, rois, [])}
    sentences += [f"{planned_fractions(chain.plan) or 'no'} fractions planned"]
    sentences += [f"{in_plan[None]:g} Gy prescribed to no structure"] if None in in_plan else []
    names, choice = choose_names(chain, rois, options)
    dose_gy, inside = resample(dose_gy, dose_grid, grid, beyond=0.0), coverage(dose_grid, grid)
    rows = []
    for roi in rois:
        name, gy = names.get(roi.number, ("", in_plan.get(roi.number)))
        row = {"structure": roi.name, "type": roi.kind, "taken for": name, "prescribed Gy": gy}
        rows.append(row | measure(roi, grid, chain.structures.name, dose_gy, inside))
    return [*sentences, *choice], pd.DataFrame(rows)


def choose_names(chain: Chain, rois: list[Roi], options: Options) -> tuple[dict[int, tuple], list[str]]:
    """(ROI number -> name in the protocol and Gy, sentences), as an import has them or why it has none."""
    mapped, rx, sentences, user_gy = {}, {}, [], options.prescription_gy or {}
    try:
        protocol, aliases = dicom_structures.choose_protocol(rois, options, chain)
        sentences.append(f"taken for {protocol.site}: {protocol.title}")
        mapped = dicom_structures.map_names(rois, protocol, aliases, chain.structures.name)
        rx = dicom_structures.prescriptions(mapped, protocol, rois, chain, user_gy, sentences)
    except UserError as error:
        sentences.append(f"not to be imported yet: {error}")
    return {roi.number: (name, rx.get(name, (None,))[0]) for name, roi in mapped.items()}, sentences


def size_text(grid: ImageGrid) -> str:
    voxels, spacing = (" x ".join(f"{n:g}" for n in of) for of in (grid.shape, grid.spacing_mm))
    return f"{voxels} voxels of {spacing} mm (z, y, x)"


def measure(roi: Roi, grid: ImageGrid, file: str, dose_gy: np.ndarray, inside: np.ndarray) -> dict:
    """Volume and dose of a structure on the CT's grid, or a note why there is none."""
    try:
        mask = contour_mask(roi, grid, grid, file, []) if roi.items else np.zeros(grid.shape, bool)
    except UserError as error:
        return {"note": str(error).removeprefix(f"{file}: ")}
    if not mask.any():
        return {"note": "no contour"}
    row = {"cc": round(mask.sum() * float(np.prod(grid.spacing_mm)) / 1000, 2)}
    if not inside[mask].all():
        return row | {"note": f"the dose grid holds {100 * inside[mask].mean():.1f} %"}
    doses_gy = dose_gy[mask].astype(float)
    return row | {"mean Gy": doses_gy.mean().round(1), "max Gy": doses_gy.max().round(1), "note": ""}


def write_protocol(path: str | Path, tables: list[pd.DataFrame]) -> None:
    """Write a first protocol of what at least half of the patients have: targets, organs, mirrored pairs.

    Goals are for the clinic to say. A UserError where nothing is a target, or the file exists.
    """
    path, targets, organs, aliases = Path(path), {}, [], {}
    if path.exists():
        raise UserError(f"{path} exists already; give --write-protocol another name")
    rows = pd.concat([pd.DataFrame({"structure": [], "cc": []}), *tables]).dropna(subset="cc")
    for same, group in rows.groupby(rows["structure"].map(plain), sort=False):
        first, kinds = group["structure"].iloc[0], set(group["type"])
        name = re.sub(r"[^\w.+-]+", "_", first).strip("_.+-") or "structure"
        if 2 * len(group) < len(tables):
            continue
        if "PTV" in kinds or same.startswith("ptv"):
            gy = set(group["prescribed Gy"].dropna())
            targets[name] = float(*gy) if len(gy) == 1 else FROM_PLAN
        elif kinds <= set(ORGANS) and same not in OUTLINES:
            organs.append(name)
        if plain(name) != same and name in (*targets, *organs):
            aliases[name] = [first]
    content = {"title": path.stem, "targets": targets, "organs": organs, "aliases": aliases}
    content["mirrored"] = mirrored_pairs(organs)
    make_protocol(path.stem, content, f"{path} is not written")
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True) + GOALS)


def mirrored_pairs(names: list[str]) -> list[list[str]]:
    """[left, right] of the names of which one word, or the last or first letter, is the side."""
    pairs = []
    for left, right in SIDES:
        pattern = rf"(?<![A-Za-z]){left}(?![A-Za-z])" if len(left) == 1 else left
        twins = {name: re.sub(pattern, right, name) for name in names}
        pairs += [[name, twin] for name, twin in twins.items() if twin != name and twin in names]
    return pairs
