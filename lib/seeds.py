"""Random streams named by what they are for, so that no draw depends on what was drawn before it.

A training step's randomness depends only on (seed, "step", number); a run that is resumed at any step
therefore goes on exactly as it would have, and there is no random state to save.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator_for(*names: str | int) -> torch.Generator:
    """A CPU generator seeded by the names, equal on every machine and for every hash seed of Python."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normal(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal numbers on the device; on a GPU they are drawn there, by a stream that the generator's
    next number names, so that no volume of noise is copied."""
    if device.type == "cpu":
        return torch.randn(shape, generator=generator, dtype=dtype)
    name = int(torch.randint(2**62, (), generator=generator))
    drawn = torch.Generator(device).manual_seed(name)
    return torch.randn(shape, generator=drawn, dtype=dtype, device=device)
