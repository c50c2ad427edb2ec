"""Laws of flow matching's samplers on data whose velocity is known exactly, and against diffusers."""

import itertools

import pytest
import torch
from test_diffusion import MU, S, quantiles

from lib.diffusion.flow import weights_at
from lib.diffusion.samplers import Euler, Midpoint


def gaussian_velocity(x_t, t):
    """Exact E[dose - noise | x_t] for voxels that are N(MU, S^2)."""
    t = t.view(-1, 1, 1, 1, 1).to(x_t.dtype)
    variance = t**2 * S**2 + (1 - t) ** 2
    return MU + (t * S**2 - (1 - t)) * (x_t - t * MU) / variance


def errors(kind, steps):
    noise = quantiles()
    return [float((kind(n).sample(gaussian_velocity, noise) - MU - S * noise).abs().max()) for n in steps]


def test_euler_is_of_first_order_and_midpoint_of_second():
    first, second = errors(Euler, (50, 100, 200)), errors(Midpoint, (25, 50, 100))
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(first))
    assert all(a / b > 3.5 for a, b in itertools.pairwise(second))


@pytest.mark.parametrize("kind", [Euler, Midpoint])
@pytest.mark.parametrize("n", [1, 3, 7, 300])
def test_a_point_mass_is_returned_whatever_the_steps(kind, n):
    def velocity(x_t, t):
        return (MU - x_t) / (1 - t).view(-1, 1, 1, 1, 1).to(x_t.dtype)

    assert float((kind(n).sample(velocity, quantiles()) - MU).abs().max()) < 1e-10


@pytest.mark.parametrize("sampler, calls", [(Euler(7), 7), (Midpoint(7), 14)])
def test_the_network_calls_are_as_many_as_said_and_the_estimates_exact_for_a_point(sampler, calls):
    seen = []
    sampler.sample(
        lambda x_t, t: (MU - x_t) / (1 - t).view(-1, 1, 1, 1, 1),
        quantiles(),
        watch=lambda step, t, dose: seen.append((step, t, dose)),
    )
    assert sampler.nfe == calls and [call for call, *_ in seen] == list(range(calls))
    assert [t for _, t, _ in seen] == pytest.approx(sampler.times())
    assert all(torch.allclose(dose, torch.full_like(dose, MU)) for *_, dose in seen)


def test_the_path_is_straight_from_noise_to_dose():
    dose, noise = torch.rand(3, 1, 2, 2, 2), torch.randn(3, 1, 2, 2, 2)
    signal, share = weights_at(torch.tensor([0.0, 0.5, 1.0]), dose)
    x_t = signal * dose + share * noise
    assert (
        torch.equal(x_t[0], noise[0])
        and torch.equal(x_t[2], dose[2])
        and torch.allclose(x_t[1], (noise[1] + dose[1]) / 2)
    )


def test_euler_agrees_with_diffusers():
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    n, x_t = 8, torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(sigmas=[1 - i / n for i in range(n)])
    ours = Euler(n).sample(gaussian_velocity, x_t)
    for sigma, t in zip(
        scheduler.sigmas, scheduler.timesteps
    ):  # its sigma falls from 1, and its velocity is noise - dose
        x_t = scheduler.step(-gaussian_velocity(x_t, torch.full((2,), 1 - float(sigma))), t, x_t).prev_sample
    assert torch.allclose(ours, x_t, atol=1e-5)
