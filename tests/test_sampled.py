"""Doses that a study has sampled are kept: read back exactly, made again when what decides them changes."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import toy_cohort

from lib.diffusion.samplers import DDIM, REFERENCE, DPMSolver, Euler, Midpoint
from lib.errors import UserError
from lib.prediction.store import prediction_path, save_prediction
from lib.runner import train as command
from lib.studies import sampled
from lib.studies.comparison import keep_predictions, means_of_seeds, means_of_sides
from lib.studies.ensembles import deep_ensemble, flipped_pair
from lib.studies.experiment import Experiment
from lib.studies.rows import answers_in
from lib.studies.sampled import sampled_doses


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
    doses, seconds = sampled_doses(run, "ddpm_v", samples, DDIM(2), (0, 1))
    assert doses[0].shape[0] == 2 and seconds > 0
    monkeypatch.setattr(sampled, "predict", None)
    again, same_seconds = sampled_doses(run, "ddpm_v", samples, DDIM(2), (0, 1))
    assert same_seconds == seconds and all(torch.equal(a, b) for a, b in zip(doses, again))


def test_another_setting_member_or_weights_are_other_doses(run):
    samples = run.load_samples("test")
    before = len(files(run))
    for sampler, members, weights in (
        (DDIM(3), (0,), "weights"),
        (DDIM(3, eta=1.0), (0,), "weights"),
        (DDIM(3), (0, 1), "weights"),
        (DDIM(3), (0,), "weights-last"),
    ):
        sampled_doses(run, "ddpm_v", samples, sampler, members, weights)
    assert len(files(run)) == before + 4


def test_what_two_names_of_a_grid_have_in_common_is_sampled_once():
    """1000 steps of the reference's grid start at 999 as a start held there does, and 5 divides 1000."""
    decided = partial(sampled.decides, members=(0,), seed=42)
    leading = partial(replace, REFERENCE)
    assert decided(leading(n_steps=1000)) == decided(leading(n_steps=1000, grid="held"))
    assert decided(leading(n_steps=5)) == decided(leading(n_steps=5, grid="corrected"))
    assert decided(leading(n_steps=5)) != decided(leading(n_steps=5, grid="held"))
    assert decided(leading(n_steps=5)) != decided(leading(n_steps=5, eta=1.0))
    assert decided(DDIM(5)) != decided(DPMSolver(5)) and decided(Euler(5)) != decided(Euler(10))
    assert decided(Euler(2)) != decided(Midpoint(2)) and decided(None) != decided(None, temperature=0.0)
    assert decided(DDIM(5)) != decided(DDIM(5), window=16) != decided(DDIM(5), window=16, window_noise="own")


def test_a_damaged_file_is_made_again(run):
    samples = run.load_samples("test")
    doses, _ = sampled_doses(run, "ddpm_v", samples, DDIM(4))
    for path in files(run):
        path.write_bytes(path.read_bytes()[:-50])
    again, _ = sampled_doses(run, "ddpm_v", samples, DDIM(4))
    assert all(torch.equal(a, b) for a, b in zip(doses, again))


def test_a_network_is_not_judged_on_patients_that_it_was_trained_on(run):
    samples = run.load_samples("train")
    for judge in (
        lambda: sampled_doses(run, "ddpm_v", samples, DDIM(2)),
        lambda: deep_ensemble(run, ["ddpm_v"], samples),
        lambda: flipped_pair(run, "ddpm_v", samples),
    ):
        with pytest.raises(
            UserError, match=f"was trained on {samples[0].case_id}, so it cannot be judged on him"
        ):
            judge()


def test_means_of_means_are_counted():
    assert [
        answers_in(name) for name in ("flow", "flow, mean of 3", "cascade, mean of 2 sides, mean of 3 seeds")
    ] == [1, 3, 6]


def test_both_sides_of_a_patient_are_averaged(run):
    samples = run.load_samples("test")
    pairs, _, _ = flipped_pair(run, "baseline", samples)
    [(name, (doses, _))] = means_of_sides(run, ["baseline"], samples).items()
    assert name == "baseline, mean of 2 sides" and [dose.shape[0] for dose in doses] == [1] * len(samples)
    assert all(
        torch.allclose(dose[0], (pair[0] + pair[1]) / 2) and not torch.equal(pair[0], pair[1])
        for dose, pair in zip(doses, pairs)
    )


def test_regressions_of_several_seeds_are_averaged_and_samples_are_not():
    doses = {
        "control": 9.0,
        "baseline": 1.0,
        "baseline-seed43": 3.0,
        "baseline-other": 7.0,
        "flow": 5.0,
        "flow-seed43": 6.0,
        "gradient": 2.0,
    }
    predictions = {name: ([torch.full((1, 1, 2, 2, 2), value)] * 2, 0.5) for name, value in doses.items()}
    [(name, (averaged, seconds))] = means_of_seeds(predictions).items()
    assert name == "baseline, mean of 2 seeds" and seconds == 1.0 and len(averaged) == 2
    assert all(torch.equal(dose, torch.full((1, 1, 2, 2, 2), 2.0)) for dose in averaged)


def test_predictions_of_an_earlier_run_do_not_stay_for_the_explorer(tmp_path):
    run = SimpleNamespace(folder=tmp_path, coarsen=2)
    old = prediction_path(tmp_path, "ddpm-old", "p0")
    save_prediction(old, np.ones((4, 4, 4)), 2)
    samples = [SimpleNamespace(case_id=f"p{i}", rx_gy=70.0) for i in range(3)]
    doses = [
        torch.full((2, 1, 4, 4, 4), 0.5) + torch.arange(2)[:, None, None, None, None] * 0.1 for _ in samples
    ]
    keep_predictions(
        run, {"ddpm": (doses, 1.0), "baseline": ([dose[:1] for dose in doses], 1.0)}, samples, ["p0", "p2"]
    )
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
