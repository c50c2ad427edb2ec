"""Losses against their formulas, and the gradient of a ramp against its slope."""
import pytest
import torch

from lib.models.diffusion import add_noise, at_level, cosine_alpha_bar
from lib.models.losses import dose_loss, gradient_loss, noise_loss, sobel_gradient

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


def test_dose_loss_is_squared_error_and_a_penalty_of_negative_dose():
    dose = torch.full((1, 1, 2, 2, 2), 0.5)
    assert float(dose_loss(dose + 0.1, dose)) == pytest.approx(0.01)
    assert float(dose_loss(dose - 0.7, dose)) == pytest.approx(0.49 + 0.1 * 0.2)


def test_noise_loss_of_the_true_noise_is_zero_for_a_dose_that_is_not_negative():
    torch.manual_seed(0)
    dose, noise = torch.rand(2, 1, 4, 4, 4).double(), torch.randn(2, 1, 4, 4, 4).double()
    a = at_level(cosine_alpha_bar(), torch.tensor([100, 700]), dose)
    assert float(noise_loss(noise, noise, add_noise(dose, noise, a), a)) == pytest.approx(0, abs=1e-12)
