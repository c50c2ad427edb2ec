"""The reference study's npz files: axes and values turned right, body found, damage named, no pickle."""

import os
import zipfile

import numpy as np
import pytest

from lib.cases.case import load_case, save_case
from lib.errors import UserError
from lib.importers.vmat_npz import STRUCTURES, find_cases, read_npz

SHAPE = (48, 56, 12)  # y, x, z
BODY = (slice(8, 36), slice(12, 46), slice(0, 12))
BOXES = {  # y, x, z
    "PTV70": (slice(18, 24), slice(24, 32), slice(4, 8)),
    "PTV56": (slice(16, 26), slice(22, 34), slice(3, 9)),
    "Prostate": (slice(19, 23), slice(25, 31), slice(5, 7)),
    "Rectum": (slice(28, 33), slice(26, 30), slice(2, 10)),
    "Bladder": (slice(10, 15), slice(25, 31), slice(7, 11)),
    "Femur_L": (slice(20, 26), slice(40, 44), slice(0, 6)),
    "Femur_R": (slice(20, 26), slice(14, 18), slice(0, 6)),
    "Bowel": (slice(10, 14), slice(20, 30), slice(11, 12)),
}


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def arrays(absent=()):
    """What one file holds, made up."""
    rng = np.random.default_rng(0)
    ct_hu = np.full(SHAPE, -1000.0)
    ct_hu[BODY] = rng.integers(-90, 90, ct_hu[BODY].shape)
    dose_gy = np.zeros(SHAPE)
    dose_gy[BODY] = 20.0
    masks = np.zeros((8, *SHAPE), np.uint8)
    for i, name in enumerate(STRUCTURES):
        masks[i][BOXES[name]] = name not in absent
    dose_gy[BOXES["PTV56"]], dose_gy[BOXES["PTV70"]] = 57.0, 71.0
    return {
        "ct": (ct_hu / 4000 + 0.5).astype(np.float32),
        "dose": (dose_gy / 70).astype(np.float32),
        "masks": masks,
        "constraints": np.ones(13, np.float32),
    }


def write(path, members, **others):
    np.savez_compressed(path, **members, **others)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "case_0007.npz"


# --- axes and values ---


def test_the_case_is_the_files_turned_and_cropped(path):
    case = read_npz(write(path, arrays()))
    top, left = (
        8 - 8,
        12 - 10,
    )  # the body's first row and column less the margin of 10 mm, as far as there is room
    assert case.shape == (12, 46, 54) and case.spacing_mm == (2.0, 1.0, 1.0)
    assert case.case_id == "case_0007" and case.site == "prostate"
    assert case.prescription_gy == {"PTV70": 70.0, "PTV56": 56.0} and set(case.masks) == set(STRUCTURES)
    for name, (y, x, z) in BOXES.items():
        expected = np.zeros(case.shape, bool)
        expected[z, y.start - top : y.stop - top, x.start - left : x.stop - left] = True
        assert np.array_equal(case.masks[name], expected)


def test_hu_and_gy_come_back(path):
    members = arrays()
    case = read_npz(write(path, members))
    stored = {name: members[name].transpose(2, 0, 1)[:, :46, 2:] for name in ("ct", "dose")}
    assert np.array_equal(case.ct_hu, np.rint((stored["ct"].astype(float) - 0.5) * 4000))
    assert np.allclose(case.dose_gy, stored["dose"] * 70, atol=1e-5) and case.dose_gy.dtype == np.float32


@pytest.mark.parametrize("at", [(9, 13, 0), (35, 45, 11), (20, 13, 5), (9, 30, 11), (30, 20, 0)])
def test_a_voxel_lands_at_z_y_x(path, at):
    members = arrays()
    members["ct"][at], members["dose"][at] = 777 / 4000 + 0.5, 33.25 / 70
    case = read_npz(write(path, members))
    y, x, z = at
    assert case.ct_hu[z, y, x - 2] == 777 and case.dose_gy[z, y, x - 2] == pytest.approx(33.25, abs=1e-4)
    assert (case.ct_hu == 777).sum() == 1


@pytest.mark.parametrize(
    "absent, expected",
    [
        (("PTV56",), {"PTV70": 70.0}),
        (("PTV70",), {"PTV56": 56.0}),
        (("Bowel", "Femur_L"), {"PTV70": 70.0, "PTV56": 56.0}),
    ],
)
def test_an_empty_structure_is_absent_and_has_no_prescription(path, absent, expected):
    case = read_npz(write(path, arrays(absent)))
    assert case.prescription_gy == expected and set(case.masks) == set(STRUCTURES) - set(absent)


def test_the_case_file_gives_the_case_back(path, tmp_path):
    case = read_npz(write(path, arrays()))
    save_case(case, tmp_path / "saved.npz")
    again = load_case(tmp_path / "saved.npz")
    assert np.array_equal(again.dose_gy, case.dose_gy) and np.array_equal(again.ct_hu, case.ct_hu)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_point_types_are_read(path, dtype):
    members = arrays()
    case = read_npz(write(path, members | {"dose": members["dose"].astype(dtype)}))
    assert case.dose_gy.dtype == np.float32 and case.dose_gy.max() == pytest.approx(71, abs=0.05)


# --- the body ---


def test_the_body_is_without_the_couch_and_with_its_gas(path):
    members = arrays()
    members["ct"][44:47, 5:50] = 0.5  # a couch, 8 mm below the body
    members["ct"][29:32, 27:29, 3:9] = 0.25  # gas in the rectum
    case = read_npz(write(path, members))
    expected = np.zeros((12, *SHAPE[:2]), bool)
    expected[:, BODY[0], BODY[1]] = True
    assert np.array_equal(case.dose_mask, expected[:, :46, 2:])


def test_the_crop_keeps_structures_and_dose_outside_the_body(path):
    members = arrays()
    members["masks"][7, 46, 0, 0] = 1
    members["dose"][0, 55, 11] = 0.3
    case = read_npz(write(path, members))
    assert (
        case.shape == (12, 48, 56)
        and case.masks["Bowel"][0, 46, 0]
        and case.dose_gy[11, 0, 55] == pytest.approx(21)
    )


# --- pickles ---


def test_metadata_is_never_opened(path, tmp_path):
    trap = np.array({"trap": Trap(tmp_path / "sprung")}, dtype=object)
    read_npz(write(path, arrays(), metadata=trap))
    assert not (tmp_path / "sprung").exists()


def test_members_that_are_not_read_may_be_damaged(path):
    with zipfile.ZipFile(write(path, arrays()), "a") as archive:
        archive.writestr("metadata.npy", b"not an array")
        archive.writestr("masks_sdf.npy", b"nor this")
    assert read_npz(path).case_id == "case_0007"


@pytest.mark.parametrize("name", ["ct", "dose", "masks"])
def test_a_pickle_in_a_member_that_is_read_is_refused_and_not_run(path, tmp_path, name):
    trap = np.empty(arrays()[name].shape, object)
    trap.flat[0] = Trap(tmp_path / "sprung")
    refused(write(path, arrays() | {name: trap}))
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_is_a_pickle_is_refused_and_not_run(path, tmp_path):
    import pickle

    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    refused(path)
    assert not (tmp_path / "sprung").exists()


# --- damage ---


def refused(path):
    with pytest.raises(UserError) as caught:
        read_npz(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def changed(name, change):
    return lambda members: members | {name: change(members[name])}


def put(value):
    def change(array):
        array = array.copy()
        array.flat[array.size // 2] = value
        return array

    return change


FAULTS = {
    "no ct": lambda m: {k: v for k, v in m.items() if k != "ct"},
    "no dose": lambda m: {k: v for k, v in m.items() if k != "dose"},
    "no masks": lambda m: {k: v for k, v in m.items() if k != "masks"},
    "nothing": lambda m: {},
    "ct nan": changed("ct", put(np.nan)),
    "ct inf": changed("ct", put(np.inf)),
    "ct in HU": changed("ct", lambda a: (a - 0.5) * 4000),
    "ct below its range": changed("ct", put(0.1)),
    "ct above its range": changed("ct", put(1.5)),
    "ct of air": changed("ct", lambda a: np.full_like(a, 0.25)),
    "ct of whole numbers": changed("ct", lambda a: a.astype(np.int16)),
    "ct of two axes": changed("ct", lambda a: a[0]),
    "ct in z y x": changed("ct", lambda a: a.transpose(2, 0, 1)),
    "ct of no voxels": changed("ct", lambda a: a[:0]),
    "ct complex": changed("ct", lambda a: a.astype(complex)),
    "dose nan": changed("dose", put(np.nan)),
    "dose inf": changed("dose", put(-np.inf)),
    "dose below 0": changed("dose", put(-0.5)),
    "dose in Gy": changed("dose", lambda a: a * 70),
    "dose in cGy": changed("dose", lambda a: a * 7000),
    "dose empty": changed("dose", np.zeros_like),
    "dose cut": changed("dose", lambda a: a[:, :, :-1]),
    "dose as text": changed("dose", lambda a: a.astype(str)),
    "dose of one number": changed("dose", lambda a: a[0, 0, 0]),
    "masks of seven": changed("masks", lambda a: a[:7]),
    "masks of nine": changed("masks", lambda a: np.concatenate([a, a[:1]])),
    "masks last": changed("masks", lambda a: a.transpose(1, 2, 3, 0)),
    "masks not 0 or 1": changed("masks", put(2)),
    "masks of 255": changed("masks", lambda a: a * 255),
    "masks as numbers": changed("masks", lambda a: a.astype(np.float32)),
    "masks of int64": changed("masks", lambda a: a.astype(np.int64)),
    "masks of uint16": changed("masks", lambda a: a.astype(np.uint16)),
    "masks of structures": changed("masks", lambda a: np.zeros(a.shape, [("a", "u1")])),
    "no target": changed("masks", lambda a: a * (np.arange(8) > 1).astype(np.uint8)[:, None, None, None]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_of_other_contents_is_refused_by_name(path, fault):
    message = refused(write(path, FAULTS[fault](arrays())))
    assert "\n" not in message


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999, 9999), }",
        b"{'descr': '<f4'}",
        b"(((((",
        b"{'a':",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-48, -56, 12), }",
        b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (48, 56, 12), }",
        b"__import__('os').mkdir('sprung')",
        b"\xff\xfe\x00",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (48, 56, 12), }",
    ],
)
def test_a_forged_header_is_refused_before_anything_is_allocated(path, header):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("ct", "dose", "masks"):
            length = len(header + b"\n").to_bytes(2, "little")
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + length + header + b"\n" + b"0" * 99)
    refused(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x93NUMPY\x01\x00v\x00", bytes(1000)])
def test_a_file_that_is_no_npz_is_refused_by_name(path, content):
    path.write_bytes(content)
    refused(path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.npz")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz")


# --- the folder ---


def test_cases_are_listed_by_id(tmp_path):
    for name in ("case_0002", "case_0001", "case_0010"):
        (tmp_path / f"{name}.npz").touch()
    (tmp_path / "notes.txt").touch()
    assert find_cases(tmp_path) == {n: tmp_path / f"{n}.npz" for n in ("case_0001", "case_0002", "case_0010")}
    assert list(find_cases(tmp_path)) == ["case_0001", "case_0002", "case_0010"]


def test_a_folder_without_cases_is_refused_by_name(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=str(folder)):
            find_cases(folder)
