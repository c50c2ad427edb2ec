"""What a training leaves in its folder, and what names it.

weights.safetensors          the averaged weights (or the best ones), weights-<p>pct.safetensors after
                             p % of the steps, weights-last.safetensors without averaging
config.json, history.csv     what decided it, and its course by epochs
prior/                       weights and configuration of the regression it starts from, if it has one
failed.json                  instead of these, why it failed or was stopped: {"reason": sentence}
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from shutil import copyfile

import pandas as pd
import torch

from lib.cache import digest, write_stamp
from lib.errors import UserError
from lib.files import in_project, lock, sha256, write_json, write_text
from lib.models.config import TrainConfig
from lib.tensors import save_tensors
from lib.training.checkpoint import CURRENT, PREVIOUS
from lib.training.processes import is_first, say, wait_for_all
from lib.training.state import CannotTrain, TrainingState

STAMP = "trained.json"
# The last digits of the units depend on how many threads add them up, and those of the gradients on the parts
# a batch is cut into; the card decides the constraints; the weights that a training starts from count by
# their content, not by their folder.
NOT_IN_KEY = ("dose_shift", "dose_scale", "accumulate", "n_constraints", "start_from")
# A field that is new has a default, which stands for how it was before: it counts only where it is another,
# so that finished trainings keep their keys. These two had a default when keys were first made.
ALWAYS_IN_KEY = ("compile", "version")
DEFAULTS = {f.name: f.default for f in fields(TrainConfig) if f.name not in ALWAYS_IN_KEY}


def training_key(config: TrainConfig, prior: Path | None = None) -> str:
    """What a training depends on: its configuration, which names its cohort's card and TRAINING_VERSION, and
    the weights of its prior and of its start."""
    values = {name: value for name, value in asdict(config).items() if name not in NOT_IN_KEY}
    decisive = {name: value for name, value in values.items() if value != DEFAULTS.get(name, MISSING)}
    starts = [in_project(folder) / "weights.safetensors" for folder in (prior, config.start_from) if folder]
    for path in starts:
        if not path.exists():
            raise UserError(f"{path.parent} holds no finished training, from which this one is to start")
    return digest([decisive, [sha256(path) for path in starts]])


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Train in the folder alone; where a training cannot be done, why is printed and kept as failed.json."""
    busy = f"another process is training {folder}; wait for it or stop it"
    with lock(folder / "training.lock", busy) if is_first() else nullcontext():
        try:
            yield
        except CannotTrain as error:
            say(f"not trained: {error}")
            if is_first():
                write_json(folder / "failed.json", {"reason": str(error)})


def write_snapshots(state: TrainingState, folder: Path) -> None:
    """The averaged weights as they stand when a share of the steps is done."""
    for share in state.config.snapshots_pct:
        if is_first() and state.step == round(share / 100 * state.config.n_steps):
            save_tensors(folder / f"weights-{share}pct.safetensors", state.averaged.state_dict())


def write_result(state: TrainingState, folder: Path, key: str, prior: Path | None) -> None:
    """Write weights, configuration and history; the running state is then gone."""
    if state.device.type == "cuda":
        say(f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU's memory were used")
    if is_first():
        best = state.best_weights if state.config.keep == "best" else {}
        save_tensors(folder / "weights.safetensors", best or state.averaged.state_dict())
        save_tensors(folder / "weights-last.safetensors", state.network.state_dict())
        write_json(folder / "config.json", asdict(state.config))
        write_text(folder / "history.csv", pd.DataFrame(state.history).to_csv(index=False))
        for name in ("weights.safetensors", "config.json") if prior else ():
            (folder / "prior").mkdir(exist_ok=True)
            copyfile(prior / name, folder / "prior" / name)
        kept = ("config.json", "history.csv", "weights*.safetensors", "prior/*")
        write_stamp(folder / STAMP, key, [path for name in kept for path in sorted(folder.glob(name))])
        for name in (CURRENT, PREVIOUS, "failed.json"):
            (folder / name).unlink(missing_ok=True)
    wait_for_all()
