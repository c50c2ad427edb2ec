"""Training learns, resumes bit for bit, and stops in a sentence when it must."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import toy_case

from lib import device
from lib.errors import UserError
from lib.features.channels import channels_of
from lib.features.grid import Grid
from lib.features.samples import make_sample
from lib.files import read_json, write_json
from lib.models.config import TrainConfig, check_fits
from lib.models.methods import find_method
from lib.models.vgg import vgg16_features
from lib.prediction.predict import load_predictor, predict, usual_sampler
from lib.tensors import load_tensors
from lib.training import history, loop, setup, state
from lib.training.checkpoint import CURRENT, load_state, save_state
from lib.training.loop import fit, train_step
from lib.training.result import training_key
from lib.training.state import TrainingState, learning_rate


@pytest.fixture(scope="module")
def samples():
    return [make_sample(toy_case(f"toy_{i}", seed=i), Grid(1)) for i in range(4)]


def config_for(samples, **changes):
    settings = {
        "method": "baseline",
        "cohort": "toys",
        "cohort_sha256": "",
        "case_ids": [s.case_id for s in samples],
        "site": "prostate",
        "channels": list(channels_of("prostate").names),
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
    return fit(config, samples, samples[:1], folder, "cpu", **options)


def weights_of(folder):
    return load_file(folder / "weights.safetensors")


def without_time(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def test_a_network_learns_one_patient_by_heart(samples, tmp_path):
    config = config_for(
        samples[:1], epochs=30, batch_size=1, augment="none", learning_rate=3e-3, validate_every=30
    )
    assert train(config, samples[:1], tmp_path)[-1]["validation_mae_gy"] < 3.0


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


@pytest.mark.parametrize("method", ["gradient", "ddpm", "ddpm_v", "flow"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_training_ends_as_an_undisturbed_one(samples, tmp_path, monkeypatch, method, at):
    config = config_for(samples, method=method, keep="best")
    undisturbed = train(config, samples, tmp_path / "a")

    def killed_step(state, samples):
        if state.step == at:
            raise Killed
        train_step(state, samples)

    monkeypatch.setattr(loop, "train_step", killed_step)
    with pytest.raises(Killed):
        train(config, samples, tmp_path / "b", save_every_s=0)
    monkeypatch.setattr(loop, "train_step", train_step)
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
    monkeypatch.setattr(loop, "train_step", lambda s, p: (steps.append(s.step), train_step(s, p)))
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
    alone = training_key(config_for(samples, epochs=1, learning_rate=1e-12, seed=2))
    assert alone != training_key(config)  # its start counts, wherever it lies
    shutil.copytree(tmp_path / "first", tmp_path / "moved")
    TrainingState(config, torch.device("cpu")).load_weights(tmp_path / "moved")
    assert training_key(config) == training_key(
        dataclasses.replace(config, start_from=str(tmp_path / "moved"))
    )


def test_a_start_that_is_not_there_or_does_not_fit_is_told_in_a_sentence(samples, tmp_path):
    with pytest.raises(UserError, match="holds no finished training, from which this one is to start"):
        train(config_for(samples, start_from=str(tmp_path)), samples, tmp_path / "second")
    train(config_for(samples, epochs=1), samples, tmp_path / "first")
    with pytest.raises(
        UserError,
        match=(
            "does not fit this training's; its width, its inputs or what it predicts differ .*size mismatch"
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
    doses = [
        predict(predictor, samples[:1], usual_sampler(predictor.config, 2))[0]
        for predictor in (plain, compiled)
    ]
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
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(UserError, match="goes on from there"):
        train(config_for(samples), samples, tmp_path)
    assert (tmp_path / CURRENT).exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_told_and_more_parts_go_on_from_the_checkpoint(
    samples, tmp_path, monkeypatch, capsys, error
):
    def step_with_little_memory(state, samples):
        if state.step == 2 and state.config.accumulate == 1:
            raise error
        train_step(state, samples)

    monkeypatch.setattr(loop, "train_step", step_with_little_memory)
    with pytest.raises(UserError, match=r"too little memory .* raise train.accumulate.* train.batch_size"):
        train(config_for(samples), samples, tmp_path, save_every_s=0)
    assert len(train(config_for(samples, accumulate=2), samples, tmp_path)) == 3
    assert "going on from step 2 of 6" in capsys.readouterr().out


def test_another_error_of_the_loop_keeps_its_traceback(samples, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(config_for(samples), samples, tmp_path)


def test_why_a_training_failed_is_kept_and_forgotten_when_it_succeeds(samples, tmp_path, capsys):
    broken = [dataclasses.replace(s, dose=s.dose * float("nan")) for s in samples]
    assert train(config_for(samples, epochs=1), broken, tmp_path) is None
    reason = read_json(tmp_path / "failed.json")["reason"]
    assert "the training of baseline diverged at step 1" in reason and reason in capsys.readouterr().out
    assert not (tmp_path / "weights.safetensors").exists()
    assert train(config_for(samples, epochs=1), samples, tmp_path)
    assert not (tmp_path / "failed.json").exists()


def test_without_its_weights_the_vgg_loss_says_where_there_are_some(samples, tmp_path, capsys):
    assert train(config_for(samples, method="gradient_vgg"), samples, tmp_path) is None
    assert "download.pytorch.org/models/vgg16" in capsys.readouterr().out


def test_the_vgg_loss_is_of_the_method_that_has_it_alone(samples):
    """One params file gives vgg_file to every training."""
    assert state.perceptual_loss(config_for(samples, vgg_file="vgg.safetensors"), torch.device("cpu")) is None


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
    state = TrainingState(config, torch.device("cpu"))
    for _ in range(2):
        train_step(state, samples)
    assert all(torch.equal(half[name], w) for name, w in state.averaged.state_dict().items())
    assert not all(torch.equal(end[name], last[name]) for name in end)


def dose_statistics(samples):
    """Mean and deviation of the dose inside the dose masks, as fractions of the prescription."""
    doses = torch.cat([sample.dose[sample.mask > 0.5] for sample in samples]).double()
    return float(doses.mean()), float(doses.std())


class FakeRun:
    """What make_config asks of an experiment."""

    seed, precision, device = 1, "32", "cpu"

    def __init__(self, folder):
        self.folder = folder
        self.name, self.checksum = "toys", "0"

    def open_cohort(self):
        return self


def made(samples, tmp_path, run=None, **changes):
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
    return setup.make_config(run or FakeRun(tmp_path), samples, **given | changes)


def test_what_retrains_is_configuration_patients_start_and_version(samples):
    """The last digits of the units, sums over voxels, depend on the number of threads; the parts that a batch
    is cut into change no more than that."""
    config = config_for(samples)
    same = [{"dose_shift": 0.1}, {"accumulate": 4}]
    other = [{"learning_rate": 0.1}, {"cohort_sha256": "1"}, {"case_ids": ["toy_0"]}, {"version": 0}]
    assert all(training_key(dataclasses.replace(config, **c)) == training_key(config) for c in same)
    assert all(training_key(dataclasses.replace(config, **c)) != training_key(config) for c in other)


@pytest.mark.parametrize(
    "damage", [lambda c: c | {"version": 0}, lambda c: c.pop("version") and c, lambda c: []]
)
def test_a_checkpoint_of_another_version_is_refused(samples, tmp_path, damage):
    train(config_for(samples, epochs=1), samples, tmp_path)
    write_json(tmp_path / "config.json", damage(read_json(tmp_path / "config.json")))
    with pytest.raises(UserError, match="not of a training by this version of the code; train again"):
        load_predictor(tmp_path, "cpu")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"coarsen": 2}, "with coarsen 2, not 1"),
        ({"beams_deg": [0, 90]}, r"with beams_deg \[0, 90\], not \[\]"),
        ({"channels": ["ct"]}, "with the channels ct, not ct, PTV70"),
        ({"cohort_sha256": "1"}, "on the cohort toys as its card was then"),
    ],
)
def test_a_checkpoint_is_used_as_it_was_trained_or_refused(samples, change, words):
    channels = channels_of("prostate")
    check_fits(config_for(samples), channels, Grid(1))
    check_fits(config_for(samples, cohort_sha256="2"), channels.with_prior(), Grid(1), "2")
    with pytest.raises(UserError, match=f"baseline was trained {words}.*; use it so, or train it again"):
        check_fits(config_for(samples, **change), channels, Grid(1), "2" if "cohort_sha256" in change else "")


def test_a_method_brings_its_own_units_and_schedule_unless_told_otherwise(samples, tmp_path):
    assert (
        made(samples, tmp_path, method="ddpm").zero_snr,
        made(samples, tmp_path, method="ddpm").dose_scale,
    ) == (False, 1.0)
    config = made(samples, tmp_path, method="ddpm_v")
    assert config.zero_snr and (config.dose_shift, config.dose_scale) == pytest.approx(
        dose_statistics(samples)
    )
    other = made(samples, tmp_path, method="ddpm_v", standardise="no", terminal_snr="reference")
    assert not other.zero_snr and other.dose_scale == 1.0


def test_noise_cannot_be_predicted_where_there_is_nothing_else(samples, tmp_path):
    with pytest.raises(UserError, match="says nothing of the dose"):
        made(samples, tmp_path, method="ddpm", terminal_snr="zero")


def test_patience_ends_a_training_that_does_not_improve():
    rows = [
        {"epoch": e, "validation_mae_gy": m} for e, m in ((1, 3.0), (2, 2.0), (3, 2.5), (4, None), (5, 2.1))
    ]
    assert history.out_of_patience(rows, 3) and not history.out_of_patience(rows, 4)
    assert not history.out_of_patience(rows, 0) and not history.out_of_patience([], 3)


def test_the_learning_rate_falls_along_a_cosine(samples):
    config = config_for(samples, epochs=50)
    assert learning_rate(config, 0) == pytest.approx(1e-3)
    assert learning_rate(config, config.n_steps // 2) == pytest.approx(5e-4, rel=1e-2)
    assert learning_rate(config, config.n_steps) == pytest.approx(1e-6)


def test_every_patient_is_seen_once_an_epoch(samples, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "make_batch", lambda chosen, *a: seen.extend(s.case_id for s in chosen))
    config = config_for(samples, augment="none")
    for step in range(config.steps_per_epoch):
        loop.draw_batch(config, samples, step, None)
    assert sorted(seen) == sorted(s.case_id for s in samples)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b[:-9] + b"x" + b[-8:], lambda b: b"", lambda b: b"junk\n" + b],
)
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_it_used(tmp_path, damage, capsys):
    save_state(tmp_path, "key", {"step": 1})
    save_state(tmp_path, "key", {"step": 2})
    path = tmp_path / CURRENT
    path.write_bytes(damage(path.read_bytes()))
    assert load_state(tmp_path, "key", "cpu") == {"step": 1}
    assert "damaged" in capsys.readouterr().out


def test_a_checkpoint_of_another_training_is_passed_over(tmp_path):
    save_state(tmp_path, "key", {"step": 1})
    assert load_state(tmp_path, "other", "cpu") is None
