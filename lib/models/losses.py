"""Training losses, on doses [B,1,D,H,W] as fractions of the prescription, and the region they average."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEGATIVE_WEIGHT = 0.1
LOG_VARIANCE_LIMITS = (-14.0, 2.0)  # a deviation of 0.06 Gy to 190 Gy at 70 Gy


def mean_inside(values: Tensor, inside: Tensor) -> Tensor:
    """Mean of [B,1,D,H,W] over each patient's voxels `inside` (bool, same shape), then over the patients.

    So a batch's loss is the mean of its parts' losses, however it is cut into parts.
    """
    return ((values * inside).sum((1, 2, 3, 4)) / inside.sum((1, 2, 3, 4)).clamp(min=1)).mean()


def dose_loss(dose_hat: Tensor, dose: Tensor, inside: Tensor, error: str = "squared") -> Tensor:
    """Mean squared error + 0.1 x mean(relu(-dose)): the reference's loss of its regression, over its
    `inside`; or the absolute error."""
    difference = (dose_hat - dose) ** 2 if error == "squared" else (dose_hat - dose).abs()
    return mean_inside(difference + NEGATIVE_WEIGHT * F.relu(-dose_hat), inside)


def dvh_loss(dose_hat: Tensor, dose: Tensor, structures: Tensor) -> Tensor:
    """Area between predicted and planned DVH of each of the `structures` (bool [B,S,D,H,W]), as a share of
    the prescription: mean over those that a patient has (0 if a patch shows none), then over patients.

    A DVH is the quantile function of the dose in its structure, so the area is the mean absolute difference
    of the sorted doses, the Wasserstein-1 distance in one dimension (Peyre and Cuturi 2019, Remark 2.30); no
    smoothing is needed for its gradient.
    """
    means = []
    for ours, planned, masks in zip(dose_hat, dose, structures):
        curves = [(ours[0][s].sort().values, planned[0][s].sort().values) for s in masks if s.any()]
        areas = [(a - b).abs().mean() for a, b in curves]
        means.append(torch.stack(areas).mean() if areas else 0 * dose_hat.sum())
    return torch.stack(means).mean()


def gaussian_loss(dose_hat: Tensor, log_variance: Tensor, dose: Tensor, inside: Tensor) -> Tensor:
    """Negative log-likelihood of a Gaussian per voxel, weighted by its deviation, so that the mean is still
    learnt where that is large (beta-NLL with beta 0.5, Seitzer et al. 2022, arXiv 2203.09168)."""
    log_variance = log_variance.clamp(*LOG_VARIANCE_LIMITS)
    likelihood = ((dose_hat - dose) ** 2 * torch.exp(-log_variance) + log_variance) / 2
    return mean_inside(likelihood * torch.exp(log_variance.detach() / 2), inside)


def negative_dose_penalty(dose_hat: Tensor, inside: Tensor) -> Tensor:
    """0.1 x mean(relu(-dose estimate)): what the reference adds to the noise loss of its DDPM.

    The estimate is not clamped, so the penalty's weight grows without bound towards t = T - 1; kept, because
    it is what the reference trained with.
    """
    return NEGATIVE_WEIGHT * mean_inside(F.relu(-dose_hat), inside)


def min_snr_weight(predicts: str, alpha_bar_t: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR weights: min(SNR, gamma) on the dose's squared error (Hang et al. 2023, arXiv 2303.09556)."""
    snr = alpha_bar_t / (1 - alpha_bar_t)
    share = {"dose": 1.0, "noise": snr, "v": snr + 1}[predicts]
    return snr.clamp(max=gamma) / share


def sobel_gradient(dose: Tensor, spacing_mm: Tensor) -> Tensor:
    """Gradient [B,3,D-2,H-2,W-2] per mm along (z, y, x), inside the border, by 3^3 Sobel kernels that give g
    for a ramp of g per voxel; spacing_mm [B,3]."""
    smooth = torch.tensor([1.0, 2.0, 1.0], device=dose.device) / 4
    slope = torch.tensor([-1.0, 0.0, 1.0], device=dose.device) / 2
    parts = [[slope, smooth, smooth], [smooth, slope, smooth], [smooth, smooth, slope]]
    kernels = torch.stack([torch.einsum("i,j,k->ijk", *part) for part in parts])[:, None]
    return F.conv3d(dose, kernels) / spacing_mm.to(dose.device)[:, :, None, None, None]


def gradient_loss(dose_hat: Tensor, dose: Tensor, spacing_mm: Tensor) -> Tensor:
    """Mean absolute difference of the Sobel gradients, per mm; with spacing_mm = 1 the reference's."""
    return F.l1_loss(sobel_gradient(dose_hat, spacing_mm), sobel_gradient(dose, spacing_mm))
