"""Doses that a study has sampled are kept: read back exactly, made again when what decides them changes."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import toy_cohort

from lib.diffusion.samplers import DDIM, DPMSolver, Euler
from lib.errors import UserError
from lib.features.grid import Grid
from lib.features.samples import make_sample, sample_path
from lib.files import ROOT, read_json, write_json
from lib.models.methods import find_method
from lib.prediction.store import prediction_path, save_prediction
from lib.runner import train as command
from lib.studies import predictions
from lib.studies.comparison import (
    SHIFTS,
    answers_of,
    keep_predictions,
    means_of_seeds,
    means_of_sides,
    means_of_views,
)
from lib.studies.experiment import Experiment
from lib.studies.predictions import Prediction, predict_both_sides, predict_members
from lib.studies.results import VIEWS, label


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An experiment with a tiny diffusion trained for two epochs, in its own folder."""
    folder = tmp_path_factory.mktemp("sampled")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        toy_cohort(folder / "toys", n=6)
        (folder / "p.yaml").write_text(
            "{experiment: try, cohort: toys, coarsen: 1, precision: '32', methods: [baseline, ddpm_v], "
            "train: {epochs: 2, base_channels: 8, validate_every: 9}}"
        )
        command.main(["p.yaml"])
    return folder


@pytest.fixture
def run(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return Experiment("try", "toys", 0, 1, [], 42, "cpu", "32")


def files(run):
    return sorted((run.folder / "checkpoints" / "doses").glob("*.safetensors"))


def test_what_was_sampled_is_read_back_exactly(run, monkeypatch):
    samples = run.load_samples("test")
    first = predict_members(run, "ddpm_v", samples, DDIM(2), 2)
    assert first.doses[0].shape[0] == 2 and first.seconds > 0 and first.nfe == 4
    monkeypatch.setattr(predictions, "predict", None)
    again = predict_members(run, "ddpm_v", samples, DDIM(2), 2)
    assert again.seconds == first.seconds and again.columns == first.columns
    assert all(torch.equal(a, b) for a, b in zip(first.doses, again.doses))


def test_another_setting_member_or_weights_are_other_doses(run):
    samples = run.load_samples("test")
    before = len(files(run))
    for sampler, members, weights in (
        (DDIM(3), 1, "weights"),
        (DDIM(3, eta=1.0), 1, "weights"),
        (DDIM(3), 2, "weights"),
        (DDIM(3), 1, "weights-last"),
    ):
        predict_members(run, "ddpm_v", samples, sampler, members, weights=weights)
    assert len(files(run)) == before + 4


def test_what_two_names_of_a_grid_have_in_common_is_sampled_once():
    """1000 steps of the reference's grid start at 999 as a start held there does, and 5 divides 1000."""
    ddpm, flow = find_method("ddpm"), find_method("flow")

    def same(a, b):
        return predictions.decisive(ddpm, a) == predictions.decisive(ddpm, b)

    leading = DDIM(5, grid="leading")
    assert same(DDIM(1000, grid="leading"), DDIM(1000, grid="held"))
    assert same(leading, DDIM(5, grid="corrected")) and not same(leading, DDIM(5, grid="held"))
    assert not same(leading, DDIM(5, grid="leading", eta=1.0)) and not same(DDIM(5), DPMSolver(5))
    assert predictions.decisive(flow, Euler(5)) != predictions.decisive(flow, Euler(10))


def test_a_damaged_file_is_made_again(run):
    samples = run.load_samples("test")
    doses = predict_members(run, "ddpm_v", samples, DDIM(4)).doses
    for path in files(run):
        path.write_bytes(path.read_bytes()[:-50])
    again = predict_members(run, "ddpm_v", samples, DDIM(4)).doses
    assert all(torch.equal(a, b) for a, b in zip(doses, again))


def test_a_network_is_not_judged_on_patients_that_it_was_trained_on(run):
    samples = run.load_samples("train")
    for judge in (
        lambda: predict_members(run, "ddpm_v", samples, DDIM(2)),
        lambda: predict_members(run, "baseline", samples),
        lambda: predict_both_sides(run, "baseline", samples),
    ):
        with pytest.raises(UserError, match=f"was trained on the patient {samples[0].case_id}"):
            judge()


def test_what_a_row_is_of_comes_from_the_configurations(run, tmp_path):
    """A training whose configuration differs in the seed alone is a replicate, whatever it is called."""
    config = run.config("baseline")
    for name, changed in {
        "baseline-b": replace(config, seed=43),
        "baseline-seed44": replace(config, seed=44, epochs=3),
    }.items():
        write_json(run.checkpoint(name) / "config.json", asdict(changed))
    write_json(run.checkpoint("baseline-old") / "config.json", {"method": "baseline"})
    try:
        assert run.columns("baseline-b") == {
            "training": "baseline-b", "method": "baseline", "variant": "b", "group": "baseline", "seed": 43
        }  # fmt: skip
        assert run.columns("baseline")["variant"] == "" and run.columns("baseline")["group"] == "baseline"
        assert run.columns("baseline-seed44")["group"] == "baseline-seed44"
        assert run.columns("control") == {"training": "control", "method": "control", "group": "control"}
    finally:
        for name in ("baseline-b", "baseline-seed44", "baseline-old"):
            shutil.rmtree(run.checkpoint(name))


def test_relative_paths_are_of_the_project_wherever_a_process_runs(tmp_path, monkeypatch):
    try_out, elsewhere = Experiment("try", "toys", 0, 1, [], 42, "cpu", "32"), tmp_path / "elsewhere"
    monkeypatch.delenv("DOSE_FOLDER")
    for folder in (ROOT / "notebooks", tmp_path):
        monkeypatch.chdir(folder)
        assert try_out.folder == ROOT / "outputs" / "try"
    monkeypatch.setenv("DOSE_FOLDER", str(elsewhere))
    assert try_out.folder == elsewhere / "outputs" / "try"
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("DOSE_FOLDER")
    assert try_out.folder == Path("outputs", "try")  # what is printed there names no folder of the machine


def test_another_cohort_in_the_same_folder_has_another_control(run):
    before, path = run.falloff(), run.open_cohort().folder / "card.json"
    assert run.falloff() is before and replace(run, experiment="other", seed=1).falloff() is before
    card = read_json(path)
    split = card["split"]
    fewer = split | {"train": split["train"][:1], "validation": split["validation"] + split["train"][1:]}
    try:
        write_json(path, card | {"split": fewer})
        assert run.falloff() != before
    finally:
        write_json(path, card)


def test_an_angle_of_40_and_of_40_0_degrees_names_one_file_of_features(run):
    whole, real = (replace(run, beams_deg=beams) for beams in ([40], [40.0]))
    paths = {
        sample_path(run.open_cohort(), run.open_cohort().split["test"][0], run.grid, one.beams_deg)
        for one in (whole, real)
    }
    assert len(paths) == 1 and whole == real


def test_both_sides_of_a_patient_are_averaged(run):
    samples = run.load_samples("test")
    pair = predict_both_sides(run, "baseline", samples)
    [mean] = means_of_sides(run, ["baseline"], samples)
    assert label(mean.columns) == "baseline, both sides" and mean.nfe == 2
    assert [dose.shape[0] for dose in mean.doses] == [1] * len(samples)
    for dose, (straight, turned) in zip(mean.doses, pair.doses):
        assert torch.allclose(dose[0], (straight + turned) / 2) and not torch.equal(straight, turned)


@pytest.mark.parametrize("grid", [Grid(1), Grid(4, 4, 2)])
def test_views_of_a_network_that_answers_place_by_place_are_all_alike(run, grid, monkeypatch):
    """Each view is moved and turned back exactly, and what left the box has the answer of the unmoved one."""

    def answer_ct(predictor, samples):
        scale = grid.answer // grid.condition
        return [
            torch.nn.functional.interpolate(s.cond[None, :1].float(), scale_factor=scale) for s in samples
        ]

    samples = [make_sample(run.load_case(i), grid) for i in run.open_cohort().split["test"]]
    config = SimpleNamespace(answer=grid.answer, condition=grid.condition, case_ids=[])
    monkeypatch.setattr(Experiment, "load_predictor", lambda *_: SimpleNamespace(config=config))
    monkeypatch.setattr(predictions, "predict", answer_ct)
    views = predict_both_sides(run, "baseline", samples, SHIFTS)
    assert views.nfe == VIEWS and all(len(dose) == VIEWS for dose in views.doses)
    for sample, dose in zip(samples, views.doses):
        assert torch.equal(dose, answer_ct(None, [sample])[0].expand_as(dose)) and dose.std() > 0


def test_views_of_a_network_differ_and_are_averaged(run):
    samples = run.load_samples("test")
    [mean] = means_of_views(run, ["baseline"], samples)
    assert label(mean.columns) == "baseline, 16 views" and mean.nfe == 16
    views = predict_both_sides(run, "baseline", samples, SHIFTS)
    assert torch.equal(views.doses[0][:1], predict_both_sides(run, "baseline", samples).doses[0][:1])
    for averaged, dose in zip(mean.doses, views.doses):
        assert torch.allclose(averaged[0], dose.mean(0)) and float(dose.std(dim=0).max()) > 0


def prediction(training, group, value, members=1, **columns):
    dose = torch.full((members, 1, 2, 2, 2), value)
    return Prediction({"training": training, "group": group} | columns, [dose, dose], 0.5 * members, members)


def test_regressions_of_several_seeds_are_averaged_and_samples_are_not():
    flow = {"n_steps": 5}
    predictions = [
        prediction("control", "control", 9.0),
        prediction("baseline", "baseline", 1.0),
        prediction("baseline-b", "baseline", 3.0),
        prediction("baseline-other", "baseline-other", 7.0),
        *(prediction(name, "flow", 5.0, **flow) for name in ("flow", "flow-seed43")),
    ]
    answers = [answer for of in predictions for answer in answers_of(of)]
    sides = [one._replace(columns=one.columns | {"averaged_over": "sides", "members": 2}) for one in answers]
    seeds, both = means_of_seeds([*answers, *sides[1:3]])
    assert label(seeds.columns) == "baseline, 2 seeds" and (seeds.seconds, seeds.nfe) == (1.0, 2)
    assert label(both.columns) == "baseline, 2 seeds and both sides" and both.columns["members"] == 4
    assert all(torch.equal(dose, torch.full((1, 1, 2, 2, 2), 2.0)) for dose in seeds.doses)


def test_more_members_cost_more_calls_except_of_a_network_that_predicts_a_deviation():
    sampled_ones = prediction("flow", "flow", 1.0, members=4, n_steps=1)
    assert sampled_ones.cost(2) == {"members": 2, "nfe": 2} and sampled_ones.seconds_of(2) == 1.0
    gaussian = sampled_ones._replace(nfe=1)
    assert gaussian.cost(4) == {"members": 4, "nfe": 1} and gaussian.seconds_of(4) == 0.5
    first, mean = answers_of(sampled_ones)
    assert (label(first.columns), first.nfe) == ("flow", 1)
    assert (label(mean.columns), mean.nfe) == ("flow, mean of 4", 4)


def test_predictions_of_an_earlier_run_do_not_stay_for_the_explorer(tmp_path):
    run = SimpleNamespace(folder=tmp_path, grid=Grid(2))
    old = prediction_path(tmp_path, "ddpm-old", "p0")
    save_prediction(old, np.ones((4, 4, 4)), Grid(2))
    samples = [SimpleNamespace(case_id=f"p{i}", rx_gy=70.0) for i in range(3)]
    doses = [
        torch.full((2, 1, 4, 4, 4), 0.5) + torch.arange(2)[:, None, None, None, None] * 0.1 for _ in samples
    ]
    predictions = [Prediction({"training": "ddpm"}, doses, 1.0, 2)]
    predictions += [Prediction({"training": "baseline"}, [dose[:1] for dose in doses], 1.0, 1)]
    keep_predictions(run, predictions, samples, ["p0", "p2"])
    assert sorted(str(path.relative_to(tmp_path / "predictions")) for path in tmp_path.rglob("*.npz")) == [
        "baseline/p0.npz",
        "baseline/p2.npz",
        "ddpm/p0.npz",
        "ddpm/p2.npz",
    ]
    with np.load(prediction_path(tmp_path, "ddpm", "p2")) as stored:
        assert np.all(stored["dose"] == 3850) and np.allclose(
            stored["spread"], 7.0 / np.sqrt(2) * 100, atol=1
        )
    with np.load(prediction_path(tmp_path, "baseline", "p2")) as stored:
        assert np.all(stored["dose"] == 3500) and "spread" not in stored
