"""Which device and precision a run uses, chosen automatically unless the parameters say otherwise."""

import importlib.util
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from lib.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
# the mode replays a call's kernels as one CUDA graph
COMPILED_FOR = {"training": {}, "sampling": {"mode": "reduce-overhead"}}


def choose_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" as a torch.device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but PyTorch finds no GPU here; use device: auto or cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """ "auto", "32", "bf16" or "16"; auto takes bf16 where the hardware multiplies in it."""
    if name == "auto":
        return "bf16" if has_bf16(device) else "32"
    if name == "16" and device.type == "cpu":
        raise UserError("precision 16 is for GPUs; use auto, 32 or bf16 on a CPU")
    return name


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The block computes in the precision: "32", "bf16" or "16". A weight is cast whenever it is used: a CUDA
    graph cannot use what was cast outside of it, and a network uses each once a call."""
    if precision not in DTYPES:
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision], cache_enabled=device.type != "cuda")


def memory_format(device: torch.device, precision: str) -> torch.memory_format:
    """Channels last is fastest in half precision; on CPUs in float32 its GroupNorm loses digits (variance by
    difference)."""
    half = precision in DTYPES or device.type == "cuda"
    return torch.channels_last_3d if half else torch.contiguous_format


def compile_for(purpose: str, network: nn.Module, device: torch.device) -> None:
    """Let torch.compile fuse the network's calls ("training" | "sampling") in place; weight names stay.

    It pays where a training takes longer than the minutes that compiling takes. Raises a UserError where
    nothing can compile.
    """
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        raise UserError("train.compile needs Triton on a GPU (pip install triton); set it to false")
    generates = COMPILED_FOR[purpose].get("backend", "inductor") == "inductor"  # kernels, in C++ on a CPU
    if generates and device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        needed = "a C++ compiler (g++, or the one that CXX names)"
        raise UserError(f"train.compile needs {needed} on a CPU; set it to false")
    network.compile(**COMPILED_FOR[purpose])


def describe(device: torch.device, precision: str) -> str:
    """One line for the report: the processor and the precision."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    n_threads = torch.get_num_threads()
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return f"{names[0] if names else 'CPU'}, {threads}, {precision}"
