"""The perceptual loss with made-up weights, and files that do not hold any."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from lib.errors import UserError
from lib.models.vgg import PerceptualLoss, load_vgg16, vgg16_features


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Made-up weights under torchvision's names, with a classifier that is not needed."""
    torch.manual_seed(0)
    weights = {f"features.{name}": w for name, w in vgg16_features().state_dict().items()} | {
        "classifier.0.bias": torch.zeros(3)
    }
    folder = tmp_path_factory.mktemp("vgg")
    torch.save(weights, folder / "vgg16.pth")
    save_file(weights, folder / "vgg16.safetensors")
    return folder


def test_the_convolutions_are_vgg16s():
    network = vgg16_features()
    assert sum(p.numel() for p in network.parameters()) == 14_714_688
    assert [k for k, m in enumerate(network) if isinstance(m, torch.nn.Conv2d)] == [
        0,
        2,
        5,
        7,
        10,
        12,
        14,
        17,
        19,
        21,
        24,
        26,
        28,
    ]


def test_both_kinds_of_file_give_the_same_loss_and_equal_doses_none(stored):
    dose, other = torch.rand(2, 1, 6, 32, 32), torch.rand(2, 1, 6, 32, 32)
    losses = [PerceptualLoss(load_vgg16(stored / name), "cpu") for name in ("vgg16.pth", "vgg16.safetensors")]
    assert float(losses[0](dose, dose)) == 0
    assert float(losses[0](dose, other)) == float(losses[1](dose, other)) > 0


def test_the_gradient_reaches_the_dose_and_not_the_weights(stored):
    loss, dose = (
        PerceptualLoss(load_vgg16(stored / "vgg16.pth"), "cpu"),
        torch.rand(1, 1, 4, 16, 16, requires_grad=True),
    )
    loss(dose, torch.zeros(1, 1, 4, 16, 16)).backward()
    assert float(dose.grad.abs().sum()) > 0 and not any(p.requires_grad for p in loss.network.parameters())


class Hostile:
    def __reduce__(self):
        return (open, ("hacked", "w"))


DAMAGES = {
    "missing": lambda p: None,
    "text": lambda p: p.write_text("no weights"),
    "empty": lambda p: p.write_bytes(b""),
    "a pickle that runs something": lambda p: p.write_bytes(pickle.dumps({"features.0.weight": Hostile()})),
    "another network": lambda p: torch.save({"features.0.weight": torch.zeros(3)}, p),
    "a list": lambda p: torch.save([1, 2], p),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_is_none_says_where_there_is_one_and_runs_nothing(damage, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DAMAGES[damage](tmp_path / f"vgg.{suffix}")
    with pytest.raises(UserError, match="does not hold the weights of VGG16.*download.pytorch.org"):
        load_vgg16(tmp_path / f"vgg.{suffix}")
    assert not (tmp_path / "hacked").exists()
