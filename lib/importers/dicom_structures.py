"""The structures of an RTSTRUCT: their names in our protocols, and what is prescribed to the targets."""

import re
from collections import defaultdict
from typing import NamedTuple

from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.importers.dicom_files import Chain, Dataset, File, explain_damage, items, number

POINTS = ("POINT", "COORDINATES")  # DoseReferenceStructureType of a reference point
NAME_GY = 0.5  # by which a plan may differ from the dose in a target's name, such as 50.4 from PTV50
ALIASES = {  # name in lib.cases.protocols -> other names, best first; case, blanks, _ and - do not count
    "PTV70": ("PTV_High",),
    "PTV63": ("PTV_Mid", "PTV_Int"),
    "PTV56": ("PTV_Low",),
    "Bladder": ("Urinary_Bladder",),
    "Femur_L": ("Femur_Head_L", "FemoralHead_L", "Left_Femur", "Femur_Left", "FemoralHead_Left"),
    "Femur_R": ("Femur_Head_R", "FemoralHead_R", "Right_Femur", "Femur_Right", "FemoralHead_Right"),
    "Bowel": ("Bag_Bowel", "Bowel_Bag", "Bowel_Small", "Small_Bowel"),
    "SpinalCord": ("Cord",),
    "Esophagus": ("Oesophagus",),
    "LeftParotid": ("Parotid_L", "Parotid_Left", "L_Parotid", "Glnd_Parotid_L"),
    "RightParotid": ("Parotid_R", "Parotid_Right", "R_Parotid", "Glnd_Parotid_R"),
    "Mandible": ("Bone_Mandible",),
}
KNOWN = {name for protocol in PROTOCOLS.values() for name in protocol.structures}


class Roi(NamedTuple):
    """One structure of an RTSTRUCT; `kind` is its RTROIInterpretedType, `items` its ContourSequence."""

    number: int
    name: str
    kind: str
    items: list[Dataset]
    in_ct_frame: bool  # whether its points are in the CT's frame of reference


def read_rois(chain: Chain) -> list[Roi]:
    """The structures; what a ROIContourSequence holds in several items for one of them is put together."""
    file, ds, frame_uid = chain.structures.name, chain.structures.ds, chain.slices[0].ds.FrameOfReferenceUID
    rois, contours = {}, defaultdict(list)
    with explain_damage(file):
        observations = items(ds, "RTROIObservationsSequence")
        kinds = {roi_number(o): str(o.get("RTROIInterpretedType") or "") for o in observations}
        for item in items(ds, "ROIContourSequence"):
            contours[roi_number(item)] += items(item, "ContourSequence")
        for item in items(ds, "StructureSetROISequence"):
            n, name = int(number(item, "ROINumber")), str(item.get("ROIName") or "")
            in_frame = item.get("ReferencedFrameOfReferenceUID") == frame_uid
            if n in rois:
                raise UserError(f"{file}: two structures have the ROINumber {n}; export it again")
            rois[n] = Roi(n, name, kinds.get(n, ""), contours[n], in_frame)
    return list(rois.values())


def roi_number(item: Dataset) -> int:
    """The structure to which an item of a sequence belongs."""
    return int(number(item, "ReferencedROINumber"))


# --- names ---


def plain(name: str) -> str:
    """A name as it is compared: without case, blanks, _ and -."""
    return re.sub(r"[\s_-]", "", str(name)).lower()


def gy_in_name(name: str) -> float | None:
    """70.0 for PTV70, PTV_70Gy or PTV7000, 50.4 for PTV 5040cGy; None where the name is not clear."""
    match = re.fullmatch(r"ptv(?:(\d\d(?:\.\d+)?)(?:gy)?|(\d{4})(?:cgy)?)", plain(name))
    dose_gy = match and (float(match[1]) if match[1] else float(match[2]) / 100)
    return dose_gy if dose_gy and 20 <= dose_gy <= 90 else None


def map_names(rois: list[Roi], names: tuple[str, ...], aliases: dict | None, file: str) -> dict[str, Roi]:
    """Protocol name -> its structure; one that two fit, or that would serve two names, is refused."""
    aliases = aliases or {}
    if not isinstance(aliases, dict) or set(aliases) - KNOWN:
        known = ", ".join(sorted(KNOWN))
        raise UserError(f"aliases must map names among {known} to lists of structure names")
    mapped = {}
    for name in names:
        fitting = best_matches(name, [roi for roi in rois if roi.items], aliases.get(name, ()))
        if len(fitting) > 1:
            both = " and ".join(roi.name for roi in fitting)
            raise UserError(f"{file}: {both} are both {name}; remove one")
        if fitting:
            mapped[name] = fitting[0]
    if len({roi.number for roi in mapped.values()}) < len(mapped):
        raise UserError(f"{file}: by the aliases one structure would have two names")
    return mapped


def best_matches(name: str, rois: list[Roi], aliases: str | list[str]) -> list[Roi]:
    """The structures that fit best: by the user's aliases, the name, ALIASES, or the dose in a PTV's name.

    Of several the one that is spelt exactly so, and the one that is in the CT's frame of reference.
    """
    aliases = [aliases] if isinstance(aliases, str) else aliases
    for alias in (*aliases, name, *ALIASES.get(name, ())):
        matches = [roi for roi in rois if plain(roi.name) == plain(alias)]
        matches = [roi for roi in matches if roi.in_ct_frame] or matches
        matches = [roi for roi in matches if roi.name == alias] or matches
        if matches:
            return matches
    dose_gy = gy_in_name(name)
    return [roi for roi in rois if dose_gy and gy_in_name(roi.name) == dose_gy]


def guess_site(rois: list[Roi], aliases: dict | None, file: str) -> str:
    """The site of which more organs are there."""
    count = {
        site: len(map_names(rois, protocol.organs, aliases, file)) for site, protocol in PROTOCOLS.items()
    }
    best = [site for site in count if count[site] == max(count.values())]
    if len(best) > 1:
        choice = f"give site='{best[0]}' or '{best[1]}'"
        raise UserError(f"{file}: the structures do not tell the site; {choice}")
    return best[0]


# --- prescriptions ---


def prescriptions(
    mapped: dict[str, Roi], site: str, rois: list[Roi], chain: Chain, user_gy: dict, warnings: list[str]
) -> dict[str, tuple[float, str]]:
    """target -> (Gy, where from) by the RTPLAN, else by `user_gy`, else by the structure's name."""
    known = PROTOCOLS[site].targets
    unknown = set(user_gy) - set(known)
    if unknown:
        raise UserError(f"prescription_gy: {unknown.pop()} is not among {', '.join(known)}")
    targets = {name: mapped[name] for name in known if name in mapped}
    if not targets:
        names = ", ".join(roi.name for roi in rois)
        raise UserError(
            f"{chain.structures.name} holds no target; of {names} name one by "
            f"aliases={{'{next(iter(known))}': ['...']}}"
        )
    plan = plan_doses(chain.plan, {roi.number for roi in rois}, warnings) if chain.plan else []
    of_targets = {None, *(roi.number for roi in targets.values())}
    warnings += [
        f"the plan prescribes {one.gy:g} Gy to a structure that is not used"
        for one in plan
        if one.roi not in of_targets
    ]
    return {name: prescription(name, roi, plan, user_gy, len(targets)) for name, roi in targets.items()}


class Prescribed(NamedTuple):
    """A dose in Gy that a plan prescribes to a structure (its number), or to "SITE" or "VOLUME" at large."""

    gy: float
    roi: int | None
    kind: str


def plan_doses(plan: File, roi_numbers: set[int], warnings: list[str]) -> list[Prescribed]:
    """The target prescriptions in the RTPLAN's DoseReferenceSequence; a point's is told, not taken."""
    doses = []
    with explain_damage(plan.name):
        for item in items(plan.ds, "DoseReferenceSequence"):
            if item.get("DoseReferenceType") == "TARGET" and item.get("TargetPrescriptionDose") is not None:
                roi = roi_number(item) if "ReferencedROINumber" in item else None
                kind = str(item.get("DoseReferenceStructureType"))
                kind = kind if kind in ("SITE", *POINTS) else "VOLUME"
                doses.append(Prescribed(number(item, "TargetPrescriptionDose"), roi, kind))
    points = [one for one in doses if one.kind in POINTS]
    warnings += [f"the plan's {one.gy:g} Gy is the dose of a reference point; not taken" for one in points]
    doses = [one for one in doses if one.kind not in POINTS]
    if {one.roi for one in doses} - roi_numbers - {None}:
        raise UserError(f"{plan.name}: DoseReferenceSequence refers to a structure that the RTSTRUCT lacks")
    return doses


def prescription(
    name: str, roi: Roi, plan: list[Prescribed], user_gy: dict, n_targets: int
) -> tuple[float, str]:
    """(Gy, where from) of one target; where plan and name disagree, `user_gy` decides."""
    in_name = gy_in_name(roi.name)
    free = [one for one in plan if one.roi is None]
    in_plan = [one for one in plan if one.roi == roi.number]
    in_plan = in_plan or [one for one in free if in_name and abs(one.gy - in_name) <= NAME_GY]
    in_plan = in_plan or (free if n_targets == len({one.gy for one in free}) == 1 else [])
    said_gy = sorted({one.gy for one in in_plan})
    doubtful = bool(in_plan and in_name and abs(said_gy[0] - in_name) > NAME_GY)
    if len(said_gy) == 1 and not doubtful:
        return said_gy[0], "plan" if in_plan[0].roi is not None else f"plan ({in_plan[0].kind})"
    if name in user_gy:
        return float(user_gy[name]), "parameter"
    if doubtful or len(said_gy) > 1 or not in_name:
        raise UserError(
            f"the prescription of {roi.name} is not clear (the plan says {said_gy or 'nothing'}, the name "
            f"{in_name or 'nothing'}); give --prescription-gy {name}=Gy"
        )
    return in_name, "name"
