"""DICOM-RT as clinics have it: what is unusual but valid is read, or refused by a sentence that helps."""

import dataclasses
import shutil

import numpy as np
import pydicom
import pytest
from dicom_toys import beam_doses, edited, item, read_case, write_patient
from toys import LUNG, toy_case

from lib.errors import UserError
from lib.importers.dicom_rt import read_patient
from lib.importers.options import Options

CASE = toy_case(shape=(10, 16, 16))
RTSTRUCT, RTDOSE, RTPLAN = "rtstruct_010.dcm", "rtdose_011.dcm", "rtplan_012.dcm"


@pytest.fixture
def folder(tmp_path):
    """A patient's folder, for a test to make unusual."""
    return write_patient(CASE, tmp_path / "p1")


def same(got, case=CASE, dose_gy=None):
    """Whether what was read is the case: masks to the voxel, dose to a hundredth of a Gy."""
    dose_gy = case.dose_gy if dose_gy is None else dose_gy
    masks = all(np.array_equal(got.masks[name], mask) for name, mask in case.masks.items())
    whole = masks and np.array_equal(got.ct_hu, case.ct_hu) and np.array_equal(got.dose_mask, case.dose_mask)
    return whole and abs(got.dose_gy - dose_gy).max() < 0.011 and got.prescription_gy == case.prescription_gy


def refused(folder, words):
    with pytest.raises(UserError, match=words):
        read_patient(folder)


# --- references ---


def test_a_structure_set_may_refer_to_other_images_too(folder):
    def add(ds):
        [study] = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        images = [item(ReferencedSOPInstanceUID=f"1.2.{k}") for k in range(5)]
        study.RTReferencedSeriesSequence.append(item(SeriesInstanceUID="1.2.9", ContourImageSequence=images))

    edited(folder / RTSTRUCT, add)
    assert same(read_case(folder))


def test_a_structure_that_is_not_used_may_be_in_another_frame_of_reference(folder):
    def add(ds):
        for number, name in ((90, "MR_lesion"), (91, "PTV70"), (92, "Brainstem")):
            ds.StructureSetROISequence.append(
                item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID="1.2.3")
            )
            roi = item(ReferencedROINumber=number, ContourSequence=ds.ROIContourSequence[1].ContourSequence)
            ds.ROIContourSequence.append(roi)

    edited(folder / RTSTRUCT, add)
    got, report = read_patient(folder)
    assert same(got) and report["ignored"] == ["Brainstem", "MR_lesion"]


def test_localizers_and_protocol_pages_are_left_aside(folder):
    def localizer(ds):
        ds.ImageType, ds.SeriesInstanceUID, ds.SOPInstanceUID = (
            ["ORIGINAL", "PRIMARY", "LOCALIZER"],
            "1.2",
            "1.3",
        )
        del ds.FrameOfReferenceUID, ds.ImagePositionPatient

    def page(ds):
        ds.SOPClassUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2", "1.4"
        del ds.FrameOfReferenceUID

    def unreferred(ds):
        ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.5", "1.6"
        del ds.FrameOfReferenceUID

    for name, change in (("a.dcm", localizer), ("b.dcm", page), ("c.dcm", unreferred)):
        shutil.copy(folder / "ct_000.dcm", folder / name)
        edited(folder / name, change)
    got, report = read_patient(folder)
    assert same(got) and report["other_files"] == {"CT localizer": 1, "secondary capture": 1}


def test_what_is_odd_in_a_structure_that_is_not_used_does_not_matter(folder):
    def add(ds):
        first = ds.ROIContourSequence[1].ContourSequence[0]
        x, y, z = first.ContourData[:3]
        odd = [
            item(ContourGeometricType="CLOSED_PLANAR"),
            item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=0, ContourData=None),
            item(ContourGeometricType="OPEN_PLANAR", NumberOfContourPoints=2, ContourData=[x, y, z, y, x, z]),
            item(ContourGeometricType="POINT", NumberOfContourPoints=1, ContourData=[x, y, z + 7]),
        ]
        frame_uid = ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
        ds.StructureSetROISequence.append(
            item(ROINumber=90, ROIName="Marks", ReferencedFrameOfReferenceUID=frame_uid)
        )
        ds.ROIContourSequence += [
            item(ReferencedROINumber=90, ContourSequence=odd),
            item(ReferencedROINumber=91, ContourSequence=[first]),  # of no structure
        ]

    edited(folder / RTSTRUCT, add)
    got, report = read_patient(folder)
    assert same(got) and report["warnings"] == [] and report["ignored"] == ["Marks"]


def test_contours_of_one_structure_in_two_items_are_put_together(folder):
    def split(ds):
        for roi in list(ds.ROIContourSequence):
            rest = item(ReferencedROINumber=roi.ReferencedROINumber, ContourSequence=roi.ContourSequence[2:])
            roi.ContourSequence = roi.ContourSequence[:2]
            ds.ROIContourSequence.append(rest)

    edited(folder / RTSTRUCT, split)
    assert same(read_case(folder))


def test_a_name_that_is_spelt_exactly_goes_before_one_that_is_nearly_so(folder):
    def rename(ds):
        for roi in ds.StructureSetROISequence:
            if roi.ROIName == "Prostate":
                roi.ROIName = "PTV_70"

    edited(folder / RTSTRUCT, rename)
    got, report = read_patient(folder)
    assert np.array_equal(got.masks["PTV70"], CASE.masks["PTV70"]) and report["ignored"] == ["PTV_70"]


def test_of_two_cts_that_it_refers_to_the_one_is_read_on_which_contours_were_drawn(folder):
    def refer(ds):
        [study] = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        images = [item(ReferencedSOPInstanceUID=f"1.2.7.{k}") for k in range(10)]
        study.RTReferencedSeriesSequence.append(item(SeriesInstanceUID="1.2.7", ContourImageSequence=images))

    edited(folder / RTSTRUCT, refer)
    for k in range(10):  # of another phase of breathing, in the same frame of reference
        shutil.copy(folder / f"ct_{k:03d}.dcm", folder / f"other_{k:03d}.dcm")
        uids = {"SeriesInstanceUID": "1.2.7", "SOPInstanceUID": f"1.2.7.{k}", "RescaleIntercept": "-900"}
        edited(folder / f"other_{k:03d}.dcm", lambda ds, uids=uids: ds.update(uids))
    assert same(read_case(folder))


# --- files ---


@pytest.mark.parametrize("with_meta", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_are_read(implicit, with_meta, folder):
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        if implicit:
            ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            pydicom.dcmwrite(path, ds, implicit_vr=True, little_endian=True)
        content = path.read_bytes()
        length = pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
        path.write_bytes(content[132 if with_meta else 144 + length :])
    assert same(read_case(folder))


def test_linked_folders_are_followed_and_no_file_is_read_twice(folder, tmp_path):
    patient = tmp_path / "p2"
    patient.mkdir()
    (patient / "link").symlink_to(folder)
    (folder / "round").symlink_to(patient)
    got, report = read_patient(patient)
    assert same(got) and report["other_files"] == {}


def test_copies_of_a_file_are_taken_once(folder):
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / f"copy_{path.name}")
    edited(folder / "copy_ct_003.dcm", lambda ds: setattr(ds, "InstanceCreationDate", "20200101"))
    got, report = read_patient(folder)
    assert same(got) and report["other_files"]["copy of CT"] == 10


def test_two_files_of_one_uid_that_differ_are_refused_until_one_is_removed(folder):
    shutil.copy(folder / RTDOSE, folder / "z.dcm")
    edited(folder / "z.dcm", lambda ds: setattr(ds, "DoseGridScaling", "0.02"))
    refused(
        folder, f"{RTDOSE} and z.dcm have one SOPInstanceUID and different contents; remove the wrong one"
    )
    (folder / "z.dcm").unlink()
    assert same(read_case(folder))


def test_a_wrong_modality_does_not_matter(folder):
    for name in ("ct_003.dcm", RTSTRUCT, RTDOSE, RTPLAN):
        edited(folder / name, lambda ds: setattr(ds, "Modality", "OT"))
    assert same(read_case(folder))


def test_a_compression_that_nothing_here_decodes_is_named_with_what_to_install(folder):
    def compress(ds):
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])

    content = (folder / "ct_003.dcm").read_bytes()
    edited(folder / "ct_003.dcm", compress)
    if pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1).is_available:
        pytest.skip("the decoder is installed")
    refused(
        folder, r"ct_003.dcm is compressed \(JPEG Lossless, .*\); pip install 'pylibjpeg\[all\]', or export"
    )
    (folder / "ct_003.dcm").write_bytes(content)
    assert same(read_case(folder))


# --- images ---


def test_an_enhanced_ct_is_not_supported_yet(folder):
    for path in list(folder.glob("ct_*"))[1:]:
        path.unlink()
    [path] = folder.glob("ct_*")
    edited(path, lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2.1"))
    refused(
        folder,
        "p1 holds no CT but enhanced CT; multi-frame files are not supported yet; export single slices",
    )


def test_an_oblique_stack_is_called_so(folder):
    for k, path in enumerate(sorted(folder.glob("ct_*"))):
        edited(path, lambda ds, k=k: setattr(ds, "ImagePositionPatient", [0, 3 * k, 20 * k]))
    refused(folder, "the CT is an oblique stack: its slices are shifted sideways")


def test_a_dose_between_the_slices_is_interpolated_once(tmp_path):
    """Triangles of 10 mm in z, on a dose grid of 2.5 mm and a CT of 5 mm; a grid of 2.5 mm holds them all."""
    case = dataclasses.replace(toy_case(shape=(24, 16, 16)), spacing_mm=(5.0, 15.0, 20.0))
    z_mm = case.origin_mm[0] - 1.25 + 2.5 * np.arange(48)
    dose_gy = (60 + abs((z_mm % 20) - 10))[:, None, None] + np.zeros((48, 16, 16))
    origin_mm, spacing_mm = (z_mm[0], *case.origin_mm[1:]), (2.5, 15.0, 20.0)
    write_patient(case, tmp_path, dose=(dose_gy, origin_mm, spacing_mm))
    got, _ = read_patient(tmp_path, Options(spacing_mm=spacing_mm))
    assert got.origin_mm == origin_mm and abs(got.dose_gy - dose_gy).max() < 0.011


# --- doses ---


def test_the_doses_of_all_beams_are_summed_and_that_is_told(folder):
    beam_doses(folder, 3)
    got, report = read_patient(folder)
    assert same(got) and report["warnings"] == ["the dose is the sum of the doses of the plan's 3 beams"]


def test_the_beams_that_are_missing_are_named_and_exporting_them_helps(folder):
    first, _, third = beam_doses(folder, 3)
    content = {path: path.read_bytes() for path in (first, third)}
    for path in content:
        path.unlink()
    refused(folder, "only doses of beams, and none of beam 1, 3 of rtplan_012.dcm; export them too")
    for path, stored in content.items():
        path.write_bytes(stored)
    assert same(read_case(folder))


def test_doses_of_beams_that_cannot_be_the_plans_are_refused(folder):
    first, second = beam_doses(folder, 2)
    shutil.copy(first, folder / "again.dcm")
    edited(folder / "again.dcm", lambda ds: setattr(ds, "SOPInstanceUID", "1.2.3"))
    refused(folder, "not each beam of rtplan_012.dcm once: .*again.dcm")
    (folder / "again.dcm").unlink()
    edited(second, lambda ds: setattr(ds, "PixelSpacing", [10, 10]))
    refused(folder, f"{second.name} has another grid than {first.name}.*export the dose of the whole plan")
    (folder / RTPLAN).unlink()
    refused(folder, "holds no RTPLAN; export it too")
    edited(first, lambda ds: delattr(ds, "ReferencedRTPlanSequence"))
    edited(second, lambda ds: delattr(ds, "ReferencedRTPlanSequence"))
    refused(folder, "only doses of beams, of no plan or of several; export the dose of a whole plan")


def test_a_dose_of_several_plans_is_read_and_their_prescriptions_are_not(folder):
    def sum_of_two(ds):
        ds.DoseSummationType = "MULTI_PLAN"
        ds.ReferencedRTPlanSequence.append(item(ReferencedSOPInstanceUID="1.2.3"))

    def boost(ds):
        for reference in ds.DoseReferenceSequence:
            reference.TargetPrescriptionDose = "20"

    edited(folder / RTDOSE, sum_of_two)
    edited(folder / RTPLAN, boost)
    got, report = read_patient(folder)
    assert same(got) and set(report["prescription_from"].values()) == {"name"}
    assert ["several plans" in warning for warning in report["warnings"]] == [True]
    shutil.copy(folder / RTDOSE, folder / "plan.dcm")
    edited(folder / "plan.dcm", lambda ds: ds.update({"DoseSummationType": "PLAN", "SOPInstanceUID": "1.9"}))
    refused(folder, "several RTDOSE: .*leave one of them in the folder")
    (folder / "plan.dcm").unlink()
    assert same(read_case(folder))


def test_a_dose_that_refers_to_two_plans_has_the_prescription_of_neither(folder):
    def refer(ds):
        ds.ReferencedRTPlanSequence.append(item(ReferencedSOPInstanceUID="1.2.3"))

    def boost(ds):
        for reference in ds.DoseReferenceSequence:
            reference.TargetPrescriptionDose = "20"

    edited(folder / RTDOSE, refer)  # still called PLAN
    edited(folder / RTPLAN, boost)
    got, report = read_patient(folder)
    assert same(got) and set(report["prescription_from"].values()) == {"name"}


def test_of_several_doses_the_one_whose_plan_is_here_is_told_and_a_sum_beside_it_is_asked_for(folder):
    shutil.copy(folder / RTDOSE, folder / "z.dcm")
    edited(folder / "z.dcm", lambda ds: ds.update({"SOPInstanceUID": "1.9", "DoseGridScaling": "0.02"}))
    edited(folder / "z.dcm", lambda ds: delattr(ds, "ReferencedRTPlanSequence"))
    got, report = read_patient(folder)
    assert same(got) and report["warnings"] == ["of 2 doses of plans the one is taken whose plan is here"]
    edited(folder / "z.dcm", lambda ds: setattr(ds, "DoseSummationType", "MULTI_PLAN"))
    advice = "leave one of them in the folder: the sum for the whole treatment"
    refused(folder, f"the dose of a plan and a sum of several: {RTDOSE}, z.dcm; {advice}")
    (folder / RTDOSE).unlink()
    assert same(read_case(folder), dose_gy=2 * CASE.dose_gy)


# --- sites ---


@pytest.mark.parametrize("fractions, site", [(30, ""), (5, "lung-sbrt"), (12, "lung-sbrt")])
def test_a_site_that_the_plans_fractions_contradict_is_asked_for_where_another_has_them(
    fractions, site, tmp_path
):
    def plan(kind, number, ds):
        if kind == "RTPLAN":
            ds.FractionGroupSequence = [item(FractionGroupNumber=1, NumberOfFractionsPlanned=fractions)]

    case = toy_case("l", shape=(10, 16, 16), site=LUNG)
    masks = case.masks | {"Trachea": case.masks["Esophagus"]}  # which only lung-sbrt has
    masks = {name: mask for name, mask in masks.items() if "Brachial" not in name}
    write_patient(dataclasses.replace(case, masks=masks), tmp_path, edit=plan)
    if site:
        assert read_case(tmp_path).site == site
    else:
        sentence = "those of lung-sbrt, of 5 fractions, and the plan's 30 those of lung-60-in-30; give --site"
        refused(tmp_path, sentence)
        assert read_patient(tmp_path, Options(site=LUNG))[0].site == LUNG


# --- units and names ---


@pytest.mark.parametrize("unit", ["HU", "US", "UNSPECIFIED", None, "ED"])
def test_a_ct_in_another_unit_than_hu_is_refused(unit, folder):
    edited(folder / "ct_003.dcm", lambda ds: setattr(ds, "RescaleType", unit))
    if unit == "ED":
        refused(folder, "ct_003.dcm: RescaleType is not HU; export the CT in HU")
    else:
        assert same(read_case(folder))


def test_a_slice_of_other_bits_is_named_for_that(folder):
    edited(folder / "ct_003.dcm", lambda ds: setattr(ds, "BitsStored", 12))
    refused(folder, "ct_003.dcm differs in size, bits, spacing")


def test_a_point_that_is_called_like_a_structure_is_not_taken_for_it(folder):
    def add(ds):
        point = item(ContourGeometricType="POINT", NumberOfContourPoints=1, ContourData=["0", "0", "0"])
        frame_uid = ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
        ds.StructureSetROISequence.append(
            item(ROINumber=90, ROIName="PTV70", ReferencedFrameOfReferenceUID=frame_uid)
        )
        ds.ROIContourSequence.append(item(ReferencedROINumber=90, ContourSequence=[point]))

    edited(folder / RTSTRUCT, add)
    assert same(read_case(folder))


# --- prescriptions ---


PTV70, PROSTATE = 7, 8  # ROINumber
NOT_TAKEN = "the plan's 57.3 Gy is the dose of a reference point; not taken"
UNUSED = "the plan prescribes 62 Gy to a structure that is not used"
POINT = ("COORDINATES", 57.3, None)


def prescribe(folder, *prescribed, name="target"):
    """A plan of one target, called `name`, with (DoseReferenceStructureType, Gy, ROINumber or None)."""

    def edit(ds):
        ds.DoseReferenceSequence = []
        for kind, gy, number in prescribed:
            ds.DoseReferenceSequence.append(
                item(
                    DoseReferenceType="TARGET",
                    DoseReferenceStructureType=kind,
                    TargetPrescriptionDose=str(gy),
                )
            )
            if number:
                ds.DoseReferenceSequence[-1].ReferencedROINumber = number

    def only_target(ds):
        for roi in ds.StructureSetROISequence:
            roi.ROIName = {"PTV70": name, "PTV56": "other"}.get(roi.ROIName, roi.ROIName)

    edited(folder / RTPLAN, edit)
    edited(folder / RTSTRUCT, only_target)


@pytest.mark.parametrize(
    "prescribed, gy, source, warnings",
    [
        ([("VOLUME", 60, PTV70), POINT], 60, "plan", [NOT_TAKEN]),
        ([POINT, ("SITE", 60, None)], 60, "plan (SITE)", [NOT_TAKEN]),
        ([POINT, ("VOLUME", 60, None), ("SITE", 60, None)], 60, "plan (VOLUME)", [NOT_TAKEN]),
        ([("SITE", 50, None), ("SITE", 60, PTV70)], 60, "plan", []),
        ([("VOLUME", 62, PROSTATE), ("SITE", 60, None)], 60, "plan (SITE)", [UNUSED]),
        ([("POINT", 57.3, PROSTATE), ("SITE", 60, None)], 60, "plan (SITE)", [NOT_TAKEN]),
    ],
)
def test_what_is_prescribed_to_the_structure_goes_first_and_a_points_dose_never(
    prescribed, gy, source, warnings, folder
):
    prescribe(folder, *prescribed)
    got, report = read_patient(folder, Options(aliases={"PTV70": ["target"]}))
    assert got.prescription_gy == {"PTV70": gy} and report["prescription_from"] == {"PTV70": source}
    assert report["warnings"] == warnings


@pytest.mark.parametrize("prescribed", [[POINT], [("SITE", 60, None), ("SITE", 50, None)]])
def test_a_prescription_that_is_not_clear_is_asked_for_and_the_answer_helps(prescribed, folder):
    prescribe(folder, *prescribed)
    aliases = {"PTV70": ["target"]}
    with pytest.raises(
        UserError, match="prescription of target is not clear.*give --prescription-gy PTV70=Gy"
    ):
        read_patient(folder, Options(aliases=aliases))
    got, report = read_patient(folder, Options(aliases=aliases, prescription_gy={"PTV70": 60}))
    assert got.prescription_gy == {"PTV70": 60.0} and report["prescription_from"] == {"PTV70": "parameter"}
