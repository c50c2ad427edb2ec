"""OpenKBP's public CSV folders: axes and values turned right, damage named, real patients plausible."""

import re

import numpy as np
import pandas as pd
import pytest
from toys import write_csv, write_openkbp_folder

from lib.cases.case import load_case, save_case
from lib.cases.protocol import PROTOCOLS
from lib.errors import UserError
from lib.importers.cohort import make_cohort
from lib.importers.openkbp import SHAPE, find_patients, openkbp_source, read_patient, split_patients

MARKERS = [(0, 0, 0), (127, 127, 127), (3, 50, 100), (100, 3, 50), (50, 100, 3)]  # row, column, slice


@pytest.fixture
def patient(tmp_path):
    return write_openkbp_folder(tmp_path)


def flat(row, column, slice_):
    return (row * 128 + column) * 128 + slice_


def add_voxel(folder, at, dose=71.234, ct=1024 + 321.0):
    for name, value in (("possible_dose_mask", ""), ("dose", dose), ("ct", ct), ("PTV56", "")):
        with open(folder / f"{name}.csv", "a") as file:
            file.write(f"{flat(*at)},{value}\n")


# --- axes and values ---


@pytest.mark.parametrize("row, column, slice_", MARKERS)
def test_a_voxel_lands_at_slice_reversed_row_column(row, column, slice_, patient):
    add_voxel(patient, (row, column, slice_))
    case = read_patient(patient)
    at = (127 - slice_, row, column)
    assert case.dose_gy[at] == np.float32(71.234) and case.ct_hu[at] == 321
    assert case.dose_mask[at] and case.masks["PTV56"][at] and not case.masks["PTV70"][at]


def test_every_listed_value_lands_where_it_belongs(patient):
    case = read_patient(patient)
    table = pd.read_csv(patient / "dose.csv", index_col=0)["data"]
    row, column, slice_ = np.unravel_index(table.index, SHAPE)
    assert np.array_equal(case.dose_gy[127 - slice_, row, column], table.to_numpy().astype(np.float32))
    assert (case.dose_gy > 0).sum() == case.dose_mask.sum() == len(table)


def test_the_spacing_is_turned_with_the_axes(patient):
    assert read_patient(patient).spacing_mm == (2.5, 3.9, 4.1)  # the file says row, column, slice


def test_ct_is_hu_after_taking_off_1024_and_air_where_not_listed(patient):
    case = read_patient(patient)
    table = pd.read_csv(patient / "ct.csv", index_col=0)["data"]
    row, column, slice_ = np.unravel_index(table.index, SHAPE)
    assert np.array_equal(case.ct_hu[127 - slice_, row, column], table.to_numpy() - 1024)
    assert case.ct_hu[0, 0, 0] == -1024 and case.ct_hu.dtype == np.int16


def test_structures_prescriptions_and_id_are_those_of_the_folder(tmp_path):
    case = read_patient(write_openkbp_folder(tmp_path, number=7, names=("PTV70", "PTV63", "Larynx")))
    assert set(case.masks) == {"PTV70", "PTV63", "Larynx"}
    assert case.prescription_gy == {"PTV70": 70.0, "PTV63": 63.0}
    assert case.case_id == "pt_7" and case.site == "head-and-neck"


def test_lines_in_another_order_give_the_same_case(patient):
    before = read_patient(patient)
    for name in ("dose", "ct", "PTV70", "possible_dose_mask"):
        header, *lines = (patient / f"{name}.csv").read_text().splitlines()
        (patient / f"{name}.csv").write_text("\n".join([header, *lines[::-1]]) + "\n")
    after = read_patient(patient)
    assert np.array_equal(before.dose_gy, after.dose_gy) and np.array_equal(before.ct_hu, after.ct_hu)
    assert np.array_equal(before.masks["PTV70"], after.masks["PTV70"])


# --- damage ---


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))].rstrip(b"\n"))


def replace_line(path, line, at=5):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:at], f"{line}\n", *lines[at + 1 :]]))


def repeat_last_line(path):
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


DAMAGES = {
    "cut in the middle of a line": cut,
    "cut in the last line": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "cut in the header": lambda p: p.write_bytes(p.read_bytes()[:3]),
    "an index outside 128^3": lambda p: replace_line(p, f"{128**3},1.0"),
    "an index beyond 64 bits": lambda p: replace_line(p, f"{2**70},1.0"),
    "a negative index": lambda p: replace_line(p, "-1,1.0"),
    "an index with decimals": lambda p: replace_line(p, "12.5,1.0"),
    "a repeated index": repeat_last_line,
    "empty": lambda p: p.write_bytes(b""),
    "only a header": lambda p: p.write_text(",data\n"),
    "binary": lambda p: p.write_bytes(bytes(range(256)) * 40),
    "binary ending in a newline": lambda p: p.write_bytes(bytes(range(256)) * 40 + b"\n"),
    "zeros": lambda p: p.write_bytes(bytes(1000) + b"\n"),
    "a web page": lambda p: p.write_text("<html>\n<body>404, not found</body>\n</html>\n"),
    "words": lambda p: replace_line(p, "many,much"),
    "three columns": lambda p: p.write_text("x,y,data\n" + "".join(f"{i},{i + 1},50.0\n" for i in range(10))),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "missing line break": lambda p: replace_line(p, "7,1.0,8,1.0"),
}


@pytest.mark.parametrize("name", ["dose", "PTV70"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_ends_in_a_sentence_that_names_it(name, damage, patient):
    DAMAGES[damage](patient / f"{name}.csv")
    with pytest.raises(UserError, match=re.escape(str(patient / f"{name}.csv"))):
        read_patient(patient)


@pytest.mark.parametrize("name", ["dose", "ct"])
@pytest.mark.parametrize("value", ["nan", "inf", "", "-inf"])
def test_a_value_that_is_no_finite_number_is_refused(name, value, patient):
    index = (patient / f"{name}.csv").read_text().splitlines()[5].split(",")[0]
    replace_line(patient / f"{name}.csv", f"{index},{value}")
    with pytest.raises(UserError, match=f"{name}.csv has a value that is not a finite number"):
        read_patient(patient)


@pytest.mark.parametrize("name", ["dose", "ct", "possible_dose_mask", "voxel_dimensions"])
def test_a_missing_file_is_named(name, patient):
    (patient / f"{name}.csv").unlink()
    with pytest.raises(UserError, match=f"{name}.csv"):
        read_patient(patient)


@pytest.mark.parametrize("shift, share", [(1, 1), (0, 2)])  # beside the mask; cut at a line
def test_a_dose_that_does_not_cover_the_mask_is_refused(shift, share, patient):
    table = pd.read_csv(patient / "dose.csv", index_col=0)["data"]
    table = table[: len(table) // share]
    write_csv(patient / "dose.csv", table.index + shift, table)
    with pytest.raises(UserError, match="dose.csv does not cover"):
        read_patient(patient)


@pytest.mark.parametrize(
    "text", [b"3.9\n2.5\n", b"3.9 3.9 2.5 1.0", b"", b"a b c", b"3.9,3.9,2.5", bytes(range(256))]
)
def test_a_voxel_size_that_is_not_three_numbers_is_refused(text, patient):
    (patient / "voxel_dimensions.csv").write_bytes(text)
    with pytest.raises(UserError, match="voxel_dimensions.csv must hold three numbers"):
        read_patient(patient)


@pytest.mark.parametrize("text", ["0.39 0.39 0.25", "nan 3.9 2.5", "-3.9 3.9 2.5", "0 0 0"])
def test_a_voxel_size_that_is_no_patients_is_refused(text, patient):
    (patient / "voxel_dimensions.csv").write_text(text)
    with pytest.raises(UserError, match="pt_1: a spacing of"):
        read_patient(patient)


def test_a_patient_without_any_target_is_refused(tmp_path):
    with pytest.raises(UserError, match="pt_1: the prescription"):
        read_patient(write_openkbp_folder(tmp_path, names=("Larynx",)))


# --- who is in the folder and who is held out ---


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'none'} is not a folder")):
        find_patients(tmp_path / "none")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} holds no train-pats")):
        find_patients(tmp_path)


def test_patients_come_in_the_order_of_their_numbers_not_of_their_letters(tmp_path):
    for number in (100, 20, 3, 1):
        (tmp_path / "train-pats" / f"pt_{number}").mkdir(parents=True)
    assert [p.name for p in find_patients(tmp_path)["train"]] == ["pt_1", "pt_3", "pt_20", "pt_100"]


@pytest.mark.parametrize("name", ["pt_1_old", "pt_", "pt_x", "pt_\u00b2"])
def test_a_foreign_name_among_the_patients_is_said(name, tmp_path):
    (tmp_path / "train-pats" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name} is not named pt_<number>"):
        find_patients(tmp_path)


def ids(first, last):
    return [f"pt_{n}" for n in range(first, last + 1)]


def test_with_test_patients_the_split_is_the_published_one():
    published = {"train": ids(1, 200), "validation": ids(201, 240), "test": ids(241, 340)}
    assert split_patients(published) == published


def test_without_test_patients_validation_becomes_the_test_and_the_25_highest_of_training_validate():
    split = split_patients({"train": ids(1, 169), "validation": ids(201, 233), "test": []})
    assert split == {"train": ids(1, 144), "validation": ids(145, 169), "test": ids(201, 233)}


@pytest.mark.parametrize("n, held", [(1, 1), (2, 1), (10, 2), (124, 24), (125, 25), (200, 25)])
def test_a_small_training_set_gives_a_fifth(n, held):
    split = split_patients({"train": ids(1, n), "validation": ids(201, 202), "test": []})
    assert len(split["validation"]) == held and split["train"] + split["validation"] == ids(1, n)


def test_a_folder_becomes_a_cohort_without_its_damaged_patient(tmp_path):
    for number in (1, 2, 10):
        write_openkbp_folder(tmp_path / "kbp", number=number)
    write_openkbp_folder(tmp_path / "kbp", "validation-pats", 201)
    cut(tmp_path / "kbp" / "train-pats" / "pt_2" / "dose.csv")
    cohort = make_cohort(tmp_path / "cohort", openkbp_source(tmp_path / "kbp"), workers=1)
    assert cohort.split == {"train": ["pt_1"], "validation": ["pt_10"], "test": ["pt_201"]}
    assert list(cohort.card["left_out"]) == ["pt_2"] and "dose.csv" in cohort.card["left_out"]["pt_2"]


# --- real patients (OPENKBP_FOLDER) ---


COLD_TARGET = ("pt_51", "PTV70")  # a median of 61.9 Gy in the published plan itself


def height(mask):
    return np.nonzero(mask)[0].mean()


def to_the_left(mask):
    return np.nonzero(mask)[2].mean()


def check_real(case):
    """What every patient must show if axes, values and structures are read right."""
    masks = case.masks
    assert "PTV70" in masks
    assert case.dose_gy[~case.dose_mask].max() == 0
    assert case.dose_gy[case.dose_mask].min() >= 0
    if {"Brainstem", "SpinalCord"} <= set(masks):
        assert height(masks["Brainstem"]) > height(masks["SpinalCord"])
    if {"LeftParotid", "RightParotid"} <= set(masks):
        assert to_the_left(masks["LeftParotid"]) > to_the_left(masks["RightParotid"])
    for name, rx_gy in case.prescription_gy.items():
        # lower targets are partly inside or next to the highest, so only that one bounds their dose above
        if (case.case_id, name) != COLD_TARGET:
            assert 0.9 * rx_gy < np.median(case.dose_gy[masks[name]]) < 1.1 * case.rx_gy
    assert -150 < np.median(case.ct_hu[masks["PTV70"]]) < 150  # soft tissue
    assert set(masks) <= set(PROTOCOLS["head-and-neck"].structures)


@pytest.mark.openkbp
def test_every_real_patient_reads_and_is_plausible(openkbp_folder):
    wrong = []
    for folder in [folder for folders in find_patients(openkbp_folder).values() for folder in folders]:
        try:
            check_real(read_patient(folder))
        except (UserError, AssertionError) as error:
            wrong.append(f"{folder.name}: {error}")
    assert wrong == []


@pytest.mark.openkbp
def test_a_real_patient_survives_its_case_file(openkbp_folder, tmp_path):
    case = read_patient(find_patients(openkbp_folder)["train"][0])
    save_case(case, tmp_path / "a.npz")
    back = load_case(tmp_path / "a.npz")
    assert np.array_equal(back.dose_gy, case.dose_gy) and np.array_equal(back.ct_hu, case.ct_hu)
    assert all(np.array_equal(back.masks[name], mask) for name, mask in case.masks.items())
