"""One patient as tensors on the training grid: averaged blocks in the box around the dose mask.

Channels are made at full size and averaged over blocks of `coarsen`^3 voxels or what a network sees in each;
the dose and its mask over what it answers there. A sample is made once and kept under
outputs/features.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.cache import FEATURES_VERSION, digest
from lib.cases.case import Case
from lib.cases.cohort import Cohort
from lib.errors import UserError
from lib.features.beams import beam_channel
from lib.features.channels import Channels, channels_of, condition_channels, constraint_vector
from lib.features.grid import Grid, crop, dose_box, finer, mean_of_blocks
from lib.files import in_project
from lib.parallel import in_processes, n_workers
from lib.progress import progress
from lib.tensors import load_tensors, save_tensors

CACHE = Path("outputs/features")
TENSORS = ("cond", "dose", "mask", "prior", "constraints")


@dataclass(frozen=True)
class Patients:
    """On the training grid: [d,h,w] blocks, in them [D,H,W] = [d,h,w] * grid.answer doses. Of a Batch every
    shape begins with B.

    cond         [C,d,h,w] * grid.condition   condition channels, called as `channels` says
    dose         [1,D,H,W]           fraction of the prescription
    mask         [1,D,H,W]           share inside the case's dose mask
    prior        [1,D,H,W]           another network's dose, or zeros
    constraints  [K]                 of channels.constraint_vector
    spacing_mm   (z, y, x)           of the doses; of a Batch a tensor
    """

    channels: Channels
    cond: torch.Tensor
    dose: torch.Tensor
    mask: torch.Tensor
    prior: torch.Tensor
    constraints: torch.Tensor
    spacing_mm: tuple[float, float, float] | torch.Tensor
    grid: Grid

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks along z, y, x."""
        return tuple(n // self.grid.condition for n in self.cond.shape[-3:])


@dataclass(frozen=True)
class Sample(Patients):
    """One case in the box of its dose mask (grid.dose_box); float32, or float16 what has several values in a
    block."""

    case_id: str
    rx_gy: float
    prescriptions: tuple[float, ...]  # of the protocol's targets, fractions of the highest; 0 where none

    def to(self, device: torch.device | str) -> "Sample":
        """The sample there; on a GPU its channels in half precision, as they are kept."""
        tensors = {name: getattr(self, name).to(device) for name in TENSORS}
        if tensors["cond"].is_cuda:
            tensors["cond"] = tensors["cond"].half()
        return replace(self, **tensors)


def make_sample(case: Case, grid: Grid, beams_deg: tuple[float, ...] = ()) -> Sample:
    """The case on the training grid, with the open fields of its beams if there are any."""
    box = dose_box(torch.from_numpy(case.dose_mask), grid.coarsen)

    def answered(array):
        volume = mean_of_blocks(torch.from_numpy(array.astype(np.float32))[None], grid.coarsen, grid.answer)
        return crop(volume, finer(box, grid.answer)).to(dtype_of(grid.answer))

    seen = finer(box, grid.condition)
    cond = crop(mean_of_blocks(condition_channels(case), grid.coarsen, grid.condition), seen)
    if beams_deg:
        cond = torch.cat([cond, beam_channel(case, seen, grid.coarsen // grid.condition, beams_deg)])
    dose = answered(case.dose_gy / case.rx_gy)
    return Sample(
        channels=channels_of(case.protocol, beams_deg),
        cond=cond.half().to(dtype_of(grid.condition)),  # as the cache keeps it
        dose=dose,
        mask=answered(case.dose_mask),
        prior=no_prior(dose),
        constraints=torch.tensor(constraint_vector(case)),
        spacing_mm=tuple(s * grid.voxels for s in case.spacing_mm),
        grid=grid,
        case_id=case.case_id,
        rx_gy=case.rx_gy,
        prescriptions=prescriptions_of(case),
    )


def prescriptions_of(case: Case) -> tuple[float, ...]:
    """Of each target of the protocol as a fraction of the highest; 0 where the plan has none."""
    return tuple(case.prescription_gy.get(name, 0.0) / case.rx_gy for name in case.protocol.targets)


def dtype_of(parts: int) -> torch.dtype:
    """Of volumes with `parts`^3 values in a block; several are kept in half the memory."""
    return torch.float32 if parts == 1 else torch.float16


def no_prior(dose: torch.Tensor) -> torch.Tensor:
    """Zeros of the dose's shape that take no memory."""
    return torch.zeros((), dtype=dose.dtype).expand_as(dose)


def add_prior(sample: Sample, dose: torch.Tensor) -> Sample:
    """The sample with another network's dose [1,D,H,W], which is its last condition channel as well."""
    seen = mean_of_blocks(dose.float(), sample.grid.answer, sample.grid.condition)
    cond = torch.cat([sample.cond, seen.to(sample.cond)])
    return replace(sample, cond=cond, prior=dose.to(sample.dose), channels=sample.channels.with_prior())


def load_samples(
    cohort: Cohort, case_ids: list[str], grid: Grid, beams_deg: tuple[float, ...] = ()
) -> list[Sample]:
    """The samples of `case_ids` in their order."""
    make_files(cohort, case_ids, grid, beams_deg)
    return [load_sample(cohort, i, grid, beams_deg) for i in progress(case_ids, "reading patients")]


def make_files(cohort: Cohort, case_ids: list[str], grid: Grid, beams_deg: tuple[float, ...] = ()) -> None:
    """Make the samples that are not there yet, where several processes can."""
    missing = [i for i in case_ids if not sample_path(cohort, i, grid, beams_deg).exists()]
    if n_workers(len(missing)) > 1:
        make = partial(make_file_alone, cohort, grid, beams_deg)
        list(progress(in_processes(make, missing), "making features", len(missing)))


def make_file(cohort: Cohort, grid: Grid, beams_deg: tuple[float, ...], case_id: str) -> Sample:
    """Make the sample of one case and write it to its file."""
    sample = make_sample(cohort.load(case_id), grid, tuple(beams_deg))
    write_sample(sample_path(cohort, case_id, grid, beams_deg), sample)
    return sample


def make_file_alone(*of_case: Any) -> None:
    """`make_file` for another process, which keeps the tensors to itself."""
    make_file(*of_case)


def sample_path(cohort: Cohort, case_id: str, grid: Grid, beams_deg: tuple[float, ...]) -> Path:
    """The file of a sample, named by all that decides it."""
    case_sha256, protocol = cohort.card["cases"][case_id]["sha256"], cohort.protocol.content
    key = digest([FEATURES_VERSION, case_sha256, protocol, grid, tuple(beams_deg)])[:16]
    return in_project(CACHE) / cohort.name / f"{case_id}-{key}.safetensors"


def load_sample(cohort: Cohort, case_id: str, grid: Grid, beams_deg: tuple[float, ...] = ()) -> Sample:
    """The sample of one case, from disk if it was made before; a damaged file is made again."""
    path = sample_path(cohort, case_id, grid, beams_deg)
    try:
        return read_sample(path)
    except (UserError, KeyError, ValueError, TypeError):
        return make_file(cohort, grid, beams_deg, case_id)


def write_sample(path: Path, sample: Sample) -> None:
    """Write a sample without prior, its condition channels in half precision."""
    words = {
        name: getattr(sample, name) for name in ("case_id", "spacing_mm", "rx_gy", "prescriptions", "grid")
    }
    words["channels"] = (sample.channels.protocol.stored, sample.channels.beams_deg)
    tensors = {name: getattr(sample, name) for name in TENSORS if name != "prior"}
    tensors["cond"] = sample.cond.half()
    save_tensors(path, tensors, words=json.dumps(words))


def read_sample(path: Path) -> Sample:
    """A sample as it was written; of a file that is missing or damaged a UserError, KeyError or TypeError."""
    tensors, about = load_tensors(path)
    words = json.loads(about["words"])
    words["spacing_mm"], words["grid"] = tuple(words["spacing_mm"]), Grid(*words["grid"])
    words["prescriptions"] = tuple(words["prescriptions"])
    cond = tensors["cond"].to(dtype_of(words["grid"].condition))
    tensors |= {"cond": cond, "prior": no_prior(tensors["dose"])}
    return Sample(channels=channels_of(*words.pop("channels")), **tensors, **words)
