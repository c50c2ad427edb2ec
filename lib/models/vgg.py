"""A perceptual loss: features of VGG16 of dose slices (Johnson et al. 2016, arXiv 1603.08155, Eq. 2).

The 13 convolutions of VGG16 (Simonyan & Zisserman 2015, arXiv 1409.1556, table 1, column D) with
torchvision's published weights, read from a file that the user names; torchvision itself is not needed.
"""

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lib.errors import UserError

WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
COMPARED = (2, 7, 14, 21)  # layers: the last convolution of each of the first four stages
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images it was trained on
DAMAGED = (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, KeyError)
SLICES = 4  # a volume and step: a whole volume's would cost more than the network
URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
WHERE = f"torchvision publishes them as vgg16-397923af.pth ({URL})"


def vgg16_features() -> nn.Sequential:
    """The convolutional part, its layers numbered as torchvision's `features`."""
    layers, width_in = [], 3
    for width in WIDTHS:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU()]
            width_in = width
    return nn.Sequential(*layers)


def load_vgg16(path: str | Path) -> nn.Sequential:
    """Frozen features with the weights of `path`, a .pth or .safetensors state dict; no code in it is run."""
    path, network = Path(path), vgg16_features()
    try:
        is_safe, of_torch = path.suffix == ".safetensors", {"map_location": "cpu", "weights_only": True}
        stored = load_file(path) if is_safe else torch.load(path, **of_torch)
        weights = {name.removeprefix("features."): w for name, w in stored.items() if "features." in name}
        network.load_state_dict(weights)
    except DAMAGED as error:
        reason = (str(error) or "it is empty").splitlines()[0]
        raise UserError(f"{path} does not hold the weights of VGG16 ({reason}); {WHERE}") from None
    return network.eval().requires_grad_(False)


class PerceptualLoss:
    """Mean absolute difference of the features of axial slices that are evenly spaced through the volumes."""

    def __init__(self, network: nn.Sequential, device: torch.device):
        self.network = network.to(device)
        of_images = [torch.tensor(values, device=device) for values in (IMAGE_MEAN, IMAGE_STD)]
        self.mean, self.std = (values.view(1, 3, 1, 1) for values in of_images)

    def __call__(self, dose_hat: torch.Tensor, dose: torch.Tensor) -> torch.Tensor:
        """dose_hat, dose [B,1,D,H,W] as fractions of the prescription."""
        depth = dose.shape[2]
        chosen = torch.linspace(0, depth - 1, min(depth, SLICES) + 2)[1:-1].round().long()
        slices = [volume[:, 0, chosen].flatten(0, 1) for volume in (dose_hat, dose)]
        return sum(F.l1_loss(a, b) for a, b in zip(*map(self.features, slices)))

    def features(self, slices: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of slices [N,H,W], 1 = prescription as white."""
        h = (slices[:, None].expand(-1, 3, -1, -1).float() - self.mean) / self.std
        maps = []
        for number, layer in enumerate(self.network[: COMPARED[-1] + 2]):
            h = layer(h)
            if number - 1 in COMPARED:  # after the ReLU that follows it
                maps.append(h)
        return maps
