"""Random streams named by what they are for, so that no draw depends on what was drawn before it.

A training step's randomness depends only on (seed, "step", number); a run that is resumed at any step
therefore goes on exactly as it would have, and there is no random state to save.
"""

import hashlib

import torch


def generator_for(*names: str | int) -> torch.Generator:
    """A CPU generator seeded by the names, equal on every machine and for every hash seed of Python."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
