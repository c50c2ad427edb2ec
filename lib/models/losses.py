"""Training losses, on doses as fractions of the prescription, [B,1,D,H,W]."""
import torch
import torch.nn.functional as F

from lib.models.diffusion import dose_from_noise

NEGATIVE_WEIGHT = 0.1


def dose_loss(dose_hat, dose):
    """Mean squared error + 0.1 x mean(relu(-dose)): the reference's loss of its regression."""
    return F.mse_loss(dose_hat, dose) + NEGATIVE_WEIGHT * F.relu(-dose_hat).mean()


def noise_loss(noise_hat, noise, x_t, alpha_bar_t):
    """Mean squared error of the noise + 0.1 x mean(relu(-dose estimate)): the reference's loss of its DDPM.

    The estimate is not clamped, so the penalty's weight grows without bound towards t = T - 1; kept, because
    it is what the reference trained with.
    """
    dose_hat = dose_from_noise(x_t, noise_hat, alpha_bar_t)
    return F.mse_loss(noise_hat, noise) + NEGATIVE_WEIGHT * F.relu(-dose_hat).mean()


def sobel_kernels(device):
    """Three 3^3 Sobel kernels [3,1,3,3,3] for d/dz, d/dy, d/dx in units per voxel: a ramp of g gives g."""
    smooth = torch.tensor([1.0, 2.0, 1.0], device=device) / 4
    slope = torch.tensor([-1.0, 0.0, 1.0], device=device) / 2
    parts = [[slope, smooth, smooth], [smooth, slope, smooth], [smooth, smooth, slope]]
    return torch.stack([torch.einsum("i,j,k->ijk", *part) for part in parts])[:, None]


def sobel_gradient(dose, spacing_mm):
    """Gradient [B,3,D-2,H-2,W-2] per mm along (z, y, x), inside the border; spacing_mm [B,3]."""
    per_voxel = F.conv3d(dose, sobel_kernels(dose.device))
    return per_voxel / spacing_mm.to(dose.device)[:, :, None, None, None]


def gradient_loss(dose_hat, dose, spacing_mm):
    """Mean absolute difference of the Sobel gradients, per mm; with spacing_mm = 1 the reference's."""
    return F.l1_loss(sobel_gradient(dose_hat, spacing_mm), sobel_gradient(dose, spacing_mm))
