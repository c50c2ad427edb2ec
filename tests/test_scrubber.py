"""The slices in the report: voxels are the patient's, no name is read as HTML, what is missing is said."""

import base64
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
from toys import toy_case, toy_cohort

from lib.features.grid import Grid
from lib.prediction.store import Steps, load_steps, prediction_path, save_prediction, save_steps
from lib.report import scrubber
from lib.report.views import dose_of
from lib.studies.ablation import calls_to_show


def data_of(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', str(html))[1])


def inflate(text):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def unpack(text, shape):
    """What `pack` was given, in steps."""
    low, high = inflate(text).reshape(2, *shape).astype(int)
    folded = low + 256 * high
    steps = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    for axis in range(3):
        steps = steps.cumsum(axis)
    return (steps + 2**15) % 2**16 - 2**15


@pytest.mark.parametrize("shape", [(5, 7, 6), (1, 7, 6), (5, 1, 1)])
def test_a_packed_volume_is_the_volume_in_steps(shape):
    volume = np.random.default_rng(0).uniform(-3000, 3000, shape)
    assert np.array_equal(unpack(scrubber.pack(volume, 0.1), shape), np.rint(volume / 0.1))


def test_smooth_doses_are_small():
    dose_gy = toy_case(shape=(40, 48, 48)).dose_gy
    assert len(scrubber.pack(dose_gy, 0.1)) < dose_gy.size


def test_every_voxel_of_the_body_is_in_the_page():
    case = toy_case(shape=(20, 24, 24))
    doses = [dose_of(case, name, share * case.dose_gy) for name, share in (("baseline", 0.9), ("ddpm", 1))]
    data, part = data_of(scrubber.scrubber(case, doses)), scrubber.shown_part(case)
    assert tuple(data["shape"]) == case.dose_gy[part].shape
    for name, dose_gy in (("planned", case.dose_gy), ("baseline", 0.9 * case.dose_gy)):
        off_gy = 0.1 * unpack(data["volumes"][name], data["shape"]) - dose_gy[part]
        assert np.abs(off_gy).max() <= 0.0501
    bits = np.stack([inflate(of_eight) for of_eight in data["bits"]]).reshape(-1, *data["shape"])
    masks = np.unpackbits(bits, axis=0, bitorder="little")
    assert np.array_equal(masks[0], case.dose_mask[part])
    assert all(np.array_equal(masks[k], case.masks[n][part]) for k, n in enumerate(data["structures"], 1))


@pytest.mark.parametrize("plane, axis", [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_every_slice_of_a_plane_says_where_it_is(plane, axis):
    case = toy_case(shape=(20, 24, 24))
    data = data_of(scrubber.scrubber(case, [dose_of(case, "baseline", case.dose_gy)]))
    about = data["planes"][plane]
    heights_mm = [float(label.removesuffix(" mm")) for label in about["labels"]]
    assert len(heights_mm) == data["shape"][axis] and heights_mm[about["index"]] == 0
    assert np.allclose(np.diff(heights_mm), case.spacing_mm[axis], atol=1)


def test_a_fine_patient_is_shown_by_fewer_voxels(monkeypatch):
    monkeypatch.setattr(scrubber, "MOST_VOXELS", 2000)
    case = toy_case(shape=(20, 24, 24))
    data = data_of(scrubber.scrubber(case, [dose_of(case, "baseline", case.dose_gy)]))
    part = scrubber.shown_part(case)
    assert np.prod(data["shape"]) <= 2000 and case.dose_gy[part].shape == tuple(data["shape"])
    assert data["spacing_mm"] == [s * p.step for s, p in zip(case.spacing_mm, part)]


def test_a_structure_beyond_the_dose_grid_is_said_to_have_no_known_dose():
    case = replace(toy_case(), covered_pct={"PTV56": 83.4})
    html = str(scrubber.scrubber(case, [dose_of(case, "baseline", case.dose_gy)]))
    assert "PTV56 (83 % in the dose grid, beyond it no dose is known)" in html


def test_a_dose_beyond_all_scales_is_kept():
    case = toy_case()
    data = data_of(scrubber.scrubber(case, [dose_of(case, "ddpm", 3 * case.dose_gy)]))
    most_gy = 0.1 * unpack(data["volumes"]["ddpm"], data["shape"]).max()
    assert (
        most_gy == pytest.approx(3 * case.dose_gy.max(), abs=0.06) and most_gy > data["panels"][1]["range"][1]
    )


@pytest.fixture
def folder(tmp_path):
    """An experiment with a cohort of three patients, of whom each has a prediction."""
    cohort = toy_cohort(tmp_path / "toys", n=3)
    (tmp_path / "experiment.yaml").write_text(f"cohort: {tmp_path / 'toys'}\n")
    for case_id in cohort.case_ids:
        save_prediction(prediction_path(tmp_path, "baseline", case_id), cohort.load(case_id).dose_gy, Grid(1))
    return tmp_path


def test_the_first_patients_are_shown_within_the_room_for_each(folder):
    html = str(scrubber.scrubbers(folder))
    assert html.count('class="scrub"') == scrubber.PATIENTS and len(html) < 1.5e6 * scrubber.PATIENTS


def test_what_is_missing_is_said(folder, tmp_path_factory):
    (folder / "experiment.yaml").write_text("cohort: nowhere\n")
    assert "nowhere" in scrubber.scrubbers(folder)
    assert "No predictions are kept" in scrubber.scrubbers(tmp_path_factory.mktemp("empty"))


def test_steps_are_kept_and_shown_with_their_calls(tmp_path):
    rng = np.random.default_rng(0)
    estimates = {name: rng.uniform(-0.3, 1.1, (3, 12, 16)).astype(np.float32) for name in ("ddpm", "a <b>")}
    labels = {name: ["call 1, t = 999", "call 2, t = 499", "call 5, t = 0"] for name in estimates}
    labels["a <b>"] = ["call 1, t = 999", "call 2, t = 499", "call 5, t = 0.86"]  # as a flow's
    steps = Steps("pt_1", estimates["ddpm"][2], estimates, labels)
    save_steps(tmp_path / "results" / "02_steps.npz", steps)
    kept = load_steps(tmp_path / "results" / "02_steps.npz")
    assert kept.labels == labels and all(
        np.allclose(kept.estimates[n], e, atol=6e-4) for n, e in estimates.items()
    )
    html = str(scrubber.step_scrubber(tmp_path))
    data = data_of(html)
    assert data["planes"]["axial"]["labels"] == [*labels["ddpm"][:2], "call 5"] and "<b>" not in html
    for name, dose in (estimates | {"planned": np.stack([steps.planned] * 3)}).items():
        assert np.abs(0.005 * unpack(data["volumes"][name], dose.shape) - dose).max() < 0.0035
    assert scrubber.step_scrubber(tmp_path / "nowhere") == ""
    (tmp_path / "results" / "02_steps.npz").write_bytes(b"PK damaged")
    assert scrubber.step_scrubber(tmp_path) == ""


def test_the_calls_that_are_shown_begin_with_the_first_and_end_with_the_last():
    assert calls_to_show(1, 24) == [1] and calls_to_show(5, 24) == [1, 2, 3, 4, 5]
    shown = calls_to_show(1000, 24)
    assert shown[0] == 1 and shown[-1] == 1000 and len(shown) <= 24 and shown == sorted(set(shown))


def test_as_many_methods_as_fit_are_in_the_page(monkeypatch):
    case = toy_case()
    doses = [dose_of(case, name, case.dose_gy) for name in ("flow", "baseline", "ddpm")]
    for most, names in ((10**9, ["flow", "baseline", "ddpm"]), (1, ["flow"])):
        monkeypatch.setattr(scrubber, "MOST_CHARACTERS", most)
        assert list(data_of(scrubber.scrubber(case, doses))["volumes"]) == ["planned", *names]


def test_a_name_is_text():
    case = toy_case(case_id="<img src=x>")
    view = str(scrubber.scrubber(case, [dose_of(case, "</script><b>", case.dose_gy)]))
    assert "<img src=x" not in view and "<b>" not in view and "</script><" not in view
