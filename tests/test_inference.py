"""Predictions do not depend on how patients are batched, and mistakes end in a sentence."""

import traceback
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from test_training import config_for, train
from toys import toy_case, toy_cohort

from lib.diffusion.samplers import DDIM, REFERENCE, Euler, Midpoint, leading_grid
from lib.diffusion.schedule import cosine_alpha_bar
from lib.errors import UserError
from lib.features.channels import channels_of
from lib.features.grid import Grid
from lib.features.samples import make_sample
from lib.files import ROOT
from lib.models.methods import find_method
from lib.models.unet import UNet
from lib.prediction.predict import (
    load_predictor,
    on_case_grid,
    predict,
    ready,
    start_noise,
    usual_sampler,
    usual_temperature,
    with_doses,
)
from lib.studies.ablation import sampler_settings
from lib.studies.experiment import Experiment
from lib.training.loop import fit
from lib.training.setup import moments_of

PRIMED = list(channels_of("prostate").with_prior().names)


@pytest.fixture(scope="module")
def samples():
    return [make_sample(toy_case(f"toy_{i}", seed=i), Grid(1)) for i in range(3)]


def predictor_for(method, samples):
    torch.manual_seed(0)
    config = config_for(samples, method=method)
    return ready(find_method(method).make_network(config), config, torch.device("cpu"), "32")


WAYS = {
    "baseline": ["predict", "sample_batch"],
    "ddpm": ["predict", "sample_batch", "sample", "denoise"],
    "flow": ["predict", "sample_batch", "sample", "velocity"],
}


@pytest.mark.parametrize("method", WAYS)
def test_from_a_notebooks_cell_to_the_network_there_are_few_calls(samples, tmp_path, monkeypatch, method):
    ways, forward = [], UNet.forward

    def spied_forward(*inputs):
        frames = traceback.extract_stack()
        ways.append([f.name for f in frames if Path(f.filename).is_relative_to(ROOT / "lib")])
        return forward(*inputs)

    monkeypatch.setattr(UNet, "forward", spied_forward)
    train(config_for(samples, method=method, epochs=1), samples, tmp_path)
    assert ways[0] == ["fit", "train_step", "training_loss"]
    ways.clear()
    predictor = predictor_for(method, samples)
    predict(predictor, samples[:1], usual_sampler(predictor.config, 2))
    assert ways[0] == WAYS[method]


@pytest.mark.parametrize("method", ["baseline", "gaussian", "ddpm", "ddpm_v", "flow"])
def test_a_batch_equals_its_members(samples, method):
    predictor = predictor_for(method, samples)
    sampler = usual_sampler(predictor.config, 4)
    together = predict(predictor, samples, sampler, members=(0, 1), batch_size=4)
    alone = [predict(predictor, [s], sampler, members=(0, 1), batch_size=1)[0] for s in samples]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(together, alone))


def test_members_differ_and_are_named_by_seed_case_and_number(samples):
    a = start_noise(samples[0], 0, 42)
    assert torch.equal(a, start_noise(samples[0], 0, 42))
    assert not any(
        torch.equal(a, other)
        for other in (
            start_noise(samples[0], 1, 42),
            start_noise(samples[1], 0, 42),
            start_noise(samples[0], 0, 43),
        )
    )
    doses = predict(predictor_for("ddpm", samples), samples[:1], DDIM(2), members=(0, 1))
    assert not torch.equal(doses[0][0], doses[0][1])


def test_a_regression_gives_one_dose_however_many_members_are_asked(samples):
    assert predict(predictor_for("baseline", samples), samples[:1], members=(0, 1, 2))[0].shape[0] == 1


def test_volumes_of_different_shapes_can_be_predicted_together(samples):
    other = make_sample(toy_case("toy_9", shape=(18, 20, 24), seed=9), Grid(1))
    doses = predict(predictor_for("baseline", samples), [samples[0], other, samples[1]])
    assert [tuple(d.shape[2:]) for d in doses] == [(16, 24, 24), (18, 20, 24), (16, 24, 24)]


def test_doses_come_back_in_gy_on_the_cases_own_grid():
    case = toy_case("toy_1", shape=(17, 24, 23))
    sample = make_sample(case, Grid(2))
    dose_gy = on_case_grid(sample.dose[None], case, Grid(2))
    assert dose_gy.shape == (1, 17, 24, 23) and not dose_gy[0][~case.dose_mask].any()
    assert np.abs(dose_gy[0] - case.dose_gy)[case.dose_mask].mean() < 0.03 * case.rx_gy


def test_a_volume_in_one_window_is_the_volume(samples):
    for method in ("baseline", "ddpm_v", "flow"):
        predictor = predictor_for(method, samples)
        sampler = usual_sampler(predictor.config, 3)
        whole, window = (predict(predictor, samples[:1], sampler, window=w)[0] for w in (0, 24))
        assert torch.allclose(whole, window, atol=1e-4)


def test_windows_of_their_own_noise_are_another_sample_than_one_noise_field(samples):
    predictor = predictor_for("ddpm_v", samples)
    shared, own = (
        predict(predictor, samples[:1], DDIM(2), window=16, window_noise=noise)[0]
        for noise in ("shared", "own")
    )
    assert shared.shape == own.shape and not torch.allclose(shared, own, atol=1e-3)


def test_outside_the_dose_mask_there_is_no_dose_and_the_state_is_what_training_saw(samples):
    """Where the dose is known to be 0, x_t is always start noise and a dose of 0, scaled as in training."""
    predictor = predictor_for("ddpm", samples)
    sample = samples[0]
    outside = sample.mask == 0
    states = []
    network = predictor.network.forward
    predictor.network.forward = lambda cond, constraints, x_t, t: (
        states.append((int(t[0]), x_t)),
        network(cond, constraints, x_t, t),
    )[1]
    dose = predict(predictor, [sample], DDIM(4, "leading", clamp="keep noise"), seed=7)[0]
    noise = start_noise(sample, 0, 7)
    assert not dose[0][outside].any() and len(states) == 4
    first = float((1 - cosine_alpha_bar()[states[0][0]]).sqrt())
    for t, x_t in states[1:]:
        assert torch.allclose(
            x_t[0][outside], noise[outside] * float((1 - cosine_alpha_bar()[t]).sqrt()) / first, atol=1e-4
        )


def test_the_prior_of_a_refinement_is_found_in_its_folder_and_its_residual_added(samples, tmp_path):
    train(config_for(samples, epochs=1), samples, tmp_path / "baseline")
    prior = load_predictor(tmp_path / "baseline", "cpu", "32")
    primed = with_doses(prior, samples)
    mean, deviation = moments_of(primed)
    units = {"dose_shift": mean, "dose_scale": deviation}
    config = config_for(primed, method="refine", channels=PRIMED, epochs=1, **units)
    fit(config, primed, primed[:1], tmp_path / "refine", "cpu", tmp_path / "baseline")
    refine = load_predictor(tmp_path / "refine", "cpu", "32")
    with torch.no_grad():
        for weight in refine.network.out.parameters():
            weight.zero_()  # v = 0 at t = T - 1, where x_t is noise: no residual but its mean
    dose = predict(refine, samples[:1], DDIM(1))[0][0]
    expected = (primed[0].cond[-1:] + config.dose_shift) * (primed[0].mask > 0)
    assert torch.allclose(dose, expected.clamp(0, 1.5), atol=1e-5)


@pytest.mark.parametrize("method", ["ddpm", "ddpm_dose", "refine"])
def test_two_steps_by_hand_in_the_ablations_notebook_are_those_of_lib(samples, method):
    predictor, sample = predictor_for(method, samples), samples[0]
    if method == "refine":
        prior = predictor_for("baseline", samples)
        config = config_for(with_doses(prior, samples), method=method, channels=PRIMED)
        predictor = ready(find_method(method).make_network(config), config, prior.device, "32", prior)
    notebook = nbformat.read(ROOT / "notebooks" / "02_sampling_ablation.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    names = {"run": SimpleNamespace(load_predictor=lambda name: predictor), "method": method}
    names |= {"torch": torch, "sample": sample, "noise": start_noise(sample, 0, 42)}
    for cell in (cell for cell in code if "leading_grid(2)" in cell or "import denoiser" in cell):
        # the notebook's own cell, which asserts
        exec("from lib.diffusion.samplers import DDIM, leading_grid\n" + cell, names)  # noqa: S102
    assert names["sampled"].std() > 0 and names["sample"] is sample


def test_a_cascade_adds_what_it_predicts_to_the_dose_of_the_first_regression(samples, tmp_path):
    train(config_for(samples, epochs=1), samples, tmp_path / "baseline")
    primed = with_doses(load_predictor(tmp_path / "baseline", "cpu", "32"), samples)
    config = config_for(
        primed, method="cascade", channels=PRIMED, epochs=1, dose_error="absolute", dvh_weight=1.0
    )
    fit(config, primed, primed[:1], tmp_path / "cascade", "cpu", tmp_path / "baseline")
    cascade = load_predictor(tmp_path / "cascade", "cpu", "32")
    with torch.no_grad():
        cascade.network.out.weight.zero_()
        cascade.network.out.bias.fill_(0.125)
    expected = ((primed[0].cond[-1:] + 0.125) * (primed[0].mask > 0)).clamp(0, 1.5)
    assert torch.allclose(predict(cascade, samples[:1])[0][0], expected, atol=1e-5)


def test_a_predicted_deviation_is_the_spread_of_the_samples_and_temperature_0_its_mean(samples):
    predictor = predictor_for("gaussian", samples)
    with torch.no_grad():
        predictor.network.out.weight.zero_()
        predictor.network.out.bias.copy_(torch.tensor([0.6, 2 * np.log(0.05)]))
    inside = samples[0].mask > 0
    doses = predict(predictor, samples[:1], members=tuple(range(40)))[0]
    assert float(doses[:, inside].std(dim=0).mean()) == pytest.approx(0.05, rel=0.05)
    mean = predict(predictor, samples[:1], temperature=0.0)[0][0]
    assert torch.allclose(mean[inside], torch.full_like(mean[inside], 0.6))


def test_a_watcher_sees_every_network_call_of_every_patient(samples):
    seen = []
    predict(
        predictor_for("ddpm", samples),
        samples[:2],
        DDIM(3),
        watch=lambda case_id, member, step, t, dose: seen.append((case_id, t)),
    )
    assert sorted(seen) == sorted((s.case_id, t) for s in samples[:2] for t in DDIM(3).times())


def test_a_method_without_a_finished_training_is_named(tmp_path):
    with pytest.raises(UserError, match="01_train for the method ddpm"):
        load_predictor(tmp_path / "ddpm")


def test_weights_and_configuration_that_do_not_fit_are_refused(samples, tmp_path):
    train(config_for(samples, epochs=1), samples, tmp_path)
    assert load_predictor(tmp_path, "cpu").config.method == "baseline"
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="weights.safetensors is damaged"):
        load_predictor(tmp_path, "cpu")
    (tmp_path / "weights.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text('{"method": "baseline"}')
    with pytest.raises(UserError, match="config.json"):
        load_predictor(tmp_path, "cpu")


def test_a_patient_of_another_site_is_refused(samples):
    other = make_sample(toy_case("toy_2", site="head-and-neck"), Grid(1))
    with pytest.raises(UserError, match="was trained with the channels"):
        predict(predictor_for("baseline", samples), [other])


@pytest.mark.parametrize("method, sampler", [("flow", DDIM(2)), ("ddpm", Euler(2)), ("ddpm_v", Midpoint(2))])
def test_a_sampler_of_another_kind_is_refused(samples, method, sampler):
    with pytest.raises(UserError, match=f"{method} cannot be sampled by {type(sampler).__name__}"):
        predict(predictor_for(method, samples), samples[:1], sampler)


def test_an_unknown_noise_of_windows_is_named(samples):
    with pytest.raises(UserError, match="no noise of windows"):
        predict(predictor_for("ddpm", samples), samples[:1], window=16, window_noise="pink")


@pytest.mark.parametrize(
    "method, sampler, temperature",
    [
        ("ddpm", REFERENCE, 1.0),
        ("ddpm_v", DDIM(50), 1.0),
        ("flow", Euler(50), 1.0),
        ("baseline", None, 0.0),
        ("gaussian", None, 0.0),
    ],
)
def test_each_method_has_its_usual_sampler(samples, method, sampler, temperature):
    config = config_for(samples, method=method, zero_snr=find_method(method).zero_snr)
    assert usual_sampler(config, 50) == sampler and usual_temperature(config) == temperature


def test_a_checkpoint_of_another_method_and_a_part_without_patients_are_refused(
    samples, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    toy_cohort(tmp_path / "toys", n=2, split={"train": ["toy_1"], "validation": ["toy_2"], "test": []})
    run = Experiment("x", str(tmp_path / "toys"), 0, 1, [], 42, "cpu", "32")
    train(config_for(samples, epochs=1), samples, run.checkpoint("ddpm"))
    with pytest.raises(UserError, match="holds a training of baseline, not of ddpm"):
        run.load_predictor("ddpm")
    with pytest.raises(UserError, match="has no test patients"):
        run.load_samples("test")
    assert run.load_samples("test", optional=True) == []


def test_the_number_of_steps_is_switched_only_where_the_references_grid_takes_another():
    """1000 levels in 7 steps of 142 are 8 calls; in 5 or 25 steps they are as many as asked."""
    names = {n: [s.name for s in sampler_settings("ddpm", 0, [n])] for n in (5, 7, 25)}
    assert "as many steps as asked" in names[7] and len(leading_grid(7)) == 8
    assert names[5] == names[25] == names[7][1:]
