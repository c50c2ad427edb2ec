"""Several processes that train one network: who is who, what each does, and what they tell each other.

Started by torchrun (PyTorch's own launcher), which sets RANK, WORLD_SIZE and LOCAL_RANK, on one machine or
several that share the output folder. Started otherwise a process is alone, and nothing here does anything.
"""

import os
import signal
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lib.errors import UserError

PATIENCE = timedelta(minutes=20)  # for the others, which may be reading patients


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first():
    """Whether this process writes the files and the log."""
    return rank() == 0


class Ended(Exception):
    """torchrun ends the other processes when one has ended."""


@contextmanager
def joined(device):
    """Join torchrun's other processes for the block. Raises a UserError if one of them ends meanwhile."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} has no GPU: there are {torch.cuda.device_count()}; lower --nproc-per-node"
            )
        torch.cuda.set_device(local)
    signal.signal(signal.SIGTERM, end)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
        dist.destroy_process_group()
    except (Ended, RuntimeError) as error:  # torch's own errors of communication are RuntimeErrors
        if not isinstance(error, (Ended, dist.DistBackendError, dist.DistNetworkError)) and "peer" not in str(
            error
        ):
            raise
        raise UserError(
            "another process of this training has ended; the same command goes on from the last checkpoint"
        ) from None


def end(number, frame):
    raise Ended


def own_device(device):
    """The device of this process: of several GPUs its own."""
    return (
        torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and world() > 1 else device
    )


def together(network):
    """The network such that its gradients are the mean over all processes."""
    if world() == 1:
        return network
    on_gpu = next(network.parameters()).is_cuda
    return DistributedDataParallel(network, device_ids=[torch.cuda.current_device()] if on_gpu else None)


def without_talk(network, last):
    """Gradients stay here until the last part of a batch."""
    return nullcontext() if last or world() == 1 else network.no_sync()


def mean_over_all(value):
    """Mean of a tensor over all processes."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= world()
    return value


def sum_over_all(value, device):
    """Sum of a number over all processes."""
    return (
        float(mean_over_all(torch.tensor(value, dtype=torch.float64, device=device))) * world()
        if world() > 1
        else value
    )


def own_share(items):
    """Every n-th of the items, beginning with this process's number."""
    return items[rank() :: world()]


def wait_for_all():
    if world() > 1:
        dist.barrier()
