"""Our measures and those of other tools on one analytic patient, as the table in lib/metrics/README.md.

    python tests/witnesses.py --write    writes the table, which test_witnesses.py holds against the tools

The patient: a dose of closed form (a box blurred by 6 mm), a ball as target, an upright cylinder and a small
ball as organs. The other dose is 2.7 % higher and 1.2 mm further to the left.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from dicom_toys import write_patient
from scipy.special import ndtr

from lib.cases.case import Case
from lib.cases.protocol import Goal
from lib.importers.dicom_rt import read_patient
from lib.importers.options import Options
from lib.metrics.dvh import statistic
from lib.metrics.gamma import gamma_index, pass_pct
from lib.metrics.points import dose_points

README = Path(__file__).resolve().parent.parent / "lib" / "metrics" / "README.md"
MARKS = "<!-- witnesses -->\n", "<!-- end of witnesses -->"
SHAPE, SPACING_MM, RX_GY = (34, 28, 28), (3.0, 4.0, 4.0), 70.0
STRUCTURES = {  # name -> (centre z, y, x, radius, half of the height or none), mm
    "PTV70": (1.3, -0.4, 0.7, 22.0, None),
    "Rectum": (0.9, 26.3, 0.3, 9.0, 30.0),
    "Bladder": (-1.1, -30.2, 3.4, 6.0, None),
}
CRITERIA = {  # name -> (% and mm, local)
    "gamma 3 % / 3 mm": (3, False),
    "gamma 2 % / 2 mm": (2, False),
    "gamma 2 % / 2 mm, local": (2, True),
}
POINTS = {
    "mean": Goal("", "mean", None, "<=", 1, "Gy"),
    "D95 %": Goal("", "D", 95, ">=", 1, "Gy"),
    "D2 %": Goal("", "D", 2, "<=", 1, "Gy"),
    "D0.1 cc": Goal("", "Dcc", 0.1, "<=", 1, "Gy"),
}


def dose_gy(z, y, x, moved_mm=0.0):
    """The planned dose at mm from the middle: 70 Gy in a box of 70 x 56 x 60 mm, blurred by 6 mm."""
    sides = ((z, 35.0), (y, 28.0), (x - moved_mm, 30.0))
    return RX_GY * np.prod([ndtr((at + half) / 6) - ndtr((at - half) / 6) for at, half in sides], axis=0)


def inside(name, z, y, x):
    """Whether points lie in the structure."""
    cz, cy, cx, radius, half = STRUCTURES[name]
    if half is None:
        return (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
    return ((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) & (abs(z - cz) <= half)


def axes_mm():
    return [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING_MM)]


def patient():
    """The Case, its dose in steps of 0.01 Gy as in its RTDOSE, and the other dose."""
    grid = np.meshgrid(*axes_mm(), indexing="ij")
    body = sum((at / half) ** 2 for at, half in zip(grid, (60, 52, 52))) <= 1
    planned = (np.rint(dose_gy(*grid) * 100) / 100).astype(np.float32)
    case = Case(
        case_id="analytic",
        ct_hu=np.where(body, 0, -1000).astype(np.int16),
        dose_gy=planned,
        masks={name: inside(name, *grid) for name in STRUCTURES},
        dose_mask=body,
        spacing_mm=SPACING_MM,
        prescription_gy={"PTV70": RX_GY},
        site="prostate",
        origin_mm=tuple(float(axis[0]) for axis in axes_mm()),
    )
    return case, (1.027 * dose_gy(*grid, moved_mm=1.2)).astype(np.float32)


# --- each tool: (structure, point) or criterion -> value ---


def closed_form():
    """By the midpoint rule on points of 0.25 mm, without a grid of voxels."""
    values = {}
    for name, (cz, cy, cx, radius, half) in STRUCTURES.items():
        spans = ((cz, half or radius), (cy, radius), (cx, radius))
        axes = [np.arange(at - size, at + size, 0.25) + 0.125 for at, size in spans]
        grid = np.meshgrid(*axes, indexing="ij")
        doses_gy = dose_gy(*grid)[inside(name, *grid)]
        values[name, "volume"] = len(doses_gy) * 0.25**3 / 1000
        values |= points_of(name, doses_gy, 0.25**3 / 1000)
    return values


def points_of(name, doses_gy, point_cc):
    return {(name, point): statistic(goal, doses_gy, point_cc) for point, goal in POINTS.items()}


def ours(case, other_gy):
    """As goals are judged: D0.1 cc on points within the voxels, all else on voxels."""
    values = {}
    for name, mask in case.masks.items():
        values[name, "volume"] = int(mask.sum()) * case.voxel_cc
        values |= points_of(name, case.dose_gy[mask], case.voxel_cc)
        fine_gy, voxels = dose_points(case.dose_gy, mask, case.has_dose)
        values[name, "D0.1 cc"] = statistic(POINTS["D0.1 cc"], fine_gy, voxels * case.voxel_cc)
    for name, (size, local) in CRITERIA.items():
        how = {"dose_pct": size, "distance_mm": size, "global_gy": RX_GY, "local": local}
        values[name] = pass_pct(gamma_index(case.dose_gy, other_gy, case.spacing_mm, **how))
    return values


def pymedphys(case, other_gy):
    from pymedphys import gamma

    axes, values = tuple(axes_mm()), {}
    for name, (size, local) in CRITERIA.items():
        how = {"lower_percent_dose_cutoff": 10, "max_gamma": 1.1, "global_normalisation": RX_GY}
        how |= {"interp_fraction": 10, "local_gamma": local, "skip_once_passed": True}
        values[name] = pass_pct(gamma(axes, case.dose_gy, axes, other_gy, size, size, **how))
    return values


def dicompyler(folder):
    """From the RTSTRUCT and RTDOSE, as dicompyler-core does unless it is asked to interpolate."""
    from pydicom import dicomio

    dicomio.read_file = pydicom.dcmread  # its name until pydicom 3, by which dicompyler-core 0.5.6 asks
    from dicompylercore.dvhcalc import get_dvh

    [structures], [dose] = folder.glob("rtstruct*"), folder.glob("rtdose*")
    rois = {roi.ROIName: int(roi.ROINumber) for roi in pydicom.dcmread(structures).StructureSetROISequence}
    values = {}
    for name in STRUCTURES:
        dvh = get_dvh(str(structures), str(dose), rois[name])
        values |= {(name, "volume"): float(dvh.volume), (name, "mean"): float(dvh.mean)}
        for point, word in (("D95 %", "D95"), ("D2 %", "D2"), ("D0.1 cc", "D0.1cc")):
            values[name, point] = float(dvh.statistic(word).value)
    return values


def simpleitk(case, folder):
    """From the RTDOSE as SimpleITK reads it, at the mask's voxels."""
    [path] = folder.glob("rtdose*")
    read = sitk.ReadImage(str(path))
    dose = sitk.Cast(read, sitk.sitkFloat64) * float(read.GetMetaData("3004|000e"))
    values = {}
    for name, mask in case.masks.items():
        label = sitk.Resample(image(mask.astype(np.uint8)), dose, sitk.Transform(), sitk.sitkNearestNeighbor)
        statistics = sitk.LabelIntensityStatisticsImageFilter()
        statistics.Execute(label, dose)
        values |= {
            (name, "volume"): statistics.GetPhysicalSize(1) / 1000,
            (name, "mean"): statistics.GetMean(1),
        }
    return values


def plastimatch(case, other_gy, folder):
    """Its own images, of the same voxels; gamma with its search between voxels, a DVH in bins of 0.01 Gy."""
    names, values = list(case.masks), {}
    bits = sum(mask.astype(np.uint8) << bit for bit, mask in enumerate(case.masks.values()))
    for file, volume in (("planned", case.dose_gy), ("other", other_gy), ("bits", bits)):
        sitk.WriteImage(image(volume), str(folder / f"{file}.mha"))
    (folder / "list.txt").write_text("".join(f"{bit}|255 0 0|{name}\n" for bit, name in enumerate(names)))
    for name, (size, local) in CRITERIA.items():
        call = [
            "gamma",
            "--reference-dose",
            RX_GY,
            "--analysis-threshold",
            0.1,
            "--dose-tolerance",
            size / 100,
        ]
        call += ["--dta-tolerance", size, "--gamma-max", 1.1, "--ref-only-threshold", "--interp-search"]
        call += ["--local-gamma"] * local + ["--output-text", "gamma.txt", "planned.mha", "other.mha"]
        run_plastimatch(folder, *call)
        values[name] = float(
            re.search(r"pass.?rate\D*([\d.]+)", (folder / "gamma.txt").read_text(), re.IGNORECASE)[1]
        )
    call = ["--input-dose", "planned.mha", "--input-ss-img", "bits.mha", "--input-ss-list", "list.txt"]
    run_plastimatch(folder, "dvh", *call, "--bin-width", 0.01, "--num-bins", 8000, "--output-csv", "dvh.csv")
    _, *lines = (folder / "dvh.csv").read_text().splitlines()
    at_gy, *curves = np.loadtxt(lines, delimiter=",", unpack=True)
    for name, curve in zip(names, curves):
        for point, share in (("D95 %", 95), ("D2 %", 2)):
            values[name, point] = float(at_gy[100 * curve >= share].max())
    return values


def run_plastimatch(folder, *call):
    subprocess.run(["plastimatch", *map(str, call)], cwd=folder, check=True, capture_output=True)


def image(volume):
    """An image of SimpleITK on the patient's grid."""
    made = sitk.GetImageFromArray(volume)
    made.SetSpacing(SPACING_MM[::-1])
    made.SetOrigin([float(axis[0]) for axis in axes_mm()][::-1])
    return made


def compute(folder):
    """tool -> its values; plastimatch only where it is installed."""
    case, other_gy = patient()
    folder = write_patient(case, Path(folder) / "dicom", names={})
    read, _ = read_patient(folder, Options(site="prostate"))
    assert all(np.array_equal(read.masks[name], case.masks[name]) for name in STRUCTURES)
    tools = {
        "closed form": closed_form(),
        "here": ours(read, other_gy),
        "pymedphys": pymedphys(case, other_gy),
        "dicompyler-core": dicompyler(folder),
        "SimpleITK": simpleitk(case, folder),
    }
    return tools | (
        {"plastimatch": plastimatch(case, other_gy, folder)} if shutil.which("plastimatch") else {}
    )


# --- the table ---


def table(tools):
    """The lines of the README's table."""
    rows = [(name, point) for name in STRUCTURES for point in ("volume", *POINTS)] + list(CRITERIA)
    lines = [f"| | {' | '.join(tools)} |\n", "|---" * (len(tools) + 1) + "|\n"]
    for row in rows:
        unit = "%" if isinstance(row, str) else "cc" if row[1] == "volume" else "Gy"
        title = f"{row if isinstance(row, str) else ' '.join(row)} / {unit}"
        cells = ["" if values.get(row) is None else f"{values[row]:.2f}" for values in tools.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |\n")
    return lines


def stored_table():
    """The lines of the table in the README."""
    return README.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0].splitlines(True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        lines = table(compute(folder))
    print("".join(lines))
    if "--write" in sys.argv:
        before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
        README.write_text(
            before + MARKS[0] + "".join(lines) + MARKS[1] + rest.partition(MARKS[1])[2], "utf-8"
        )


if __name__ == "__main__":
    main()
