"""Write a kept prediction as DICOM RTDOSE, to load beside the patient's plan in any viewer.

    python -m lib export outputs/clinic baseline patient_7 --dicom <DICOM folder> --to <file.dcm> [--spread]

The prediction is one that 04_comparison kept; the file holds the patient's name, so it is not written below
outputs.
"""

from pathlib import Path

from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.importers.rtdose import write_rtdose
from lib.prediction.store import load_prediction, predicted_cases, predicted_methods, prediction_path
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.params_file import load_params


def export(folder, method, case_id, dicom, target, spread=False):
    """Write the dose, or the spread, of experiment `folder`; returns the path. Raises a UserError."""
    folder = Path(folder)
    params = load_params(folder / "experiment.yaml")
    check_kept(folder, method, case_id)
    case = open_cohort(params["cohort"], params.get("first_cases", 0)).load(case_id)
    prediction = load_prediction(prediction_path(folder, method, case_id), case.dose_mask)
    if spread and prediction.spread_gy is None:
        raise UserError(f"{method} has no spread for {case_id}: it gives one dose, or one sample was drawn")
    dose_gy = prediction.spread_gy if spread else prediction.dose_gy
    return write_rtdose(
        target, dose_gy, case, dicom, description="spread" if spread else "dose", method=method
    )


def check_kept(folder, method, case_id):
    """A sentence that lists what there is, if the experiment keeps no such prediction."""
    if method not in predicted_methods(folder):
        raise UserError(
            f"{folder} keeps no predictions by {method}; "
            f"there are {', '.join(predicted_methods(folder)) or 'none'}"
        )
    if case_id not in predicted_cases(folder, method):
        raise UserError(
            f"{folder} keeps no prediction by {method} for {case_id}; there are those for "
            f"{', '.join(predicted_cases(folder, method))}; comparison.shown says for how many"
        )


def main(arguments=None):
    parser = Parser(prog="python -m lib export", description="Write a kept prediction as DICOM RTDOSE.")
    parser.add_argument("experiment", help="folder of the experiment, such as outputs/clinic")
    parser.add_argument("method", help="a method of the experiment, or control")
    parser.add_argument("case_id")
    parser.add_argument(
        "--dicom", required=True, help="the patient's DICOM folder: CT, structures and dose, as imported"
    )
    parser.add_argument("--to", required=True, help="file to write, not below outputs")
    parser.add_argument(
        "--spread", action="store_true", help="the samples' standard deviation instead of the dose"
    )
    given = parser.parse_args(arguments)
    with one_sentence_errors():
        print(export(given.experiment, given.method, given.case_id, given.dicom, given.to, given.spread))
