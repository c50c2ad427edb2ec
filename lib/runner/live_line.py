"""What runs now and how far it is: on a terminal one line that changes, in a log one line a minute."""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.files import write_text
from lib.progress import clock


class LiveLine:
    """The labels of what runs, each with its time and what its notebook says of its progress."""

    def __init__(self):
        self.running: dict[str, tuple[float, Path]] = {}  # label -> since when / s, the file of its words
        self.terminal, self.ended = sys.stderr.isatty(), threading.Event()

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
        """Show again and again what runs, until it has ended."""
        while not self.ended.wait(1.0 if self.terminal else 60.0):
            line = " | ".join(self.describe(label) for label in list(self.running))
            self.clear()
            print(line[: width()] if self.terminal else f"{line}\n", end="", file=sys.stderr, flush=True)

    def describe(self, label: str) -> str:
        try:
            since_s, words = self.running[label]
            return f"{label}  {clock(time.monotonic() - since_s)}  {words.read_text(encoding='utf-8')}"
        except (KeyError, FileNotFoundError):  # it has ended since
            return ""

    def clear(self) -> None:
        if self.terminal:
            print("\r" + " " * width() + "\r", end="", file=sys.stderr, flush=True)


@contextmanager
def live_line() -> Iterator[LiveLine]:
    """A line that is shown while the block runs."""
    line = LiveLine()
    thread = threading.Thread(target=line.update, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.ended.set()
        thread.join()
        line.clear()


def width() -> int:
    """Columns of the terminal that a line may fill."""
    return shutil.get_terminal_size().columns - 1
