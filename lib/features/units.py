"""The units of a dose: Gy outside, fractions of the prescription in a sample, a network's own numbers."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Units:
    """A network's dose is (dose - shift - prior) / scale; all are fractions of the prescription.

    With shift and scale the mean and deviation of the training doses a network predicts numbers of mean 0 and
    deviation 1; `prior` is the dose of another network whose residual it predicts, [B,1,D,H,W], or nothing.
    """

    shift: float = 0.0
    scale: float = 1.0

    def to_network(self, dose: torch.Tensor | float, prior: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Fractions of the prescription in the network's numbers."""
        return torch.as_tensor((dose - (self.shift + prior)) / self.scale)

    def to_dose(self, x: torch.Tensor, prior: torch.Tensor | float = 0.0) -> torch.Tensor:
        """The network's numbers as fractions of the prescription."""
        return x * self.scale + (self.shift + prior)
