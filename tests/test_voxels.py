"""Networks that see blocks and answer every voxel in them: grids, noise, the way past the network, chains."""

from dataclasses import MISSING, asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_diffusion import MU, S, quantiles
from test_flow import gaussian_velocity
from test_training import FakeRun, config_for, made
from toys import toy_case, toy_cohort

from lib.cache import digest
from lib.diffusion.flow import shift_time
from lib.diffusion.parameterisation import noise_from_dose, with_skip
from lib.diffusion.samplers import DDIM, Euler, Midpoint
from lib.diffusion.schedule import add_noise, at_level, schedule, weights
from lib.errors import UserError
from lib.features import augmentation
from lib.features.augmentation import augment, mirror, shift
from lib.features.batches import cut, make_batch, patch_start
from lib.features.channels import signed_distance_mm
from lib.features.grid import Grid, join_blocks, split_blocks
from lib.features.samples import add_prior, load_samples, make_sample
from lib.metrics.dose import grid_dose_score_gy
from lib.models.config import check_fits, config_from
from lib.models.control import control_dose, fit_falloff
from lib.models.methods import find_method
from lib.models.unet import UNet
from lib.prediction.predict import on_case_grid, predict, ready, usual_sampler
from lib.prediction.store import load_prediction, save_prediction
from lib.runner.plan import plan
from lib.training.loop import train_step
from lib.training.result import DEFAULTS, NOT_IN_KEY, training_key
from lib.training.setup import start_from_prior
from lib.training.state import TrainingState

GRIDS = [Grid(2, 2), Grid(4, 2), Grid(4, 4), Grid(3, 3), Grid(4, 4, 2), Grid(2, 2, 2)]


@pytest.mark.parametrize("answer", [1, 2, 3])
def test_blocks_of_answers_come_apart_and_together_in_place(answer):
    volume = torch.randn(2, 3, 4 * answer, 2 * answer, 3 * answer)
    blocks = split_blocks(volume, answer)
    assert blocks.shape == (2, 3 * answer**3, 4, 2, 3)
    assert torch.equal(join_blocks(blocks, answer), volume)
    means = blocks.view(2, 3, answer**3, 4, 2, 3).mean(2)
    assert torch.allclose(means, torch.nn.functional.avg_pool3d(volume, answer), atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", [(16, 24, 24), (17, 22, 27)])
def test_a_planned_dose_on_the_grid_of_answers_comes_back_to_its_voxels(grid, shape):
    case = toy_case(shape=shape)
    sample, blocks = make_sample(case, grid), make_sample(case, Grid(grid.coarsen))
    assert sample.dose.shape[1:] == tuple(n * grid.answer for n in sample.blocks)
    assert sample.cond.shape[1:] == tuple(n * grid.condition for n in sample.blocks)
    means = (
        split_blocks(sample.cond[None].float(), grid.condition).unflatten(1, (len(blocks.cond), -1)).mean(2)
    )
    assert torch.allclose(means[0], blocks.cond, atol=2e-3)
    planned_gy = np.where(case.dose_mask, case.dose_gy, 0)
    error_gy, coarse_gy = (
        np.abs(on_case_grid(s.dose[None], case, s.grid)[0] - planned_gy).max() for s in (sample, blocks)
    )
    assert error_gy < (0.03 if grid.voxels == 1 else 0.8 * coarse_gy)


def test_a_grid_of_answers_that_does_not_divide_the_blocks_is_refused():
    with pytest.raises(UserError, match="answer is 3; it must divide coarsen, which is 4"):
        Grid(4, 3).check()
    with pytest.raises(UserError, match="x: condition is 2; it must divide answer, which is 1"):
        Grid(4, 1, 2).check("x: ")
    Grid(4, 2, 2).check()


@pytest.mark.parametrize("timed, inputs", [(False, 9), (True, 9 + 27)])
def test_only_the_first_and_the_last_layer_know_of_answers(timed, inputs):
    torch.manual_seed(0)
    network, cond, constraints = UNet(9, 8, timed, answer=3), torch.randn(2, 9, 5, 4, 6), torch.randn(2, 13)
    further = (torch.randn(2, 1, 15, 12, 18), torch.tensor([1, 2])) if timed else ()
    assert network(cond, constraints, *further).shape == (2, 1, 15, 12, 18)
    plain = UNet(9, 8, timed).state_dict()
    unlike = {name for name, w in network.state_dict().items() if w.shape != plain[name].shape}
    first = {"encoder.0.conv1.weight", "encoder.0.residual.weight"} if timed else set()
    assert unlike == {"out.weight", "out.bias"} | first
    assert network.encoder[0].conv1.in_channels == inputs


@pytest.mark.parametrize("timed", [False, True])
def test_what_is_seen_in_a_block_reaches_its_answer_by_one_strided_convolution(timed):
    torch.manual_seed(0)
    network = UNet(9, 8, timed, answer=4, condition=2)
    seen, constraints = torch.randn(2, 9, 10, 8, 12), torch.randn(2, 13)
    further = (torch.randn(2, 1, 20, 16, 24), torch.tensor([1, 2])) if timed else ()
    assert network(seen, constraints, *further).shape == (2, 1, 20, 16, 24)
    assert network.embed_condition.weight.shape == (16, 9, 2, 2, 2)
    named = set(network.state_dict()) - set(UNet(9, 8, timed, answer=4).state_dict())
    assert named == {"embed_condition.weight", "embed_condition.bias"}


@pytest.mark.parametrize("condition", [1, 2])
def test_what_is_seen_moves_with_what_is_answered(condition, monkeypatch):
    """Where the dose is the seen distance itself, it stays so however the patient is moved."""
    monkeypatch.setattr(augmentation, "CT_NOISE", 0.0)
    sample = make_sample(toy_case(), Grid(4, 4, condition))
    marked = sample.cond[-1:].float() + 2
    volume = torch.nn.functional.interpolate(marked[None], scale_factor=4 // condition)[0]
    batch = make_batch([replace(sample, dose=volume)])
    for seed in range(5):
        moved = augment(batch, "whole voxels", torch.Generator().manual_seed(seed))
        means = torch.nn.functional.avg_pool3d(moved.dose, 4 // condition)
        inside = means > 0  # nothing was moved in from outside
        assert torch.allclose(means[inside], moved.cond[:, -1:][inside] + 2, atol=1e-2) and inside.any()


def test_patients_move_by_parts_of_a_block_where_a_network_sees_parts(monkeypatch):
    """A dose that says where it is along z tells how far it was moved: also by half a block of two values."""
    monkeypatch.setattr(augmentation, "CT_NOISE", 0.0)
    sample = make_sample(toy_case(), Grid(4, 4, 2))
    place = torch.arange(1.0, 1 + sample.dose.shape[1]).view(1, -1, 1, 1).expand_as(sample.dose)
    batch, moves = make_batch([replace(sample, dose=place)]), set()
    for seed in range(20):
        column = augment(batch, "whole voxels", torch.Generator().manual_seed(seed)).dose[0, 0, :, 8, 8]
        moves |= set((column - torch.arange(1.0, 1 + len(column)))[column > 0].tolist())
    assert any(move % 4 == 2 for move in moves) and all(move % 2 == 0 for move in moves)


def test_blocks_and_answers_move_and_flip_together(monkeypatch):
    """A block that the condition marks holds the dose that was in it, however the patient is moved."""
    monkeypatch.setattr(augmentation, "CT_NOISE", 0.0)
    sample = make_sample(toy_case(), Grid(2, 2))
    marks = torch.arange(1, sample.cond[0].numel() + 1.0).view(1, *sample.cond.shape[1:])
    volume = torch.nn.functional.interpolate(marks[None], scale_factor=2)[0]
    background = float(sample.channels.background()[-1])
    cond = torch.cat([sample.cond[:-1], marks + background])
    marked = make_batch([replace(sample, cond=cond, dose=volume)])
    for seed in range(5):
        moved = augment(marked, "whole voxels", torch.Generator().manual_seed(seed))
        blocks = split_blocks(moved.dose, 2)
        assert torch.allclose(blocks.amin(1), blocks.amax(1))
        assert torch.allclose(blocks.amax(1), moved.cond[:, -1] - background, atol=1e-2)


def test_a_shift_takes_what_lay_further_on_and_leaves_zeros():
    volume = torch.arange(24.0).view(1, 1, 2, 3, 4).expand(2, -1, -1, -1, -1)
    moved = shift(volume, torch.tensor([[0, 1, -2], [5, 0, 0]]))
    assert torch.equal(moved[0, 0, :, :2, 2:], volume[0, 0, :, 1:, :2])
    assert float(moved[0, 0, :, 2].abs().sum() + moved[0, 0, ..., :2].abs().sum()) == 0 and not moved[1].any()


@pytest.mark.parametrize("condition", [1, 2])
def test_a_patch_cuts_the_answers_of_its_blocks(condition):
    sample = make_sample(toy_case(), Grid(2, 2, condition))
    cond, dose, mask, prior = cut(sample, (1, 2, 3), (4, 4, 5))
    assert cond.shape[1:] == tuple(
        n * condition for n in (4, 4, 5)
    ) and dose.shape == mask.shape == prior.shape == (1, 8, 8, 10)
    assert torch.equal(dose, sample.dose[:, 2:10, 4:12, 6:16].float())
    start = patch_start(sample, (4, 4, 4), torch.Generator().manual_seed(0))
    assert all(0 <= a <= n - 4 for a, n in zip(start, sample.blocks))


@pytest.mark.parametrize("condition", [1, 2])
def test_a_prior_is_seen_in_blocks_and_added_in_voxels(condition):
    sample = make_sample(toy_case(), Grid(2, 2, condition))
    primed, pooled = add_prior(sample, sample.dose), sample.dose.float()
    assert torch.equal(primed.prior, sample.dose)
    pooled = torch.nn.functional.avg_pool3d(pooled, 2 // condition)
    assert torch.allclose(primed.cond[-1:].float(), pooled, atol=1e-3)
    assert torch.equal(mirror(primed).prior, sample.dose.flip(-1))
    assert torch.equal(make_batch([primed]).prior[0], sample.dose.float())


@pytest.mark.parametrize("divisor", [1.0, 8.0, 64.0])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_shifted_schedule_has_the_ratio_divided_at_every_level(divisor, zero_snr):
    plain, shifted = schedule(zero_snr), schedule(zero_snr, divisor)
    snr = [a / (1 - a) for a in (plain, shifted)]
    assert torch.allclose(snr[1], snr[0] / divisor, rtol=1e-9) and (shifted[1:] < shifted[:-1]).all()


@pytest.mark.parametrize("divisor", [1.0, 8.0])
def test_a_shifted_time_has_the_ratio_of_dose_to_noise_divided(divisor):
    t = torch.linspace(0, 0.99, 50, dtype=torch.float64)
    shifted = shift_time(t, divisor)
    assert torch.allclose(shifted / (1 - shifted), t / (1 - t) / divisor)
    assert shift_time(0.0, divisor) == 0 and shift_time(1.0, divisor) == 1


def test_the_mean_of_a_block_is_hidden_by_the_shifted_schedule_as_a_voxel_is_by_the_plain_one():
    """Of voxels that have one dose d and noise of their own the mean is d signal + noise / sqrt(n)."""
    torch.manual_seed(0)
    level, voxels = torch.tensor([400]), 4**3
    plain, shifted = (at_level(schedule(True, d), level, torch.zeros(1, 1))[0, 0] for d in (1.0, voxels))
    noise = torch.randn(200_000, voxels, dtype=torch.float64)
    means = add_noise(torch.ones_like(noise), noise, shifted).mean(1)
    assert float(means.mean() / means.std()) == pytest.approx(float((plain / (1 - plain)).sqrt()), rel=0.01)


@pytest.mark.parametrize("predicts", ["dose", "noise", "v", "velocity"])
def test_the_way_past_the_network_is_the_mean_of_what_is_predicted_given_the_noised_state(predicts):
    """Against the mean over drawn doses, weighted by the density of the state that each would give."""
    generator = torch.Generator().manual_seed(0)
    mean = MU if predicts == "dose" else 0.0  # the network's part: the dose's mean, or nothing
    doses = mean + S * torch.randn(400_000, generator=generator, dtype=torch.float64)
    for t, x in [(100, 0.9), (500, 0.2), (900, -0.5)]:
        signal, share = weights(schedule(False)[t])
        noise = (x - signal * doses) / share
        drawn = {
            "dose": doses,
            "noise": noise,
            "v": signal * noise - share * doses,
            "velocity": doses - noise,
        }
        weight = torch.exp(-(noise**2) / 2)
        expected = float((weight * drawn[predicts]).sum() / weight.sum())
        state = torch.full((1,), x, dtype=torch.float64)
        estimate = with_skip(predicts, torch.full_like(state, mean), state, signal, share, S)
        assert float(estimate) == pytest.approx(expected, abs=6e-3)


def test_a_dose_without_deviation_takes_nothing_from_its_state():
    doses = quantiles()
    assert torch.equal(with_skip("dose", doses, doses + 1, *weights(schedule(False)[500]), 0.0), doses)


@pytest.mark.parametrize("divisor", [8.0, 64.0])
def test_an_exact_denoiser_samples_the_right_spread_by_a_shifted_schedule(divisor):
    """A narrow network that always answers the mean, with the right way past it, is the exact denoiser."""
    alpha_bar, noise = schedule(True, divisor), quantiles()

    def denoise(x_t, t):
        a = at_level(alpha_bar, t, x_t)
        dose_hat = with_skip("dose", torch.full_like(x_t, MU), x_t, *weights(a), S)
        return dose_hat, noise_from_dose(x_t, dose_hat, *weights(a))

    errors = [
        float((DDIM(n, clamp="none").sample(denoise, noise, alpha_bar) - MU - S * noise).abs().max())
        for n in (125, 250, 500)
    ]
    assert errors[2] < 0.04 and errors[0] > errors[1] > errors[2]
    assert torch.allclose(DDIM(1, clamp="none").sample(denoise, noise, alpha_bar), torch.full_like(noise, MU))


@pytest.mark.parametrize("kind, order", [(Euler, 1), (Midpoint, 2)])
def test_a_flow_of_shifted_steps_ends_where_it_should(kind, order):
    noise, seen = quantiles(), []

    def error(n):
        sample = kind(n).sample(gaussian_velocity, noise, shift=8.0, watch=lambda call, t, _: seen.append(t))
        return float((sample - MU - S * noise).abs().max())

    errors = [error(n) for n in (100, 200, 400)]
    assert all(a / b > 0.85 * 2**order for a, b in pairwise(errors)) and errors[-1] < 0.02
    times = seen[: 100 * order]
    assert times[0] == 0 and times == sorted(times) and times[-1] < 1 and len(set(times)) == 100 * order
    assert times[50 * order] == pytest.approx(shift_time(0.5, 8.0))


@pytest.mark.parametrize("method", ["baseline", "ddpm", "ddpm_v", "ddpm_dose", "flow", "refine", "gaussian"])
def test_every_method_trains_and_predicts_in_voxels(method):
    condition = 2 if method in ("baseline", "refine", "ddpm_v") else 1
    samples = [make_sample(toy_case(f"toy_{i}", seed=i), Grid(2, 2, condition)) for i in range(2)]
    if method == "refine":
        samples = [add_prior(s, s.dose / 2) for s in samples]
    changes = {"method": method, **samples[0].grid._asdict(), "dvh_weight": 0.1, "augment": "rotated"}
    changes |= {"channels": list(samples[0].channels.names), "zero_snr": method not in ("ddpm", "flow")}
    changes |= {"snr_divisor": 8.0, "skip": 0.3}
    state = TrainingState(config_for(samples, **changes), torch.device("cpu"))
    for _ in range(2):
        train_step(state, samples)
    predictor = ready(state.averaged, state.config, torch.device("cpu"), "32")
    doses = predict(predictor, samples, usual_sampler(state.config, 2), members=(0, 1))
    assert all(d.shape[1:] == s.dose.shape and d.isfinite().all() for d, s in zip(doses, samples))
    whole = predict(predictor, samples[:1], usual_sampler(state.config, 2), members=(0, 1), window=64)
    assert torch.allclose(whole[0], doses[0], atol=1e-4)
    parts = predict(predictor, samples[:1], usual_sampler(state.config, 2), window=6)
    assert parts[0].shape[1:] == samples[0].dose.shape and parts[0].isfinite().all()


@pytest.mark.parametrize("method", ["baseline", "ddpm_dose"])
def test_a_network_that_corrects_nothing_gives_the_controls_dose(method):
    samples = [make_sample(toy_case(seed=k), Grid(4, 4, 2)) for k in range(2)]
    falloff = fit_falloff(samples)
    names = [*samples[0].channels.names, "prior"]
    size = {"coarsen": 4, "answer": 4, "condition": 2, "channels": names, "method": method}
    config = config_for(samples, falloff=falloff, **size)
    network = find_method(method).make_network(config)
    torch.nn.init.zeros_(network.out.weight)
    torch.nn.init.zeros_(network.out.bias)
    predictor = ready(network, config, torch.device("cpu"), "32")
    for sample, dose in zip(samples, predict(predictor, samples, usual_sampler(config, 1))):
        assert torch.allclose(dose[0], control_dose(falloff, sample).clamp(0, 1.5), atol=1e-3)
        assert float(dose.max()) > 0.9


@pytest.mark.parametrize(
    "method, grid, residual, corrects",
    [
        ("baseline", Grid(4, 4), "auto", True),
        ("baseline", Grid(4, 4), "no", False),
        ("baseline", Grid(4), "auto", False),
        ("baseline", Grid(4), "yes", True),
        ("ddpm", Grid(4, 4), "auto", False),
        ("ddpm", Grid(4, 4), "yes", True),
        ("flow", Grid(4, 4), "auto", True),
    ],
)
def test_the_control_is_corrected_where_asked_and_usually_in_voxels(
    method, grid, residual, corrects, tmp_path
):
    samples, run = [make_sample(toy_case(shape=(20, 32, 32)), grid)], FakeRun(tmp_path)
    run.grid, run.falloff = grid, lambda: fit_falloff(samples)
    [given] = start_from_prior(run, method, [samples], residual)
    size = {"method": method, "base_channels": 8}
    config = made(given, tmp_path, run=run, residual=residual, **size)
    assert (config.channels[-1] == "prior") == bool(config.falloff) == corrects
    if corrects:  # so that the residual has mean 0 where it is learned
        rest = (given[0].dose.float() - given[0].prior)[given[0].mask > 0.5]
        assert torch.allclose(
            rest, (samples[0].dose - control_dose(config.falloff, samples[0]))[given[0].mask > 0.5], atol=1e-3
        )
        centred = grid.answer > 1 and method != "ddpm"
        assert config.units.shift == pytest.approx(float(rest.mean()) if centred else 0.0, abs=1e-4)


def test_a_network_of_another_answer_is_refused():
    samples = [make_sample(toy_case(), Grid(2, 2))]
    config = config_for(samples, coarsen=2, answer=1)
    with pytest.raises(UserError, match="with answer 1, not 2"):
        check_fits(config, samples[0].channels, samples[0].grid)


def test_the_control_answers_in_voxels():
    """Where the dose falls with the distance alone, the control in voxels is nearer than one of blocks,
    however it is refined."""
    case, errors = toy_case(shape=(32, 48, 48)), []
    given = [
        rx_gy * np.exp(-np.clip(signed_distance_mm(case.masks[name], case.spacing_mm), 0, None) / 10)
        for name, rx_gy in case.prescription_gy.items()
    ]
    case = replace(case, dose_gy=np.max(given, axis=0).astype(np.float32))
    for grid in (Grid(4, 4, 2), Grid(4, 4), Grid(4)):
        sample = make_sample(case, grid)
        dose = control_dose(fit_falloff([sample]), sample)[None]
        errors.append(np.abs(on_case_grid(dose, case, grid)[0] - case.dose_gy)[case.dose_mask].mean())
    assert errors[0] < errors[1] < errors[2]


def test_a_stored_prediction_in_voxels_is_read_on_the_cases_grid(tmp_path):
    case, grid = toy_case(shape=(17, 22, 27)), Grid(2, 2)
    sample, path = make_sample(case, grid), tmp_path / "p.npz"
    save_prediction(path, sample.dose[0].float().numpy() * case.rx_gy, grid)
    dose_gy = load_prediction(path, case.dose_mask).dose_gy
    assert np.abs(dose_gy - np.where(case.dose_mask, case.dose_gy, 0)).max() < 0.04
    assert not dose_gy[~case.dose_mask].any()


def test_what_is_answered_is_cached_apart_and_read_back_exactly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cohort = toy_cohort(tmp_path / "toys", n=3)
    made = {grid: load_samples(cohort, ["toy_1"], grid)[0] for grid in (Grid(2), Grid(2, 2), Grid(2, 2, 2))}
    for grid, sample in made.items():
        again = load_samples(cohort, ["toy_1"], grid)[0]
        assert (
            again.grid == grid
            and torch.equal(again.dose, sample.dose)
            and torch.equal(again.cond, sample.cond)
            and again.prior.shape == again.dose.shape
        )


def test_what_a_training_in_voxels_is_made_with_follows_from_its_grid_and_method(tmp_path):
    samples = [make_sample(toy_case(f"toy_{i}", seed=i), Grid(2, 2)) for i in range(2)]
    ours = made(samples, tmp_path, method="ddpm_dose")
    assert (ours.grid, ours.snr_divisor, ours.skip) == (Grid(2, 2), 8.0, 0.0)
    assert made(samples, tmp_path, method="ddpm_v", noise_shift="no").snr_divisor == 1.0
    skips = {
        name: made(samples, tmp_path, method=name).skip for name in ("baseline", "ddpm_v", "flow", "ddpm")
    }
    deviation = float(torch.cat([s.dose[s.mask > 0.5] for s in samples]).float().std())
    assert skips["baseline"] == 0.0 and skips["ddpm_v"] == skips["flow"] == 0.3  # of doses of deviation 1
    assert skips["ddpm"] == pytest.approx(0.3 * deviation, abs=1e-3)
    assert made(samples, tmp_path, method="ddpm_dose", skip="yes").skip == 0.3
    assert made(samples, tmp_path, method="ddpm_v", skip="no").skip == 0.0
    blocks = [make_sample(toy_case("toy_0"), Grid(2))]
    assert made(blocks, tmp_path, method="ddpm_v").skip == 0.0  # one answer a block, as the reference has it


def test_a_params_file_with_an_answer_that_does_not_fit_is_refused_before_anything_runs():
    params = {"experiment": "x", "cohort": "c", "methods": ["baseline"], "coarsen": 4, "answer": 3}
    with pytest.raises(UserError, match="answer is 3; it must divide coarsen, which is 4"):
        plan(params, "x.yaml")


def test_a_training_of_before_is_read_and_keeps_its_key(tmp_path):
    """What its file lacks is as it was then; what came later counts where it is used."""
    config = config_for([make_sample(toy_case(), Grid(1))])
    later = {name for name, value in DEFAULTS.items() if value is not MISSING}
    assert {"answer", "condition", "snr_divisor", "skip"} <= later and not {"compile", "version"} & later
    stored = {name: value for name, value in asdict(config).items() if name not in later}
    before = config_from(stored, tmp_path)
    assert before == config and (before.grid, before.skip, before.snr_divisor) == (Grid(1), 0.0, 1.0)
    keys = {training_key(replace(before, **later)) for later in ({}, {"answer": 2}, {"skip": 0.1})}
    assert len(keys) == 3 and training_key(config) in keys
    kept = {name: value for name, value in asdict(config).items() if name not in {*NOT_IN_KEY, *later}}
    assert training_key(config) == digest([kept, []])


def test_doses_of_more_voxels_than_a_half_can_count_are_judged_right():
    """The sum of a float16 mask ends at 65,504; a dose wrong by 10 % everywhere is wrong by 7 Gy."""
    case = toy_case(shape=(48, 64, 64))
    case = replace(case, dose_mask=np.ones(case.shape, bool))
    sample = make_sample(case, Grid(4, 4))
    assert sample.mask.dtype == torch.float16 and sample.mask.numel() > 2 * 65504
    assert grid_dose_score_gy(sample, sample.dose[None].float() + 0.1) == pytest.approx(7.0, rel=1e-3)
    coarse = make_sample(case, Grid(4))
    assert max(fit_falloff([sample])) == pytest.approx(max(fit_falloff([coarse])), abs=0.15)


@pytest.mark.parametrize("timed", [False, True])
def test_voxels_in_targets_have_a_last_layer_of_their_own(timed):
    """With all else 0, the biases of the last layer are the answers: one for each side of a target's edge,
    which lies where the distance, refined to voxels, changes its sign."""
    network = UNet(9, 8, timed, answer=4, condition=2, targets=(3, 1))
    with torch.no_grad():
        network.out.weight.zero_()
        network.out.bias[:64], network.out.bias[64:] = 2.0, -1.0
    cond = torch.ones(1, 9, 8, 8, 8)
    cond[:, 1, :4], cond[:, 3, :, :, 6:] = -1.0, -1.0
    cond[:, 2] = -1.0  # no target
    further = (torch.randn(1, 1, 16, 16, 16), torch.tensor([1])) if timed else ()
    answers = network(cond, torch.zeros(1, 13), *further)
    expected = torch.full((1, 1, 16, 16, 16), -1.0)
    expected[:, :, :8], expected[..., 12:] = 2.0, 2.0
    assert torch.equal(answers, expected)
    plain = UNet(9, 8, timed, answer=4, condition=2).state_dict()
    unlike = {name for name, w in network.state_dict().items() if w.shape != plain[name].shape}
    assert unlike == {"out.weight", "out.bias"}


@pytest.mark.parametrize(
    "method, grid, target_layer, apart",
    [
        ("baseline", Grid(4, 4), "auto", True),
        ("refine", Grid(4, 4), "auto", True),
        ("baseline", Grid(4, 4), "no", False),
        ("baseline", Grid(4), "auto", False),
        ("ddpm", Grid(4, 4), "auto", False),
        ("ddpm", Grid(4, 4), "yes", True),
    ],
)
def test_targets_have_a_last_layer_where_asked_and_usually_in_voxels(
    method, grid, target_layer, apart, tmp_path
):
    [sample], run = [make_sample(toy_case(shape=(20, 32, 32)), grid)], FakeRun(tmp_path)
    run.grid = grid
    config = made([sample], tmp_path, run=run, target_layer=target_layer, method=method, base_channels=8)
    named = [sample.channels.names[channel] for channel in config.targets]
    assert named == (list(sample.channels.protocol.targets) if apart else [])
    network = find_method(method).make_network(
        config_from({**asdict(config), "targets": list(config.targets)}, tmp_path)
    )
    assert network.targets == config.targets
