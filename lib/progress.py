"""Progress of long loops: a bar in a live session, a line in a file for the runner, nothing in notebooks.

The runner names the file in DOSE_PROGRESS and shows its line; a bar in the notebook would leave a line
of output per refresh in the executed copy.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

VARIABLE = "DOSE_PROGRESS"
INTERVAL_S = 0.5


def progress(items: Iterable, label: str, total: int | None = None) -> Iterator:
    """Yield `items`, reporting `label` and how many are done; in silence if it is empty."""
    if not label:
        yield from items
        return
    items = items if total is not None else list(items)
    total = total if total is not None else len(items)
    if VARIABLE not in os.environ:
        first = os.environ.get("RANK", "0") == "0"  # of several processes one shows it
        yield from tqdm(items, desc=label, total=total, leave=False, disable=not first)
        return
    started = shown = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done == 0 or now - shown >= INTERVAL_S:
            write_line(label, done, total, now - started)
            shown = now
        yield item


def write_line(label: str, done: int, total: int, elapsed_s: float) -> None:
    """Write how far a loop is, and how long it will take, for the runner to show."""
    left = f", {clock(elapsed_s / done * (total - done))} left" if done and elapsed_s > 2 else ""
    Path(os.environ[VARIABLE]).write_text(f"{label} {done}/{total}{left}", encoding="utf-8")


def clock(seconds: float) -> str:
    """A time in words: 1 h 05 min, 3 min 20 s, 7 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
