"""What a network sees of a case: the condition channels, what they are called and how they are made.

In order: the CT, one signed distance per structure of the protocol (negative inside, clipped at 50 mm and
divided by it, +1 where absent), the dose mask where the protocol says so, the open fields where the gantry
angles are given, and for a method that starts from another network's dose that dose.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects

from lib.cases.case import Case
from lib.cases.protocol import Protocol, protocol_of

CLIP_MM = 50.0


@dataclass(frozen=True)
class Channels:
    """The names of the channels of `cond` in their order; they travel with every sample and batch."""

    protocol: Protocol
    names: tuple[str, ...]
    beams_deg: tuple[float, ...] = ()  # gantry angles of the open fields

    @property
    def answered(self) -> tuple[str, ...]:
        """The volumes of a sample that lie on the grid of a network's answers."""
        return ("dose", "mask", "prior") if "prior" in self.names else ("dose", "mask")

    def mirror_order(self) -> list[int]:
        """Where each channel comes from after a left-right flip."""
        pairs = self.protocol.mirrored
        twin = dict(pairs) | {right: left for left, right in pairs}
        return [self.names.index(twin.get(name, name)) for name in self.names]

    def background(self) -> torch.Tensor:
        """Value [C] of each channel outside the patient: air, far from every structure, no dose."""
        known = {"ct": float(scale_ct(np.float32(self.protocol.ct_window_hu[0]), self.protocol))}
        known |= dict.fromkeys(self.protocol.structures, 1.0)
        return torch.tensor([known.get(name, 0.0) for name in self.names])

    def select(self, cond: torch.Tensor, names: Iterable[str]) -> torch.Tensor:
        """The named channels of `cond` [...,C,D,H,W], in the order of `names`."""
        return cond[..., [self.names.index(name) for name in names], :, :, :]

    def with_prior(self) -> "Channels":
        return replace(self, names=(*self.names, "prior"))


def channels_of(protocol: Protocol | str | dict, beams_deg: tuple[float, ...] = ()) -> Channels:
    """The channels of a protocol's cases (what protocol_of takes), with open fields if there are beams."""
    protocol = protocol_of(protocol)
    further = {"dose mask": protocol.dose_mask_channel, "open fields": len(beams_deg) > 0}
    names = ("ct", *protocol.structures, *(name for name, wanted in further.items() if wanted))
    return Channels(protocol, names, tuple(beams_deg))


def condition_channels(case: Case) -> torch.Tensor:
    """The channels of the case at full size but its open fields, float32 [C,D,H,W]."""
    protocol = case.protocol
    channels = [scale_ct(case.ct_hu, protocol)]
    for name in protocol.structures:
        mask = case.masks.get(name, np.zeros(case.shape, bool))
        channels.append(signed_distance_mm(mask, case.spacing_mm) / CLIP_MM)
    if protocol.dose_mask_channel:
        channels.append(case.dose_mask.astype(np.float32))
    return torch.from_numpy(np.stack(channels))


def constraint_vector(case: Case) -> list[float]:
    """The numbers that reach the network through FiLM, in the order of the protocol.

    The prescription of each target / 70 Gy, 0 where it has none: their ratios, and their height, on which
    what an organ may get depends; then a flag for each structure, 1 where it is present.
    A protocol's own vector instead: prescriptions / the highest, limits in % / 100, cc / 500 and
    Gy / the highest prescription.
    """
    protocol, prescribed = case.protocol, case.prescription_gy
    if not protocol.constraint_vector:
        present = [float(name in case.masks) for name in protocol.structures]
        return [prescribed.get(name, 0.0) / 70.0 for name in protocol.targets] + present
    scale = {"%": 100.0, "cc": 500.0, "Gy": case.rx_gy}
    entries = [entry.partition(" ") for entry in protocol.constraint_vector]
    return [
        float(value) / scale[unit] if unit else prescribed.get(value, 0.0) / case.rx_gy
        for value, _, unit in entries
    ]


def scale_ct(ct_hu: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Hounsfield units clipped to the protocol's window and scaled, float32."""
    scaled = np.clip(ct_hu, *protocol.ct_window_hu) / protocol.ct_scale_hu + protocol.ct_offset
    return scaled.astype(np.float32)


def signed_distance_mm(mask: np.ndarray, spacing_mm: tuple, clip_mm: float = CLIP_MM) -> np.ndarray:
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
