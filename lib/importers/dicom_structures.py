"""The structures of an RTSTRUCT: names in our protocols, prescriptions, contours as masks."""

import itertools
import re
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.importers.dicom_files import items, number, numbers, reading, text

MAX_POINTS = 10_000_000
OFF_SLICE = 0.2  # share of the slice distance by which a contour may miss its slice
OUTSIDE_MM = 10.0  # by which a contour may leave the CT
NAME_GY = 0.5  # by which a plan may differ from the dose in a target's name, such as 50.4 from PTV50
BODY_HU = -300.0  # above it is body where no structure says so
BODY_NAMES = ("External", "Body", "Skin", "Outer_Contour", "Patient_Outline")
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
CLOSED = ("CLOSED_PLANAR", "CLOSED_PLANAR_XOR")


class Roi(NamedTuple):
    """One structure of an RTSTRUCT; `kind` is its RTROIInterpretedType, `items` its ContourSequence."""

    number: int
    name: str
    kind: str
    items: list


def read_rois(found):
    """The Rois of the RTSTRUCT, all in the CT's frame of reference and of at most MAX_POINTS points."""
    file, frame_uid = found.structures, found.slices[0].ds.FrameOfReferenceUID
    with reading(file.path):
        kinds = {
            int(number(o, "ReferencedROINumber")): str(o.get("RTROIInterpretedType") or "")
            for o in items(file.ds, "RTROIObservationsSequence")
        }
        contours = {
            int(number(c, "ReferencedROINumber")): items(c, "ContourSequence")
            for c in items(file.ds, "ROIContourSequence")
        }
        rois = []
        for item in items(file.ds, "StructureSetROISequence"):
            n = int(number(item, "ROINumber"))
            rois.append(Roi(n, text(item, "ROIName"), kinds.get(n, ""), contours.get(n, [])))
            if text(item, "ReferencedFrameOfReferenceUID") != frame_uid:
                raise UserError(
                    f"{file.path.name}: {rois[-1].name} is in another frame of reference than the CT"
                )
        points = sum(number(c, "NumberOfContourPoints") for roi in rois for c in roi.items)
    roi_numbers = {roi.number for roi in rois}
    if points > MAX_POINTS or len(roi_numbers) != len(rois) or set(contours) - roi_numbers:
        raise UserError(
            f"{file.path.name}: ROINumber repeats or is unknown, or it has more than {MAX_POINTS} points"
        )
    return rois


def plain(name):
    return re.sub(r"[\s_-]", "", str(name)).lower()


def gy_in_name(name):
    """70.0 for PTV70, PTV_70Gy or PTV7000, 50.4 for PTV 5040cGy; None where the name is not clear."""
    found = re.fullmatch(r"ptv(?:(\d\d(?:\.\d+)?)(?:gy)?|(\d{4})(?:cgy)?)", plain(name))
    dose_gy = found and (float(found[1]) if found[1] else float(found[2]) / 100)
    return dose_gy if dose_gy and 20 <= dose_gy <= 90 else None


def map_names(rois, names, aliases, path):
    """Protocol name -> Roi: best by the user's aliases, then the name, then ALIASES, then a PTV's dose."""
    known = {name for protocol in PROTOCOLS.values() for name in protocol.structures}
    if not isinstance(aliases or {}, dict) or set(aliases or {}) - known:
        raise UserError(
            f"aliases must map names among {', '.join(sorted(known))} to lists of structure names"
        )
    mapped = {}
    for name in names:
        own = (aliases or {}).get(name, [])
        wanted = [plain(n) for n in (*([own] if isinstance(own, str) else own), name, *ALIASES.get(name, ()))]
        ranks = {
            roi.number: wanted.index(plain(roi.name))
            for roi in rois
            if roi.items and plain(roi.name) in wanted
        }
        dose_gy = gy_in_name(name)
        same_gy = [roi for roi in rois if roi.items and dose_gy and gy_in_name(roi.name) == dose_gy]
        best = [roi for roi in rois if ranks and ranks.get(roi.number) == min(ranks.values())] or same_gy
        if len(best) > 1:
            raise UserError(
                f"{path.name}: {' and '.join(roi.name for roi in best)} are both {name}; remove one"
            )
        if best:
            mapped[name] = best[0]
    if len({roi.number for roi in mapped.values()}) < len(mapped):
        raise UserError(f"{path.name}: by the aliases one structure would have two names")
    return mapped


def guess_site(rois, aliases, path):
    found = {
        site: len(map_names(rois, protocol.organs, aliases, path)) for site, protocol in PROTOCOLS.items()
    }
    best = [site for site in found if found[site] == max(found.values())]
    if len(best) > 1:
        raise UserError(
            f"{path.name}: the structures do not tell the site; give site='{best[0]}' or '{best[1]}'"
        )
    return best[0]


def prescriptions(mapped, site, rois, found, given, report):
    """(target -> Gy, target -> where from) by the RTPLAN, else as `given`, else by the structure's name."""
    unknown = set(given) - set(PROTOCOLS[site].targets)
    if unknown:
        raise UserError(f"prescription_gy: {unknown.pop()} is not among {', '.join(PROTOCOLS[site].targets)}")
    targets = {name: mapped[name] for name in PROTOCOLS[site].targets if name in mapped}
    if not targets:
        raise UserError(
            f"{found.structures.path.name} holds no target; of {', '.join(roi.name for roi in rois)} name "
            f"one by aliases={{'{next(iter(PROTOCOLS[site].targets))}': ['...']}}"
        )
    planned = plan_doses(found.plan, {roi.number for roi in rois}) if found.plan else []
    report["warnings"] += [] if found.plan else ["there is no RTPLAN"]
    report["warnings"] += [
        f"the plan prescribes {gy:g} Gy to a structure that is not used"
        for n, gy in planned
        if n is not None and n not in {roi.number for roi in targets.values()}
    ]
    chosen = {name: prescription(name, roi, planned, given, len(targets)) for name, roi in targets.items()}
    return {name: gy for name, (gy, _) in chosen.items()}, {
        name: source for name, (_, source) in chosen.items()
    }


def plan_doses(plan, roi_numbers):
    """[(ROI number or None, Gy)] of the target prescriptions in the RTPLAN's DoseReferenceSequence."""
    doses = []
    with reading(plan.path):
        for item in items(plan.ds, "DoseReferenceSequence"):
            if item.get("DoseReferenceType") == "TARGET" and item.get("TargetPrescriptionDose") is not None:
                roi = int(number(item, "ReferencedROINumber")) if "ReferencedROINumber" in item else None
                doses.append((roi, number(item, "TargetPrescriptionDose")))
    if {roi for roi, _ in doses} - roi_numbers - {None}:
        raise UserError(
            f"{plan.path.name}: DoseReferenceSequence refers to a structure that the RTSTRUCT lacks"
        )
    return doses


def prescription(name, roi, planned, given, n_targets):
    """(Gy, where from) of one target; where plan and name disagree, what is given decides."""
    named = gy_in_name(roi.name)
    of_plan = [gy for number_, gy in planned if number_ == roi.number]
    free = [gy for number_, gy in planned if number_ is None]
    of_plan = of_plan or [gy for gy in free if named and abs(gy - named) <= NAME_GY]
    of_plan = of_plan or (free if n_targets == len(free) == 1 else [])
    doubtful = bool(of_plan and named and abs(of_plan[0] - named) > NAME_GY)
    if len(set(of_plan)) == 1 and not doubtful:
        return of_plan[0], "plan"
    if name in given:
        return float(given[name]), "parameter"
    if doubtful or len(set(of_plan)) > 1 or not named:
        raise UserError(
            f"the prescription of {roi.name} is not clear (the plan says {of_plan or 'nothing'}, the name "
            f"{named or 'nothing'}); give --prescription-gy {name}=Gy"
        )
    return named, "name"


# --- contours ---


def contour_mask(roi, grid, path, report):
    """bool [D,H,W]: voxels whose centre is inside an odd number of the slice's contours."""
    slices = {}
    with reading(path):
        for item in roi.items:
            k, points = contour(item, roi, grid, path)
            slices.setdefault(k, []).extend([points] if len(points) > 2 else [])
    mask = np.zeros(grid.shape, bool)
    for k, contours in slices.items():
        mask[k] = parity(contours, grid.shape[1:], path)
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    gaps = [(a, b) for a, b in itertools.pairwise(filled) if b - a > 1]
    if len(gaps) > 1 and len(gaps) >= len(filled) / 2:
        raise UserError(
            f"{path.name}: {roi.name} is contoured on every second slice or fewer; export it interpolated"
        )
    report["warnings"] += [
        f"{roi.name}: no contour between z = {grid.origin_mm[0] + a * grid.spacing_mm[0]:.1f} and "
        f"{grid.origin_mm[0] + b * grid.spacing_mm[0]:.1f} mm"
        for a, b in gaps
    ]
    return mask


def contour(item, roi, grid, path):
    """(slice, (row, column) float64 [N,2]) of one item of a ContourSequence."""
    if "ContourData" not in item:
        raise AttributeError(name="ContourData")
    raw, count = item.get_item("ContourData").value, number(item, "NumberOfContourPoints")
    if isinstance(raw, bytes):  # split by hand, because pydicom makes an object of every number
        values = np.array(raw.split(b"\\"), float) if raw.count(b"\\") == 3 * count - 1 else np.zeros(0)
    else:
        values = numbers(item, "ContourData")
    if not count or len(values) != 3 * count or not np.isfinite(values).all():
        raise UserError(f"{path.name}: ContourData of {roi.name} is not NumberOfContourPoints x 3 numbers")
    if len(values) > 6 and text(item, "ContourGeometricType") not in CLOSED:
        raise UserError(f"{path.name}: ContourGeometricType of {roi.name} is not closed and planar")
    index = (values.reshape(-1, 3)[:, ::-1] - grid.origin_mm) / grid.spacing_mm
    k = int(np.rint(np.clip(np.median(index[:, 0]), -2, grid.shape[0] + 1)))
    if abs(index[:, 0] - k).max() > OFF_SLICE or not 0 <= k < grid.shape[0]:
        raise UserError(
            f"{path.name}: a contour of {roi.name} at z = {values[2]:.2f} mm does not lie on a CT slice"
        )
    margin = OUTSIDE_MM / np.array(grid.spacing_mm[1:])
    if (index[:, 1:] < -margin).any() or (index[:, 1:] > np.array(grid.shape[1:]) - 1 + margin).any():
        raise UserError(f"{path.name}: a contour of {roi.name} at z = {values[2]:.2f} mm leaves the CT")
    return k, index[:, 1:]


def parity(contours, shape, path):
    """Even-odd fill, bool [H,W]: crossings of each row with the edges are marked, then counted from the left.

    contours  list of (row, column) float64 [N,2], in voxels; holes and keyholes come out by themselves
    """
    crossings = np.zeros((shape[0], shape[1] + 1), np.int32)
    for points in contours:
        (r0, c0), (r1, c1) = points.T, np.roll(points, -1, axis=0).T
        first = np.ceil(np.minimum(r0, r1)).clip(0, shape[0]).astype(int)
        count = np.ceil(np.maximum(r0, r1)).clip(0, shape[0]).astype(int) - first
        if count.sum() > MAX_POINTS:
            raise UserError(
                f"{path.name}: a contour crosses the rows of its slice more than {MAX_POINTS} times"
            )
        edge = np.repeat(np.arange(len(points)), count)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        column = c0[edge] + (row - r0[edge]) * ((c1 - c0)[edge] / (r1 - r0)[edge])
        np.add.at(crossings, (row, np.ceil(column).clip(0, shape[1]).astype(int)), 1)
    return np.cumsum(crossings[:, :-1], axis=1) % 2 == 1


def find_body(rois, ct_hu, grid, path, report):
    """(structure's name or the rule, bool [D,H,W]) of the patient's outline."""
    names = [plain(name) for name in BODY_NAMES]
    outlines = [roi for roi in rois if roi.items and (roi.kind == "EXTERNAL" or plain(roi.name) in names)]
    if outlines:
        best = min(outlines, key=lambda roi: (roi.kind != "EXTERNAL", roi.number))
        return best.name, contour_mask(best, grid, path, report)
    labels, _ = ndimage.label(ct_hu > BODY_HU)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:], axis=0) if labels.any() else labels > 0
    return f"CT above {BODY_HU:g} HU", np.stack([ndimage.binary_fill_holes(layer) for layer in largest])
