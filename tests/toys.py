"""Made-up patients for tests: anatomy of spheres and tubes, dose an analytic function of distance to targets.

Coordinates: mm from the centre of the volume, z towards the head, y the back, x the patient's left.
"""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from lib.cases.case import Case
from lib.cases.cohort import open_cohort
from lib.cases.protocol import protocol_of
from lib.files import write_json
from lib.importers.cohort import Source, import_case, make_card
from lib.importers.openkbp import SHAPE as OPENKBP_SHAPE

SHAPE = (16, 24, 24)
LUNG, BREAST = "lung-60-in-30", "breast-40-in-15"
FIELD_MM = {
    "prostate": (192.0, 240.0, 336.0),
    "head-and-neck": (240.0, 240.0, 240.0),
    LUNG: (240.0, 240.0, 360.0),
    BREAST: (240.0, 240.0, 360.0),
}
SITES = list(FIELD_MM)
BODY_MM = {  # half axes
    "prostate": (200.0, 105.0, 155.0),
    "head-and-neck": (220.0, 90.0, 80.0),
    LUNG: (220.0, 105.0, 165.0),
    BREAST: (220.0, 105.0, 165.0),
}
FALL_OFF_MM = 30.0
CENTRE_MM = {  # the targets' centre lies between these corners
    "prostate": ((-12, -10, -14), (12, 4, 14)),
    "head-and-neck": ((-15, -20, -30), (15, 0, 30)),
    LUNG: ((-10, -20, -95), (30, 20, -75)),
    BREAST: ((-10, -50, 80), (10, -40, 90)),
}
TARGETS = {  # name -> (prescription in Gy, radius in mm), spheres about one centre
    "prostate": {"PTV70": (70.0, 32.0), "PTV56": (56.0, 46.0)},
    "head-and-neck": {"PTV70": (70.0, 26.0), "PTV63": (63.0, 36.0), "PTV56": (56.0, 48.0)},
    LUNG: {"PTV": (60.0, 26.0)},
    BREAST: {"PTV": (40.0, 34.0)},
}
ORGANS = {  # name -> (centre z, y, x, half axes z, y, x), mm
    "prostate": {
        "Prostate": (0, 0, 0, 24, 24, 24),
        "Rectum": (0, 55, 0, 60, 16, 18),
        "Bladder": (42, -32, 0, 26, 30, 36),
        "Femur_L": (-10, 0, 105, 50, 24, 26),
        "Femur_R": (-10, 0, -105, 50, 24, 26),
        "Bowel": (85, -20, 0, 22, 45, 60),
    },
    "head-and-neck": {
        "Brainstem": (85, 25, 0, 28, 14, 15),
        "SpinalCord": (-20, 45, 0, 75, 9, 9),
        "RightParotid": (50, 5, -55, 26, 20, 14),
        "LeftParotid": (50, 5, 55, 26, 20, 14),
        "Esophagus": (-80, 20, 0, 38, 11, 11),
        "Larynx": (-45, -35, 0, 22, 18, 18),
        "Mandible": (35, -60, 0, 16, 16, 45),
    },
    LUNG: {
        "Lungs": (10, 5, 85, 80, 60, 50),  # and its mirror image
        "Heart": (-20, -30, 25, 40, 40, 45),
        "SpinalCord": (0, 60, 0, 100, 9, 9),
        "Esophagus": (10, 35, 0, 80, 9, 9),
        "BrachialPlex_L": (75, 0, 45, 22, 16, 22),
        "BrachialPlex_R": (75, 0, -45, 22, 16, 22),
    },
    BREAST: {
        "CTV": (0, 0, 0, 28, 28, 28),
        "Heart": (-20, -25, 30, 40, 40, 45),
        "Lung_L": (10, 15, 80, 80, 55, 48),
        "Lung_R": (10, 15, -80, 80, 55, 48),
        "Breast_L": (0, -50, 85, 45, 30, 45),
        "Breast_R": (0, -50, -85, 45, 30, 45),
    },
}
CHANGED_HU = dict.fromkeys(("Femur_L", "Femur_R", "Mandible"), 500)
CHANGED_HU |= dict.fromkeys(("Lungs", "Lung_L", "Lung_R"), -750)


def toy_case(case_id="toy_1", shape=SHAPE, site="prostate", seed=0):
    """A small patient whose anatomy, and therefore dose, varies with the seed and the id."""
    rng = np.random.default_rng([seed, *hashlib.sha256(case_id.encode()).digest()[:4]])
    spacing_mm = tuple(float(np.clip(field / n, 0.5, 20)) for field, n in zip(FIELD_MM[site], shape))
    axes_mm = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm)]
    grid_mm = np.stack(np.meshgrid(*axes_mm, indexing="ij"))
    body = ellipsoid(grid_mm, (0, 0, 0), np.multiply(BODY_MM[site], rng.uniform(0.93, 1.05, 3)))
    centre = rng.uniform(*CENTRE_MM[site])
    grow_mm = rng.uniform(-4, 5)
    from_centre_mm = np.linalg.norm(grid_mm - centre[:, None, None, None], axis=0)
    masks, dose_gy = {}, np.zeros(shape)
    for name, (rx_gy, radius_mm) in TARGETS[site].items():
        outside_mm = np.maximum(from_centre_mm - radius_mm - grow_mm, 0)
        masks[name] = (outside_mm == 0) | (from_centre_mm == from_centre_mm.min())
        dose_gy = np.maximum(dose_gy, rx_gy * np.where(masks[name], 1, np.exp(-outside_mm / FALL_OFF_MM)))
    for name, organ in ORGANS[site].items():
        at = centre if name in ("Prostate", "CTV") else np.add(organ[:3], rng.uniform(-5, 5, 3))
        masks[name] = ellipsoid(grid_mm, at, np.multiply(organ[3:], rng.uniform(0.9, 1.1)))
        if name == "Lungs":
            masks[name] |= masks[name][:, :, ::-1]
    ct_hu = np.where(body, rng.normal(0, 15, shape), -1000)
    for name in set(masks) & set(CHANGED_HU):
        ct_hu[masks[name]] += CHANGED_HU[name]
    return Case(
        case_id=case_id,
        ct_hu=np.rint(ct_hu).astype(np.int16),
        masks=masks,
        dose_mask=body,
        spacing_mm=spacing_mm,
        dose_gy=(np.rint(np.where(body, dose_gy, 0) * 100) / 100).astype(np.float32),
        site=site,
        prescription_gy={name: rx_gy for name, (rx_gy, _) in TARGETS[site].items()},
        origin_mm=tuple(-s * (n - 1) / 2 for s, n in zip(spacing_mm, shape)),
    )


def ellipsoid(grid_mm, centre_mm, half_axes_mm):
    """Voxels of the ellipsoid, at least the one nearest to its centre."""
    offset = (grid_mm - np.reshape(centre_mm, (3, 1, 1, 1))) / np.reshape(half_axes_mm, (3, 1, 1, 1))
    distance = (offset**2).sum(axis=0)
    return (distance <= 1) | (distance == distance.min())


def toy_cohort(folder, n=6, site="prostate", split=None, shape=SHAPE):
    """A cohort of n toy patients written to `folder` and opened; no `split`: split by the reference's rule.

    It is what lib.importers.cohort.make_cohort writes, without its processes (test_cases compares the two).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    case_ids = [f"toy_{i}" for i in range(1, n + 1)]
    read = partial(toy_case, shape=shape, site=site)
    cases = {i: import_case(folder, read, i, i)[0] for i in case_ids}
    source = Source("toys", {}, toy_case, split)
    write_json(folder / "card.json", make_card(folder.name, source, protocol_of(site), cases, {}))
    return open_cohort(folder)


def write_openkbp_folder(
    folder, split="train-pats", number=1, names=("PTV70", "PTV56", "SpinalCord"), box=(60, 60, 60, 70)
):
    """A made-up patient as the public CSV folder <folder>/<split>/pt_<number>; returns that folder.

    The dose mask is `box`: rows, columns and slices from the first three numbers to the last.
    The dose has three decimals; the structures are smaller and smaller boxes in the first corner.
    """
    folder = Path(folder) / split / f"pt_{number}"
    folder.mkdir(parents=True, exist_ok=True)
    axes = [np.arange(first, box[3]) for first in box[:3]]
    index = flat_indices(axes)
    rng = np.random.default_rng(number)
    write_csv(folder / "possible_dose_mask.csv", index)
    write_csv(folder / "ct.csv", index, rng.integers(1000, 1100, index.size).astype(float))
    write_csv(folder / "dose.csv", index, np.round(rng.uniform(60, 75, index.size), 3))
    for k, name in enumerate(names):
        corner = [a[: max(1, len(a) // 2 - k)] for a in axes]
        write_csv(folder / f"{name}.csv", flat_indices(corner))
    (folder / "voxel_dimensions.csv").write_text("".join(f"{mm:.18e}\n" for mm in (3.9, 4.1, 2.5)))
    return folder


def flat_indices(axes):
    """Sorted flat indices of all voxels whose row, column and slice are in the three lists."""
    return np.ravel_multi_index([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], OPENKBP_SHAPE)


def write_csv(path, index, values=None):
    """Flat indices, with a value each or with the empty column of a mask, as OpenKBP writes them."""
    values = [""] * len(index) if values is None else [repr(float(v)) for v in values]
    path.write_text(",data\n" + "".join(f"{i},{v}\n" for i, v in zip(index, values)))
