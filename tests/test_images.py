"""A prediction for other programs: every voxel at its place in mm, every structure whole, clinics not below
outputs."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_toys import write_patient
from toys import toy_case

from lib.cases.case import Case, save_case
from lib.cases.cohort import VERSION
from lib.errors import UserError
from lib.features.grid import Grid
from lib.files import write_json, write_text
from lib.importers import images
from lib.importers.cohort import summarise
from lib.importers.dicom_rt import read_patient
from lib.importers.images import FORMATS, write_dose
from lib.prediction.store import prediction_path, save_prediction
from lib.runner import export

SHAPE, SPACING_MM, ORIGIN_MM = (6, 8, 10), (3.0, 2.5, 2.0), (-40.0, 12.0, -7.0)  # z, y, x
HOT, HOT_MM = (4, 2, 7), (7.0, 17.0, -28.0)  # a voxel, and where it lies: x, y, z, counted by hand
CLINIC = "DICOM-RT folders"


def make_case(origin_mm=ORIGIN_MM):
    """A hot voxel in a target; around both a larger target, so that three structures overlap."""
    target, larger = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    target[HOT], larger[3:6, 1:4, 5:9] = True, True
    ct_hu = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) - 300
    masks = {"PTV70": target, "Prostate": target.copy(), "PTV56": larger}
    rx_gy = {"PTV70": 70.0, "PTV56": 56.0}
    dose_gy = np.where(larger, 56, 1).astype(np.float32)
    return Case("p1", ct_hu, dose_gy, masks, np.ones(SHAPE, bool), SPACING_MM, rx_gy, "prostate", origin_mm)


def hot_dose_gy():
    dose_gy = np.zeros(SHAPE, np.float32)
    dose_gy[HOT] = 70.25
    return dose_gy


def read(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def at_mm(path, point_mm):
    """The value of an image file at (x, y, z) in mm, towards left, back and head."""
    image = SimpleITK.ReadImage(str(path))
    return image.GetPixel(image.TransformPhysicalPointToIndex(point_mm))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_voxel_lies_where_it_lies_in_the_patient(suffix, tmp_path):
    dose, *others = write_dose(tmp_path / f"new/x{suffix}", hot_dose_gy(), make_case(), CLINIC)
    assert (
        at_mm(dose, HOT_MM) == 70.25
        and SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(dose))).sum() == 70.25
    )
    values = {path.name: at_mm(path, HOT_MM) for path in others}
    hu = int(make_case().ct_hu[HOT])
    expected = {"x-planned": 56, "x-ct": hu, "PTV70": 1, "Prostate": 1, "PTV56": 1}
    assert values == {f"{name}{suffix}": value for name, value in expected.items()}


def test_the_headers_say_so_to_who_reads_them_by_hand(tmp_path):
    """NIfTI counts towards right, front and head, NRRD and MetaImage say what they count."""
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        write_dose(tmp_path / f"x{suffix}", hot_dose_gy(), make_case(), CLINIC)
    header = gzip.decompress((tmp_path / "x.nii.gz").read_bytes())[:348]
    affine = np.reshape(struct.unpack("<12f", header[280:328]), (3, 4))
    index_xyz1 = (*HOT[::-1], 1)
    assert np.allclose(affine @ index_xyz1, (-HOT_MM[0], -HOT_MM[1], HOT_MM[2]))
    assert struct.unpack("<hh", header[252:256]) == (1, 1) and header[123] & 7 == 2  # scanner's place, in mm
    nrrd = (tmp_path / "x.nrrd").read_bytes().partition(b"\n\n")[0].decode()
    assert "space: left-posterior-superior" in nrrd and "space origin: (-7,12,-40)" in nrrd
    assert "space directions: (2,0,0) (0,2.5,0) (0,0,3)" in nrrd
    mha = (tmp_path / "x.mha").read_bytes().partition(b"ElementDataFile")[0].decode()
    assert "Offset = -7 12 -40" in mha and "TransformMatrix = 1 0 0 0 1 0 0 0 1" in mha


@pytest.mark.parametrize("position", ["HFS", "FFP"])
def test_it_lies_where_the_rtdose_lies(position, tmp_path):
    patient = write_patient(toy_case(shape=(10, 16, 16)), tmp_path / "p1", position=position)
    case, _ = read_patient(patient)
    dose_gy, about = case.dose_gy * np.float32(0.9), {"description": "dose", "method": "flow"}
    [dicom] = write_dose(tmp_path / "x.dcm", dose_gy, case, CLINIC, patient, **about)
    image = write_dose(tmp_path / "x.nii.gz", dose_gy, case, CLINIC)[0]
    rtdose, image = SimpleITK.ReadImage(str(dicom)), SimpleITK.ReadImage(str(image))
    for index in ((0, 0, 0), (15, 0, 3), (2, 13, 9)):
        assert np.allclose(
            rtdose.TransformIndexToPhysicalPoint(index), image.TransformIndexToPhysicalPoint(index)
        )
    scaling = float(pydicom.dcmread(dicom).DoseGridScaling)
    stored = SimpleITK.GetArrayFromImage(rtdose) * scaling
    assert abs(stored - SimpleITK.GetArrayFromImage(image)).max() < 0.01 < np.ptp(stored)


def test_overlapping_structures_are_each_whole(tmp_path):
    write_dose(tmp_path / "x.nrrd", hot_dose_gy(), make_case(), CLINIC)
    for name, mask in make_case().masks.items():
        assert np.array_equal(read(tmp_path / "x-structures" / f"{name}.nrrd"), mask)


def test_all_or_nothing_is_written(tmp_path, monkeypatch):
    paths = write_dose(tmp_path / "x.nii.gz", hot_dose_gy(), make_case(), CLINIC)
    before = {path: path.read_bytes() for path in paths}
    to_image = images.to_image

    def fail_at_doses(volume, *where):
        return 1 / 0 if volume.dtype == np.float32 else to_image(volume, *where)

    monkeypatch.setattr(images, "to_image", fail_at_doses)
    with pytest.raises(ZeroDivisionError):
        write_dose(tmp_path / "x.nii.gz", 2 * hot_dose_gy(), make_case(), CLINIC)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("source, allowed", [("OpenKBP, public CSV folders", True), (CLINIC, False)])
def test_a_clinics_patient_is_not_written_below_outputs(source, allowed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = Path("outputs/run/x.nii.gz")
    if allowed:
        assert target in write_dose(target, hot_dose_gy(), make_case(), source)
    else:
        with pytest.raises(UserError, match="clinic's patient must not lie below outputs"):
            write_dose(target, hot_dose_gy(), make_case(), source)
        assert not Path("outputs").exists()


def test_without_simpleitk_a_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[images\]'"):
        write_dose(tmp_path / "x.nii.gz", hot_dose_gy(), make_case(), CLINIC)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An experiment on one patient, of whom flow keeps a dose with its spread."""
    monkeypatch.chdir(tmp_path)
    case = make_case((0.0, 0.0, 0.0))
    save_case(case, "cohort/p1.npz")
    card = {"version": VERSION, "name": "cohort", "source": "OpenKBP", "site": "prostate", "left_out": {}}
    card |= {"cases": {"p1": summarise(case, Path("cohort/p1.npz"))}}
    write_json("cohort/card.json", card | {"split": {"train": [], "validation": [], "test": ["p1"]}})
    write_text("outputs/try/experiment.yaml", "cohort: cohort\n")
    save_prediction(prediction_path("outputs/try", "flow", "p1"), hot_dose_gy(), Grid(1), hot_dose_gy() / 10)
    return tmp_path


@pytest.mark.parametrize("flags, gy", [([], 70.25), (["--spread"], 7.02)])
def test_the_command_writes_a_kept_prediction_and_says_where_0_mm_is(flags, gy, folder, capsys):
    export.main(["outputs/try", "flow", "p1", "--to", "sent/p1.nii.gz", *flags])
    *paths, note = capsys.readouterr().out.splitlines()
    assert paths[0] == "sent/p1.nii.gz" and all(Path(path).exists() for path in paths) and len(paths) == 6
    assert note == "cohort has no origin: (0, 0, 0) mm is the centre of the first voxel"
    assert at_mm(paths[0], (14, 5, 12)) == pytest.approx(gy, abs=0.011)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            ["outputs/try", "flow", "p1", "--to", "x.png"],
            "x.png is not written: its name must end in .nii",
        ),
        (["outputs/try", "flow", "p1", "--to", "x.dcm"], "in .dcm if the patient's DICOM folder is given"),
        (["outputs/try", "flow", "p1", "--to", "x.nii", "--dicom", "d"], "end its name in .dcm, or leave"),
        (["outputs/try", "flow", "p1", "--to", "cohort"], "cohort is not written: it is a folder"),
        (
            ["outputs/try", "flow", "p1", "--to", "seen/x.nii"],
            "seen/x-structures holds also A.nii",
        ),
        (["outputs/try", "refine", "p1", "--to", "x.nii"], "keeps no predictions by refine; there are flow"),
        (
            ["outputs/try", "flow", "p2", "--to", "x.nii"],
            "no prediction by flow for p2; there are those",
        ),
        (["outputs/none", "flow", "p1", "--to", "x.nii"], "outputs/none/experiment.yaml does not exist"),
    ],
)
def test_a_persons_mistake_is_one_sentence(arguments, sentence, folder, capsys):
    write_text("seen/x-structures/A.nii", "another patient's")
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit, match="2"):
        export.main(arguments)
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1 and sorted(folder.rglob("*")) == before
