"""What runs now and how far it is: on a terminal one line that changes, in a log one line a minute."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.files import write_text
from lib.progress import clock

IN_LOG_S = 60.0  # between two lines


class LiveLine:
    """The labels of what runs, each with its time and what its notebook says of its progress."""

    def __init__(self):
        self.running: dict[str, tuple[float, Path]] = {}  # label -> since when / s, the file of its words
        self.terminal, self.shown_s = sys.stderr.isatty(), time.monotonic()

    @contextmanager
    def shows(self, label: str, words: Path) -> Iterator[None]:
        """Show the label while the block runs, with what the file `words` holds."""
        write_text(words, "")
        self.running[label] = time.monotonic(), words
        try:
            yield
        finally:
            del self.running[label]
            words.unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(text, flush=True)

    def update(self) -> None:
        """Show what runs: on a terminal now, in a log if it was shown a minute ago."""
        if self.terminal or time.monotonic() - self.shown_s >= IN_LOG_S:
            line, self.shown_s = " | ".join(map(self.describe, list(self.running))), time.monotonic()
            self.clear()
            print(line[: width()] if self.terminal else f"{line}\n", end="", file=sys.stderr, flush=True)

    def describe(self, label: str) -> str:
        try:
            since_s, words = self.running[label]
            return f"{label}  {clock(time.monotonic() - since_s)}  {words.read_text(encoding='utf-8')}"
        except (KeyError, OSError):  # it has ended since
            return ""

    def clear(self) -> None:
        if self.terminal:
            print("\r" + " " * width() + "\r", end="", file=sys.stderr, flush=True)


def width() -> int:
    """Columns of the terminal that a line may fill."""
    return shutil.get_terminal_size().columns - 1
