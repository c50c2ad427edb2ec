"""Check a plan against what plans of such anatomies reach, and calibrate what that says.

    python -m lib check outputs/clinic                             calibrates the experiment, once
    python -m lib check outputs/clinic --plan patient_7            checks a patient of its cohort
    python -m lib check outputs/clinic --plan /data/patient_7      or the plan in a DICOM folder
    python -m lib check outputs/published/openkbp --plan ...       by what is published, with nothing trained

The first predicts the validation and the test patients by every answer of 03_ensemble, and says which has the
narrowest intervals; the second writes one page. No device, and no decision about a treatment.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.cases.case import Case
from lib.errors import UserError
from lib.features.samples import Sample, make_sample
from lib.files import find_path, in_project, write_text
from lib.importers.dicom_rt import read_patient
from lib.importers.options import Options, check_import
from lib.metrics import conformal
from lib.prediction.predict import on_case_grid
from lib.prediction.store import prediction_path
from lib.report import interval_figures
from lib.report.plan_page import plan_page
from lib.report.style import plt, save_figure
from lib.report.tables import cell
from lib.runner import settings
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.notebook import find_params
from lib.runner.params_file import put_over
from lib.studies import intervals, plan_check
from lib.studies.anatomy import anatomies, likeness, same_patient
from lib.studies.calibration import load_calibration, weights_of
from lib.studies.experiment import OUTPUTS, PUBLISHED, Experiment
from lib.studies.results import Results, make_frame

HOW = ("sampled", "regression", "deep", "members", "n_steps")  # of 03_ensemble
LEVEL_PCT = 80.0


def open_check(experiment: str | Path, given: dict[str, Any] | None = None) -> tuple[Experiment, dict, dict]:
    """(experiment, how it answers, its params); `given` goes before the section ensemble of its file."""
    folder = Path(experiment)
    is_published = folder.parent.name == PUBLISHED.name
    path, params = find_params(folder.name, PUBLISHED if is_published else OUTPUTS)
    if given and "members" in given:  # of how many a mean is taken is not asked here, and must not be more
        given = {"sizes": [given["members"]]} | given
    values = settings.notebook_values(params, "03_ensemble", path, given or {})
    run = settings.experiment_of(values)
    run = replace(run, experiment=f"{PUBLISHED.name}/{run.experiment}") if is_published else run
    how = {name: values[name] for name in HOW}
    return run, how | {name: run.trained(how[name]) for name in ("sampled", "deep")}, params


def calibrate(run: Experiment, how: dict[str, Any]) -> Results:
    """Predict validation and test patients, judge the intervals and alarms, and keep it as 07_check."""
    if run.is_published:
        raise UserError(f"{run.folder} is as it was published; --plan checks a plan by it")
    rows = []
    for part in ("validation", "test"):
        rows += intervals.predict_values(run, run.load_samples(part), part, **how)
    values, raised = make_frame("07_values", rows), intervals.raise_organs(run, run.load_samples("test"))
    frames = {"values": values, "anatomy": anatomies(run), "intervals": intervals.judge(values)}
    frames["detection"] = intervals.detect(values, raised)
    run.save_results("07_check", {"answers": how, "weights": weights_of(run, how)}, **frames)
    results = run.load_results("07_check")
    figures = {"fig20_intervals": interval_figures.intervals(results.frames["07_intervals"])}
    figures["fig21_alarms"] = interval_figures.roc(results.frames["07_detection"])
    for name, figure in figures.items():
        save_figure(figure, run.folder, name)
        plt.close(figure)
    return results


def read_plan(run: Experiment, plan: str, params: dict) -> tuple[Case, Sample, list[str]]:
    """A patient of the cohort by the id, or the plan in a DICOM folder, on a grid like the cohort's and by a
    name that tells nothing; and the warnings of the import."""
    cohort = run.open_cohort()
    if plan in cohort.card["cases"]:
        case, warnings = run.load_case(plan), cohort.card["cases"][plan].get("import", {}).get("warnings", [])
        return case, make_sample(case, run.grid, run.beams_deg), warnings
    if not find_path(plan).is_dir():
        raise UserError(f"{plan} is neither a patient of {cohort.folder} nor a folder of DICOM files")
    section = check_import(params["import"], "import") if params.get("import") else {}
    options = {key: value for key, value in section.items() if key not in ("site", "protocol")}
    of_training = [cohort.card["cases"][case_id]["spacing_mm"] for case_id in cohort.split["train"]]
    options = {"spacing_mm": tuple(np.median(of_training, axis=0).tolist())} | options
    case, report = read_patient(find_path(plan), Options(**options, protocol=cohort.protocol), "plan")
    sample = make_sample(case, run.grid, run.beams_deg)
    seen = [tensor.numpy().tobytes() for tensor in (sample.cond, sample.mask, sample.constraints)]
    name = f"plan_{hashlib.sha256(b''.join(seen)).hexdigest()[:8]}"
    return replace(case, case_id=name), replace(sample, case_id=name), report["warnings"]


def check(
    experiment: str | Path, plan: str, name: str = "", level_pct: float = LEVEL_PCT, to: str | Path = ""
) -> Path:
    """Write the page of a checked plan; returns its path. Raises a UserError."""
    run, _, params = open_check(experiment)
    results = load_calibration(run)
    case, sample, warnings = read_plan(run, plan, params)
    plan_check.refuse_plan(case, run.open_cohort(), run.experiment)
    anatomy = results.frames["07_anatomy"]
    if twin := same_patient(case, anatomy):
        known = f"the anatomy of {twin}, on whom the networks were trained"
        raise UserError(f"{plan} has {known}; they know its plan")
    if name in results.settings.get("not_published", ()):
        raise UserError(f"{name} takes networks that are not published; leave --by out, or train them first")
    answer = plan_check.choose_answer(results.frames["07_intervals"], level_pct, name)
    [dose] = plan_check.predict_answer(run, answer, sample).doses
    members_gy = on_case_grid(dose, case, run.grid)
    checked = plan_check.check_plan(case, members_gy, results.frames["07_values"], answer, level_pct)
    cautions = list(plan_check.cautions(case, likeness(case, anatomy), checked, level_pct))
    cautions += [f"Look at the data: {warning}" for warning in warnings]
    if case.case_id in run.open_cohort().split["validation"]:
        cautions.append(f"{case.case_id} is one of the calibration patients and is left out of them")
    about = {
        "experiment": run.experiment,
        "level": f"{level_pct:g}",
        "promise": conformal.promise(int(checked.table["n"].max()), level_pct),
        "several": len(members_gy) > 1,
        "command": export_command(run, answer["training"], case),
    }
    stands_out = plan_check.sentences(checked)
    name = plan_check.answer_name(answer)
    page = plan_page(case, checked.table, members_gy, name, stands_out, cautions, about)
    checks = in_project(OUTPUTS / Path(run.experiment).name) / "checks"
    path = Path(to) if to else checks / f"{case.case_id}.html"
    write_text(path, page)
    print("\n".join([*(f"{text}." for text in (*stands_out, *cautions)), str(path)]))
    return path


def export_command(run: Experiment, training: str, case: Case) -> str:
    """How the predicted dose is had as RTDOSE; not from what is published."""
    if run.is_published:
        return ""
    how = "04_comparison keeps predictions, python -m lib export writes one."
    if prediction_path(run.folder, training, case.case_id).exists():
        how = f"python -m lib export outputs/{run.experiment} {training} {case.case_id}"
        how += " --dicom <the patient's DICOM folder> --to <file.dcm>"
    return f"The predicted dose as RTDOSE: {how}"


def describe(results: Results) -> list[str]:
    """Lines that say which answer has the best intervals, and what alarms detect."""
    judged = results.frames["07_intervals"]
    tables = interval_figures.answers_table(judged), interval_figures.alarms_table(results)
    shown = [table.map(lambda value: cell(value, "{:.2f}")).to_string() for table in tables]
    head = f"Intervals of {interval_figures.usual_level(judged):g} %, quantities in Gy:"
    detected = "Organs raised by 5 Gy, detected at 10 % false alarms / %:"
    said = interval_figures.verdicts(results)
    return [head, shown[0], *said, "", detected, shown[1]]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `check`; without `arguments` those of the command line."""
    parser = Parser(prog="python -m lib check", description="Check a plan against what such anatomies reach.")
    add = parser.add_argument
    add("experiment", help="folder of the experiment, such as outputs/clinic")
    add("--plan", help="a patient of its cohort, or a DICOM folder; without it the experiment is calibrated")
    add("--by", default="", help="the answer; default: the one with the best intervals on test patients")
    add("--level-pct", type=float, default=LEVEL_PCT, help="share of such plans inside; default: 80")
    add("--to", default="", help="the page; default: in the experiment's folder")
    add("-p", action="append", default=[], metavar="key=value", help="over the section ensemble")
    given = parser.parse_args(arguments)
    with one_sentence_errors():
        if given.plan:
            check(given.experiment, given.plan, given.by, given.level_pct, given.to)
        else:
            run, how, _ = open_check(given.experiment, put_over({}, given.p))
            print("\n".join(describe(calibrate(run, how))))
