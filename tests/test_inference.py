"""Predictions do not depend on how patients are batched, and mistakes end in a sentence."""
import pytest
import torch

from lib.errors import UserError
from lib.features import make_sample
from lib.inference import Sampling, load_predictor, on_case_grid, predict_doses, ready, start_noise
from lib.models.unet import UNet
from test_training import config_for, train
from toys import toy_case


@pytest.fixture(scope="module")
def samples():
    return [make_sample(toy_case(f"toy_{i}", seed=i), 1) for i in range(3)]


def predictor_for(method, samples):
    torch.manual_seed(0)
    config = config_for(samples, method=method)
    return ready(UNet(9, 8, method == "ddpm"), config, torch.device("cpu"), "32")


@pytest.mark.parametrize("method", ["baseline", "ddpm"])
def test_a_batch_equals_its_members(samples, method):
    predictor = predictor_for(method, samples)
    together = predict_doses(predictor, samples, Sampling(n_steps=4), members=(0, 1), batch_size=4)
    alone = [predict_doses(predictor, [s], Sampling(n_steps=4), members=(0, 1), batch_size=1)[0] for s in samples]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(together, alone))


def test_members_differ_and_are_named_by_seed_case_and_number(samples):
    a = start_noise(samples[0], 0, 42)
    assert torch.equal(a, start_noise(samples[0], 0, 42))
    assert not any(torch.equal(a, other) for other in (start_noise(samples[0], 1, 42), start_noise(samples[1], 0, 42),
                                                       start_noise(samples[0], 0, 43)))
    doses = predict_doses(predictor_for("ddpm", samples), samples[:1], Sampling(n_steps=2), members=(0, 1))
    assert not torch.equal(doses[0][0], doses[0][1])


def test_a_regression_gives_one_dose_however_many_members_are_asked(samples):
    assert predict_doses(predictor_for("baseline", samples), samples[:1], members=(0, 1, 2))[0].shape[0] == 1


def test_volumes_of_different_shapes_can_be_predicted_together(samples):
    other = make_sample(toy_case("toy_9", shape=(18, 20, 24), seed=9), 1)
    doses = predict_doses(predictor_for("baseline", samples), [samples[0], other, samples[1]])
    assert [tuple(d.shape[2:]) for d in doses] == [(16, 24, 24), (18, 20, 24), (16, 24, 24)]


def test_doses_come_back_in_gy_on_the_cases_own_grid():
    case = toy_case("toy_1", shape=(17, 24, 23))
    sample = make_sample(case, 2)
    dose_gy = on_case_grid(sample.dose[None], sample, 2)
    assert dose_gy.shape == (1, 17, 24, 23) and abs(dose_gy.max() - case.dose_gy.max()) < 0.2 * case.dose_gy.max()


def test_a_watcher_sees_every_network_call_of_every_patient(samples):
    seen = []
    predict_doses(predictor_for("ddpm", samples), samples[:2], Sampling(n_steps=3),
                  watch=lambda case_id, member, step, t, dose: seen.append((case_id, t)))
    assert sorted(seen) == sorted((s.case_id, t) for s in samples[:2] for t in Sampling(n_steps=3).times())


def test_a_method_without_a_finished_training_is_named(tmp_path):
    with pytest.raises(UserError, match="01_train for the method ddpm"):
        load_predictor(tmp_path / "ddpm")


def test_weights_and_configuration_that_do_not_fit_are_refused(samples, tmp_path):
    train(config_for(samples, epochs=1), samples, tmp_path)
    assert load_predictor(tmp_path, "cpu").config.method == "baseline"
    whole = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="weights.safetensors does not fit"):
        load_predictor(tmp_path, "cpu")
    (tmp_path / "weights.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text('{"method": "baseline"}')
    with pytest.raises(UserError, match="config.json"):
        load_predictor(tmp_path, "cpu")


def test_a_patient_of_another_site_is_refused(samples):
    other = make_sample(toy_case("toy_2", site="head-and-neck"), 1)
    with pytest.raises(UserError, match="condition channels"):
        predict_doses(predictor_for("baseline", samples), [other])


def test_an_unknown_grid_is_named():
    with pytest.raises(UserError, match="no step grid"):
        Sampling(grid="spiral").times()
