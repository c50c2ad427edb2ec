"""Training learns, resumes bit for bit, and stops in a sentence when it must."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import toy_case

from lib import device
from lib.errors import UserError
from lib.features.samples import dose_statistics, make_sample
from lib.files import read_json, write_json
from lib.models.config import TrainConfig
from lib.models.methods import find_method
from lib.models.vgg import vgg16_features
from lib.prediction.predict import Sampling, load_predictor, predict_doses
from lib.tensors import load_tensors
from lib.training.checkpoint import CURRENT, load_state, save_state
from lib.training import loop as training


@pytest.fixture(scope="module")
def samples():
    return [make_sample(toy_case(f"toy_{i}", seed=i), 1) for i in range(4)]


def config_for(samples, **changes):
    settings = {
        "method": "baseline",
        "cohort": "toys",
        "cohort_sha256": "",
        "case_ids": [s.case_id for s in samples],
        "site": "prostate",
        "cond_channels": 9,
        "coarsen": 1,
        "beams_deg": [],
        "base_channels": 8,
        "epochs": 3,
        "patches_per_case": 1,
        "patch_voxels": [0, 0, 0],
        "batch_size": 2,
        "accumulate": 1,
        "learning_rate": 1e-3,
        "ema_decay": 0.9,
        "zero_snr": False,
        "dose_shift": 0.0,
        "dose_scale": 1.0,
        "weighting": "none",
        "region": "dose mask",
        "dose_error": "squared",
        "dvh_weight": 0.0,
        "gradient_weight": 0.1,
        "gradient_units": "per mm",
        "vgg_weight": 0.01,
        "vgg_file": "",
        "augment": "whole voxels",
        "validate_every": 1,
        "validation_steps": 2,
        "patience": 0,
        "keep": "last",
        "snapshots_pct": [50],
        "seed": 1,
        "precision": "32",
    }
    return TrainConfig(
        **settings | {"zero_snr": find_method(changes.get("method", "baseline")).zero_snr} | changes
    )


def train(config, samples, folder, **options):
    return training.train(config, samples, samples[:1], folder, "cpu", report=lambda line: None, **options)


def weights_of(folder):
    return load_file(folder / "weights.safetensors")


def without_time(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def test_a_network_learns_one_patient_by_heart(samples, tmp_path):
    config = config_for(
        samples[:1], epochs=60, batch_size=1, augment="none", learning_rate=3e-3, validate_every=60
    )
    assert train(config, samples[:1], tmp_path)[-1]["validation_mae_gy"] < 3.0


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


@pytest.mark.parametrize("method", ["gradient", "ddpm", "ddpm_v", "flow"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_training_ends_as_an_undisturbed_one(samples, tmp_path, monkeypatch, method, at):
    config = config_for(samples, method=method, keep="best")
    undisturbed = train(config, samples, tmp_path / "a")
    one_step = training.one_step

    def killed_step(run, *arguments):
        if run.step == at:
            raise Killed
        one_step(run, *arguments)

    monkeypatch.setattr(training, "one_step", killed_step)
    with pytest.raises(Killed):
        train(config, samples, tmp_path / "b", save_every_s=0)
    monkeypatch.setattr(training, "one_step", one_step)
    resumed = train(config, samples, tmp_path / "b")
    a, b = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert without_time(resumed) == without_time(undisturbed)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_seed_reaches_the_weights_and_nothing_else_does(samples, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(hash(name) % 1000)
        train(config_for(samples, seed=seed, epochs=1), samples, tmp_path / name)
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)


def test_a_finished_training_is_not_repeated_and_another_one_is(samples, tmp_path, monkeypatch):
    config = config_for(samples, epochs=1)
    first = train(config, samples, tmp_path)
    steps = []
    one_step = training.one_step
    monkeypatch.setattr(training, "one_step", lambda run, *a: (steps.append(run.step), one_step(run, *a)))
    assert without_time(train(config, samples, tmp_path)) == without_time(first) and steps == []
    train(dataclasses.replace(config, seed=9), samples, tmp_path)
    assert steps == [0, 1]


def test_a_training_starts_from_the_weights_of_another(samples, tmp_path):
    """One step of a rate near nothing leaves the other's weights as they were, and its average with them."""
    train(config_for(samples), samples, tmp_path / "first")
    config = config_for(samples, epochs=1, learning_rate=1e-12, start_from=str(tmp_path / "first"), seed=2)
    train(config, samples, tmp_path / "second")
    first, second = (load_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("first", "second"))
    for name, weights in first.items():
        assert torch.allclose(weights, second[name], atol=1e-5)
    alone = training.training_key(config_for(samples, epochs=1, learning_rate=1e-12, seed=2), None)
    assert alone != training.training_key(config, None)  # its start counts, wherever it lies
    stored = read_json(tmp_path / "first" / "config.json")
    write_json(
        tmp_path / "first" / "config.json",
        {key: value for key, value in stored.items() if key != "start_from"},
    )  # of a version before it
    shutil.copytree(tmp_path / "first", tmp_path / "moved")
    training.start_from(training.Run(config, torch.device("cpu")), tmp_path / "moved")
    assert training.training_key(config, None) == training.training_key(
        dataclasses.replace(config, start_from=str(tmp_path / "moved")), None
    )


def test_a_start_that_is_not_there_or_does_not_fit_is_told_in_a_sentence(samples, tmp_path):
    with pytest.raises(UserError, match="holds no finished training .* from which this one is to start"):
        train(config_for(samples, start_from=str(tmp_path)), samples, tmp_path / "second")
    train(config_for(samples, epochs=1), samples, tmp_path / "first")
    with pytest.raises(
        UserError,
        match=(
            "does not fit this training's .*size mismatch.*; its width, its inputs or what it predicts differ"
        ),
    ):
        train(
            config_for(samples, base_channels=16, start_from=str(tmp_path / "first")),
            samples,
            tmp_path / "second",
        )


def test_a_compiled_network_trains_and_samples_as_the_plain_one(samples, tmp_path, monkeypatch):
    """Traced and differentiated as on a GPU, its kernels left as they are: to generate them takes minutes."""
    monkeypatch.setattr(
        device,
        "COMPILED_FOR",
        {kind: {"backend": "aot_eager", "fullgraph": True} for kind in ("training", "sampling")},
    )
    histories = [
        train(config_for(samples, method="ddpm_v", compile=name == "compiled"), samples, tmp_path / name)
        for name in ("plain", "compiled")
    ]
    for plain, compiled in zip(*histories):
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    plain, compiled = (load_predictor(tmp_path / name, "cpu", "32") for name in ("plain", "compiled"))
    assert list(plain.network.state_dict()) == list(compiled.network.state_dict())
    calls = []
    monkeypatch.setattr(
        compiled.network, "_compiled_call_impl", counted(compiled.network._compiled_call_impl, calls)
    )
    doses = [predict_doses(predictor, samples[:1], Sampling(n_steps=2))[0] for predictor in (plain, compiled)]
    assert len(calls) == 2 and torch.allclose(*doses, atol=1e-3)


def counted(function, calls):
    return lambda *a: (calls.append(1), function(*a))[1]


@pytest.mark.parametrize("kind, told", [("cpu", r"needs a C\+\+ compiler"), ("cuda", "needs Triton")])
def test_where_nothing_can_compile_it_is_told(kind, told, monkeypatch):
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=told):
        device.compile_for("training", torch.nn.Identity(), torch.device(kind))


def test_ctrl_c_saves_and_says_how_to_go_on(samples, tmp_path, monkeypatch):
    def interrupted(run, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "one_step", interrupted)
    with pytest.raises(UserError, match="goes on from there"):
        train(config_for(samples), samples, tmp_path)
    assert (tmp_path / CURRENT).exists()


def test_a_diverged_training_stops_with_a_sentence(samples, tmp_path):
    broken = [dataclasses.replace(s, dose=s.dose * float("nan")) for s in samples]
    with pytest.raises(training.CannotTrain, match="diverged at step 1"):
        train(config_for(samples), broken, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_why_a_training_failed_is_kept_and_forgotten_when_it_succeeds(samples, tmp_path):
    broken = [dataclasses.replace(s, dose=s.dose * float("nan")) for s in samples]
    said = []
    assert (
        training.train_or_say(config_for(samples, epochs=1), broken, [], tmp_path, "cpu", report=said.append)
        is None
    )
    assert "diverged" in read_json(tmp_path / "failed.json")["reason"] and "diverged" in said[-1]
    assert training.train_or_say(
        config_for(samples, epochs=1), samples, [], tmp_path, "cpu", report=said.append
    )
    assert not (tmp_path / "failed.json").exists()


def test_without_its_weights_the_vgg_loss_says_where_there_are_some(samples, tmp_path):
    said = []
    assert (
        training.train_or_say(
            config_for(samples, method="gradient_vgg"), samples, [], tmp_path, "cpu", report=said.append
        )
        is None
    )
    assert "download.pytorch.org/models/vgg16" in said[-1]


def test_with_made_up_weights_the_vgg_loss_trains(samples, tmp_path):
    weights = {f"features.{name}": w for name, w in vgg16_features().state_dict().items()}
    save_file(weights, tmp_path / "vgg.safetensors")
    config = config_for(samples, method="gradient_vgg", vgg_file=str(tmp_path / "vgg.safetensors"), epochs=1)
    plain = train(config_for(samples, method="gradient", epochs=1), samples, tmp_path / "a")
    assert train(config, samples, tmp_path / "b")[-1]["loss"] > plain[-1]["loss"]


def test_what_is_kept_on_the_way_are_the_averaged_weights_of_that_step(samples, tmp_path):
    """Half of four steps: the weights of a training that is killed after two."""
    config = config_for(samples, epochs=2, snapshots_pct=[50])
    train(config, samples, tmp_path)
    half, end, last = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("weights-50pct", "weights", "weights-last")
    )
    run = training.Run(config, torch.device("cpu"))
    for _ in range(2):
        training.one_step(run, config, samples, torch.device("cpu"))
    assert all(torch.equal(half[name], w) for name, w in run.averaged.state_dict().items())
    assert not all(torch.equal(end[name], last[name]) for name in end)


class FakeRun:
    """What make_config asks of an experiment."""

    coarsen, beams_deg, seed, precision, device = 1, (), 1, "32", "cpu"

    def __init__(self, folder):
        self.folder = folder
        write_json(folder / "card.json", {})
        self.name = "toys"

    def open_cohort(self):
        return self


def made(samples, tmp_path, **changes):
    settings = dataclasses.asdict(config_for(samples))
    kept = (
        "base_channels",
        "epochs",
        "patches_per_case",
        "patch_voxels",
        "batch_size",
        "accumulate",
        "learning_rate",
        "ema_decay",
        "weighting",
        "region",
        "dose_error",
        "dvh_weight",
        "gradient_weight",
        "gradient_units",
        "vgg_weight",
        "vgg_file",
        "augment",
        "validate_every",
        "validation_steps",
        "patience",
        "keep",
        "snapshots_pct",
        "compile",
        "start_from",
    )
    given = {key: settings[key] for key in kept} | {"standardise": "auto", "terminal_snr": "auto"}
    return training.make_config(FakeRun(tmp_path), samples, **given | changes)


def test_a_training_is_the_same_whatever_the_last_digit_of_its_units(samples):
    """They are sums over many voxels, which other numbers of threads round differently; all else counts."""
    config = config_for(samples)
    assert training.training_key(config, None) == training.training_key(
        dataclasses.replace(config, dose_shift=0.1), None
    )
    assert training.training_key(config, None) != training.training_key(
        dataclasses.replace(config, learning_rate=0.1), None
    )


def test_a_method_brings_its_own_units_and_schedule_unless_told_otherwise(samples, tmp_path):
    assert (
        made(samples, tmp_path, method="ddpm").zero_snr,
        made(samples, tmp_path, method="ddpm").dose_scale,
    ) == (False, 1.0)
    config = made(samples, tmp_path, method="ddpm_v")
    assert config.zero_snr and (config.dose_shift, config.dose_scale) == dose_statistics(samples)
    other = made(samples, tmp_path, method="ddpm_v", standardise="no", terminal_snr="reference")
    assert not other.zero_snr and other.dose_scale == 1.0


def test_noise_cannot_be_predicted_where_there_is_nothing_else(samples, tmp_path):
    with pytest.raises(UserError, match="says nothing of the dose"):
        made(samples, tmp_path, method="ddpm", terminal_snr="zero")


def test_patience_ends_a_training_that_does_not_improve():
    rows = [
        {"epoch": e, "validation_mae_gy": m} for e, m in ((1, 3.0), (2, 2.0), (3, 2.5), (4, None), (5, 2.1))
    ]
    assert training.out_of_patience(rows, 3) and not training.out_of_patience(rows, 4)
    assert not training.out_of_patience(rows, 0) and not training.out_of_patience([], 3)


def test_the_learning_rate_falls_along_a_cosine(samples):
    config = config_for(samples, epochs=50)
    assert training.learning_rate(config, 0) == pytest.approx(1e-3)
    assert training.learning_rate(config, config.n_steps // 2) == pytest.approx(5e-4, rel=1e-2)
    assert training.learning_rate(config, config.n_steps) == pytest.approx(1e-6)


def test_every_patient_is_seen_once_an_epoch(samples, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "make_batch", lambda chosen, *a: seen.extend(s.case_id for s in chosen))
    config = config_for(samples, augment="none")
    for step in range(config.steps_per_epoch):
        training.draw_batch(config, samples, step, None)
    assert sorted(seen) == sorted(s.case_id for s in samples)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b[:-9] + b"x" + b[-8:], lambda b: b"", lambda b: b"junk\n" + b],
)
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_it_used(tmp_path, damage):
    said = []
    save_state(tmp_path, "key", {"step": 1})
    save_state(tmp_path, "key", {"step": 2})
    path = tmp_path / CURRENT
    path.write_bytes(damage(path.read_bytes()))
    assert load_state(tmp_path, "key", "cpu", said.append) == {"step": 1}
    assert "damaged" in said[0]


def test_a_checkpoint_of_another_training_is_passed_over(tmp_path):
    save_state(tmp_path, "key", {"step": 1})
    assert load_state(tmp_path, "other", "cpu", lambda line: None) is None
