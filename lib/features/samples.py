"""One patient as tensors on the training grid: averaged blocks in the box around the dose mask.

Channels are made at full size; then everything is averaged over blocks of `coarsen`^3 voxels. A sample is
made once and kept under outputs/features.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lib.cache import FEATURES_VERSION, digest
from lib.cases.case import Case
from lib.cases.cohort import Cohort
from lib.errors import UserError
from lib.features.beams import beam_channel
from lib.features.channels import Channels, channels_of, condition_channels, constraint_vector
from lib.features.grid import crop, dose_box, mean_of_blocks
from lib.files import in_project
from lib.progress import progress
from lib.tensors import load_tensors, save_tensors

CACHE = Path("outputs/features")
TENSORS = ("cond", "dose", "mask", "constraints")


@dataclass(frozen=True)
class Sample:
    """One case on the training grid: [d,h,w] blocks in the box of its dose mask (grid.dose_box).

    cond         float32 [C,d,h,w]   condition channels, called as `channels` says
    dose         float32 [1,d,h,w]   fraction of `rx_gy`
    mask         float32 [1,d,h,w]   share of the voxel inside the case's dose mask
    constraints  float32 [K]         of channels.constraint_vector
    """

    case_id: str
    channels: Channels
    cond: torch.Tensor
    dose: torch.Tensor
    mask: torch.Tensor
    constraints: torch.Tensor
    spacing_mm: tuple[float, float, float]
    rx_gy: float
    coarsen: int = 1  # voxels of the case along a block's edge

    def to(self, device: torch.device | str) -> "Sample":
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})


def make_sample(case: Case, coarsen: int, beams_deg: tuple[float, ...] = ()) -> Sample:
    """The case on the training grid, with the open fields of its beams if there are any."""
    box = dose_box(torch.from_numpy(case.dose_mask), coarsen)

    def to_grid(volume):
        return crop(mean_of_blocks(volume, coarsen), box)

    def as_tensor(array):
        return torch.from_numpy(array.astype(np.float32))[None]

    cond = to_grid(condition_channels(case))
    if beams_deg:
        cond = torch.cat([cond, beam_channel(case, box, coarsen, beams_deg)])
    return Sample(
        case_id=case.case_id,
        channels=channels_of(case.protocol, beams_deg),
        cond=cond.half().float(),  # as the cache keeps it
        dose=to_grid(as_tensor(case.dose_gy / case.rx_gy)),
        mask=to_grid(as_tensor(case.dose_mask)),
        constraints=torch.tensor(constraint_vector(case)),
        spacing_mm=tuple(s * coarsen for s in case.spacing_mm),
        rx_gy=case.rx_gy,
        coarsen=coarsen,
    )


def add_prior(sample: Sample, dose: torch.Tensor) -> Sample:
    """The sample with another network's dose [1,d,h,w] as its last condition channel."""
    cond = torch.cat([sample.cond, dose.to(sample.cond)])
    return replace(sample, cond=cond, channels=sample.channels.with_prior())


def load_samples(
    cohort: Cohort, case_ids: list[str], coarsen: int, beams_deg: tuple[float, ...] = ()
) -> list[Sample]:
    """The samples of `case_ids` in their order."""
    return [load_sample(cohort, i, coarsen, beams_deg) for i in progress(case_ids, "reading patients")]


def load_sample(cohort: Cohort, case_id: str, coarsen: int, beams_deg: tuple[float, ...] = ()) -> Sample:
    """The sample of one case, from disk if it was made before; a damaged file is made again."""
    beams_deg, case_sha256 = tuple(beams_deg), cohort.card["cases"][case_id]["sha256"]
    key = digest([FEATURES_VERSION, case_sha256, coarsen, beams_deg])[:16]
    path = in_project(CACHE) / cohort.name / f"{case_id}-{key}.safetensors"
    try:
        return read_sample(path)
    except (UserError, KeyError, ValueError, TypeError):
        sample = make_sample(cohort.load(case_id), coarsen, beams_deg)
        write_sample(path, sample)
        return sample


def write_sample(path: Path, sample: Sample) -> None:
    """Write a sample, its condition channels in half precision."""
    words = {name: getattr(sample, name) for name in ("case_id", "spacing_mm", "rx_gy", "coarsen")}
    words["channels"] = (sample.channels.protocol.stored, sample.channels.beams_deg)
    tensors = {name: getattr(sample, name) for name in TENSORS} | {"cond": sample.cond.half()}
    save_tensors(path, tensors, words=json.dumps(words))


def read_sample(path: Path) -> Sample:
    """A sample as it was written; of a file that is missing or damaged a UserError, KeyError or TypeError."""
    tensors, about = load_tensors(path)
    words = json.loads(about["words"])
    spacing_mm, channels = tuple(words.pop("spacing_mm")), channels_of(*words.pop("channels"))
    cond = tensors.pop("cond").float()
    return Sample(channels=channels, cond=cond, spacing_mm=spacing_mm, **tensors, **words)
