"""Sentences follow their numbers; the page escapes what it is given."""
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.files import write_json
from lib.report import html, published, sentences, tables
from lib.studies import sizes_of


def step_rows(errors, setting="reference's grid", patients=8):
    """Rows of an ablation in which each number of steps has a mean error."""
    wobble = np.linspace(-0.3, 0.3, patients)
    return [dict(setting=setting, grid="leading", start=999, n_steps=n, case_id=f"p{i}", mae_gy=error + wobble[i],
                 rmse_gy=1.3 * error, seconds=0.1 * n) for n, error in errors.items() for i in range(patients)]


def method_rows(means, patients=10):
    wobble = np.linspace(-0.3, 0.3, patients)
    return [dict(method=m, case_id=f"p{i}", mae_gy=mean + wobble[i] * (1 + 0.1 * k), rmse_gy=2.0, bias_gy=0.0, whole_volume_mae_gy=1.0,
                 dose_score_gy=3.0, dvh_errors_gy=[1.0], seconds=1.0, structure_mae_gy={"Rectum": mean} if i else {}, goals={"g": True}, planned_goals={"g": True})
            for k, (m, mean) in enumerate(means.items()) for i in range(patients)]


@pytest.mark.parametrize("errors, told", [
    ({10: 3.0, 100: 6.0}, "more steps hurt"),
    ({10: 3.0, 100: 3.01}, "more steps change nothing"),
    ({10: 6.0, 100: 3.0}, "more steps do not hurt"),
])
def test_the_verdict_on_steps_follows_the_numbers(errors, told):
    rows = step_rows(errors)
    assert told in sentences.steps_verdict(rows, step_rows({1: 3.0}), "ddpm", "baseline", 0.1)


@pytest.mark.parametrize("ddpm, told", [(5.0, "Not for accuracy"), (3.0, "Yes, for accuracy"), (4.0, "Not for accuracy")])
def test_the_answer_follows_the_numbers(ddpm, told):
    rows = method_rows({"control": 8.0, "baseline": 4.0, "ddpm": ddpm})
    assert sentences.answer(rows, 0.1).startswith(told)


def test_with_two_patients_nothing_is_concluded():
    rows = method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0}, patients=2)
    assert "cannot be said" in sentences.answer(rows, 0.1)
    assert "no interval with n = 2" in sentences.comparison_verdict(rows, 0.1)
    assert "cannot be said" in sentences.steps_verdict(step_rows({1: 3.0, 9: 6.0}, patients=2), step_rows({1: 3.0}), "ddpm", "baseline", 0.1)


def test_a_sampler_worse_than_the_control_is_called_untrained_in_the_answer():
    assert "too short" in sentences.answer(method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 9.0}), 0.1)
    assert "too short" not in sentences.answer(method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0}), 0.1)


def history(*errors):
    return [dict(epoch=i, validation_mae_gy=error) for i, error in enumerate(errors)]


@pytest.mark.parametrize("ddpm, told", [((20.0, 31.0, 25.0), "holds"), ((20.0, 15.0, 12.0), "does not hold")])
def test_a_validation_error_swings_only_if_it_rises(ddpm, told):
    assert sentences.claim_swing({"ddpm": history(*ddpm), "baseline": history(4.0, 3.0, 2.0)}, 0.1)["verdict"] == told


@pytest.mark.parametrize("held, told", [({1: 9.0, 10: 3.0}, "does not hold"), ({1: 3.0, 10: 9.0}, "holds")])
def test_the_claim_on_the_start_follows_the_held_curves(held, told):
    steps = {"rows": step_rows({1: 5.0, 10: 8.0}) + step_rows(held, "start held at t = 999")}
    assert sentences.claim_start(steps, 0.1)["verdict"] == told
    assert sentences.claim_steps(steps, 0.1)["verdict"] == "holds"
    mixed = {"rows": steps["rows"] + step_rows({1: 3.0, 10: 9.0} if told != "holds" else {1: 9.0, 10: 3.0}, "start held at t = 900")}
    assert sentences.claim_start(mixed, 0.1)["verdict"] == "depends on the start"


def test_ensemble_sizes_are_in_order_of_number_after_json():
    assert sizes_of([{"mae_gy": {"1": 3.0, "10": 2.0, "3": 2.5}}]) == ["1", "3", "10"]


def test_a_network_that_does_not_beat_the_control_is_called_untrained():
    rows = method_rows({"control": 4.0, "baseline": 4.0})
    assert "too short or wrong" in sentences.comparison_verdict(rows, 0.1)


def test_tables_sort_methods_by_error():
    rows = method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0})
    assert list(tables.comparison(rows).index) == ["baseline", "ddpm", "control"]


def test_structures_count_the_patients_that_have_them():
    table = tables.structure_errors(method_rows({"baseline": 4.0, "control": 8.0}))
    assert list(table.index) == ["Rectum (n = 9)"] and list(table.iloc[0]) == ["4.00", "8.00"]


def test_hostile_names_are_escaped():
    assert "<script>" not in html.table(tables.headed([{"case": "<script>alert(1)</script>", "b": "<b>"}], "case"))
    assert "<script>" not in html.bullets("- `<script>` **<b>**")


def test_a_report_of_nothing_says_what_is_missing(tmp_path):
    (tmp_path / "results").mkdir()
    html.build_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "has not been run" in page


def finished(folder, mae_gy):
    """An experiment's folder with a comparison in which the baseline has the given error."""
    write_json(folder / "results" / "04_comparison.json", {"rows": method_rows({"baseline": mae_gy, "control": 8.0})})
    (folder / "checkpoints" / "baseline").mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.full((3,), 1.2345)}, folder / "checkpoints" / "baseline" / "weights.safetensors")
    write_json(folder / "checkpoints" / "baseline" / "config.json", {"method": "baseline"})


def test_fresh_numbers_are_compared_with_the_published_ones(tmp_path):
    finished(tmp_path, 4.0)
    assert published.compare_with_published(tmp_path) == []
    published.write_published(tmp_path)
    assert any("baseline" in line and line.endswith("4.00  4.00  equal") for line in published.compare_with_published(tmp_path))
    finished(tmp_path, 4.5)
    assert any("baseline" in line and "+0.50" in line for line in published.compare_with_published(tmp_path))


def test_published_weights_are_bf16_with_their_configuration(tmp_path):
    finished(tmp_path, 4.0)
    published.write_published(tmp_path)
    stored = load_file(tmp_path / "weights" / "baseline" / "weights.safetensors")["w"]
    assert stored.dtype == torch.bfloat16 and torch.allclose(stored.float(), torch.tensor(1.2345), atol=0.005)
    assert (tmp_path / "weights" / "baseline" / "config.json").exists()
