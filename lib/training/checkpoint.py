"""The checkpoint of a running training: one file with its checksum, and the one before it.

The first line is the SHA-256 of what follows, so a torn or damaged file is recognised and the one before
it used. It is read with weights_only: a stranger's file cannot run code.
"""

import hashlib
import io
import os
import pickle
from pathlib import Path

import torch

from lib.files import written_whole

CURRENT, PREVIOUS = "state.pt", "state.previous.pt"


def save_state(folder, key, state):
    """Write `state` (tensors, numbers, lists, dicts) of the training named by `key`."""
    buffer = io.BytesIO()
    torch.save({"key": key, "state": state}, buffer)
    payload = buffer.getvalue()
    current = Path(folder) / CURRENT
    with written_whole(current) as temporary:
        temporary.write_bytes(hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
        if current.exists():
            os.replace(current, current.with_name(PREVIOUS))


def load_state(folder, key, device, report=print):
    """The newest whole state of the training named by `key`, or None; says what it passes over."""
    for name in (CURRENT, PREVIOUS):
        path = Path(folder) / name
        if not path.exists():
            continue
        stored = read_checked(path, device)
        if stored is None:
            report(f"{path} is damaged and passed over")
        elif stored["key"] != key:
            report(f"{path} is of a training with other parameters, patients or code and passed over")
        else:
            return stored["state"]
    return None


def read_checked(path, device):
    digest, _, payload = path.read_bytes().partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        return None
    try:
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError):
        return None


def clear_state(folder):
    for name in (CURRENT, PREVIOUS):
        (Path(folder) / name).unlink(missing_ok=True)
