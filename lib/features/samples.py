"""From a case to a network's tensors: condition channels, coarsening, batches, augmentation.

Channels: the CT, one signed distance per structure of the protocol (negative inside, clipped at 50 mm
and divided by it, +1 where absent), for head and neck the dose mask and, where the gantry angles are given,
the open fields. Distances are computed at full size; then everything is averaged over blocks of `coarsen`^3
voxels, of which a network sees the box around the dose mask.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt, find_objects

from lib.cache import digest, modules_digest
from lib.cases.protocols import PROTOCOLS, constraint_vector
from lib.errors import UserError
from lib.features.beams import open_fields
from lib.features.grid import coarsened, cropped, dose_box
from lib.progress import progress
from lib.tensors import load_tensors, save_tensors

CLIP_MM = 50.0
SHIFT_MM, ROTATE_DEG, CT_NOISE = 16.0, 5.0, 0.02  # augmentation; the noise in units of the CT channel
CACHE = Path("outputs/features")


@dataclass(frozen=True)
class Sample:
    """One case on the training grid: [d,h,w] blocks in the box of its dose mask (grid.dose_box).

    cond         float32 [C,d,h,w]   condition channels
    dose         float32 [1,d,h,w]   fraction of `rx_gy`
    mask         float32 [1,d,h,w]   share of the voxel inside the case's dose mask
    constraints  float32 [13]
    """

    case_id: str
    site: str
    cond: torch.Tensor
    dose: torch.Tensor
    mask: torch.Tensor
    constraints: torch.Tensor
    spacing_mm: tuple
    rx_gy: float
    has_prior: bool = False  # whether the last channel is another network's dose

    def to(self, device):
        return replace(
            self, **{name: getattr(self, name).to(device) for name in ("cond", "dose", "mask", "constraints")}
        )


def signed_distance_mm(mask, spacing_mm, clip_mm=CLIP_MM):
    """Distance to the surface of `mask` [D,H,W] bool in mm, negative inside, clipped at +-clip_mm.

    Only the structure's box with a margin is computed: beyond it the distance is above the clip.
    """
    distance_mm = np.full(mask.shape, clip_mm, np.float32)
    box = find_objects(mask.astype(np.uint8))
    if not box:
        return distance_mm
    margins = [math.ceil(clip_mm / s) + 1 for s in spacing_mm]
    box = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box[0], margins))
    inside = mask[box]
    outside_mm = distance_transform_edt(~inside, spacing_mm)
    # padded, because a structure that touches the border still ends there
    inside_mm = distance_transform_edt(np.pad(inside, 1), spacing_mm)[1:-1, 1:-1, 1:-1]
    distance_mm[box] = np.clip(outside_mm - inside_mm, -clip_mm, clip_mm)
    return distance_mm


def scale_ct(ct_hu, protocol):
    return (np.clip(ct_hu, *protocol.ct_window_hu) / protocol.ct_scale_hu + protocol.ct_offset).astype(
        np.float32
    )


def condition_channels(case):
    """[C,D,H,W] float32 in the order CT, structures of the protocol, dose mask if the protocol has it."""
    protocol = PROTOCOLS[case.site]
    channels = [scale_ct(case.ct_hu, protocol)]
    for name in protocol.structures:
        mask = case.masks.get(name, np.zeros(case.shape, bool))
        channels.append(signed_distance_mm(mask, case.spacing_mm) / CLIP_MM)
    if protocol.dose_mask_channel:
        channels.append(case.dose_mask.astype(np.float32))
    return torch.from_numpy(np.stack(channels))


def background(site, channels):
    """Value of each condition channel outside the patient: air, far from every structure, no dose."""
    protocol = PROTOCOLS[site]
    air = scale_ct(np.float32(protocol.ct_window_hu[0]), protocol)
    known = [
        float(air),
        *[1.0] * len(protocol.structures),
    ]  # beyond them: dose mask, open fields, a prior's dose
    return torch.tensor(known + [0.0] * (channels - len(known)))


def mirror_order(site, channels):
    """Channel order after a left-right flip: paired organs swap, the channels beyond the structures stay."""
    names = ["ct", *PROTOCOLS[site].structures]
    swapped = {a: b for pair in PROTOCOLS[site].mirrored for a, b in (pair, pair[::-1])}
    return [names.index(swapped.get(name, name)) for name in names] + list(range(len(names), channels))


def dose_statistics(samples):
    """(mean, deviation) of the dose inside the dose masks, as fractions of the prescription."""
    doses = torch.cat([sample.dose[sample.mask > 0.5] for sample in samples]).double()
    return float(doses.mean()), float(doses.std())


def with_prior(sample, dose):
    """The sample with a predicted dose [1,d,h,w] as its last condition channel."""
    return replace(sample, cond=torch.cat([sample.cond, dose.to(sample.cond)]), has_prior=True)


def make_sample(case, coarsen, beams_deg=()):
    """The case on the training grid; with its beams' gantry angles the open fields are the last channel."""
    box = dose_box(torch.from_numpy(case.dose_mask), coarsen)

    def coarse(array):
        return cropped(coarsened(torch.from_numpy(array.astype(np.float32))[None], coarsen), box)

    cond = cropped(coarsened(condition_channels(case), coarsen), box)
    if beams_deg:
        cond = torch.cat([cond, beam_channel(case, box, coarsen, beams_deg)])
    return Sample(
        case_id=case.case_id,
        site=case.site,
        cond=cond.half().float(),  # as the cache keeps it
        dose=coarse(case.dose_gy / case.rx_gy),
        mask=coarse(case.dose_mask),
        constraints=torch.tensor(constraint_vector(case)),
        spacing_mm=tuple(s * coarsen for s in case.spacing_mm),
        rx_gy=case.rx_gy,
    )


def beam_channel(case, box, coarsen, beams_deg):
    """The open fields [1,d,h,w] of the case's targets, made at half the blocks' size."""
    half = coarsen // 2 if coarsen % 2 == 0 else 1
    inside = tuple(slice(b.start * coarsen // half, b.stop * coarsen // half) for b in box)
    targets = np.any(
        [case.masks[name] for name in PROTOCOLS[case.site].targets if name in case.masks], axis=0
    )
    density = np.clip(1 + case.ct_hu / 1000, 0, 2)
    targets, density = (
        cropped(coarsened(torch.from_numpy(v.astype(np.float32))[None], half), inside)[0]
        for v in (targets, density)
    )
    fields = open_fields(targets, density, tuple(s * half for s in case.spacing_mm), beams_deg)
    return coarsened(fields[None], coarsen // half)


def load_samples(cohort, case_ids, coarsen, beams_deg=(), device="cpu"):
    """The samples of `case_ids` in order; each is made once and kept under outputs/features."""
    folder = features_folder(cohort, coarsen, beams_deg)
    return [
        cached_sample(cohort, case_id, coarsen, beams_deg, folder).to(device)
        for case_id in progress(case_ids, "reading patients")
    ]


def features_folder(cohort, coarsen, beams_deg):
    return CACHE / f"{cohort.name}-coarsen{coarsen}-{features_digest(tuple(beams_deg))}"


@cache
def features_digest(beams_deg):
    """What the kept features depend on beside the case: this code and the beams."""
    return digest([modules_digest("import lib.features.samples"), beams_deg])[:8]


def cached_sample(cohort, case_id, coarsen, beams_deg, folder):
    path = folder / f"{case_id}-{cohort.card['cases'][case_id]['sha256'][:12]}.safetensors"
    if path.exists():
        try:
            return read_sample(path)
        except (UserError, KeyError, ValueError):
            path.unlink()  # damaged: made again below
    sample = make_sample(cohort.load(case_id), coarsen, beams_deg)
    meta = {
        "case_id": case_id,
        "site": sample.site,
        "rx_gy": repr(sample.rx_gy),
        "spacing_mm": " ".join(map(repr, sample.spacing_mm)),
    }
    tensors = {
        "cond": sample.cond.half(),
        "dose": sample.dose,
        "mask": sample.mask,
        "constraints": sample.constraints,
    }
    save_tensors(path, tensors, **meta)
    return sample


def read_sample(path):
    tensors, meta = load_tensors(path)
    return Sample(
        case_id=meta["case_id"],
        site=meta["site"],
        rx_gy=float(meta["rx_gy"]),
        spacing_mm=tuple(map(float, meta["spacing_mm"].split())),
        cond=tensors["cond"].float(),
        constraints=tensors["constraints"],
        dose=tensors["dose"],
        mask=tensors["mask"],
    )


@dataclass(frozen=True)
class Batch:
    """Samples on one grid: cond [B,C,d,h,w], dose and mask [B,1,d,h,w], constraints [B,13], rx_gy [B]."""

    site: str
    cond: torch.Tensor
    dose: torch.Tensor
    mask: torch.Tensor
    constraints: torch.Tensor
    spacing_mm: torch.Tensor  # [B,3]
    rx_gy: torch.Tensor
    has_prior: bool = False

    @property
    def prior(self):
        """The prior's dose [B,1,d,h,w] as a fraction of the prescription, or 0.0 where there is none."""
        return self.cond[:, -1:] if self.has_prior else 0.0


def make_batch(samples, patch=None, generator=None):
    """Samples stacked; with `patch` (d, h, w) a random patch of each, half of them centred on dose.

    Without `patch`, or along axes where it is larger, the size is the largest of the batch; smaller volumes
    are padded at the far ends with background.
    """
    if len({s.site for s in samples}) > 1:
        raise UserError("one batch cannot mix treatment sites")
    largest = [max(s.dose.shape[axis] for s in samples) for axis in (1, 2, 3)]
    size = tuple(map(min, patch, largest)) if patch else tuple(largest)
    parts = [cut(s, patch_start(s, size, generator), size) for s in samples]
    cond, dose, mask = (torch.stack(part) for part in zip(*parts))
    return Batch(
        samples[0].site,
        cond,
        dose,
        mask,
        torch.stack([s.constraints for s in samples]),
        torch.tensor([s.spacing_mm for s in samples]),
        torch.tensor([s.rx_gy for s in samples]),
        samples[0].has_prior,
    )


def structures_of(batch):
    """Where each structure of the protocol lies, bool [B,S,d,h,w]: where its signed distance is negative."""
    return batch.cond[:, 1 : 1 + len(PROTOCOLS[batch.site].structures)] < 0


def part_of(batch, patients):
    """The batch of some of its patients, a slice."""
    names = ("cond", "dose", "mask", "constraints", "spacing_mm", "rx_gy")
    return replace(batch, **{name: getattr(batch, name)[patients] for name in names})


def patch_start(sample, size, generator):
    """First voxel of a patch: anywhere, or for half of them centred where the dose is above 10 %."""
    room = [max(0, n - s) for n, s in zip(sample.dose.shape[1:], size)]
    if not any(room):
        return (0, 0, 0)
    draw = torch.rand(4, generator=generator)
    start = [int(u * (r + 1)) for u, r in zip(draw, room)]
    dosed = torch.nonzero(sample.dose[0] > 0.1) if draw[3] < 0.5 else ()
    if len(dosed):
        centre = dosed[int(torch.randint(len(dosed), (1,), generator=generator))]
        start = [min(max(0, int(c) - s // 2), r) for c, s, r in zip(centre, size, room)]
    return tuple(start)


def cut(sample, start, size):
    """Patch of cond, dose and mask; what reaches beyond the volume is background."""
    box = tuple(slice(a, a + s) for a, s in zip(start, size))
    outside = background(sample.site, len(sample.cond)).to(sample.cond.device)[:, None, None, None]

    def padded(volume):
        volume = volume[(slice(None), *box)]
        pad = [p for n, s in zip(reversed(volume.shape[1:]), reversed(size)) for p in (0, s - n)]
        return F.pad(volume, pad)

    return padded(sample.cond - outside) + outside, padded(sample.dose), padded(sample.mask)


def augment(batch, how, generator):
    """Left-right flip, translation, rotation about the head-foot axis, noise on the CT; drawn on the CPU.

    "rotated" is the reference's, with the flip truly left-right and its 16 voxels of translation as 16 mm;
    "whole voxels" rounds the translation to voxels and does not rotate: interpolating voxels of a centimetre
    would blur dose and masks.
    """
    whole = how == "whole voxels"
    n, device = len(batch.cond), batch.cond.device
    draw = torch.rand(n, 5, generator=generator)
    noise = torch.randn(batch.cond[:, :1].shape, generator=generator)
    flipped = (draw[:, 0] < 0.5).to(device)
    cond = torch.where(
        flipped[:, None, None, None, None],
        batch.cond.flip(-1)[:, mirror_order(batch.site, batch.cond.shape[1])],
        batch.cond,
    )
    constraints = torch.where(
        flipped[:, None], mirrored_flags(batch.site, batch.constraints), batch.constraints
    )
    dose, mask = (
        torch.where(flipped[:, None, None, None, None], v.flip(-1), v) for v in (batch.dose, batch.mask)
    )
    shift_mm, angle = (2 * draw[:, 1:4] - 1) * SHIFT_MM, (2 * draw[:, 4] - 1) * math.radians(ROTATE_DEG)
    if whole:
        shift_mm, angle = torch.round(shift_mm / batch.spacing_mm) * batch.spacing_mm, torch.zeros_like(angle)
    grid = motion_grid(batch, shift_mm, angle)
    outside = background(batch.site, batch.cond.shape[1]).to(device)[None, :, None, None, None]
    moved = F.grid_sample(
        torch.cat([cond - outside, dose, mask], 1),
        grid.to(device),
        "nearest" if whole else "bilinear",
        align_corners=False,
    )
    cond, dose, mask = moved.split([cond.shape[1], 1, 1], dim=1)
    cond = cond + outside
    cond[:, :1] += CT_NOISE * noise.to(device)
    return Batch(batch.site, cond, dose, mask, constraints, batch.spacing_mm, batch.rx_gy)


def mirrored_flags(site, constraints):
    """Constraint vectors [...,13] after a flip: head and neck's presence flags follow their organs."""
    if site == "prostate":
        return constraints
    structures = len(PROTOCOLS[site].structures)
    order = [channel - 1 for channel in mirror_order(site, 1 + structures)[1:]]
    return torch.cat([constraints[..., :3], constraints[..., 3:][..., order]], dim=-1)


def mirrored(sample):
    """The patient's mirror image, left and right exchanged."""
    cond = sample.cond.flip(-1)[mirror_order(sample.site, len(sample.cond))]
    return replace(
        sample,
        cond=cond,
        dose=sample.dose.flip(-1),
        mask=sample.mask.flip(-1),
        constraints=mirrored_flags(sample.site, sample.constraints),
    )


def motion_grid(batch, shift_mm, angle):
    """Sampling grid [B,d,h,w,3] of an axial rotation about the centre and a shift (z, y, x) in mm."""
    half_mm = batch.spacing_mm * torch.tensor(batch.dose.shape[2:]) / 2
    z, y, x = half_mm.unbind(1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = torch.stack(
        [
            torch.stack([cos, -sin * y / x, zero, shift_mm[:, 2] / x], 1),
            torch.stack([sin * x / y, cos, zero, shift_mm[:, 1] / y], 1),
            torch.stack([zero, zero, zero + 1, shift_mm[:, 0] / z], 1),
        ],
        1,
    )
    return F.affine_grid(rows, batch.dose.shape, align_corners=False)
