"""DICOM-RT folders: what is read is what was written, whatever is wrong is named, and no name leaks."""

import argparse
import csv
import dataclasses
import json
import os
import shutil
import sys
import time
import warnings

import numpy as np
import pydicom
import pytest
import yaml
from dicom_toys import CLASSES, POSITIONS, PRIVATE, damage, item, read_case, write, write_patient
from toys import toy_case

from lib.cases.case import load_case, save_case
from lib.cases.cohort import open_cohort, reference_split
from lib.cases.protocol import PROTOCOLS, plain
from lib.errors import UserError
from lib.importers.cohort import Source, group_persons, make_cohort
from lib.importers.dicom_rt import dicom_source, find_patients, read_patient
from lib.importers.dicom_structures import gy_in_name
from lib.importers.options import Options, parse_prescriptions
from lib.report import tables
from lib.runner.import_patients import dicom_options, main
from lib.studies.checks import find_oddities

VARIANTS = int(os.environ.get("DICOM_VARIANTS", "240"))  # a campaign takes more
SMALL = (10, 16, 16)


@pytest.fixture(scope="module")
def case():
    return toy_case(shape=SMALL)


def dice(a, b):
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def differences(got, case):
    """What of `got` is not `case`, by the tolerances of a round trip."""
    geometry_mm = [(*c.spacing_mm, *c.origin_mm) for c in (got, case)]
    if got.shape != case.shape or not np.allclose(*geometry_mm, rtol=0, atol=1e-5):
        return ["geometry"]
    wrong = {name: dice(mask, got.masks.get(name, ~mask)) < 0.98 for name, mask in case.masks.items()}
    wrong["dose mask"] = dice(case.dose_mask, got.dose_mask) < 0.98
    wrong["dose"] = (abs(got.dose_gy - case.dose_gy) > max(0.1, 0.002 * case.rx_gy)).any()
    wrong["CT"] = (abs(got.ct_hu.astype(int) - case.ct_hu) > 1).any()
    wrong["prescription"] = got.prescription_gy != case.prescription_gy
    return [name for name in wrong if wrong[name]]


def leaked(text):
    """The patient's names and dates in the text; his sex is a single letter."""
    names = [*PRIVATE.values(), *PRIVATE["PatientName"].split("^")]
    return [value for value in names if len(value) > 1 and value in text]


# --- round trips ---


@pytest.mark.parametrize("site", ["prostate", "head-and-neck"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("position", [*POSITIONS, "turned"])
def test_a_patient_comes_back_however_he_lay_and_was_exported(position, reverse, site, tmp_path):
    case = toy_case(site=site)
    got, report = read_patient(
        write_patient(case, tmp_path, position=position, reverse=reverse, absolute=reverse)
    )
    assert differences(got, case) == [] and got.site == site
    assert report["missing"] == report["warnings"] == report["ignored"] == []
    assert set(report["structures"]) == set(case.masks) and set(report["prescription_from"].values()) == {
        "plan"
    }


def test_a_shifted_grid_of_rectangular_pixels_comes_back(tmp_path):
    case = dataclasses.replace(toy_case(shape=(12, 20, 26)), origin_mm=(-733.25, 41.125, -208.5))
    got, _ = read_patient(write_patient(case, tmp_path, reverse=True))
    assert differences(got, case) == [] and len(set(got.spacing_mm)) == 3


def test_implicit_vr_comes_back_too(case, tmp_path):
    for path in write_patient(case, tmp_path).iterdir():
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(path, ds, implicit_vr=True, little_endian=True)
    assert differences(read_case(tmp_path), case) == []


def test_files_may_have_any_name_and_lie_in_subfolders(case, tmp_path):
    for path in list(write_patient(case, tmp_path).iterdir()):
        (tmp_path / path.name[:4]).mkdir(exist_ok=True)
        path.rename(tmp_path / path.name[:4] / path.stem)
    (tmp_path / "notes.txt").write_text("not DICOM")
    got, report = read_patient(tmp_path)
    assert differences(got, case) == [] and report["other_files"] == {"not DICOM": 1}


def test_a_dose_grid_of_its_own_is_interpolated_and_0_outside(tmp_path):
    def ramp_gy(axes_mm):
        z, y, x = np.meshgrid(*axes_mm, indexing="ij")
        return 70 + 0.05 * z - 0.03 * y + 0.02 * x

    case = toy_case()
    origin_mm, spacing_mm, shape = (-77.0, -99.5, -118.0), (9.0, 7.0, 11.0), (18, 29, 22)
    axes_mm = [o + s * np.arange(n) for o, s, n in zip(origin_mm, spacing_mm, shape)]
    write_patient(case, tmp_path, dose=(ramp_gy(axes_mm), origin_mm, spacing_mm), reverse=True)
    got, report = read_patient(tmp_path)
    mine_mm = [o + s * np.arange(n) for o, s, n in zip(case.origin_mm, case.spacing_mm, case.shape)]
    held = [(m >= a[0]) & (m <= a[-1]) for m, a in zip(mine_mm, axes_mm)]
    halves_mm = np.add(case.spacing_mm, spacing_mm) / 2  # no part of the voxel is in the dose grid
    beyond = [(m < a[0] - half) | (m > a[-1] + half) for m, a, half in zip(mine_mm, axes_mm, halves_mm)]
    assert abs(got.dose_gy - ramp_gy(mine_mm))[np.ix_(*held)].max() < 0.02
    assert (
        got.dose_gy[beyond[0]].max()
        == got.dose_gy[:, beyond[1]].max()
        == got.dose_gy[:, :, beyond[2]].max()
        == 0
    )
    assert report["dose_spacing_mm"] == list(spacing_mm) and report["body_inside_dose_grid_pct"] < 100


def test_a_coarser_grid_averages_and_keeps_volumes_and_places(tmp_path):
    case = toy_case(shape=(32, 48, 48))
    got, _ = read_patient(write_patient(case, tmp_path), Options(spacing_mm=[2 * s for s in case.spacing_mm]))
    assert got.shape == (16, 24, 24)
    assert np.allclose(got.origin_mm, np.add(case.origin_mm, np.divide(case.spacing_mm, 2)))
    blocks = case.dose_gy.reshape(16, 2, 24, 2, 24, 2).mean(axis=(1, 3, 5))
    assert abs(got.dose_gy - blocks).max() < 1e-3
    for name, mask in case.masks.items():
        blocks = mask.reshape(16, 2, 24, 2, 24, 2).mean(axis=(1, 3, 5))
        volume = got.masks[name].sum() / blocks.sum()
        assert (
            abs(volume - 1) < 0.15 and got.masks[name][blocks == 1].all() and blocks[got.masks[name]].all()
        ), (name, volume)


def test_a_ramp_stays_a_ramp_on_an_odd_coarser_grid(tmp_path):
    case = toy_case(shape=(32, 48, 48))
    ramp_gy = (60 + 0.1 * np.arange(48) + np.zeros(case.shape)).astype(np.float32)
    write_patient(dataclasses.replace(case, dose_gy=ramp_gy), tmp_path)
    got, _ = read_patient(tmp_path, Options(spacing_mm=(7.7, 6.1, 9.2)))
    x_mm = got.origin_mm[2] + 9.2 * np.arange(got.shape[2])
    expected = 60 + 0.1 * (x_mm - case.origin_mm[2]) / case.spacing_mm[2]
    assert abs(got.dose_gy - expected)[:, :, 1:-1].max() < 0.02


def test_holes_and_islands_survive(tmp_path):
    case = toy_case()
    ring = case.masks["Bladder"].copy()
    ring[8, 4:15, 4:15], ring[8, 6:13, 6:13], ring[8, 8:11, 8:11] = True, False, True
    case = dataclasses.replace(case, masks=case.masks | {"Bladder": ring})
    assert np.array_equal(read_case(write_patient(case, tmp_path)).masks["Bladder"], ring)


# --- names and prescriptions ---


@pytest.mark.parametrize(
    "name, gy",
    [
        ("PTV70", 70),
        ("PTV_56", 56),
        ("ptv 5040", 50.4),
        ("PTV_7000cGy", 70),
        ("PTV63Gy", 63),
        ("PTV1", None),
        ("PTV70_eval", None),
        ("zPTV70", None),
        ("PTV_LN", None),
        ("CTV70", None),
        ("PTV99", None),
        ("PTV 7000 cGy", 70),
        ("PTV_70_Gy", 70),
        ("PTV_2-1", None),
        ("PTV_30_10", None),
        ("PTV_40_15", None),
    ],
)
def test_a_name_says_a_dose_only_if_it_is_clear(name, gy):
    assert gy_in_name(name) == gy


def without_plan(kind, number, ds):
    if kind == "RTDOSE":
        del ds.ReferencedRTPlanSequence
    return kind != "RTPLAN"


def test_without_a_plan_the_names_tell_the_prescription_and_the_report_says_so(case, tmp_path):
    got, report = read_patient(write_patient(case, tmp_path, edit=without_plan))
    assert differences(got, case) == []
    assert set(report["prescription_from"].values()) == {"name"} and report["warnings"] == [
        "there is no RTPLAN"
    ]


def test_structures_along_pixel_centres_are_pointed_out(case, tmp_path):
    def edit(kind, number, ds):
        if kind == "RTSTRUCT":
            ds.ManufacturerModelName = "rt-utils"

    _, report = read_patient(write_patient(case, tmp_path, edit=edit))
    [warning] = report["warnings"]
    assert "is by rt-utils" in warning and "half a pixel too small" in warning


def test_without_a_clear_name_the_parameter_is_needed(case, tmp_path):
    write_patient(case, tmp_path, edit=without_plan, names={"PTV70": "PTV_High", "PTV56": "PTV_Low"})
    with pytest.raises(UserError, match="give --prescription-gy PTV70=Gy"):
        read_patient(tmp_path)
    got, report = read_patient(tmp_path, Options(prescription_gy={"PTV70": 68.0, "PTV56": 54.0}))
    assert got.prescription_gy == {"PTV70": 68.0, "PTV56": 54.0}
    assert set(report["prescription_from"].values()) == {"parameter"}


def test_a_plan_that_contradicts_the_name_is_refused_unless_the_parameter_decides(case, tmp_path):
    def edit(kind, number, ds):
        if kind == "RTPLAN":
            ds.DoseReferenceSequence[0].TargetPrescriptionDose = "66"

    write_patient(case, tmp_path, edit=edit)
    with pytest.raises(UserError, match="not clear"):
        read_patient(tmp_path)
    assert read_patient(tmp_path, Options(prescription_gy={"PTV70": 66.0}))[0].rx_gy == 66


def test_the_users_aliases_go_before_the_others(case, tmp_path):
    write_patient(case, tmp_path, names={"Bladder": "Blase", "Rectum": "O.A.R. 7"})
    assert read_patient(tmp_path)[1]["ignored"] == ["Blase", "O.A.R. 7"]
    got, report = read_patient(
        tmp_path, Options(aliases={"Bladder": ["blase"], "Rectum": "OAR7", "Bowel": ["O.A.R. 7"]})
    )
    assert report["structures"]["Bladder"] == "Blase" and report["structures"]["Bowel"] == "O.A.R. 7"
    assert np.array_equal(got.masks["Bowel"], case.masks["Rectum"]) and report["missing"] == ["Rectum"]


@pytest.mark.parametrize("site", PROTOCOLS)
def test_aliases_are_for_names_of_the_protocol_and_none_serves_two(site):
    known, aliases = PROTOCOLS[site].structures, PROTOCOLS[site].aliases
    every = [plain(alias) for names in aliases.values() for alias in names]
    assert set(aliases) <= set(known) and len(every) == len(set(every))
    assert not set(every) & set(map(plain, known))


def test_without_an_outline_the_body_is_found_on_the_ct(tmp_path):
    def edit(kind, number, ds):
        if kind == "RTSTRUCT":
            for sequence in (ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence):
                del sequence[0]

    case = toy_case()
    got, report = read_patient(write_patient(case, tmp_path, edit=edit))
    assert report["dose_mask_from"].startswith("CT above") and dice(got.dose_mask, case.dose_mask) > 0.98


# --- which files belong together ---


def second_series(folder, case):
    """Another CT series of the same patient, of another scan."""

    def edit(kind, number, ds):
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
            ds.SeriesInstanceUID + ".7",
            ds.FrameOfReferenceUID + ".7",
        )
        ds.SOPInstanceUID += ".7"
        return kind == "CT"

    return write_patient(case, folder / "second", edit=edit)


def test_of_two_series_the_one_that_the_structures_refer_to_is_taken(case, tmp_path):
    second_series(write_patient(case, tmp_path), dataclasses.replace(case, ct_hu=case.ct_hu + 100))
    assert differences(read_case(tmp_path), case) == []


def test_of_two_series_without_a_reference_the_contours_tell_or_none_is_taken(case, tmp_path):
    def edit(kind, number, ds):
        if kind == "RTSTRUCT":
            del ds.ReferencedFrameOfReferenceSequence

    second_series(write_patient(case, tmp_path, edit=edit), case)
    assert differences(read_case(tmp_path), case) == []
    ds = pydicom.dcmread(tmp_path / "rtstruct_010.dcm")
    for contour in [c for roi in ds.ROIContourSequence for c in roi.ContourSequence]:
        del contour.ContourImageSequence
    write(tmp_path / "rtstruct_010.dcm", ds)
    with pytest.raises(UserError, match="2 CT series"):
        read_patient(tmp_path)


def another(folder, case, kind, change=lambda ds: None):
    """A second file of `kind`, with a UID of its own."""

    def edit(own, number, ds):
        ds.SOPInstanceUID += ".9"
        change(ds)
        return own == kind

    return write_patient(case, folder / "another", edit=edit)


@pytest.mark.parametrize("kind", ["RTPLAN", "RTSTRUCT"])
def test_of_two_plans_or_structure_sets_the_one_referred_to_is_taken(kind, case, tmp_path):
    another(write_patient(case, tmp_path), toy_case("other", shape=SMALL), kind)
    for path in (tmp_path / "another").iterdir():
        ds = pydicom.dcmread(path)
        ds.FrameOfReferenceUID = "1.2.3"
        write(path, ds)
    assert differences(read_case(tmp_path), case) == []


def test_of_two_doses_the_one_of_a_known_plan_and_of_all_beams_is_taken(case, tmp_path):
    def of_beam(ds):
        ds.DoseSummationType, ds.DoseGridScaling = "BEAM", "0.002"

    another(write_patient(case, tmp_path), case, "RTDOSE", of_beam)
    assert differences(read_case(tmp_path), case) == []


def test_two_doses_of_one_plan_are_a_choice_that_is_listed(case, tmp_path):
    another(write_patient(case, tmp_path), case, "RTDOSE")
    with pytest.raises(UserError, match=r"several RTDOSE: .*rtdose_011.dcm, rtdose_011.dcm"):
        read_patient(tmp_path)


# --- bad input ---


def setting(kind, number=None, **values):
    """An edit that sets tags of the files of `kind`; None deletes one."""

    def edit(own, k, ds):
        if own == kind and number in (None, k):
            for keyword, value in values.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value(ds) if callable(value) else value)

    return edit


def leaving_out(kind, number=None):
    return lambda own, k, ds: not (own == kind and number in (None, k))


def on_contours(change):
    """An edit that changes the contours' points [N,3] of the whole structure set."""

    def edit(kind, number, ds):
        for contour in (
            [c for roi in ds.ROIContourSequence for c in roi.ContourSequence] if kind == "RTSTRUCT" else []
        ):
            points = change(np.reshape(contour.ContourData, (-1, 3)).astype(float))
            contour.ContourData = [f"{v:.3f}" for v in points.ravel()]

    return edit


def every_second_contour(kind, number, ds):
    if kind == "RTSTRUCT":
        for roi in ds.ROIContourSequence:
            roi.ContourSequence = roi.ContourSequence[::2]


def roi_name_twice(kind, number, ds):
    if kind == "RTSTRUCT":
        ds.StructureSetROISequence[1].ROIName = ds.StructureSetROISequence[2].ROIName


def all_in_cm(kind, number, ds):
    for keyword in ("ImagePositionPatient", "PixelSpacing", "GridFrameOffsetVector"):
        if keyword in ds:
            setattr(ds, keyword, [f"{v / 10:.4f}" for v in getattr(ds, keyword)])
    on_contours(lambda points: points / 10)(kind, number, ds)


TILT = [float(np.cos(0.2)), 0, float(np.sin(0.2)), 0, 1, 0]
BAD = {
    "relative dose": (setting("RTDOSE", DoseUnits="RELATIVE"), "rtdose_011.dcm: DoseUnits is not GY"),
    "dose error": (setting("RTDOSE", DoseType="ERROR"), "DoseType"),
    "dose of a fraction": (setting("RTDOSE", DoseSummationType="FRACTION"), "DoseSummationType"),
    "cGy without saying": (setting("RTDOSE", DoseGridScaling="1"), "cGy"),
    "no dose scaling": (setting("RTDOSE", DoseGridScaling=None), "rtdose_011.dcm: DoseGridScaling"),
    "negative dose scaling": (setting("RTDOSE", DoseGridScaling="-0.01"), "negative"),
    "no frame offsets": (setting("RTDOSE", GridFrameOffsetVector=None), "GridFrameOffsetVector"),
    "uneven frame offsets": (
        setting("RTDOSE", GridFrameOffsetVector=lambda ds: [*ds.GridFrameOffsetVector[:-1], 500]),
        "GridFrameOffsetVector",
    ),
    "odd frame offsets": (
        setting("RTDOSE", GridFrameOffsetVector=lambda ds: [v + 5 for v in ds.GridFrameOffsetVector]),
        "GridFrameOffsetVector starts",
    ),
    "oblique dose": (
        setting("RTDOSE", ImageOrientationPatient=TILT),
        "rtdose_011.dcm: ImageOrientationPatient",
    ),
    "dose elsewhere": (setting("RTDOSE", ImagePositionPatient=[900, 900, 900]), "does not hold PTV70"),
    "dose of another scan": (setting("RTDOSE", FrameOfReferenceUID="1.2.3"), "FrameOfReferenceUID"),
    "dose of another plan": (setting("RTPLAN", SOPInstanceUID="1.2.3"), "no RTPLAN is the one"),
    "dose without pixels": (setting("RTDOSE", PixelData=None), "PixelData"),
    "no dose": (leaving_out("RTDOSE"), "holds no RTDOSE"),
    "no structures": (leaving_out("RTSTRUCT"), "holds no RTSTRUCT"),
    "no CT": (leaving_out("CT"), "0 CT series"),
    "a slice lost": (leaving_out("CT", 4), "1 CT slices are missing"),
    "the last slice lost": (leaving_out("CT", 9), "1 CT slices are missing"),
    "a slice twice": (
        setting(
            "CT",
            4,
            ImagePositionPatient=lambda ds: [
                *ds.ImagePositionPatient[:2],
                f"{ds.ImagePositionPatient[2] - 19.2:.2f}",
            ],
        ),
        "two slices at one position",
    ),
    "a slice moved": (
        setting(
            "CT",
            4,
            ImagePositionPatient=lambda ds: [
                *ds.ImagePositionPatient[:2],
                float(ds.ImagePositionPatient[2]) + 3,
            ],
        ),
        "slice distance changes",
    ),
    "a slice shifted": (
        setting("CT", 4, ImagePositionPatient=lambda ds: [0, *ds.ImagePositionPatient[1:]]),
        "ct_004.dcm differs",
    ),
    "oblique CT": (setting("CT", ImageOrientationPatient=TILT), "not axial"),
    "sagittal CT": (setting("CT", ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "not axial"),
    "one spacing differs": (setting("CT", 3, PixelSpacing=[14, 21]), "ct_003.dcm differs"),
    "no position": (setting("CT", 3, ImagePositionPatient=None), "ct_003.dcm: ImagePositionPatient"),
    "no rescale": (setting("CT", 3, RescaleSlope=None), "ct_003.dcm: RescaleSlope"),
    "a wrong rescale": (setting("CT", 3, RescaleIntercept="-824"), "ct_003.dcm: RescaleSlope or"),
    "absurd size": (setting("CT", Rows=60000, Columns=60000), "too large"),
    "colour": (setting("CT", PhotometricInterpretation="RGB", SamplesPerPixel=3), "SamplesPerPixel"),
    "everything in cm": (all_in_cm, "is it in cm"),
    "contours in cm": (on_contours(lambda points: points / 10), "does not lie on a CT slice"),
    "contours between slices": (on_contours(lambda points: points + [0, 0, 8]), "does not lie on a CT slice"),
    "contours beside the CT": (on_contours(lambda points: points + [400, 0, 0]), "does not lie in the CT"),
    "contours on every second slice": (every_second_contour, "on only 5 of 9 slices"),
    "structures of another scan": (
        setting(
            "RTSTRUCT",
            StructureSetROISequence=lambda ds: [
                item(ROINumber=r.ROINumber, ROIName=r.ROIName, ReferencedFrameOfReferenceUID="1.2.3")
                for r in ds.StructureSetROISequence
            ],
        ),
        "another frame of reference",
    ),
    "structures of another patient": (
        setting("RTSTRUCT", PatientID="someone"),
        "rtstruct_010.dcm has another",
    ),
    "structures of another series": (setting("CT", SeriesInstanceUID="1.2.3"), "refers to 0"),
    "a structure twice": (roi_name_twice, "are both"),
    "a deflated file": (lambda kind, k, ds: None, "deflated"),
}


def write_bad(name, case, folder):
    write_patient(case, folder, edit=BAD[name][0])
    if name == "a deflated file":
        path = folder / "rtplan_012.dcm"
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        ds.save_as(path)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_sentence_that_names_it(name, case, tmp_path):
    write_bad(name, case, tmp_path)
    with pytest.raises(UserError, match=BAD[name][1]) as error:
        read_patient(tmp_path)
    assert "\n" not in str(error.value) and not leaked(str(error.value))


def test_a_cohort_lists_whom_it_left_out_and_goes_on(case, tmp_path):
    for k, name in enumerate(("relative dose", "a slice lost", "everything in cm")):
        write_bad(name, case, tmp_path / "patients" / f"bad_{k}")
    for k in range(3):
        write_patient(case, tmp_path / "patients" / f"good_{k}")
    found = find_patients(tmp_path / "patients")
    split = {"train": list(found)[:4], "validation": list(found)[4:5], "test": list(found)[5:]}
    cohort = make_cohort(tmp_path / "clinic", Source("DICOM", found, read_case, split))
    assert sorted(cohort.card["cases"]) == ["good_0", "good_1", "good_2"]
    assert sorted(cohort.card["left_out"]) == ["bad_0", "bad_1", "bad_2"]
    assert differences(cohort.load("good_1"), case) == []


CLINIC = {"aliases": {"Bladder": ["Blase"]}, "prescription_gy": {"PTV70": 70, "PTV56": 56.0}}


@pytest.mark.parametrize("how", ["params", "flags"])
def test_the_command_takes_names_and_prescriptions_and_the_card_tells_what_became_of_them(
    how, case, tmp_path, monkeypatch
):
    for k in range(3):
        write_patient(
            case,
            tmp_path / "patients" / f"p_{k}",
            edit=without_plan,
            names={"PTV70": "PTV_High", "PTV56": "PTV_Low", "Bladder": "Blase"},
        )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clinic.yaml").write_text(yaml.safe_dump({"import": CLINIC}))
    told = ["--params", "clinic.yaml"] if how == "params" else ["--prescription-gy", "PTV70=70", "PTV56=56"]
    main(["dicom", "patients", "--name", "clinic", "--workers", "1", *told])
    cohort = open_cohort("outputs/cohorts/clinic")
    assert cohort.load("p_0").prescription_gy == {"PTV70": 70.0, "PTV56": 56.0}
    table = tables.imports(cohort)
    assert (
        list(table["prescription from"]) == ["parameter"] * 3
        and list(table["warnings"]) == ["there is no RTPLAN"] * 3
    )
    assert (
        ("Bladder ← Blase" in table["taken as"].iloc[0])
        == (how == "params")
        == ("Blase" not in table["ignored"].iloc[0])
    )
    assert (table["structures missing"].iloc[0] == "Bladder") == (how == "flags")


@pytest.mark.parametrize(
    "section, words",
    [
        (None, "has no section import"),
        ({"alias": {}}, "there is no key 'import.alias'"),
        ({"aliases": ["Blase"]}, "import.aliases must be keys and values"),
        ({"prescription_gy": {"PTV70": "much"}}, "import.prescription_gy.PTV70 must be a dose in Gy"),
        ({"prescription_gy": {"PTV70": 7000}}, "must be a dose in Gy"),
    ],
)
def test_a_mistyped_import_section_is_named(section, words, tmp_path):
    path = tmp_path / "clinic.yaml"
    path.write_text(yaml.safe_dump({"import": section} if section else {"seed": 1}))
    with pytest.raises(UserError, match=words):
        dicom_options(argparse.Namespace(params=path, spacing_mm=None, site=None, prescription_gy=[]))


def test_a_mistyped_prescription_is_named():
    for text in ("PTV70", "PTV70=", "PTV70=-1", "PTV70=nan"):
        with pytest.raises(UserError, match="--prescription-gy must be a dose in Gy such as PTV70=70"):
            parse_prescriptions([text])


def test_a_folder_of_patients_is_not_a_patient(case, tmp_path):
    with pytest.raises(UserError, match="one folder per patient"):
        find_patients(write_patient(case, tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        find_patients(tmp_path / "nowhere")


def test_without_pydicom_the_sentence_says_how_to_install_it(case, tmp_path, monkeypatch):
    write_patient(case, tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match="install it with"):
        read_patient(tmp_path)


@pytest.mark.parametrize("spacing_mm", [(0.0, 3, 3), (3, 3), "abc", 3, (float("nan"), 3, 3)])
def test_an_impossible_spacing_is_refused(spacing_mm, case, tmp_path):
    options = Options(spacing_mm=spacing_mm)
    with pytest.raises(UserError, match="spacing_mm"):
        read_patient(write_patient(case, tmp_path), options)
    with pytest.raises(UserError, match="^spacing_mm must be three numbers"):  # before any patient is read
        dicom_source(tmp_path / "nowhere", tmp_path / "cohort", options)


# --- damage ---


def test_damage_is_refused_or_told_never_taken_in_silently(case, tmp_path):
    """Each variant is a folder with one damaged file; reading it may only succeed or end in a UserError.

    Silently wrong: the case differs from the undamaged one by more than a round trip may, the checks find
    nothing odd, and the report is the same as without damage. DICOM has no checksums, so this cannot be
    demanded of pixel values, and of other numbers only as far as they contradict something: a digit of
    DoseGridScaling, of the dose's position or of a contour's point that stays plausible would pass. Flips
    inside PixelData must only not crash.
    """
    write_patient(case, tmp_path)
    whole, whole_report = read_patient(tmp_path)
    assert find_oddities(whole) == []
    kinds = [sorted(tmp_path.glob(f"{kind.lower()}_*")) for kind in CLASSES]
    refused, silent = 0, []
    for seed in range(VARIANTS):
        rng = np.random.default_rng([2026, seed])
        path = rng.choice(kinds[seed % len(kinds)])
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what, damaged, pixels_touched = damage(content, rng)
        path.write_bytes(damaged)
        started = time.monotonic()
        try:
            got, report = read_patient(tmp_path)
        except UserError as error:
            assert "\n" not in str(error) and not leaked(str(error)), seed
            refused += 1
        else:
            wrong = differences(got, whole)
            if wrong and not pixels_touched and report == whole_report and not find_oddities(got):
                silent.append((seed, path.name, what, wrong))
        assert time.monotonic() - started < 20, (seed, what)
        path.write_bytes(content)
    assert silent == [] and refused > VARIANTS / 4


# --- privacy ---


def test_no_name_or_date_of_the_patient_leaves_his_folder(case, tmp_path):
    got, report = read_patient(write_patient(case, tmp_path / "p1"), name="P-001")
    save_case(got, tmp_path / "P-001.npz")
    with np.load(tmp_path / "P-001.npz") as stored:
        kept = repr([stored[name].tobytes() for name in stored]) + str(stored["meta"])
    kept += repr(load_case(tmp_path / "P-001.npz")) + json.dumps(report)
    assert not leaked(kept) and "1.2.826" not in kept  # nor UIDs
    assert got.case_id == "P-001"


def test_with_pseudonyms_no_folders_name_is_in_the_cohort(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["doe_jane", "roe_richard", "poe_edgar", "broken_bob"]):
        write_patient(toy_case(f"toy_{number}", shape=SMALL), tmp_path / "patients" / name)
    for path in (tmp_path / "patients" / "broken_bob").glob("rtdose*"):
        path.unlink()
    main(["dicom", "patients", "--name", "clinic", "--workers", "1", "--pseudonyms", "keys.csv"])
    cohort = open_cohort("outputs/cohorts/clinic")
    keys = dict(line.split(",") for line in (tmp_path / "keys.csv").read_text().split())
    assert sorted(keys.values()) == ["broken_bob", "doe_jane", "poe_edgar", "roe_richard"]
    [bob] = cohort.card["left_out"]
    assert keys[bob] == "broken_bob" and set(cohort.case_ids) | {bob} == set(keys) == {
        f"P{n:03d}" for n in range(1, 5)
    }
    written = json.dumps(cohort.card) + "".join(path.name for path in cohort.folder.iterdir())
    assert not any(part in written for name in keys.values() for part in name.split("_"))
    (tmp_path / "link").symlink_to("outputs")
    for path in ("outputs/cohorts/clinic/keys.csv", "outputs/keys.csv", "link/run/keys.csv"):
        with pytest.raises(SystemExit):
            main(["dicom", "patients", "--name", "clinic", "--pseudonyms", path])
        assert not (tmp_path / path).exists()


def test_with_pseudonyms_no_name_of_a_folder_or_file_is_told_and_sentences_stay_true(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    names = ["1", "2", "3", "P001", "Doe, Jane", 'Roe "Rick"']
    for name in names:
        folder = write_patient(
            toy_case(f"toy {name}", shape=SMALL), tmp_path / "all" / name, edit=BAD["relative dose"][0]
        )
        next(folder.glob("rtdose*")).rename(folder / "RD_Secretia.dcm")
    next((tmp_path / "all" / "1").glob("ct_004*")).unlink()
    (tmp_path / "all" / "2" / "RD_Secretia.dcm").write_bytes(b"")
    for path in (tmp_path / "all" / "3").iterdir():
        path.unlink()
    shutil.rmtree(tmp_path / "all" / "Doe, Jane")
    write_patient(toy_case("toy", shape=SMALL), tmp_path / "all" / "Doe, Jane")
    command = ["dicom", "all", "--name", "clinic", "--workers", "1", "--pseudonyms", "who.csv"]
    main(command)
    with open("who.csv", newline="") as file:
        who = {name: pseudonym for pseudonym, name in csv.reader(file)}
    assert sorted(who) == sorted(names)
    card, told = open_cohort("outputs/cohorts/clinic").card, "".join(capsys.readouterr())
    assert list(card["cases"]) == [who["Doe, Jane"]]
    assert list(card["left_out"]) == sorted(card["left_out"])  # nor does their order tell that of the names
    dose = "DoseUnits is not GY; export the plan's physical dose in Gy"
    damaged = "file 1 is not a DICOM file in spite of its name; export the patient again"
    assert card["left_out"] == {
        who["1"]: f"{who['1']}: 1 CT slices are missing to which file 12 refers",
        who["2"]: damaged,
        who["3"]: f"{who['3']} holds 0 files; a patient has between 1 and 20000",
        who["P001"]: f"file 1: {dose}",
        who['Roe "Rick"']: f"file 1: {dose}",
    }
    assert not any(word in told + json.dumps(card) for word in ("Secretia", "rtstruct", "ct_0", "Doe", "Roe"))
    before = (tmp_path / "who.csv").read_bytes()
    main(command)  # the same patients
    write_patient(toy_case("toy", shape=SMALL), tmp_path / "all" / "another")
    with pytest.raises(SystemExit):
        main(command)
    assert "who.csv exists already and is not that of these patients" in capsys.readouterr().err
    assert (tmp_path / "who.csv").read_bytes() == before


def test_a_refused_import_leaves_the_cohort_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_patient(toy_case("a", shape=SMALL), tmp_path / "all" / "a")
    command = ["dicom", "all", "--name", "mix", "--workers", "1"]
    main(command)
    cohort = tmp_path / "outputs/cohorts/mix"
    before = {path: path.read_bytes() for path in cohort.iterdir()}
    write_patient(toy_case("l", shape=SMALL, site="head-and-neck"), tmp_path / "all" / "z")
    with pytest.raises(SystemExit):
        main([*command, "--spacing-mm", "10", "10", "10"])
    assert {path: path.read_bytes() for path in cohort.iterdir()} == before and len(before) == 2
    shutil.rmtree(tmp_path / "all" / "z")
    main([*command, "--spacing-mm", "20", "20", "20"])  # a good one replaces it
    assert load_case(cohort / "a.npz").spacing_mm == (20, 20, 20) and len(list(cohort.iterdir())) == 2
    (tmp_path / "all" / "a").rename(tmp_path / "all" / "b")
    (cohort / "mine.npz").write_bytes(b"")  # somebody's own, which no card lists
    main([*command, "--pseudonyms", "who.csv"])  # nor does a's file stay, whose name is hidden now
    assert {path.name for path in cohort.iterdir()} == {"card.json", "P001.npz", "mine.npz"}


def test_a_persons_cases_stay_in_one_part_of_the_split_and_no_identifier_is_kept(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    persons = ["MRN-1", "", "MRN-1 ", "MRN-2", "", "MRN-2"]
    for k, person in enumerate(persons):

        def name(kind, number, ds, person=person):
            ds.PatientID = person

        write_patient(toy_case(f"toy_{k}", shape=SMALL), tmp_path / "all" / f"course_{k}", edit=name)
    main(["dicom", "all", "--name", "same", "--workers", "1"])
    cohort, told = open_cohort("outputs/cohorts/same"), capsys.readouterr().out
    pairs = [["course_0", "course_2"], ["course_3", "course_5"]]
    assert cohort.split == reference_split(list(cohort.card["cases"]), pairs)
    parts = [{"course_0", "course_2"} & set(part) for part in cohort.split.values()]
    assert sorted(map(len, parts)) == [0, 0, 2] and cohort.card["one_person"] == pairs
    assert open_cohort(cohort.folder, first_cases=5).split == reference_split(
        [f"course_{k}" for k in range(5)], pairs
    )
    assert "course_0, course_2 have one PatientID and stay in one part of the split" in told
    card = json.dumps(cohort.card)
    assert "MRN" not in told + card and "person" not in cohort.card["cases"]["course_0"]["import"]


def test_what_all_have_for_a_name_or_none_has_names_nobody():
    assert group_persons(dict.fromkeys("abc", "ANON")) == group_persons(dict.fromkeys("abc", "")) == []
    assert group_persons({"a": "x", "b": "", "c": "x", "d": "y", "e": ""}) == [["a", "c"]]
