"""The methods by name: what the network predicts and how it is trained.

A training is named by its method, or `<method>-<variant>` where an experiment trains a method more than once.
"""

from typing import NamedTuple

import torch

from lib.diffusion import flow
from lib.diffusion.schedule import T, at_level, weights
from lib.errors import UserError
from lib.features.batches import Batch
from lib.models.config import TrainConfig
from lib.models.unet import UNet


class Method(NamedTuple):
    """One row of the table of methods.

    predicts      "dose", "noise", "v", "velocity" or "dose and deviation": what the network's output is
    timed         the network gets x_t and t
    zero_snr      trained and sampled with zero terminal signal-to-noise ratio, unless parameters differ
    standardised  the dose has mean 0 and deviation 1 for the network, unless the parameters say otherwise
    prior         the regression whose dose is given to the network and whose residual it predicts
    extra         further loss of a regression: "gradient" or "gradient and vgg"
    """

    title: str
    predicts: str
    timed: bool = False
    zero_snr: bool = False
    standardised: bool = False
    prior: str | None = None
    extra: str = ""

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return 2 if self.predicts == "dose and deviation" else 1

    @property
    def denoises(self) -> bool:
        """Whether it is a diffusion, sampled from level to level; a flow is integrated."""
        return self.timed and self.predicts != "velocity"

    @property
    def sampled(self) -> bool:
        """Whether members of an ensemble differ."""
        return self.timed or self.outputs == 2

    def make_network(self, config: TrainConfig) -> UNet:
        size = {name: getattr(config, name) for name in ("n_constraints", "answer", "condition", "targets")}
        return UNet(len(config.channels), config.base_channels, self.timed, self.outputs, **size)


PURE = {"timed": True, "zero_snr": True, "standardised": True}
METHODS = {
    "baseline": Method("U-Net", "dose"),
    "gradient": Method("U-Net with gradient loss", "dose", extra="gradient"),
    "gradient_vgg": Method("U-Net with gradient and VGG loss", "dose", extra="gradient and vgg"),
    "cascade": Method("U-Net of the U-Net's residual", "dose", prior="baseline"),
    "gaussian": Method("U-Net with a deviation for each voxel", "dose and deviation"),
    "ddpm": Method("the reference's diffusion, noise predicted", "noise", timed=True),
    "ddpm_v": Method("diffusion, v predicted", "v", **PURE),
    "ddpm_dose": Method("diffusion, dose predicted", "dose", **PURE),
    "flow": Method("flow matching", "velocity", timed=True, standardised=True),
    "refine": Method("diffusion of the U-Net's residual", "v", prior="baseline", **PURE),
}

TITLES = {name: method.title for name, method in METHODS.items()}
TITLES["control"] = "no network: dose by the distance to the targets"


def title_of(training: str) -> str:
    """A training, or the control, in words; its variant in brackets."""
    method, _, variant = training.partition("-")
    return TITLES.get(method, method) + (f" ({variant})" if variant else "")


def kind(name: str) -> str:
    """Method of a training's name, also as the comparison shows it: "ddpm-seed43, mean of 5" is "ddpm"."""
    return name.split(",")[0].split("-")[0]


def find_method(name: str) -> Method:
    """The method of a training's name; a UserError if there is none."""
    if kind(name) not in METHODS:
        raise UserError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[kind(name)]


def inside_of(config: TrainConfig, batch: Batch) -> torch.Tensor:
    """Where the loss looks and a dose is predicted, bool [B,1,D,H,W]; elsewhere the dose is known to be 0."""
    return (batch.mask > 0) | (config.region != "dose mask")


def flow_shift(config: TrainConfig) -> float:
    """What divides a flow's ratio of dose to noise (lib.diffusion.flow.shift_time): the root of what divides
    a diffusion's signal-to-noise ratio, which is that ratio squared."""
    return config.snr_divisor**0.5


def weights_of(config: TrainConfig, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(signal, share) of x_t = signal dose + share noise at the times t [B]; they broadcast over `like`."""
    if find_method(config.method).predicts == "velocity":
        return flow.weights_at(t, like)
    return weights(at_level(config.alpha_bar, t, like))


def level_of(config: TrainConfig, t: torch.Tensor) -> torch.Tensor:
    """The time as the network sees it: noise grows with it from 0 to T - 1, also of a flow."""
    return (1 - t) * (T - 1) if find_method(config.method).predicts == "velocity" else t
