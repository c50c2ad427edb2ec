"""The checkpoint of a running training: one file with its checksum, and the one before it.

The first line is the SHA-256 of what follows, so a torn or damaged file is recognised and the one before
it used. It is read with weights_only: a stranger's file cannot run code.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lib.errors import UserError
from lib.files import in_project, replace_file
from lib.training.processes import is_first, say
from lib.training.state import TrainingState

CURRENT, PREVIOUS = "state.pt", "state.previous.pt"


@contextmanager
def resumable(state: TrainingState, folder: Path, key: str) -> Iterator[None]:
    """Go on from the last checkpoint, or begin with the weights that the training starts from, if any. Ctrl-C
    keeps a checkpoint; it and too little memory end in a sentence."""
    stored = load_state(folder, key, state.device)
    if stored:
        state.load_state_dict(stored)
        say(f"going on from step {state.step} of {state.config.n_steps}")
    elif state.config.start_from:
        state.load_weights(in_project(state.config.start_from))
    try:
        yield
    except KeyboardInterrupt:
        save_when_due(state, folder, key, 0.0)
        where = f"step {state.step} of {state.config.n_steps}"
        raise UserError(f"stopped by hand at {where}; the same command goes on from there") from None
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"too little memory to train {state.config.method}: raise train.accumulate, and it goes on "
            "from its last checkpoint, or lower train.batch_size"
        ) from None


def save_when_due(state: TrainingState, folder: Path, key: str, every_s: float) -> None:
    """Write a checkpoint if the last is so many seconds of training old."""
    if state.seconds - state.saved_s >= every_s:
        state.check_finite()
        state.saved_s = state.seconds
        if is_first():
            save_state(folder, key, state.state_dict())


def save_state(folder: Path, key: str, state: dict) -> None:
    """Write `state` (tensors, numbers, lists, dicts) of the training named by `key`."""
    buffer, current = io.BytesIO(), folder / CURRENT
    torch.save({"key": key, "state": state}, buffer)
    payload = buffer.getvalue()
    with replace_file(current) as temporary:
        temporary.write_bytes(hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
        if current.exists():
            os.replace(current, folder / PREVIOUS)


def load_state(folder: Path, key: str, device: torch.device | str) -> dict | None:
    """The newest whole state of the training named by `key`, or None; says what it passes over."""
    for path in (folder / CURRENT, folder / PREVIOUS):
        stored = read_checked(path, device) if path.exists() else None
        if stored and stored["key"] == key:
            return stored["state"]
        if path.exists():
            why = "of a training with other parameters, patients or code" if stored else "damaged"
            say(f"{path} is {why} and passed over")
    return None


def read_checked(path: Path, device: torch.device | str) -> dict | None:
    """What the file holds, or None if it does not have its checksum."""
    checksum, _, payload = path.read_bytes().partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != checksum:
        return None
    try:
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError):
        return None
