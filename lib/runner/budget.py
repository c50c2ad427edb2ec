"""A run within so many minutes: how many epochs fit, and by when each notebook ends.

    python -m lib run params/openkbp-gpu.yaml --minutes 9

A few steps of every training are measured (lib.runner.costs). Trainings then get a share of the time and all
the same number of epochs, which is written into the experiment's params: going on is the same training.
A notebook that is not done when its share of the time is over is ended, and what needs it does without.
results/budget.json holds the plan and, stage by stage, what happened.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.cache import digest, is_fresh
from lib.device import choose_device, choose_precision, describe
from lib.errors import UserError
from lib.files import read_json, write_json
from lib.progress import clock
from lib.runner.command import Failure
from lib.runner.costs import Cost, epochs_that_fit, measure_trainings, time_for
from lib.runner.kernel import KILL, signal_kernels, start_server
from lib.runner.plan import Stage, plan
from lib.runner.schedule import Work
from lib.runner.settings import TRAIN, Values
from lib.runner.stamps import key_of, stamp_path, words_path
from lib.training.history import read_history

# shares of the time before the report, by which the stages of a notebook have ended
LATEST = {"00": 0.8, "01": 0.8, "02": 0.95, "03": 0.97, "04": 1.0}
TRAININGS = 0.66  # the share until which trainings are planned
MEASURING = 0.1  # the share that measuring may take
REPORT_S, PAGES_S = 40.0, 15.0  # before the end the report begins, and the pages at the latest
GRACE_S = 10.0  # to end by itself when the time is up
WHOLE = ("done", "up to date")
FILE = Path("results", "budget.json")


@dataclass
class Budget:
    """The plan of a run, what has become of it, and its clock, which no change of the day's time moves."""

    file: Path
    seconds: float
    plan: dict[str, Any]
    stages: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=lambda: time.monotonic() - age_s())
    now: Callable[[], float] = time.monotonic
    writing: Any = field(default_factory=threading.Lock, repr=False)

    def gone_s(self) -> float:
        return self.now() - self.started

    def latest_s(self, notebook: str) -> float:
        """By when, after the start, a stage has ended."""
        share = LATEST.get(notebook[:2])
        return max(0.0, share * (self.seconds - REPORT_S) if share else self.seconds - PAGES_S)

    def left_s(self, notebook: str) -> float:
        return self.latest_s(notebook) - self.gone_s()

    def note(self, stage: str, begun_s: float, outcome: str) -> None:
        """Keep what became of a stage."""
        row = {"stage": stage, "began_s": round(begun_s, 1), "ended_s": round(self.gone_s(), 1)}
        with self.writing:
            self.stages.append(row | {"latest_s": round(self.latest_s(stage), 1), "outcome": outcome})
            self.write("running")

    def write(self, state: str) -> None:
        """Write the plan and what happened; "running" stays there if this process is killed."""
        write_json(self.file, {"state": state, **self.plan, "stages": self.stages})


def age_s() -> float:
    """Seconds since this process began, which include its imports; 0 where the system does not say."""
    try:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0


def open_budget(
    params: Values, path: str, folder: Path, minutes: float, jobs: int
) -> tuple[Values, list[Stage], Budget]:
    """The params with the epochs that fit, their stages, and the budget; the plan is printed. The plan of an
    earlier run of the same params on the same device is kept. Raises UserError."""
    asked = check_budget(params, path, minutes)
    device = choose_device(asked["device"])
    on = describe(device, choose_precision(asked["precision"], device))
    budget = Budget(folder / FILE, 60.0 * minutes, {"key": digest([params, on]), "minutes": minutes})
    earlier = read_json(budget.file) if budget.file.exists() else {}
    if earlier.get("key") == budget.plan["key"]:
        chosen = {name: earlier[name] for name in ("epochs", "batch_size", "trainings")}
        print(f"{chosen['epochs']} epochs each, as planned when this was begun; {clock(budget.seconds)} more")
    else:
        start_server()
        chosen = choose_epochs(params, path, asked, budget, jobs)
        print_plan(chosen, budget, on)
    train = {name: chosen[name] for name in ("epochs", "batch_size")}
    params = params | {"train": (params.get("train") or {}) | train}
    budget.plan |= {"device": on} | chosen
    budget.write("running")
    return params, plan(params, path), budget


def check_budget(params: Values, path: str, minutes: float) -> Values:
    """What the file asks of its trainings; a UserError where they cannot share the time."""
    if not minutes > 0:
        raise UserError(f"--minutes is {minutes:g}; it must be more than 0")
    trainings = [stage.parameters for stage in plan(params, path) if stage.training]
    if not trainings:
        raise UserError(f"{path} has no trainings, among which --minutes would share the time; leave it out")
    for name, values in (params.get("variants") or {}).items():
        for key in {"epochs", "batch_size"} & set(values or {}):
            where = f"{path}: variants.{name}.{key}"
            raise UserError(f"{where}: with --minutes all train equally long; remove it")
    return trainings[0]


def choose_epochs(params: Values, path: str, asked: Values, budget: Budget, jobs: int) -> Values:
    """Epochs and batch size, at most those that are asked for, and what each training takes."""
    limit_s = MEASURING * budget.seconds
    batch_size, costs = measure_trainings(params, path, asked["batch_size"], limit_s, jobs)
    left_s = TRAININGS * (budget.seconds - REPORT_S) - budget.gone_s()
    refuse_too_short(costs, left_s, jobs, budget.seconds)
    epochs = min(asked["epochs"], epochs_that_fit(costs, left_s, jobs))
    rows = [cost._asdict() | {"planned_s": cost.once_s + epochs * cost.epoch_s} for cost in costs]
    chosen = {"epochs": epochs, "batch_size": batch_size, "trainings": rows, "measured_s": budget.gone_s()}
    return chosen | {"trained_s": budget.gone_s() + time_for(costs, epochs, jobs)}


def refuse_too_short(costs: list[Cost], left_s: float, jobs: int, given_s: float) -> None:
    if epochs_that_fit(costs, left_s, jobs) < 1:
        one_s = time_for(costs, 1, jobs)
        needed = (given_s + (one_s - left_s) / TRAININGS) / 60
        takes = f"one of all {len(costs)} trainings takes {clock(one_s)} here"
        advice = f"give --minutes {needed + 1:.0f}, or fewer methods or patients"
        raise UserError(f"{given_s / 60:g} minutes hold no epoch: {takes}; {advice}")


def print_plan(chosen: Values, budget: Budget, on: str) -> None:
    """Print the plan."""
    end, latest = clock(chosen["trained_s"]), clock(budget.latest_s(TRAIN))
    print(f"plan for {clock(budget.seconds)} on {on}, after {clock(chosen['measured_s'])} of measuring:")
    print(f"  {chosen['epochs']} epochs of each training, {chosen['batch_size']} patients a step; ", end="")
    print(f"trained after {end}, at the latest {latest}")
    for row in chosen["trainings"]:
        steps = f"{row['steps'] * chosen['epochs']:6} steps of {row['step_s'] * 1e3:7.1f} ms"
        print(f"  {row['training']:<18} {steps}, {clock(row['planned_s'])}", flush=True)


def within(budget: Budget, folder: Path, work: Work) -> Work:
    """`work` of a stage, ended when its time is up. A stage that was ended or failed is set aside with the
    reason, and the others go on."""

    def work_in_time(stage: Stage) -> bool:
        begun_s, stamp = budget.gone_s(), stamp_path(folder, stage.name)
        if budget.left_s(stage.name) < 0 and not is_fresh(stamp, key_of(stage, folder)):
            outcome = "not begun: its time was up"
        else:
            outcome = outcome_of(stage)
        if outcome not in WHOLE:
            set_aside(stage, folder, outcome)
            print(f"{stage.name}  {outcome}", flush=True)
        budget.note(stage.name, begun_s, outcome)
        return outcome != "up to date"

    def outcome_of(stage: Stage) -> str:
        try:
            with ended_after(budget.left_s(stage.name), words_path(folder, stage.name)):
                return "done" if work(stage) else "up to date"
        except (Failure, UserError) as error:
            return "ended: its time was up" if budget.left_s(stage.name) < 0 else str(error).splitlines()[0]

    return work_in_time


@contextmanager
def ended_after(seconds: float, words: Path) -> Iterator[None]:
    """Ask the kernel of the stage with these words to end when the time is up, and kill it if it does not."""
    done = threading.Event()

    def end() -> None:
        if not done.wait(max(0.0, seconds)):
            signal_kernels(signal.SIGINT, words)  # as Ctrl-C does; a training keeps a checkpoint
            while not done.wait(GRACE_S):
                signal_kernels(KILL, words)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def set_aside(stage: Stage, folder: Path, reason: str) -> None:
    """What a stage without a result leaves: of a training why it is none, of a study nothing that could be
    taken for its result. Its notebook, with the error, goes to checkpoints/unfinished."""
    stamp_path(folder, stage.name).unlink(missing_ok=True)
    if stage.failure:
        write_json(stage.failure, {"reason": f"{reason}; the same command goes on with it"})
    for path in [] if stage.failure else folder.glob(f"results/{stage.name[:3]}*"):
        path.unlink()
    notebook, unfinished = folder / f"{stage.name}.ipynb", folder / "checkpoints" / "unfinished"
    if notebook.exists():
        unfinished.mkdir(parents=True, exist_ok=True)
        notebook.replace(unfinished / notebook.name)


def close_budget(budget: Budget, folder: Path) -> None:
    """Print what happened beside the plan; a Failure where it was not for want of time that a stage has no
    result."""
    print(f"plan and what happened, {clock(budget.gone_s())} of {clock(budget.seconds)}:")
    planned = {f"{TRAIN}_{row['training']}": row for row in budget.plan["trainings"]}
    for row in budget.stages:
        took = clock(row["ended_s"] - row["began_s"])
        words = f"  {row['stage']:<26} {took:>12}, ended after {clock(row['ended_s'])}"
        words += f" (at the latest {clock(row['latest_s'])}): {row['outcome']}"
        print(words + against_plan(folder, planned.get(row["stage"])))
    lacking = [row for row in budget.stages if row["outcome"] not in WHOLE]
    budget.write("incomplete" if lacking else "complete")
    if lacking and not any(row["outcome"].endswith("its time was up") for row in lacking):
        raise Failure(f"{lacking[0]['outcome']}; the rest is in the report")


def against_plan(folder: Path, planned: Values | None) -> str:
    """The seconds of a training's step as planned and as they were."""
    history = planned and folder / "checkpoints" / planned["training"] / "history.csv"
    if not history or not history.exists():
        return ""
    last = read_history(history)[-1]
    ms = 1e3 * last["seconds"] / last["step"]
    return f"; a step took {ms:.1f} ms, planned {1e3 * planned['step_s']:.1f} ms"


def incomplete(folder: Path) -> str:
    """A sentence for the report on the stages that have no result; "" for a run that was given no limit."""
    if not (folder / FILE).exists():
        return ""
    stages = {row["stage"]: row["outcome"] for row in read_json(folder / FILE)["stages"]}
    lacking = [f"{name} ({outcome})" for name, outcome in stages.items() if outcome not in WHOLE]
    return f"This run is incomplete. Without result: {'; '.join(lacking)}." if lacking else ""
