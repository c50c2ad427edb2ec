"""What a training leaves in its folder, and what names it.

weights.safetensors          the averaged weights (or the best ones), weights-<p>pct.safetensors after
                             p % of the steps, weights-last.safetensors without averaging
config.json, history.csv     what decided it, and its course by epochs
prior/                       weights and configuration of the regression it starts from, if it has one
failed.json                  instead of these, why it failed or was stopped: {"reason": sentence}
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from shutil import copyfile

import pandas as pd
import torch

from lib.cache import digest, is_fresh, write_stamp
from lib.errors import UserError
from lib.files import lock, sha256, write_json, write_text
from lib.models.config import TrainConfig
from lib.tensors import save_tensors
from lib.training.checkpoint import clear_state
from lib.training.history import read_history
from lib.training.processes import is_first, wait_for_all
from lib.training.state import CannotTrain, TrainingState

STAMP = "trained.json"
# the last digits of the units depend on how many threads add them up; in how many parts a batch is cut changes
# no number but by rounding; the weights it starts from count, not where they lie
NOT_IN_KEY = ("dose_shift", "dose_scale", "accumulate", "start_from")


def training_key(config: TrainConfig, prior: str | Path | None = None) -> str:
    """What a training depends on: its configuration, which names its cohort's card and TRAINING_VERSION, and
    the weights of its prior and of its start."""
    given = {name: value for name, value in asdict(config).items() if name not in NOT_IN_KEY}
    return digest([given, [weights_sha256(folder) for folder in (prior, config.start_from) if folder]])


def weights_sha256(folder: str | Path) -> str:
    path = Path(folder) / "weights.safetensors"
    if not path.exists():
        raise UserError(f"{folder} holds no finished training ({path.name}), from which this one is to start")
    return sha256(path)


def finished_history(folder: Path, key: str, report: Callable[[str], None]) -> list[dict] | None:
    """The history of the training named by `key` if the folder holds it finished."""
    if not is_fresh(folder / STAMP, key):
        return None
    report("this training is finished already; its history is read back")
    return read_history(folder / "history.csv")


@contextmanager
def alone_in(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """The only training of the folder; where it cannot be done, why is reported and kept as failed.json."""
    busy = f"another process is training {folder}; wait for it or stop it"
    with lock(folder / "training.lock", busy) if is_first() else nullcontext():
        try:
            yield
        except CannotTrain as error:
            if is_first():
                write_json(folder / "failed.json", {"reason": str(error)})
            report(f"not trained: {error}")


def write_snapshot(state: TrainingState, config: TrainConfig, folder: Path) -> None:
    """The averaged weights as they stand when a share of the steps is done."""
    for share in config.snapshots_pct:
        if is_first() and state.step == round(share / 100 * config.n_steps):
            save_tensors(folder / f"weights-{share}pct.safetensors", state.averaged.state_dict())


def write_result(
    state: TrainingState,
    config: TrainConfig,
    folder: Path,
    key: str,
    prior: str | Path | None,
    report: Callable[[str], None],
) -> None:
    """Write weights, configuration and history; the running state is then gone."""
    if state.device.type == "cuda":
        report(f"at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU's memory were used")
    if is_first():
        best = state.best_weights if config.keep == "best" else {}
        save_tensors(folder / "weights.safetensors", best or state.averaged.state_dict())
        save_tensors(folder / "weights-last.safetensors", state.network.state_dict())
        write_json(folder / "config.json", asdict(config))
        write_text(folder / "history.csv", pd.DataFrame(state.history).to_csv(index=False))
        if prior:
            (folder / "prior").mkdir(exist_ok=True)
            for name in ("weights.safetensors", "config.json"):
                copyfile(Path(prior) / name, folder / "prior" / name)
        kept = ("config.json", "history.csv", "weights*.safetensors", "prior/*" if prior else "prior")
        write_stamp(folder / STAMP, key, [path for name in kept for path in sorted(folder.glob(name))])
        clear_state(folder)
        (folder / "failed.json").unlink(missing_ok=True)
    wait_for_all()
