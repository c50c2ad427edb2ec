"""A prediction written as RTDOSE: read back within its step, in the patient's frame, called a prediction."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_toys import CLASSES, PRIVATE, edited, read_case, write_patient
from toys import toy_case

from lib.cases.case import load_case, save_case
from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.features.grid import Grid
from lib.files import ROOT, write_text
from lib.importers.dicom_files import File
from lib.importers.dicom_grid import ImageGrid
from lib.importers.dicom_images import read_dose
from lib.importers.dicom_rt import read_patient
from lib.importers.options import Options
from lib.importers.rtdose import write_rtdose
from lib.prediction.store import prediction_path, save_prediction
from lib.runner import export, import_patients


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    return write_patient(
        toy_case(shape=(10, 16, 16)), tmp_path_factory.mktemp("dicom") / "p1", position="FFP"
    )


def exported(patient, path, dose_gy=None, spacing_mm=None, **names):
    """(the case read from the folder, the predicted dose, what was written as a Dataset)."""
    case, _ = read_patient(patient, Options(spacing_mm=spacing_mm))
    dose_gy = case.dose_gy * np.float32(0.9731) if dose_gy is None else dose_gy
    write_rtdose(path, dose_gy, case, patient, **({"description": "dose", "method": "ddpm_v"} | names))
    return case, dose_gy, pydicom.dcmread(path)


def test_what_is_read_back_is_within_half_a_step_of_at_most_001_gy(patient, tmp_path):
    _, dose_gy, ds = exported(patient, tmp_path / "dose.dcm")
    assert ds.DoseGridScaling <= 0.01
    assert abs(ds.pixel_array * float(ds.DoseGridScaling) - dose_gy).max() <= 0.51 * float(ds.DoseGridScaling)


def test_it_lies_where_the_planned_dose_lies(patient, tmp_path):
    case, dose_gy, ds = exported(patient, tmp_path / "dose.dcm")
    got_gy, grid = read_dose(File("dose.dcm", ds, ds.SOPInstanceUID))
    assert (
        grid == ImageGrid(case.origin_mm, case.spacing_mm, case.shape) and abs(got_gy - dose_gy).max() < 0.002
    )


@pytest.mark.parametrize("mark", ["SOPInstanceUID", "InstanceCreatorUID", "SeriesDescription", "DoseComment"])
@pytest.mark.parametrize("with_plan", [True, False])
def test_in_the_patients_folder_it_is_never_taken_for_the_plans_dose(with_plan, mark, patient, tmp_path):
    def keep_mark(ds):
        if mark != "SOPInstanceUID":
            ds.SOPInstanceUID = f"1.2.{len(ds.SeriesDescription)}"
        for keyword in {"InstanceCreatorUID", "SeriesDescription", "DoseComment"} - {mark}:
            delattr(ds, keyword)

    folder = shutil.copytree(patient, tmp_path / "p1")
    if not with_plan:  # nothing says which dose is the plan's
        next(folder.glob("rtplan*")).unlink()
        edited(next(folder.glob("rtdose*")), lambda ds: delattr(ds, "ReferencedRTPlanSequence"))
    before = read_patient(folder)
    for method in ("one", "second"):  # the second export finds the first one's file
        exported(folder, folder / f"{method}.dcm", method=method)
        edited(folder / f"{method}.dcm", keep_mark)
    (case, report), (case_before, report_before) = read_patient(folder), before
    assert np.array_equal(case.dose_gy, case_before.dose_gy)
    left_aside = "2 predicted doses that were exported are left aside: they are no plan's"
    assert report["warnings"] == [left_aside, *report_before["warnings"]]
    assert report["other_files"] == {"predicted dose": 2}
    next(folder.glob("rtdose*")).unlink()
    with pytest.raises(UserError, match="p1 holds no RTDOSE but predicted dose; export the plan's dose too"):
        read_patient(folder)


def test_on_a_coarser_grid_it_lies_where_the_case_lies(patient, tmp_path):
    case, _, ds = exported(patient, tmp_path / "dose.dcm", spacing_mm=(20, 20, 20))
    assert (ds.NumberOfFrames, ds.Rows, ds.Columns) == case.shape
    assert np.allclose(ds.ImagePositionPatient, case.origin_mm[::-1]) and np.allclose(
        ds.PixelSpacing, (20, 20)
    )
    assert np.allclose(np.diff(ds.GridFrameOffsetVector), 20)


def test_it_refers_to_the_patients_files_and_has_uids_of_its_own(patient, tmp_path):
    _, _, ds = exported(patient, tmp_path / "dose.dcm")
    found = {kind: [pydicom.dcmread(p) for p in sorted(patient.glob(f"{kind.lower()}*"))] for kind in CLASSES}
    ct, uids = found["CT"][0], {d.SOPInstanceUID for files in found.values() for d in files}
    assert ds.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == found["RTPLAN"][0].SOPInstanceUID
    assert ds.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == found["RTSTRUCT"][0].SOPInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in ds.ReferencedImageSequence} == {
        d.SOPInstanceUID for d in found["CT"]
    }
    assert (ds.FrameOfReferenceUID, ds.StudyInstanceUID) == (ct.FrameOfReferenceUID, ct.StudyInstanceUID)
    assert all(str(ds.get(keyword)) == value for keyword, value in PRIVATE.items())
    again = exported(patient, tmp_path / "again.dcm")[2]
    assert len({ds.SOPInstanceUID, again.SOPInstanceUID, *uids}) == len(uids) + 2
    assert ds.SeriesInstanceUID not in {d.SeriesInstanceUID for files in found.values() for d in files}


def test_it_says_that_it_is_a_prediction_and_by_which_method(patient, tmp_path):
    ds = exported(patient, tmp_path / "dose.dcm", method="refine", description="spread of 8 samples")[2]
    assert ds.SeriesDescription == ds.DoseComment == "PREDICTION by refine: spread of 8 samples"
    assert (ds.Modality, ds.DoseType, ds.DoseSummationType, ds.DoseUnits) == (
        "RTDOSE",
        "PHYSICAL",
        "PLAN",
        "GY",
    )


def test_below_the_projects_outputs_it_is_refused_and_nothing_is_written(patient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to("disk")
    (tmp_path / "link").symlink_to("outputs/run")
    for path in ("outputs/run/dose.dcm", "disk/run/dose.dcm", "link/dose.dcm", "x/../outputs/dose.dcm"):
        with pytest.raises(UserError, match="patient's name.*outputs"):
            exported(patient, tmp_path / path)
    with pytest.raises(UserError, match="outputs"):
        exported(patient, ROOT / "outputs" / "run" / "dose.dcm")
    assert not list((tmp_path / "disk").iterdir()) and not (ROOT / "outputs" / "run").exists()


def test_in_a_folder_that_is_only_called_outputs_it_is_written(patient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exported(patient, tmp_path / "clinic" / "outputs" / "dose.dcm")[2].Modality == "RTDOSE"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda dose: dose - 100, "negative"),
        (lambda dose: dose * np.nan, "numbers"),
        (lambda dose: dose[:-1], "shape"),
        (lambda dose: dose * 100, "not a dose of a plan"),
    ],
)
def test_what_is_no_dose_is_refused_and_nothing_is_written(change, words, patient, tmp_path):
    with pytest.raises(UserError, match=words):
        exported(patient, tmp_path / "dose.dcm", change(read_case(patient).dose_gy))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("description", ["x" * 60, "two\nlines", "back\\slash"])
def test_a_description_that_dicom_cannot_hold_is_refused(description, patient, tmp_path):
    with pytest.raises(UserError, match="SeriesDescription"):
        exported(patient, tmp_path / "dose.dcm", description=description)


def test_a_case_of_another_patient_is_refused(patient, tmp_path):
    with pytest.raises(UserError, match="is not that of the case"):
        other = toy_case(shape=(32, 16, 16))
        write_rtdose(tmp_path / "dose.dcm", other.dose_gy, other, patient, description="dose", method="ddpm")


@pytest.mark.parametrize("spacing_mm", [None, (20, 20, 20), (19, 13, 18)])
def test_beside_another_patients_ct_on_the_same_grid_it_is_refused_and_beside_his_own_it_is_written(
    spacing_mm, patient, tmp_path
):
    read, _ = read_patient(patient, Options(spacing_mm=spacing_mm))
    save_case(read, tmp_path / "p1.npz")
    case, about = load_case(tmp_path / "p1.npz"), {"description": "dose", "method": "ddpm"}
    assert write_rtdose(tmp_path / "dose.dcm", case.dose_gy, case, patient, **about).exists()
    other = write_patient(toy_case("berta", shape=(10, 16, 16)), tmp_path / "p2", position="FFP")
    with pytest.raises(UserError, match="the CT of the patient's folder is not that of the case"):
        write_rtdose(tmp_path / "wrong.dcm", case.dose_gy, case, other, **about)
    assert not (tmp_path / "wrong.dcm").exists()


def test_no_file_is_replaced_but_an_earlier_prediction(patient, tmp_path):
    folder = shutil.copytree(patient, tmp_path / "p1")
    (folder / "notes.dcm").write_text("not DICOM")
    (folder / "list").write_text("of all")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    case, about = read_case(patient), {"description": "dose", "method": "ddpm"}
    for path in before:
        with pytest.raises(UserError, match="is not written: it exists already; name another file"):
            write_rtdose(path, case.dose_gy, case, patient, **about)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    for share in (1.0, 0.5):  # written again, it is the second one
        write_rtdose(folder / "predicted.dcm", share * case.dose_gy, case, patient, **about)
    ds = pydicom.dcmread(folder / "predicted.dcm")
    highest_gy = ds.pixel_array.max() * float(ds.DoseGridScaling)
    assert highest_gy == pytest.approx(case.dose_gy.max() / 2, abs=0.01)


def test_a_spread_of_nothing_is_written_as_zeros(patient, tmp_path):
    ds = exported(patient, tmp_path / "spread.dcm", np.zeros((10, 16, 16)), description="spread")[2]
    assert ds.pixel_array.max() == 0 < float(ds.DoseGridScaling)


@pytest.mark.dciodvfy
@pytest.mark.parametrize("with_plan", [True, False])
def test_dciodvfy_finds_no_error(with_plan, patient, tmp_path):
    folder = shutil.copytree(patient, tmp_path / "p1")
    if not with_plan:
        next(folder.glob("rtplan*")).unlink()
    exported(folder, tmp_path / "dose.dcm")
    told = subprocess.run(
        ["dciodvfy", tmp_path / "dose.dcm"], check=False, capture_output=True, text=True, timeout=60
    )
    assert not [line for line in (told.stderr + told.stdout).splitlines() if line.startswith("Error")]


@pytest.fixture(scope="module")
def clinic(patient, tmp_path_factory):
    """A cohort of the patient, imported by the command, and an experiment that keeps a prediction of him."""
    folder = tmp_path_factory.mktemp("clinic")
    with contextlib.chdir(folder):
        import_patients.main(["dicom", str(patient.parent), "--name", "clinic", "--workers", "1"])
        case = open_cohort("outputs/cohorts/clinic").load("p1")
        write_text(
            Path("outputs/clinic/experiment.yaml"), "experiment: clinic\ncohort: outputs/cohorts/clinic\n"
        )
        save_prediction(prediction_path("outputs/clinic", "baseline", "p1"), case.dose_gy, Grid(1))
        save_prediction(
            prediction_path("outputs/clinic", "flow", "p1"), case.dose_gy, Grid(1), case.dose_gy / 10
        )
    return folder


def command(clinic, patient, monkeypatch, *arguments):
    monkeypatch.chdir(clinic)
    export.main(["outputs/clinic", *arguments, "--dicom", str(patient)])


@pytest.mark.parametrize("method, flags, share", [("baseline", [], 1.0), ("flow", ["--spread"], 0.1)])
def test_the_command_writes_a_kept_prediction(method, flags, share, clinic, patient, tmp_path, monkeypatch):
    command(clinic, patient, monkeypatch, method, "p1", "--to", str(tmp_path / "out.dcm"), *flags)
    ds, (case, _) = pydicom.dcmread(tmp_path / "out.dcm"), read_patient(patient)
    expected = share * np.where(case.dose_mask, case.dose_gy, 0)
    assert (
        abs(ds.pixel_array * float(ds.DoseGridScaling) - expected).max() < 0.02
        and method in ds.SeriesDescription
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("refine", "p1"), "no predictions by refine; there are baseline, flow"),
        (("flow", "p2"), "no prediction by flow for p2; there are those for p1"),
        (("baseline", "p1", "--spread"), "baseline has no spread"),
    ],
)
def test_the_command_says_what_there_is(arguments, words, clinic, patient, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(clinic, patient, monkeypatch, *arguments, "--to", str(tmp_path / "out.dcm"))
    assert words in capsys.readouterr().err and not (tmp_path / "out.dcm").exists()
