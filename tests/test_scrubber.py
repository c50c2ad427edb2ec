"""The slices in the report: each tile is the slice it says, no name read as HTML, what is missing said."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from toys import toy_case, toy_cohort

from lib.features.grid import Grid
from lib.prediction.store import Steps, load_steps, prediction_path, save_prediction, save_steps
from lib.report import scrubber
from lib.report.views import dose_of, render_panels
from lib.studies.ablation import calls_to_show


def sheets(html):
    return [
        Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        for data in re.findall(r"url\(data:image/webp;base64,([^)]+)\)", str(html))
    ]


def test_each_tile_is_the_slice_that_its_label_says():
    case = toy_case(shape=(40, 24, 24))
    doses = [dose_of(case, "baseline", 0.9 * case.dose_gy), dose_of(case, "ddpm", case.dose_gy)]
    view = str(scrubber.scrubber(case, doses))
    width, height = (int(re.search(rf'data-{name}="(\d+)"', view)[1]) for name in ("width", "height"))
    planned, *rest = sheets(view)
    view_of = scrubber.view_of(case)
    labels = json.loads(re.search(r'data-labels="([^"]+)"', view)[1].replace("&#34;", '"'))
    indices = np.flatnonzero(case.dose_mask.any(axis=(1, 2)))
    assert len(labels) == len(indices) and len(rest) == 4 and max(width, height) == scrubber.SIZE_PX
    for number in (0, len(indices) // 2, len(indices) - 1):
        x, y = number % scrubber.COLUMNS * width, number // scrubber.COLUMNS * height
        tile = np.asarray(planned.crop((x, y, x + width, y + height))).astype(float)
        errors = [
            np.abs(tile - render_panels(view_of._replace(index=index))["planned dose"]).mean()
            for index in indices
        ]
        assert int(np.argmin(errors)) == number
    heights_mm = [float(label.split()[0]) for label in labels]
    assert heights_mm == sorted(heights_mm) and 0 in heights_mm and view.count('data-method="ddpm"') == 2


@pytest.fixture
def folder(tmp_path):
    """An experiment with a cohort of three patients, of whom each has a prediction."""
    cohort = toy_cohort(tmp_path / "toys", n=3)
    (tmp_path / "experiment.yaml").write_text(f"cohort: {tmp_path / 'toys'}\n")
    for case_id in cohort.case_ids:
        save_prediction(prediction_path(tmp_path, "baseline", case_id), cohort.load(case_id).dose_gy, Grid(1))
    return tmp_path


def test_the_first_patients_are_shown_within_a_megabyte_each(folder):
    html = str(scrubber.scrubbers(folder))
    assert html.count('class="scrub"') == scrubber.PATIENTS and len(html) < 1_000_000 * scrubber.PATIENTS


def test_what_is_missing_is_said(folder, tmp_path_factory):
    (folder / "experiment.yaml").write_text("cohort: nowhere\n")
    assert "nowhere" in scrubber.scrubbers(folder)
    assert "No predictions are kept" in scrubber.scrubbers(tmp_path_factory.mktemp("empty"))


def test_steps_are_kept_and_shown_with_their_calls(tmp_path):
    rng = np.random.default_rng(0)
    estimates = {name: rng.uniform(-0.3, 1.1, (3, 12, 16)).astype(np.float32) for name in ("ddpm", "a <b>")}
    labels = {name: ["call 1, t = 999", "call 2, t = 499", "call 5, t = 0"] for name in estimates}
    steps = Steps("pt_1", estimates["ddpm"][2], estimates, labels)
    save_steps(tmp_path / "results" / "02_steps.npz", steps)
    kept = load_steps(tmp_path / "results" / "02_steps.npz")
    assert kept.labels == labels and all(
        np.allclose(kept.estimates[n], e, atol=6e-4) for n, e in estimates.items()
    )
    html = str(scrubber.step_scrubber(tmp_path))
    assert len(sheets(html)) == 3 and "call 5, t = 0</output>" in html and "<b>" not in html
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
    for most, count in ((10**9, 3), (1, 1)):
        monkeypatch.setattr(scrubber, "MOST_CHARACTERS", most)
        assert str(scrubber.scrubber(case, doses)).count("<option>") == count


def test_a_name_is_text():
    case = toy_case(case_id="<img src=x>")
    view = str(scrubber.scrubber(case, [dose_of(case, "<b>", case.dose_gy)]))
    assert "<img src=x" not in view and "<b>" not in view
