"""Several processes that train one network: who is who, what each does, and what they tell each other.

Started by torchrun (PyTorch's own launcher), which sets RANK, WORLD_SIZE and LOCAL_RANK, on one machine or
several that share the output folder. Started otherwise a process is alone, and nothing here does anything.
"""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lib.errors import UserError

PATIENCE = timedelta(minutes=20)  # for the others, which may be reading patients


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the files and the log."""
    return rank() == 0


def say(sentence: str) -> None:
    """Print by the first process alone."""
    if is_first():
        print(sentence, flush=True)


class Ended(Exception):
    """torchrun ends the other processes when one has ended."""


@contextmanager
def join_processes(device: torch.device) -> Iterator[None]:
    """Join torchrun's other processes for the block. Raises a UserError if one of them ends meanwhile."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count:
            raise UserError(f"process {number} has no GPU: there are {count}; lower --nproc-per-node")
        torch.cuda.set_device(number)
    signal.signal(signal.SIGTERM, end)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
        dist.destroy_process_group()
    except (Ended, RuntimeError) as error:  # torch's own errors of communication are RuntimeErrors
        talk = (Ended, dist.DistBackendError, dist.DistNetworkError)
        if not isinstance(error, talk) and "peer" not in str(error):
            raise
        why = "another process of this training has ended"
        raise UserError(f"{why}; the same command goes on from the last checkpoint") from None


def end(*_: Any) -> None:
    raise Ended


def process_device(device: torch.device) -> torch.device:
    """The device of this process: of several GPUs its own."""
    several = device.type == "cuda" and world() > 1
    return torch.device("cuda", torch.cuda.current_device()) if several else device


def share_gradients(network: nn.Module) -> nn.Module:
    """The network such that its gradients are the mean over all processes."""
    if world() == 1:
        return network
    on_gpu = next(network.parameters()).is_cuda
    return DistributedDataParallel(network, device_ids=[torch.cuda.current_device()] if on_gpu else None)


def hold_gradients(network: nn.Module, hold: bool) -> AbstractContextManager:
    """Gradients stay in this process until the last part of a batch."""
    return network.no_sync() if hold and world() > 1 else nullcontext()


def parts_of_batch(patients: int, accumulate: int) -> list[tuple[slice, float]]:
    """Pairs (slice of the batch, weight) of this process, so that weighted losses average to the batch's.

    All processes have equally many parts; one beyond the patients is the first patient with weight 0.
    """
    n_parts = world() * accumulate
    edges = [round(i * patients / n_parts) for i in range(n_parts + 1)]
    spans = itertools.pairwise(edges)
    parts = [(slice(a, b), world() * (b - a) / patients) if b > a else (slice(0, 1), 0.0) for a, b in spans]
    parts = parts[rank() * accumulate : (rank() + 1) * accumulate]
    return parts if world() > 1 else [part for part in parts if part[1]]


def mean_over_all(value: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over all processes."""
    if world() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world()


def sum_over_all(value: float, device: torch.device) -> float:
    """Sum of a number over all processes."""
    return float(mean_over_all(torch.tensor(value, dtype=torch.float64, device=device))) * world()


def wait_for_all() -> None:
    if world() > 1:
        dist.barrier()
