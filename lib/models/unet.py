"""The reference study's 3D U-Net, one class for every method.

Four encoder levels of b, 2b, 4b, 8b channels, a bottleneck of 8b, a decoder of 4b, 2b, b, b.
A condition vector reaches every block through FiLM (Perez et al. 2018, arXiv 1709.07871, Eq. 2).
With b = 48 and the prostate's 9 condition channels the network has 23,732,801 parameters without
a time input and 23,705,857 with one: the reference's own counts.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.features.grid import join_blocks, refine, split_blocks

EMBEDDING_WIDTH = 256
KERNEL = 3
STRIDE = 16  # four halvings: sizes are padded to a multiple of it and cropped back


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Position embedding of a time t [B] as [B, width] (Vaswani et al. 2017, section 3.5)."""
    step = -math.log(10000.0) / (width // 2 - 1)
    frequencies = torch.exp(torch.arange(width // 2, device=t.device) * step)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def mlp(width_in: int, width_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width_in, width_out), nn.SiLU(), nn.Linear(width_out, width_out))


class Block(nn.Module):
    """Twice (conv 3^3, GroupNorm, SiLU), FiLM after the first, and a residual path."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels_out, KERNEL, padding=1)
        self.norm1 = nn.GroupNorm(8, channels_out)
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(EMBEDDING_WIDTH, 2 * channels_out))
        self.conv2 = nn.Conv3d(channels_out, channels_out, KERNEL, padding=1)
        self.norm2 = nn.GroupNorm(8, channels_out)
        widens = channels_in != channels_out
        self.residual = nn.Conv3d(channels_in, channels_out, 1) if widens else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if x.device.type == "cpu" and min(x.shape[2:]) < KERNEL:
            # oneDNN's bfloat16 weight gradient of a 3^3 convolution over two voxels
            # reads memory it never wrote (torch 2.13)
            with torch.autocast("cpu", enabled=False):
                return self.compute(x.float(), embedding.float())
        return self.compute(x, embedding)

    def compute(self, x, embedding):
        scale, shift = self.film(embedding)[:, :, None, None, None].chunk(2, dim=1)
        h = F.silu(normalise(self.norm1, self.conv1(x)))
        h = h * (1 + scale) + shift
        h = F.silu(normalise(self.norm2, self.conv2(h)))
        return h + self.residual(x)


def normalise(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """The norm of x [B,C,d,h,w], on a GPU in the precision of x: its kernel computes in float32 anyway, and
    autocast would move twice the bytes from here to the next convolution."""
    if not x.is_cuda:
        return norm(x)
    with torch.autocast(x.device.type, enabled=False):
        return F.group_norm(x, norm.num_groups, norm.weight.to(x), norm.bias.to(x), norm.eps)


class UNet(nn.Module):
    """Dose network; with `timed` also the denoiser, whose first input channels are then x_t.

    It works on blocks of voxels; with `answer` above 1 it gives `answer`^3 doses in each, and takes as many
    of x_t: sub-pixel convolution (Shi et al. 2016, arXiv 1609.05158) in three dimensions. With `condition`
    above 1 it sees `condition`^3 values of each channel in a block, embedded by a convolution of that stride.
    With `targets`, the condition channels that hold the distances to targets, voxels in a target have a last
    layer of their own: the dose bends at a target's edge, which is sharper than a block.
    """

    def __init__(
        self,
        cond_channels: int,
        base_channels: int,
        timed: bool,
        outputs: int = 1,
        answer: int = 1,
        condition: int = 1,
        n_constraints: int = 13,
        targets: tuple[int, ...] = (),
    ):
        super().__init__()
        self.base_channels, self.timed, self.answer = base_channels, timed, answer
        self.condition, self.targets = condition, targets
        b = base_channels
        if timed:
            self.embed_time = mlp(b, EMBEDDING_WIDTH // 2)
        self.embed_constraints = mlp(n_constraints, EMBEDDING_WIDTH // 2 if timed else EMBEDDING_WIDTH)
        self.embed_condition = nn.Identity()
        if condition > 1:
            self.embed_condition = nn.Conv3d(cond_channels, 2 * b, condition, stride=condition)
            cond_channels = 2 * b
        widths = [cond_channels + timed * answer**3, b, 2 * b, 4 * b, 8 * b]
        self.encoder = nn.ModuleList(Block(i, o) for i, o in itertools.pairwise(widths))
        self.bottleneck = Block(8 * b, 8 * b)
        widths = [(16 * b, 4 * b), (8 * b, 2 * b), (4 * b, b), (2 * b, b)]
        self.decoder = nn.ModuleList(Block(i, o) for i, o in widths)
        self.out = nn.Conv3d(b, (2 if targets else 1) * outputs * answer**3, 1)

    def forward(
        self, cond: Tensor, constraints: Tensor, x_t: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        """cond [B,C,d*condition,...], constraints [B,K], x_t [B,1,D,H,W] and t [B] when timed ->
        [B,outputs,D,H,W], where D = answer * d, and so on."""
        seen = self.embed_condition(cond)
        h = torch.cat([split_blocks(x_t, self.answer), seen], dim=1) if self.timed else seen
        size = h.shape[2:]
        h = pad_to_stride(h)
        embedding = self.embed_constraints(constraints)
        if self.timed:
            embedding = torch.cat([self.embed_time(sinusoid(t, self.base_channels)), embedding], dim=1)
        skips = []
        for block in self.encoder:
            h = block(h, embedding)
            skips.append(h)
            h = F.max_pool3d(h, 2)
        h = self.bottleneck(h, embedding)
        for block in self.decoder:
            h = F.interpolate(h, scale_factor=2, mode="trilinear", align_corners=False)
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        # half precision would round a dose near 1 to steps of 0.4 %,
        # and a noise before it is multiplied by up to 64,000
        with torch.autocast(h.device.type, enabled=False):
            answers = join_blocks(self.out(h.float())[:, :, : size[0], : size[1], : size[2]], self.answer)
            return torch.where(self.in_targets(cond), *answers.chunk(2, dim=1)) if self.targets else answers

    def in_targets(self, cond: Tensor) -> Tensor:
        """Which answers lie in a target, bool [B,1,D,H,W]: where the distance to the nearest is negative."""
        nearest = torch.stack([cond[:, channel] for channel in self.targets]).amin(dim=0)
        return refine(nearest[:, None].float(), self.answer // self.condition) < 0


def pad_to_stride(x: Tensor) -> Tensor:
    """[B,C,D,H,W] padded at the far ends with its edge values, so that every size divides by 16."""
    pad = [(-n) % STRIDE for n in x.shape[2:]]
    if not any(pad):
        return x
    return F.pad(x, (0, pad[2], 0, pad[1], 0, pad[0]), mode="replicate")
