"""The structures of an RTSTRUCT: their names in our protocols, and what is prescribed to the targets."""

import re
from collections import defaultdict
from typing import NamedTuple

from lib.cases.protocol import PROTOCOLS, Protocol, check_aliases, plain, protocol_of
from lib.errors import UserError
from lib.importers.dicom_files import Chain, Dataset, File, explain_damage, items, number
from lib.importers.options import Options

Aliases = dict[str, list[str]]  # name in the protocol -> names of structures, best first
Prescription = tuple[float, str]  # Gy, where from
NO_AREA = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")  # ContourGeometricType
POINTS = ("POINT", "COORDINATES")  # DoseReferenceStructureType of a reference point
NAME_GY = 0.5  # by which a plan may differ from the dose in a target's name, such as 50.4 from PTV50
LEAST_ORGANS = 0.5  # share of a protocol's organs that must be there for a patient to be taken for its site


class Roi(NamedTuple):
    """One structure of an RTSTRUCT; `kind` is its RTROIInterpretedType, `items` its ContourSequence, none
    where all of it are points or open lines."""

    number: int
    name: str
    kind: str
    items: list[Dataset]
    in_ct_frame: bool  # whether its points are in the CT's frame of reference


Names = dict[str, Roi]  # name in the protocol -> its structure


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
            flat = all(str(one.get("ContourGeometricType")) in NO_AREA for one in contours[n])
            rois[n] = Roi(n, name, kinds.get(n, ""), [] if flat else contours[n], in_frame)
    return list(rois.values())


def roi_number(item: Dataset) -> int:
    """The structure to which an item of a sequence belongs."""
    return int(number(item, "ReferencedROINumber"))


# --- names ---


def gy_in_name(name: str) -> float | None:
    """70.0 for PTV70, PTV_70Gy or PTV7000, 50.4 for PTV 5040cGy; None where the name is not clear."""
    blank = r"[\s_-]*"  # between words, never between digits: PTV_30_10 is no dose
    dose = rf"(?:(\d\d(?:\.\d+)?)(?:{blank}gy)?|(\d{{4}})(?:{blank}cgy)?)"
    match = re.fullmatch(rf"ptv{blank}{dose}{blank}", name.strip().lower())
    dose_gy = match and (float(match[1]) if match[1] else float(match[2]) / 100)
    return dose_gy if dose_gy and 20 <= dose_gy <= 90 else None


def map_names(rois: list[Roi], protocol: Protocol, aliases: Aliases, file: str) -> Names:
    """Protocol name -> its structure; one that two fit, or that would serve two names, is refused."""
    mapped = {}
    for name in protocol.structures:
        fitting = best_matches(name, rois, protocol, aliases)
        if len(fitting) > 1:
            both = " and ".join(roi.name for roi in fitting)
            raise UserError(f"{file}: {both} are both {name}; remove one")
        if fitting:
            mapped[name] = fitting[0]
    if len({roi.number for roi in mapped.values()}) < len(mapped):
        raise UserError(f"{file}: by the aliases one structure would have two names")
    return mapped


def best_matches(name: str, rois: list[Roi], protocol: Protocol, aliases: Aliases) -> list[Roi]:
    """The contoured structures that fit best: by the user's aliases, the name, the protocol's aliases, or a
    dose in the name of a PTV that is the target's.

    Of several the one that is spelt exactly so, and the one that is in the CT's frame of reference.
    """
    rois = [roi for roi in rois if roi.items]
    for alias in (*aliases.get(name, ()), name, *protocol.aliases.get(name, ())):
        matches = [roi for roi in rois if plain(roi.name) == plain(alias)]
        matches = [roi for roi in matches if roi.in_ct_frame] or matches
        matches = [roi for roi in matches if roi.name == alias] or matches
        if matches:
            return matches
    dose_gy = protocol.targets.get(name)
    return [roi for roi in rois if dose_gy and gy_in_name(roi.name) == dose_gy]


def choose_protocol(rois: list[Roi], options: Options, chain: Chain) -> tuple[Protocol, Aliases]:
    """(the protocol that is asked for, or the one that the structures clearly tell; the user's aliases)."""
    asked = options.protocol or options.site
    known = [protocol_of(asked)] if asked else PROTOCOLS.values()
    names = tuple(dict.fromkeys(name for protocol in known for name in protocol.structures))
    aliases = check_aliases(options.aliases or {}, names, "aliases")
    if asked:
        return known[0], aliases
    return guess_protocol(rois, aliases, planned_fractions(chain.plan), chain.structures.name), aliases


def guess_protocol(rois: list[Roi], aliases: Aliases, fractions: int, file: str) -> Protocol:
    """The protocol of which a target and half of the organs are there, if more of it is than of any other.

    It is not taken where another one that fits has just the plan's `fractions` and this one has not.
    """
    there = {
        protocol: {name for name in protocol.structures if best_matches(name, rois, protocol, aliases)}
        for protocol in PROTOCOLS.values()
    }
    organs = {protocol: len(names & set(protocol.organs)) for protocol, names in there.items()}
    half = [protocol for protocol in there if organs[protocol] >= LEAST_ORGANS * len(protocol.organs)]
    fitting = [protocol for protocol in half if there[protocol] & set(protocol.targets)]
    most = max((len(there[protocol]) for protocol in fitting), default=0)
    best = [protocol for protocol in fitting if len(there[protocol]) == most]
    if len(best) != 1:
        counts = [f"{n} of {len(of.organs)} organs of {of.site}" for of, n in organs.items() if n]
        what = ", ".join(counts) or "no organ of a known site"
        advice = "give --site, or --protocol with a file that names them"
        raise UserError(f"{file}: the structures do not tell the site (they are {what}); {advice}")
    [guess] = best
    others = [protocol.site for protocol in fitting if protocol.fractions == fractions]
    if fractions and guess.fractions not in (0, fractions) and others:
        told = f"the structures are those of {guess.site}, of {guess.fractions} fractions"
        raise UserError(f"{file}: {told}, and the plan's {fractions} those of {others[0]}; give --site")
    return guess


# --- prescriptions ---


def prescriptions(
    mapped: Names, protocol: Protocol, rois: list[Roi], chain: Chain, user_gy: dict, warnings: list[str]
) -> dict[str, Prescription]:
    """target -> Prescription by the RTPLAN, else by `user_gy`, else by the structure's name."""
    known = protocol.targets
    unknown = set(user_gy) - set(known)
    if unknown:
        raise UserError(f"prescription_gy: {unknown.pop()} is not among {', '.join(known)}")
    targets = {name: mapped[name] for name in known if name in mapped}
    if not targets:
        names, how = ", ".join(roi.name for roi in rois), f"aliases={{'{next(iter(known))}': ['...']}}"
        raise UserError(f"{chain.structures.name} holds no target; of {names} name one by {how}")
    plan = plan_doses(chain.plan, rois, warnings)
    fractions = planned_fractions(chain.plan)
    if fractions and protocol.fractions and fractions != protocol.fractions:
        warnings.append(f"the plan has {fractions} fractions, the protocol has {protocol.fractions}")
    of_targets = {None, *(roi.number for roi in targets.values())}
    unused = [one for one in plan if one.roi not in of_targets]
    warnings += [f"the plan prescribes {one.gy:g} Gy to a structure that is not used" for one in unused]
    return {name: prescription(name, roi, plan, user_gy, len(targets)) for name, roi in targets.items()}


class Prescribed(NamedTuple):
    """A dose in Gy that a plan prescribes to a structure (its number), or to "SITE" or "VOLUME" at large."""

    gy: float
    roi: int | None
    kind: str


def plan_doses(plan: File | None, rois: list[Roi], warnings: list[str]) -> list[Prescribed]:
    """The target prescriptions in the RTPLAN's DoseReferenceSequence; a point's is told, not taken."""
    doses = []
    with explain_damage(plan.name if plan else ""):
        for item in items(plan.ds, "DoseReferenceSequence") if plan else []:
            if item.get("DoseReferenceType") == "TARGET" and item.get("TargetPrescriptionDose") is not None:
                roi = roi_number(item) if "ReferencedROINumber" in item else None
                kind = str(item.get("DoseReferenceStructureType"))
                kind = kind if kind in ("SITE", *POINTS) else "VOLUME"
                doses.append(Prescribed(number(item, "TargetPrescriptionDose"), roi, kind))
    points = [one for one in doses if one.kind in POINTS]
    warnings += [f"the plan's {one.gy:g} Gy is the dose of a reference point; not taken" for one in points]
    doses = [one for one in doses if one.kind not in POINTS]
    if {one.roi for one in doses} - {None, *(roi.number for roi in rois)}:
        raise UserError(f"{plan.name}: DoseReferenceSequence refers to a structure that the RTSTRUCT lacks")
    return doses


def prescription(name: str, roi: Roi, plan: list[Prescribed], user_gy: dict, n_targets: int) -> Prescription:
    """That of one target; where plan and name disagree, `user_gy` decides."""
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
        who = f"the plan says {said_gy or 'nothing'}, the name {in_name or 'nothing'}"
        how = f"give --prescription-gy {name}=Gy"
        raise UserError(f"the prescription of {roi.name} is not clear ({who}); {how}")
    return in_name, "name"


def planned_fractions(plan: File | None) -> int:
    """The number of fractions of an RTPLAN with one group of them; 0 where nothing clear says it."""
    with explain_damage(plan.name if plan else ""):
        groups = items(plan.ds, "FractionGroupSequence") if plan else []
        said = groups[0].get("NumberOfFractionsPlanned") if len(groups) == 1 else None
        return int(said) if said else 0
