"""The checkpoint of a running training: one file with its checksum, and the one before it.

The first line is the SHA-256 of what follows, so a torn or damaged file is recognised and the one before
it used. It is read with weights_only: a stranger's file cannot run code.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lib.errors import UserError
from lib.files import written_whole
from lib.models.config import TrainConfig
from lib.training.processes import is_first
from lib.training.state import TrainingState

CURRENT, PREVIOUS = "state.pt", "state.previous.pt"


def resume(
    state: TrainingState, config: TrainConfig, folder: Path, key: str, report: Callable[[str], None]
) -> None:
    """Go on from the last checkpoint, or begin with the weights that the training starts from, if any."""
    stored = load_state(folder, key, state.device, report)
    if stored:
        state.load_state_dict(stored)
        report(f"going on from step {state.step} of {config.n_steps}")
    elif config.start_from:
        state.load_weights(config.start_from)


@contextmanager
def resumable(state: TrainingState, config: TrainConfig, folder: Path, key: str) -> Iterator[None]:
    """Ctrl-C keeps a checkpoint; it and too little memory end in a sentence."""
    try:
        yield
    except KeyboardInterrupt:
        save_when_due(state, folder, key, 0.0)
        raise UserError(
            f"stopped by hand at step {state.step} of {config.n_steps}; the same command goes on from there"
        ) from None
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"the memory does not suffice for a step of {config.method}; raise train.accumulate, with which the "
            "training goes on from its last checkpoint, or lower train.batch_size"
        ) from None


def save_when_due(state: TrainingState, folder: Path, key: str, every_s: float) -> None:
    """Write a checkpoint if the last is more than so many seconds of training old."""
    if state.seconds - state.saved_s < every_s:
        return
    state.check_finite()
    state.saved_s = state.seconds
    if is_first():
        save_state(folder, key, state.state_dict())


def save_state(folder: Path, key: str, state: dict) -> None:
    """Write `state` (tensors, numbers, lists, dicts) of the training named by `key`."""
    buffer = io.BytesIO()
    torch.save({"key": key, "state": state}, buffer)
    payload = buffer.getvalue()
    current = Path(folder) / CURRENT
    with written_whole(current) as temporary:
        temporary.write_bytes(hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
        if current.exists():
            os.replace(current, current.with_name(PREVIOUS))


def load_state(
    folder: Path, key: str, device: torch.device | str, report: Callable[[str], None] = print
) -> dict | None:
    """The newest whole state of the training named by `key`, or None; says what it passes over."""
    for name in (CURRENT, PREVIOUS):
        path = Path(folder) / name
        stored = read_checked(path, device) if path.exists() else None
        if stored and stored["key"] == key:
            return stored["state"]
        if stored:
            report(f"{path} is of a training with other parameters, patients or code and passed over")
        elif path.exists():
            report(f"{path} is damaged and passed over")
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


def clear_state(folder: Path) -> None:
    for name in (CURRENT, PREVIOUS):
        (Path(folder) / name).unlink(missing_ok=True)
