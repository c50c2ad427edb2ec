"""The phantom cohort: 43 synthetic prostate patients, each remade from its ID alone.

The first 23 IDs are those of the reference study; the other 20 enlarge validation and test only.
"""

from lib.cases.case import Case
from lib.cases.cohort import reference_split
from lib.importers.cohort import Source
from lib.importers.phantom_anatomy import draw_pelvis
from lib.importers.phantom_dose import plan_dose

REFERENCE_IDS = tuple(f"case_{n:04d}" for n in range(1, 25) if n != 13)
EXTRA_VALIDATION = tuple(f"case_{n:04d}" for n in range(25, 31))
EXTRA_TEST = tuple(f"case_{n:04d}" for n in range(31, 45))
CASE_IDS = REFERENCE_IDS + EXTRA_VALIDATION + EXTRA_TEST


def phantom_source() -> Source:
    """All phantoms; the reference's patients are split as its were."""
    split = reference_split(REFERENCE_IDS)
    split["validation"] += EXTRA_VALIDATION
    split["test"] += EXTRA_TEST
    patients = {case_id: case_id for case_id in CASE_IDS}
    return Source("phantoms, dose by pydosert", patients, make_phantom, split)


def make_phantom(case_id: str) -> Case:
    """The Case of one of CASE_IDS, the same each time: anatomy and planner are drawn from its number."""
    seed = int(case_id.removeprefix("case_"))
    ct_hu, masks, body, spacing_mm = draw_pelvis(seed)
    dose_gy = plan_dose(ct_hu, masks, body, spacing_mm, seed)
    rx_gy = {"PTV70": 70.0, "PTV56": 56.0}
    return Case(case_id, ct_hu, dose_gy, masks, body, spacing_mm, rx_gy, site="prostate")
