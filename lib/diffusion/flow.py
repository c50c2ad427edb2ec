"""Flow matching from noise to a dose along straight paths.

Papers: Lipman et al. 2023 (arXiv 2210.02747), Liu et al. 2023, rectified flow (2209.03003). Time t is a
float, 0 at the noise and 1 at the dose (the other way round than a diffusion's):

    x_t = signal dose + share noise = t dose + (1 - t) noise,        velocity = d x_t / d t = dose - noise
"""

from torch import Tensor


def weights_at(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, share) at the times t [B]; they broadcast over `like` [B,1,D,H,W]."""
    t = t.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)
    return t, 1 - t


def shift_time(t: Tensor | float, divisor: float) -> Tensor | float:
    """The time at which the ratio of dose to noise, t / (1 - t), is that of `t` divided by `divisor`."""
    return t / (t + divisor * (1 - t))
