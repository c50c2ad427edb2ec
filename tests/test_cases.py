"""Case files keep everything exactly or say in a sentence why not; cohorts list, split, omit as promised."""

import dataclasses
import json
import re
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from toys import SHAPE, SITES, toy_case, toy_cohort

from lib.cases.case import Case, dose_step_gy, load_case, save_case
from lib.cases.cohort import open_cohort, reference_split
from lib.cases.protocol import PROTOCOLS
from lib.errors import UserError
from lib.features.channels import constraint_vector
from lib.files import read_json, replace_file
from lib.importers.cohort import Source, make_cohort
from lib.studies.checks import check_cohort, describe_case, find_oddities, odd_volumes
from lib.studies.results import make_frame

REFERENCE_IDS = [f"case_{n:04d}" for n in range(1, 25) if n != 13]


def changed(case, **fields):
    return dataclasses.replace(case, **fields)


def round_trip(case, folder):
    save_case(case, folder / "a.npz")
    return load_case(folder / "a.npz")


@pytest.fixture
def case_file(tmp_path):
    path = tmp_path / "toy_1.npz"
    save_case(toy_case(), path)
    return path


def members(path):
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def rewrite(path, **arrays):
    """The case file with some of its arrays replaced, or dropped where None."""
    kept = {name: array for name, array in (members(path) | arrays).items() if array is not None}
    np.savez_compressed(path, **kept)


def rewrite_meta(path, **fields):
    rewrite(path, meta=np.array(json.dumps(json.loads(str(members(path)["meta"])) | fields)))


# --- a saved case is the case ---


def uniform_doses(step_gy):
    doses = np.random.default_rng(1).uniform(0, 80, SHAPE)
    return (np.rint(doses / step_gy) / round(1 / step_gy)).astype(np.float32)


@pytest.mark.parametrize("step_gy", [0.01, 0.001])
def test_doses_in_known_steps_are_kept_exactly_in_that_step(step_gy, tmp_path):
    dose_gy = uniform_doses(step_gy)
    assert dose_step_gy(dose_gy) == step_gy
    assert np.array_equal(round_trip(changed(toy_case(), dose_gy=dose_gy), tmp_path).dose_gy, dose_gy)


@pytest.mark.parametrize("step_gy", [0.01, 0.001])
def test_every_multiple_of_a_step_up_to_80_gy_is_exact(step_gy, tmp_path):
    n = int(80 / step_gy) + 1
    shape = (1, 1, n)
    ones = np.ones(shape, bool)
    dose_gy = np.arange(n).reshape(shape).astype(np.float64) * step_gy
    case = Case(
        "ramp",
        np.zeros(shape, np.int16),
        dose_gy.astype(np.float32),
        {"PTV70": ones},
        ones,
        (2, 2, 2),
        {"PTV70": 70},
        "prostate",
    )
    assert dose_step_gy(case.dose_gy) == step_gy
    assert np.array_equal(round_trip(case, tmp_path).dose_gy, case.dose_gy)


def test_arbitrary_float32_doses_are_kept_exactly(tmp_path):
    dose_gy = np.random.default_rng(2).uniform(0, 77, SHAPE).astype(np.float32)
    dose_gy[0, 0, :3] = 1e-30, np.nextafter(np.float32(70), np.float32(80)), 0
    assert dose_step_gy(dose_gy) is None
    assert np.array_equal(round_trip(changed(toy_case(), dose_gy=dose_gy), tmp_path).dose_gy, dose_gy)


@pytest.mark.parametrize("shape", [SHAPE, (13, 15, 17)])  # the second fills no whole bytes
@pytest.mark.parametrize("site", SITES)
def test_everything_in_a_case_survives(site, shape, tmp_path):
    case = toy_case(site=site, shape=shape)
    back = round_trip(case, tmp_path)
    assert list(back.masks) == sorted(case.masks)
    assert all(np.array_equal(back.masks[name], case.masks[name]) for name in case.masks)
    assert {mask.dtype for mask in back.masks.values()} == {np.dtype(bool)}
    assert np.array_equal(back.ct_hu, case.ct_hu) and back.ct_hu.dtype == np.int16
    assert np.array_equal(back.dose_gy, case.dose_gy) and back.dose_gy.dtype == np.float32
    assert np.array_equal(back.dose_mask, case.dose_mask)
    for name in ("case_id", "spacing_mm", "origin_mm", "prescription_gy", "site"):
        assert getattr(back, name) == getattr(case, name)


def test_the_same_case_gives_the_same_bytes_also_by_a_second_round_trip(case_file):
    first = case_file.read_bytes()
    for case in (toy_case(), load_case(case_file)):
        save_case(case, case_file)
        assert case_file.read_bytes() == first


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(case_file):
    before = case_file.read_bytes()
    with pytest.raises(RuntimeError), replace_file(case_file) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert case_file.read_bytes() == before and list(case_file.parent.iterdir()) == [case_file]


# --- a damaged file ends in one sentence that names it ---


def garble(path):
    """Flip one bit in the middle of every array's compressed bytes."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            data[info.header_offset + 60 + info.compress_size // 2] ^= 16
    path.write_bytes(data)


def with_pickle(path):
    np.savez_compressed(path, **{**members(path), "meta": np.array([{"version": 1}], dtype=object)})


def single_npy(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def zip_without_arrays(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "no arrays here")


DAMAGES = {
    "another version": lambda p: rewrite_meta(p, version=99),
    "no version": lambda p: rewrite_meta(p, version=None),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "last byte gone": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "bits flipped": garble,
    "empty": lambda p: p.write_bytes(b""),
    "text renamed": lambda p: p.write_text("not a case\n"),
    "pickle inside": with_pickle,
    "a bare pickle": lambda p: p.write_bytes(b"\x80\x04N."),
    "a single npy": single_npy,
    "zip without arrays": zip_without_arrays,
    "no masks": lambda p: rewrite(p, masks=None),
    "masks too short": lambda p: rewrite(p, masks=members(p)["masks"][:10]),
    "CT of another shape": lambda p: rewrite(p, ct_hu=np.zeros((2, 2, 2), np.int16)),
    "dose of another shape": lambda p: rewrite(p, dose=np.zeros(5, np.uint16)),
    "meta is no JSON": lambda p: rewrite(p, meta=np.array("{")),
    "meta is a list": lambda p: rewrite(p, meta=np.array("[1, 2]")),
    "dose step 0": lambda p: rewrite_meta(p, dose_step_gy=0),
    "prescription is a number": lambda p: rewrite_meta(p, prescription_gy=70),
    "spacing of words": lambda p: rewrite_meta(p, spacing_mm=["a", "b", "c"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_ends_in_a_sentence_that_names_it(damage, case_file):
    DAMAGES[damage](case_file)
    with pytest.raises(UserError, match=re.escape(str(case_file))):
        load_case(case_file)


def test_a_missing_file_and_a_folder_in_its_place_are_named(tmp_path):
    with pytest.raises(UserError, match="toy_9.npz does not exist"):
        load_case(tmp_path / "toy_9.npz")
    (tmp_path / "toy_9.npz").mkdir()
    with pytest.raises(UserError, match="toy_9.npz"):
        load_case(tmp_path / "toy_9.npz")


# --- a case that cannot be used is refused ---


def with_dose(case, value, at=(8, 12, 12)):
    dose_gy = case.dose_gy.copy()
    dose_gy[at] = value
    return {"dose_gy": dose_gy}


REFUSED = {
    "shapes differ": lambda c: {"ct_hu": c.ct_hu[1:]},
    "PTV56": lambda c: {"masks": c.masks | {"PTV56": c.masks["PTV56"][:, 1:]}},
    "three axes": lambda c: {
        "ct_hu": c.ct_hu[0],
        "dose_gy": c.dose_gy[0],
        "dose_mask": c.dose_mask[0],
        "masks": {n: m[0] for n, m in c.masks.items()},
    },
    "in cm or m": lambda c: {"spacing_mm": (0.25, 0.1, 0.1)},
    "between 0.3 and 20": lambda c: {"spacing_mm": (0.0025, 0.001, 0.001)},
    r"spacing of \(2.0, 2.0\)": lambda c: {"spacing_mm": (2.0, 2.0)},
    "spacing of .*nan": lambda c: {"spacing_mm": (2.0, 2.0, float("nan"))},
    "not finite": lambda c: with_dose(c, np.nan),
    "values that are not finite": lambda c: with_dose(c, np.inf),
    "in cGy": lambda c: {"dose_gy": c.dose_gy * 100},
    "a dose from -0.1": lambda c: with_dose(c, -0.1),
    "or empty": lambda c: {"dose_gy": np.zeros(SHAPE, np.float32)},
    "dose mask is empty": lambda c: {"dose_mask": np.zeros(SHAPE, bool)},
    "target PTV56 has a prescription but no voxels": lambda c: {
        "masks": c.masks | {"PTV56": np.zeros(SHAPE, bool)}
    },
    "target PTV70 has a prescription but no voxels": lambda c: {
        "masks": {n: c.masks[n] for n in ("PTV56", "Rectum")}
    },
    "prescription .* missing": lambda c: {"prescription_gy": {}},
    "not in Gy": lambda c: {"prescription_gy": {"PTV70": 7000.0}},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_case_that_cannot_be_used_is_refused_with_its_id(reason):
    case = toy_case()
    with pytest.raises(UserError, match=f"toy_1: .*{reason}"):
        changed(case, **REFUSED[reason](case))


# --- splits and cohorts ---


def test_the_reference_split_is_the_studys():
    split = reference_split(REFERENCE_IDS)
    assert split["validation"] == ["case_0011", "case_0016"]
    assert split["test"] == ["case_0021", "case_0007"]
    assert sorted(case_id for part in split.values() for case_id in part) == REFERENCE_IDS
    assert reference_split(REFERENCE_IDS[::-1]) == split


@pytest.mark.parametrize("n", [3, 4, 9, 10, 19, 20, 57])
def test_a_split_is_a_partition_with_a_tenth_held_out_twice(n):
    ids = [f"case_{i:04d}" for i in range(n)]
    split = reference_split(ids)
    assert sorted(split["train"] + split["validation"] + split["test"]) == ids
    assert len(split["validation"]) == len(split["test"]) == max(1, n // 10)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_patients_cannot_be_split(n):
    with pytest.raises(UserError, match="at least 3"):
        reference_split(["a", "b"][:n])


def read_or_fail(item):
    if item.startswith("bad"):
        raise UserError(f"{item}.csv is cut off")
    return toy_case(item)


def test_make_cohort_lists_whom_it_left_out_and_goes_on(tmp_path, capsys):
    split = {"train": ["toy_1", "bad_1", "toy_2"], "validation": ["bad_2"], "test": ["toy_3"]}
    items = {i: i for part in split.values() for i in part}
    cohort = make_cohort(tmp_path / "c", Source("toys", items, read_or_fail, split), workers=1)
    assert cohort.card["left_out"] == {"bad_1": "bad_1.csv is cut off", "bad_2": "bad_2.csv is cut off"}
    said = [f"left out {name}: {name}.csv is cut off\n" for name in ("bad_1", "bad_2")]
    assert capsys.readouterr().out == "".join(said)
    assert cohort.split == {"train": ["toy_1", "toy_2"], "validation": [], "test": ["toy_3"]}
    assert sorted(p.name for p in cohort.folder.iterdir()) == [
        "card.json",
        "toy_1.npz",
        "toy_2.npz",
        "toy_3.npz",
    ]


def test_make_cohort_with_no_usable_patient_says_why(tmp_path):
    with pytest.raises(UserError, match="none of 1 patients could be used; .*bad_1.csv is cut off"):
        make_cohort(tmp_path / "c", Source("toys", {"bad_1": "bad_1"}, read_or_fail), workers=1)
    with pytest.raises(UserError, match="no patient to read"):
        make_cohort(tmp_path / "c", Source("toys", {}, read_or_fail))
    with pytest.raises(UserError, match="0 workers read nothing; give 1 or more"):
        make_cohort(tmp_path / "c", Source("toys", {"toy_1": "toy_1"}, read_or_fail), workers=0)


def test_toy_cohorts_are_what_make_cohort_writes(tmp_path):
    ids = [f"toy_{i}" for i in (1, 2, 3)]
    made = make_cohort(tmp_path / "a" / "c", Source("toys", {i: i for i in ids}, toy_case), workers=1)
    assert made.card == toy_cohort(tmp_path / "b" / "c", n=3).card


def test_a_cohort_opens_with_its_cases(tmp_path):
    cohort = toy_cohort(tmp_path / "toys", n=4, site="head-and-neck")
    assert cohort.name == "toys" and cohort.protocol is PROTOCOLS["head-and-neck"]
    assert sorted(cohort.case_ids) == ["toy_1", "toy_2", "toy_3", "toy_4"]
    assert np.array_equal(cohort.load("toy_2").dose_gy, toy_case("toy_2", site="head-and-neck").dose_gy)
    with pytest.raises(UserError, match="toy_9 is not in the cohort"):
        cohort.load("toy_9")


def test_a_persons_cases_count_once_and_stay_together():
    ids = [f"c{n:02d}" for n in range(40)]
    pairs = [ids[n : n + 2] for n in range(0, 20, 2)]
    split, once = reference_split(ids, pairs), [*ids[:20:2], *ids[20:]]
    assert {part: [i for i in of if i in once] for part, of in split.items()} == reference_split(once)
    assert sorted(i for of in split.values() for i in of) == ids
    part_of = {i: part for part, of in split.items() for i in of}
    assert all(part_of[a] == part_of[b] for a, b in pairs)
    assert reference_split(ids[:3], pairs[1:]) == reference_split(ids[:3])  # of whom one case is here
    with pytest.raises(UserError, match="2 patients cannot be split"):
        reference_split(ids[:3], pairs)


def test_the_first_cases_are_split_by_the_references_rule(tmp_path):
    toy_cohort(tmp_path, n=6)
    assert open_cohort(tmp_path, first_cases=4).split == reference_split(["toy_1", "toy_2", "toy_3", "toy_4"])


@pytest.mark.parametrize("first_cases", [1, 2])
def test_too_few_first_cases_are_refused(first_cases, tmp_path):
    toy_cohort(tmp_path, n=3)
    with pytest.raises(UserError, match="at least 3"):
        open_cohort(tmp_path, first_cases=first_cases)


def edit_card(folder, **fields):
    card = read_json(folder / "card.json") | fields
    (folder / "card.json").write_text(json.dumps({k: v for k, v in card.items() if v is not None}))


BROKEN_COHORTS = {
    "no card.json": lambda f: (f / "card.json").unlink(),
    "of version 99": lambda f: edit_card(f, version=99),
    "of version None": lambda f: edit_card(f, version=None),
    "lacks toy_2.npz": lambda f: (f / "toy_2.npz").unlink(),
    "lists toy_1 twice": lambda f: edit_card(
        f, split={"train": ["toy_1"], "validation": ["toy_2"], "test": ["toy_3", "toy_1"]}
    ),
    "not readable as JSON": lambda f: (f / "card.json").write_bytes(b'{"version": 1, '),
}
FOREIGN_CARDS = {
    "no split": lambda f: edit_card(f, split=None),
    "a split without test": lambda f: edit_card(f, split={"train": ["toy_1"], "validation": ["toy_2"]}),
    "no cases": lambda f: edit_card(f, cases=None),
    "a list": lambda f: (f / "card.json").write_text("[1]"),
}


@pytest.mark.parametrize("reason", BROKEN_COHORTS)
def test_a_broken_cohort_ends_in_a_sentence_that_names_it(reason, tmp_path):
    toy_cohort(tmp_path, n=3)
    BROKEN_COHORTS[reason](tmp_path)
    with pytest.raises(UserError, match=reason) as error:
        open_cohort(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("kind", FOREIGN_CARDS)
def test_a_card_that_is_json_but_no_cohorts_is_refused(kind, tmp_path):
    toy_cohort(tmp_path, n=3)
    FOREIGN_CARDS[kind](tmp_path)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "card.json"))):
        open_cohort(tmp_path)


def test_a_missing_folder_is_no_cohort(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'none'} is not a cohort")):
        open_cohort(tmp_path / "none")


# --- the constraint vector ---


def test_the_prostate_vector_is_the_references():
    expected = [1, 0.8, 0, 0.5, 0.35, 0.2, 75 / 70, 0.5, 0.35, 0.25, 0.1, 195 / 500, 45 / 70]
    assert constraint_vector(toy_case()) == pytest.approx(expected, abs=1e-12)


def test_the_head_and_neck_vector_is_prescriptions_and_flags():
    case = toy_case(site="head-and-neck")
    without = changed(
        case,
        masks={n: m for n, m in case.masks.items() if n not in ("PTV63", "Larynx")},
        prescription_gy={"PTV70": 70.0, "PTV56": 56.0},
    )
    assert constraint_vector(case) == [1, 0.9, 0.8] + [1] * 10
    assert constraint_vector(without) == [1, 0, 0.8, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1]


# --- oddities ---


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_odd_about_a_good_patient(site, seed):
    assert find_oddities(toy_case(site=site, seed=seed)) == []


@pytest.mark.parametrize("site", SITES)
def test_swapped_sides_are_found(site):
    for left, right in PROTOCOLS[site].mirrored:
        case = toy_case(site=site)
        swapped = changed(case, masks=case.masks | {left: case.masks[right], right: case.masks[left]})
        assert any(left in finding and "swapped" in finding for finding in find_oddities(swapped))


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.2])
def test_a_dose_of_another_scale_is_found(factor):
    case = toy_case()
    scaled = changed(case, dose_gy=case.dose_gy * np.float32(factor))
    assert any("PTV70" in finding for finding in find_oddities(scaled))


def test_structures_shifted_into_air_are_found():
    case = toy_case()
    shifted = changed(case, masks={name: np.roll(mask, 10, axis=1) for name, mask in case.masks.items()})
    assert any("in air" in finding for finding in find_oddities(shifted))


def test_a_dose_shifted_against_the_structures_is_found():
    case = toy_case()
    assert find_oddities(changed(case, dose_gy=np.roll(case.dose_gy, 8, axis=2)))


def test_one_patient_under_two_names_is_found(tmp_path):
    cohort = toy_cohort(
        tmp_path / "toys", 4, split={"train": ["toy_1", "toy_2"], "validation": ["toy_3"], "test": ["toy_4"]}
    )
    assert not any("two names" in finding["text"] for finding in check_cohort(cohort)[1])
    twin = {"toy_2": "toy_1", "toy_4": "toy_1"}
    doubled = SimpleNamespace(
        split=cohort.split,
        protocol=cohort.protocol,
        load=lambda case_id: changed(cohort.load(twin.get(case_id, case_id)), case_id=case_id),
    )
    twins = {f["case_id"]: f["text"] for f in check_cohort(doubled)[1] if "two names" in f["text"]}
    assert twins == {
        "toy_2": "its CT is that of toy_1: one patient under two names",
        "toy_4": "its CT is that of toy_1: one patient under two names, one of train and one of test: the "
        "errors on test patients are too good",
    }


def volumes_of(structure, *volumes_cc):
    rows = [{"case_id": f"p{i}", "part": "test", "value": cc} for i, cc in enumerate(volumes_cc)]
    return make_frame("00_cohort", [row | {"structure": structure, "measure": "volume_cc"} for row in rows])


def test_an_organ_of_another_size_than_in_most_patients_is_found():
    """Median 20 cc: eight times as much is odd from above 160 cc, and less than 2.5 cc."""
    usual = [18.0, 19.0, 20.0, 20.0, 20.0, 21.0, 22.0]
    [finding] = odd_volumes(volumes_of("Cord", *usual, 480.0), ["PTV70"])
    assert finding["case_id"] == "p7" and "480.0 cc is 24 times" in finding["text"]
    assert [f["case_id"] for f in odd_volumes(volumes_of("Cord", *usual, 2.4, 20.0), [])] == ["p7"]
    assert odd_volumes(volumes_of("Cord", *usual, 160.0, 2.5), []) == []
    assert odd_volumes(volumes_of("PTV70", *usual, 480.0), ["PTV70"]) == []  # targets are of any size
    assert odd_volumes(volumes_of("Cord", *usual[1:], 480.0), []) == []  # 7 patients say what no organ is


def test_a_ct_without_its_offset_is_found():
    case = toy_case()
    assert any(
        "no body" in finding for finding in find_oddities(changed(case, ct_hu=case.ct_hu + np.int16(1024)))
    )


def described(case):
    return {(row.get("structure", ""), row["measure"]): row["value"] for row in describe_case(case)}


def test_a_description_agrees_with_plain_counting():
    case = toy_case()
    values = described(case)
    volume_cc = case.masks["Rectum"].sum() * 12 * 10 * 14 / 1000
    assert values["Rectum", "volume_cc"] == pytest.approx(volume_cc)
    assert values["Rectum", "mean_gy"] == pytest.approx(case.dose_gy[case.masks["Rectum"]].mean())
    assert values["PTV70", "d95_gy"] == 70.0 and values["PTV56", "d95_gy"] == 56.0
    assert values["", "max_gy"] == 70.0 and values["", "voxels_z"] == SHAPE[0]


def test_a_case_with_an_empty_organ_is_described():
    case = toy_case()
    empty = changed(case, masks=case.masks | {"Femur_L": np.zeros(SHAPE, bool)})
    values = described(empty)
    assert find_oddities(empty) == [] and ("Femur_L", "volume_cc") not in values
    assert ("Femur_L", "Femur_L V50 Gy ≤ 5 %") not in values
