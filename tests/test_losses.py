"""Losses against their formulas, and the gradient of a ramp against its slope."""

import math

import pytest
import torch

from lib.diffusion.parameterisation import noise_from_dose, target_of
from lib.diffusion.schedule import add_noise, weights
from lib.models.losses import (
    dose_loss,
    dvh_loss,
    gaussian_loss,
    gradient_loss,
    mean_inside,
    min_snr_weight,
    negative_dose_penalty,
    sobel_gradient,
)

SPACING_MM = torch.tensor([[2.0, 1.0, 4.0]])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_ramp_of_g_per_mm_has_gradient_g_along_its_axis_alone(axis):
    shape = [1, 1, 1, 1, 1]
    shape[2 + axis] = 8
    ramp = (0.3 * SPACING_MM[0, axis] * torch.arange(8.0)).view(shape).expand(1, 1, 8, 8, 8)
    gradient = sobel_gradient(ramp.contiguous(), SPACING_MM)
    expected = torch.zeros(3)
    expected[axis] = 0.3
    assert torch.allclose(gradient, expected.view(1, 3, 1, 1, 1).expand_as(gradient), atol=1e-5)


def test_adding_a_constant_changes_no_gradient():
    dose = torch.rand(2, 1, 6, 6, 6)
    assert float(gradient_loss(dose + 0.5, dose, SPACING_MM.expand(2, 3))) < 1e-6


EVERYWHERE = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)


def test_dose_loss_is_squared_error_and_a_penalty_of_negative_dose():
    dose = torch.full((1, 1, 2, 2, 2), 0.5)
    assert float(dose_loss(dose + 0.1, dose, EVERYWHERE)) == pytest.approx(0.01)
    assert float(dose_loss(dose - 0.7, dose, EVERYWHERE)) == pytest.approx(0.49 + 0.1 * 0.2)
    assert float(dose_loss(dose - 0.7, dose, EVERYWHERE, "absolute")) == pytest.approx(0.7 + 0.1 * 0.2)


def test_the_dvh_loss_is_the_area_between_the_curves():
    """Against both DVHs drawn at many doses; a missing structure does not count, and moving dose about in a
    structure costs nothing."""
    generator = torch.Generator().manual_seed(0)
    dose, dose_hat = (
        torch.rand(2, 1, 6, 6, 6, generator=generator),
        torch.rand(2, 1, 6, 6, 6, generator=generator),
    )
    structures = torch.rand(2, 3, 6, 6, 6, generator=generator) < 0.3
    structures[0, 1] = False
    at = torch.linspace(0, 1, 20001)

    def area(i, s):
        curves = [
            (volume[i, 0][structures[i, s]][:, None] > at).float().mean(0) for volume in (dose, dose_hat)
        ]
        return (curves[0] - curves[1]).abs().mean()

    expected = ((area(0, 0) + area(0, 2)) / 2 + (area(1, 0) + area(1, 1) + area(1, 2)) / 3) / 2
    assert float(dvh_loss(dose_hat, dose, structures)) == pytest.approx(float(expected), abs=1e-4)
    assert float(dvh_loss(dose + 0.25, dose, structures)) == pytest.approx(0.25, abs=1e-6)
    assert (
        float(dvh_loss(dose + 0.25, dose, torch.zeros_like(structures))) == 0
    )  # a patch between the structures
    one = torch.ones(2, 1, 6, 6, 6, dtype=torch.bool)
    assert float(dvh_loss(dose.flip(-1), dose, one)) == pytest.approx(0, abs=1e-7)


def test_what_lies_outside_the_region_does_not_count():
    dose, inside = torch.zeros(1, 1, 2, 2, 2), EVERYWHERE.clone()
    inside[..., 0] = False
    wrong_outside = torch.where(inside, dose + 0.1, torch.full_like(dose, 9.0))
    assert float(dose_loss(wrong_outside, dose, inside)) == pytest.approx(0.01)
    assert float(mean_inside(wrong_outside, torch.zeros_like(inside))) == 0


def test_the_gaussian_loss_is_least_at_the_true_mean_and_deviation():
    dose = 0.4 + 0.1 * torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    inside = torch.ones_like(dose, dtype=torch.bool)
    values = {}
    for mean in (0.3, 0.4, 0.5):
        mean_, log_variance = (
            torch.full_like(dose, mean, requires_grad=True),
            torch.full_like(dose, -4.6, requires_grad=True),
        )
        values[mean] = float(gaussian_loss(mean_, log_variance, dose, inside).detach())
    assert min(values, key=values.get) == 0.4
    for deviation, sign in ((0.05, -1), (0.2, 1)):  # the gradient pushes the deviation towards 0.1
        log_variance = torch.full_like(dose, 2 * math.log(deviation), requires_grad=True)
        gaussian_loss(torch.full_like(dose, 0.4), log_variance, dose, inside).backward()
        assert float(log_variance.grad.sum()) * sign > 0


@pytest.mark.parametrize("predicts", ["noise", "v", "dose"])
def test_min_snr_weights_are_min_snr_on_the_error_of_the_dose(predicts):
    """An error of 0.1 of the dose costs min(SNR, 5) 0.01, whatever the network predicts."""
    alpha_bar_t = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64).view(3, 1, 1, 1, 1)
    dose, noise = (
        torch.zeros(3, 1, 1, 1, 1, dtype=torch.float64),
        torch.ones(3, 1, 1, 1, 1, dtype=torch.float64),
    )
    x_t = add_noise(dose, noise, alpha_bar_t)
    of, noise_hat = weights(alpha_bar_t), noise_from_dose(x_t, dose + 0.1, *weights(alpha_bar_t))
    error = target_of(predicts, dose + 0.1, noise_hat, *of) - target_of(predicts, dose, noise, *of)
    cost = min_snr_weight(predicts, alpha_bar_t) * error**2
    snr = alpha_bar_t / (1 - alpha_bar_t)
    assert torch.allclose(cost, snr.clamp(max=5) * 0.01)


def test_a_dose_estimate_that_is_not_negative_is_not_punished():
    dose = torch.rand(2, 1, 4, 4, 4)
    inside = torch.ones_like(dose, dtype=torch.bool)
    assert float(negative_dose_penalty(dose, inside)) == 0
    assert float(negative_dose_penalty(dose - 2, inside)) == pytest.approx(0.1 * float((2 - dose).mean()))
