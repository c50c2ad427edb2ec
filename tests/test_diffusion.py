"""Laws of the schedule, the grids and DDIM, on data whose denoiser is known exactly; against diffusers."""

import itertools
from dataclasses import dataclass

import pytest
import torch

from lib.diffusion.parameterisation import dose_from_noise, estimates, noise_from_dose, target_of
from lib.diffusion.samplers import (
    DDIM,
    REFERENCE,
    DPMSolver,
    Euler,
    Midpoint,
    as_dict,
    half_log_snr,
    leading_grid,
    sampler_from,
)
from lib.diffusion.schedule import T, add_noise, at_level, cosine_alpha_bar, noise_gain, schedule, weights
from lib.errors import UserError

ALPHA_BAR = cosine_alpha_bar()
MU, S = 0.7, 0.3


ZERO = schedule(zero_snr=True)
FINE = (
    torch.cos(torch.arange(1, 100_001, dtype=torch.float64) / 100_001 * torch.pi / 2) ** 2
)  # so many levels that rounding a time does not matter


def gaussian_denoiser(mu=MU, s=S, alpha_bar=ALPHA_BAR):
    """Exact E[noise | x_t] for voxels that are N(mu, s^2)."""

    def denoise(x_t, t):
        a = at_level(alpha_bar, t, x_t)
        noise_hat = (1 - a).sqrt() * (x_t - a.sqrt() * mu) / (a * s**2 + 1 - a)
        return dose_from_noise(x_t, noise_hat, *weights(a)), noise_hat

    return denoise


def at_times(kind, times, **fields):
    """A sampler at given times, whatever its grid."""

    @dataclass(frozen=True)
    class AtTimes(kind):
        def times(self):
            return times

    return AtTimes(len(times), **fields)


def quantiles():
    return (
        torch.distributions.Normal(0, 1)
        .icdf(torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
        .view(9, 1, 1, 1, 1)
    )


def test_schedule_falls_and_has_the_gains_the_reference_starts_at():
    assert (ALPHA_BAR[1:] < ALPHA_BAR[:-1]).all()
    gains = [float(noise_gain(ALPHA_BAR)[leading_grid(n)[0]]) for n in (50, 100, 250, 500)]
    assert [round(g) for g in gains] == [34, 71, 214, 642]
    assert 63_000 < float(noise_gain(ALPHA_BAR)[999]) < 65_000


def test_noise_and_dose_are_each_others_inverse():
    torch.manual_seed(0)
    dose, noise = (
        torch.rand(3, 1, 2, 2, 2, dtype=torch.float64),
        torch.randn(3, 1, 2, 2, 2, dtype=torch.float64),
    )
    a = at_level(ALPHA_BAR, torch.tensor([0, 500, 998]), dose)
    x_t = add_noise(dose, noise, a)
    assert torch.allclose(dose_from_noise(x_t, noise, *weights(a)), dose, atol=1e-9)
    assert torch.allclose(noise_from_dose(x_t, dose, *weights(a)), noise, atol=1e-12)


@pytest.mark.parametrize("predicts", ["noise", "v", "dose"])
def test_from_the_true_target_come_back_the_true_dose_and_noise(predicts):
    torch.manual_seed(0)
    dose, noise = (
        torch.rand(3, 1, 2, 2, 2, dtype=torch.float64),
        torch.randn(3, 1, 2, 2, 2, dtype=torch.float64),
    )
    a = at_level(ALPHA_BAR, torch.tensor([1, 500, 998]), dose)
    dose_hat, noise_hat = estimates(
        predicts, target_of(predicts, dose, noise, *weights(a)), add_noise(dose, noise, a), *weights(a)
    )
    assert torch.allclose(dose_hat, dose, atol=1e-9) and torch.allclose(noise_hat, noise, atol=1e-9)


def test_at_zero_terminal_snr_v_is_minus_the_dose_and_the_state_is_noise():
    """Lin et al. 2024, section 3.2; the first level is left as it was (their Algorithm 1)."""
    assert (
        float(ZERO[-1]) == 0
        and float(ZERO[0]) == pytest.approx(float(ALPHA_BAR[0]))
        and (ZERO[1:] < ZERO[:-1]).all()
    )
    dose, noise = torch.rand(1, 1, 2, 2, 2), torch.randn(1, 1, 2, 2, 2)
    a = at_level(ZERO, torch.tensor([999]), dose)
    assert torch.equal(add_noise(dose, noise, a), noise)
    assert torch.equal(target_of("v", dose, noise, *weights(a)), -dose)
    dose_hat, noise_hat = estimates("v", -dose, noise, *weights(a))
    assert torch.equal(dose_hat, dose) and torch.equal(noise_hat, noise)


@pytest.mark.parametrize("asked, run", [(1, 1), (3, 4), (50, 50), (300, 334), (1000, 1000)])
def test_the_references_grid_runs_more_steps_than_asked_where_they_do_not_divide(asked, run):
    sampler = DDIM(asked, "leading")
    times = sampler.times()
    assert sampler.nfe == run and times[-1] == 0 and times == sorted(set(times), reverse=True)


@pytest.mark.parametrize("n", [1, 3, 7, 50, 300, 1000])
def test_the_corrected_leading_grid_has_as_many_steps_as_asked(n):
    times = DDIM(n, "corrected").times()
    assert len(set(times)) == n and times[-1] == 0 and times == sorted(times, reverse=True)
    assert 1000 % n or times == leading_grid(n)


@pytest.mark.parametrize("n", [1, 3, 7, 50, 300, 1000])
def test_a_held_grid_has_as_many_steps_as_asked_and_starts_where_told(n):
    times = DDIM(n).times()
    assert len(set(times)) == n and times[0] == T - 1 and times[-1] >= 0
    assert times == sorted(times, reverse=True)
    if n <= 901:
        assert DDIM(n, start=900).times()[0] == 900


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_impossible_step_counts_are_refused_in_a_sentence(n):
    for sampler in (DDIM(n), DDIM(n, "leading"), DPMSolver(n, "corrected"), Euler(n), Midpoint(n)):
        with pytest.raises(UserError, match="sampling steps"):
            sampler.times()


def test_more_steps_than_levels_below_the_start_are_refused():
    with pytest.raises(UserError, match="11 sampling steps are not between 1 and 10"):
        DDIM(11, start=9).times()


@pytest.mark.parametrize("sampler", [REFERENCE, DDIM(5, eta=0.5), DPMSolver(7), Euler(3), Midpoint(2)])
def test_a_sampler_is_told_in_plain_values_and_read_from_them(sampler):
    values = as_dict(sampler)
    assert sampler_from(values) == sampler and list(values)[:2] == ["solver", "n_steps"]
    row = {key: float(v) if isinstance(v, int) else v for key, v in values.items()}  # as a table holds it
    assert sampler_from(row | {"mae_gy": 1.0}) == sampler


@pytest.mark.parametrize(
    "change, words",
    [
        ({"grid": "spiral"}, "no step grid 'spiral'"),
        ({"clamp": "hard"}, "no clamp 'hard'"),
        ({"solver": "rk9"}, "no solver 'rk9'"),
        ({"n_steps": "many"}, "does not describe a sampler"),
    ],
)
def test_what_is_no_sampler_is_refused_in_a_sentence(change, words):
    with pytest.raises(UserError, match=words):
        sampler_from(as_dict(DDIM(5)) | change)
    with pytest.raises(UserError, match="does not describe a sampler"):
        sampler_from({"solver": "ddim", "n_steps": 5})


def test_with_an_exact_denoiser_more_steps_are_never_worse():
    noise = quantiles()
    exact = MU + S * noise
    samplers = [DDIM(n, clamp="none") for n in (10, 50, 100, 250, 1000)]
    errors = [float((s.sample(gaussian_denoiser(), noise, ALPHA_BAR) - exact).abs().max()) for s in samplers]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01


@pytest.mark.parametrize("kind", [DDIM, DPMSolver])
@pytest.mark.parametrize("n", [1, 3, 7, 300])
def test_a_point_mass_is_returned_whatever_the_steps(n, kind):
    for grid, start in (("leading", 999), ("corrected", 999), ("held", 999), ("held", 960)):
        sampler = kind(n, grid, start, clamp="none")
        point = sampler.sample(gaussian_denoiser(s=0.0), quantiles(), ALPHA_BAR)
        assert float((point - MU).abs().max()) < 1e-10


def even_in_lambda(n, start, end=30):
    """Times even in half the log-SNR, in which the solver's order is stated (Lu et al. 2022, section 4)."""
    half = half_log_snr(FINE)
    return [int((half - target).abs().argmin()) for target in torch.linspace(half[start], half[end], n)]


def gaussian_error(kind, n):
    """From a start well below pure noise, where the exact end of each path is known as well."""
    start, x_t = 90_000, quantiles()
    a = FINE[start]
    exact = MU + S * (x_t - a.sqrt() * MU) / (a * S**2 + 1 - a).sqrt()
    sampler = at_times(kind, even_in_lambda(n, start), clamp="none")
    sampled = sampler.sample(gaussian_denoiser(alpha_bar=FINE), x_t, FINE)
    return float((sampled - exact).abs().max())


def test_ddim_is_of_first_order_and_the_dpm_solver_of_second():
    first, second = ([gaussian_error(kind, n) for n in (20, 40, 80, 160)] for kind in (DDIM, DPMSolver))
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(first))
    assert all(a / b > 3.5 for a, b in itertools.pairwise(second)) and second[-1] < first[-1] / 20


def two_points(x_t, t):
    """Exact E[dose | x_t] for voxels that are 0.2 or 0.9 with equal chance."""
    a = at_level(ALPHA_BAR, t, x_t)
    logit = [-((x_t - a.sqrt() * p) ** 2) / (2 * (1 - a)) for p in (0.2, 0.9)]
    share = torch.softmax(torch.stack(logit), dim=0)[1]
    dose_hat = 0.2 + 0.7 * share
    return dose_hat, noise_from_dose(x_t, dose_hat, *weights(a))


@pytest.mark.parametrize(
    "sampler", [DDIM(200, clamp="none"), DPMSolver(200, clamp="none"), DDIM(200, clamp="none", eta=1.0)]
)
def test_data_of_two_points_comes_back_as_two_points_of_equal_share(sampler):
    noise = torch.randn(4000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    sampled = sampler.sample(two_points, noise, ALPHA_BAR, generator=generator).ravel()
    nearest = torch.where(sampled > 0.55, 0.9, 0.2)
    assert float((sampled - nearest).abs().quantile(0.95)) < 0.02
    assert abs(float((nearest > 0.5).double().mean()) - 0.5) < 4 * 0.5 / 4000**0.5


def test_one_step_from_no_signal_is_the_mean_of_the_data():
    """The regression's answer: with zero terminal SNR the first estimate can depend on the patient alone."""

    def denoise(x_t, t):
        a = at_level(ZERO, t, x_t)
        dose_hat = MU + a.sqrt() * S**2 * (x_t - a.sqrt() * MU) / (a * S**2 + 1 - a)
        return dose_hat, noise_from_dose(x_t, dose_hat, *weights(a))

    mean = DDIM(1, clamp="none").sample(denoise, quantiles(), ZERO)
    assert torch.allclose(mean, torch.full_like(quantiles(), MU))


def test_the_network_is_called_once_a_step():
    calls, sampler = [], DDIM(7, "leading")
    sampler.sample(
        gaussian_denoiser(), quantiles(), ALPHA_BAR, watch=lambda step, t, dose: calls.append((step, t))
    )
    assert calls == list(enumerate(sampler.times())) and sampler.nfe == len(calls) == 8


def test_ancestral_sampling_has_the_variance_of_the_data():
    noise = torch.randn(20_000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    sampler = DDIM(250, clamp="none", eta=1.0)
    sampled = sampler.sample(gaussian_denoiser(), noise, ALPHA_BAR, generator=generator)
    # four standard errors of a mean and of a deviation of 20,000 draws
    assert (
        abs(float(sampled.mean()) - MU) < 4 * S / 20_000**0.5
        and abs(float(sampled.std()) - S) < 4 * S / 40_000**0.5 + 0.003
    )


@pytest.mark.parametrize("clamp", ["rederive noise", "keep noise"])
def test_re_derived_noise_agrees_with_x_t_after_a_clamp_and_kept_noise_does_not(clamp):
    states, doses = [], []

    def denoise(x_t, t):
        states.append(x_t)
        return gaussian_denoiser(s=2.0)(x_t, t)

    at_times(DDIM, [900, 400], clamp=clamp).sample(
        denoise,
        6 * quantiles(),
        ALPHA_BAR,
        bounds=(0.0, 1.0),
        watch=lambda step, t, dose_hat: doses.append(dose_hat),
    )
    noise = noise_from_dose(states[1], doses[0], *weights(ALPHA_BAR[400]))
    agrees = torch.allclose(add_noise(doses[0], noise, ALPHA_BAR[900]), states[0], atol=1e-9)
    assert agrees == (clamp == "rederive noise")


@pytest.mark.parametrize("clamp", ["rederive noise", "keep noise"])
@pytest.mark.parametrize("n", [5, 50])
def test_ddim_agrees_with_diffusers(n, clamp):
    import diffusers

    beta = torch.cat([1 - ALPHA_BAR[:1], 1 - ALPHA_BAR[1:] / ALPHA_BAR[:-1]])
    scheduler = diffusers.DDIMScheduler(
        trained_betas=beta.numpy(),
        clip_sample=True,
        clip_sample_range=1.0,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = ALPHA_BAR  # it keeps float32, too coarse for a gain of 64,000 at t = 999
    scheduler.set_timesteps(n)
    x_t = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampler, rederive = DDIM(n, clamp=clamp), clamp == "rederive noise"
    ours = sampler.sample(gaussian_denoiser(), x_t, ALPHA_BAR, bounds=(-1.0, 1.0))
    for t in scheduler.timesteps:
        noise_hat = gaussian_denoiser()(x_t, torch.full((2,), int(t)))[1]
        x_t = scheduler.step(noise_hat, t, x_t, use_clipped_model_output=rederive).prev_sample
    assert scheduler.timesteps.tolist() == sampler.times()
    assert torch.allclose(ours, x_t, atol=1e-5)
