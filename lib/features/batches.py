"""Samples stacked to batches, whole or as random patches."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from lib.errors import UserError
from lib.features.grid import finer, refine
from lib.features.samples import TENSORS, Patients, Sample


@dataclass(frozen=True)
class Batch(Patients):
    """Several on one grid, float32: cond [B,C,d,h,w], dose [B,1,D,H,W] and so on."""

    @property
    def structures(self) -> torch.Tensor:
        """Where each structure lies, bool [B,S,D,H,W]: where its signed distance is negative."""
        parts = self.grid.answer // self.grid.condition
        return refine(self.channels.select(self.cond, self.channels.protocol.structures), parts) < 0

    def part(self, patients: slice) -> "Batch":
        """The batch of some of its patients."""
        return replace(self, **{name: getattr(self, name)[patients] for name in (*TENSORS, "spacing_mm")})


def make_batch(
    samples: list[Sample], patch: tuple | None = None, generator: torch.Generator | None = None
) -> Batch:
    """Samples stacked; with `patch` (d, h, w) a random patch of each, half of them centred on dose.

    Without `patch`, or along axes where it is larger, the size is the largest of the batch; smaller volumes
    are padded at the far ends with background.
    """
    if len({(sample.channels, sample.grid) for sample in samples}) > 1:
        raise UserError("one batch cannot mix treatment sites, condition channels or grids")
    largest = [max(sizes) for sizes in zip(*(s.blocks for s in samples))]
    size = tuple(map(min, patch, largest)) if patch else tuple(largest)
    patches = [cut(s, patch_start(s, size, generator), size) for s in samples]
    volumes = [torch.stack(of_all) for of_all in zip(*patches)]
    constraints = torch.stack([s.constraints for s in samples])
    spacing_mm = torch.tensor([s.spacing_mm for s in samples])
    return Batch(samples[0].channels, *volumes, constraints, spacing_mm, samples[0].grid)


def patch_start(sample: Sample, size: tuple, generator: torch.Generator | None) -> tuple[int, ...]:
    """First block of a patch: anywhere, or for half of them centred where the dose is above 10 %."""
    room = [max(0, n - s) for n, s in zip(sample.blocks, size)]
    if not any(room):
        return (0, 0, 0)
    draw = torch.rand(4, generator=generator)
    start = [int(u * (r + 1)) for u, r in zip(draw, room)]
    dosed = torch.nonzero(sample.dose[0] > 0.1) if draw[3] < 0.5 else ()
    if len(dosed):
        centre = dosed[int(torch.randint(len(dosed), (1,), generator=generator))]
        centre = [int(c) // sample.grid.answer for c in centre]
        start = [min(max(0, c - s // 2), r) for c, s, r in zip(centre, size, room)]
    return tuple(start)


def cut(sample: Sample, start: tuple, size: tuple) -> list[torch.Tensor]:
    """Patch of cond, dose, mask and prior; what reaches beyond the volume is background."""
    box = tuple(slice(a, a + s) for a, s in zip(start, size))
    cond = sample.cond.float()
    outside = sample.channels.background().to(cond.device, non_blocking=True)[:, None, None, None]

    def pad(volume, box):
        volume, wanted = volume[(slice(None), *box)], [b.stop - b.start for b in box]
        missing = [p for n, s in zip(reversed(volume.shape[1:]), reversed(wanted)) for p in (0, s - n)]
        return F.pad(volume, missing) if any(missing) else volume

    answers = [
        pad(v, finer(box, sample.grid.answer)).float() for v in (sample.dose, sample.mask, sample.prior)
    ]
    return [pad(cond - outside, finer(box, sample.grid.condition)) + outside, *answers]
