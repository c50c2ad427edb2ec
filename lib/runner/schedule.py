"""Stages executed in the order that they need, side by side where they do not need one another."""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from lib.cache import is_fresh, write_stamp
from lib.device import choose_device
from lib.progress import clock
from lib.runner.execute import execute
from lib.runner.kernel import KILL, signal_kernels
from lib.runner.live_line import LiveLine
from lib.runner.plan import Stage
from lib.runner.stamps import key_of, products_of, stamp_path, words_path

Work = Callable[[Stage], bool]  # returns whether anything was executed
Bound = Callable[[Work], Work]


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_jobs(device: str) -> int:
    """One notebook a core; on a GPU one at a time, since a training fills it."""
    return 1 if choose_device(device).type == "cuda" else n_cores()


def execute_stages(
    chosen: list[Stage], stages: list[Stage], folder: Path, force: bool, jobs: int, bound: Bound | None
) -> bool:
    """Execute what is not up to date, at most `jobs` at a time; returns whether anything was executed.
    `bound`, if any, sets bounds to the work on a stage. Raises a Failure."""
    labels = {stage.name: f"[{number}/{len(chosen)}] {stage.name}" for number, stage in enumerate(chosen, 1)}
    line = LiveLine()

    def bring_up_to_date(stage: Stage) -> bool:
        stamp, key = stamp_path(folder, stage.name), key_of(stage, folder)
        if not force and is_fresh(stamp, key):
            line.say(f"{labels[stage.name]}  up to date")
            return False
        words = words_path(folder, stage.name)
        with line.shows(labels[stage.name], words):
            seconds = execute(stage, folder, words, threads_of(stage, stages, jobs))
        write_stamp(stamp, key, [*products_of(stage, folder), folder / f"{stage.name}.ipynb"])
        line.say(f"{labels[stage.name]}  done in {clock(seconds)}")
        return True

    work = bound(bring_up_to_date) if bound else bring_up_to_date
    try:
        return any(side_by_side(chosen, work, jobs, line.update))
    finally:
        line.clear()


def threads_of(stage: Stage, stages: list[Stage], jobs: int) -> int:
    """The cores shared among the stages that can run beside it, whether or not they do now: a sum depends on
    the number of threads, and must not depend on what is up to date."""
    beside = [other for other in stages if stage.notebook == other.notebook or stage.needs == other.needs]
    return max(1, n_cores() // min(jobs, len(beside)))


def side_by_side(
    stages: list[Stage], work: Work, jobs: int, meanwhile: Callable[[], None] = lambda: None
) -> list[bool]:
    """What `work` returns of each stage, begun when those that it needs are done, at most `jobs` at a time;
    `meanwhile` is called every second.

    After an error nothing more begins, and what runs goes on to its end; then the first one is raised. Ctrl-C
    ends what runs.
    """
    waiting, running, results, errors = list(stages), {}, [], []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while running or (waiting and not errors):
                unfinished = {stage.name for stage in [*waiting, *running.values()]}
                ready = [stage for stage in waiting if not errors and not unfinished & set(stage.needs)]
                for stage in ready[: jobs - len(running)]:
                    waiting.remove(stage)
                    running[pool.submit(work, stage)] = stage
                meanwhile()
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    del running[future]
                    errors += filter(None, [future.exception()])
                    results += [] if future.exception() else [future.result()]
        except KeyboardInterrupt:
            signal_kernels(KILL)
            raise
    if errors:
        raise errors[0]
    return results
