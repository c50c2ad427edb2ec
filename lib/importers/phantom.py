"""The phantom cohort: 43 synthetic prostate patients, each remade from its ID alone.

The first 23 IDs are those of the reference study; the other 20 enlarge validation and test only.
"""

from lib.cases.case import Case
from lib.errors import UserError
from lib.importers.phantom_anatomy import draw_pelvis
from lib.importers.phantom_dose import plan_dose

REFERENCE_IDS = tuple(f"case_{n:04d}" for n in range(1, 25) if n != 13)
EXTRA_VALIDATION = tuple(f"case_{n:04d}" for n in range(25, 31))
EXTRA_TEST = tuple(f"case_{n:04d}" for n in range(31, 45))
CASE_IDS = REFERENCE_IDS + EXTRA_VALIDATION + EXTRA_TEST


def make_phantom(case_id):
    """The Case of one ID, the same each time; anatomy and planner are drawn from the number in the ID."""
    if case_id not in CASE_IDS:
        raise UserError(f"{case_id} is not a phantom; the IDs run from {CASE_IDS[0]} to {CASE_IDS[-1]}")
    seed = int(case_id.removeprefix("case_"))
    ct_hu, masks, body, spacing_mm = draw_pelvis(seed)
    dose_gy = plan_dose(ct_hu, masks, body, spacing_mm, seed)
    return Case(
        case_id=case_id,
        ct_hu=ct_hu,
        dose_gy=dose_gy,
        masks=masks,
        dose_mask=body,
        spacing_mm=spacing_mm,
        prescription_gy={"PTV70": 70.0, "PTV56": 56.0},
        site="prostate",
    )
