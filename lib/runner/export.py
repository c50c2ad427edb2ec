"""Write a kept prediction for other programs: with CT and structures as images, or as DICOM RTDOSE.

    python -m lib export outputs/phantom-quick baseline case_0021 --to <file.nii.gz> [--spread]
    python -m lib export outputs/clinic baseline patient_7 --dicom <DICOM folder> --to <file.dcm> [--spread]

The prediction is one that 04_comparison kept. Where lib.importers.images writes a clinic's patient and where
not is said there.
"""

from collections.abc import Sequence
from pathlib import Path

from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.files import find_path, in_project
from lib.importers.images import write_dose
from lib.prediction.store import load_prediction, predicted_cases, predicted_methods, prediction_path
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.params_file import load_params


def export(
    folder: str | Path, method: str, case_id: str, target: str | Path, dicom: str = "", spread: bool = False
) -> str:
    """Write the dose, or the spread, of experiment `folder`; returns what was written, a path a line, and a
    sentence where 0 mm is no place of the patient's. Raises a UserError."""
    folder = find_path(folder)
    params = load_params(folder / "experiment.yaml")
    check_kept(folder, method, case_id)
    cohort = open_cohort(in_project(params["cohort"]), params.get("first_cases", 0))
    case = cohort.load(case_id)
    prediction = load_prediction(prediction_path(folder, method, case_id), case.dose_mask)
    if spread and prediction.spread_gy is None:
        raise UserError(f"{method} has no spread for {case_id}: it gives one dose, or one sample was drawn")
    dose_gy, what = (prediction.spread_gy, "spread") if spread else (prediction.dose_gy, "dose")
    paths = write_dose(target, dose_gy, case, cohort.card["source"], dicom, description=what, method=method)
    counted = f"{cohort.name} has no origin: (0, 0, 0) mm is the centre of the first voxel"
    return "\n".join(map(str, paths if any(case.origin_mm) else [*paths, counted]))


def check_kept(folder: Path, method: str, case_id: str) -> None:
    """A sentence that lists what there is, if the experiment keeps no such prediction."""
    methods, case_ids = predicted_methods(folder), predicted_cases(folder, method)
    if method not in methods:
        there_are = ", ".join(methods) or "none"
        raise UserError(f"{folder} keeps no predictions by {method}; there are {there_are}")
    if case_id not in case_ids:
        there_are = f"there are those for {', '.join(case_ids)}; comparison.shown says for how many"
        raise UserError(f"{folder} keeps no prediction by {method} for {case_id}; {there_are}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `export`; without `arguments` those of the command line."""
    description = "Write a kept prediction as images with CT and structures, or as DICOM RTDOSE."
    parser = Parser(prog="python -m lib export", description=description)
    add = parser.add_argument
    add("experiment", help="folder of the experiment, such as outputs/phantom-quick")
    add("method", help="a method of the experiment, or control")
    add("case_id")
    target = "x.nii.gz, x.nii, x.nrrd or x.mha, beside which CT, planned dose and structures are written"
    add("--to", required=True, help=f"file to write: {target}; with --dicom x.dcm")
    add("--dicom", default="", help="write RTDOSE; the patient's DICOM folder: CT, structures and dose")
    add("--spread", action="store_true", help="the samples' standard deviation instead of the dose")
    given = parser.parse_args(arguments)
    with one_sentence_errors():
        print(export(given.experiment, given.method, given.case_id, given.to, given.dicom, given.spread))
