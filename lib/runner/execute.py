"""One notebook executed by papermill into the output folder, with a line of progress."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from lib.cache import digest
from lib.files import in_project, write_text
from lib.progress import VARIABLE, clock
from lib.runner.command import Failure
from lib.runner.parameters import read_parameters
from lib.runner.plan import Stage

KERNEL_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
GO_ON = "the same command goes on from here"


def execute(stage: Stage, folder: Path, label: str) -> float:
    """Execute a notebook into the output folder; returns the seconds. Raises a Failure; the notebook then
    stays there with its error."""
    import papermill
    from traitlets.config import Config

    target, started = folder / f"{stage.name}.ipynb", time.monotonic()
    with live_line(label, folder), kernel_sockets(folder) as sockets, kernel_failures(stage.name, target):
        papermill.execute_notebook(
            str(stage.notebook),
            str(target),
            parameters_to_pass(stage),
            progress_bar=False,
            kernel_name="python3",
            cwd=str(in_project(".").absolute()),
            request_save_on_cell_execute=False,
            config=Config({"KernelManager": sockets}),
            extra_arguments=["--log-level=50"],
        )
    tidy(target)
    return time.monotonic() - started


def parameters_to_pass(stage: Stage) -> dict[str, Any]:
    """What differs from the notebook's cell; the common settings it reads from the experiment's file."""
    known = read_parameters(stage.notebook)
    return {name: stage.parameters[name] for name in known if stage.parameters[name] != known[name].default}


@contextmanager
def kernel_failures(name: str, target: Path) -> Iterator[None]:
    """A cell's error, a kernel that died, and one that died before it was ready, each as a Failure."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    try:
        yield
    except PapermillExecutionError as error:
        sentence = error.evalue if error.ename == "UserError" else f"{error.ename}: {error.evalue}"
        raise Failure(f"{name} failed: {sentence}\nsee {target}") from None
    except DeadKernelError:
        raise Failure(f"{name}: its kernel died, perhaps for want of memory; {GO_ON}") from None
    except RuntimeError as error:  # how jupyter_client says it of a kernel that was not ready yet
        if not str(error).startswith("Kernel "):
            raise
        raise Failure(f"{name}: its kernel died before it was ready ({error}); {GO_ON}") from None


@contextmanager
def kernel_sockets(folder: Path) -> Iterator[dict[str, str]]:
    """How the runner talks with its kernel: by sockets (Windows has none) in a folder that only this person
    reads, with the short path that they need; the same for an output folder each time, so that what a killed
    run left there is removed."""
    sockets = Path(gettempdir(), f"dose-kernel-{digest(str(folder.resolve()))[:16]}")
    shutil.rmtree(sockets, ignore_errors=True)
    sockets.mkdir(mode=0o700)
    ipc = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{sockets}/k"}
    try:
        yield {"connection_file": f"{sockets}/kernel.json"} | ipc
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def tidy(path: Path) -> None:
    """Take this machine's paths out of an executed notebook's metadata, controls that have lost their kernel
    out of its outputs, and colours that nobody sees out of its figures."""
    import nbformat

    from lib.report.pictures import smaller_output
    from lib.report.render import without_widgets

    notebook = without_widgets(nbformat.read(path, as_version=4))
    for key in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    for output in (o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o):
        output.data = smaller_output(output.data)
    nbformat.write(notebook, path)


@contextmanager
def live_line(label: str, folder: Path) -> Iterator[None]:
    """Show the label and what the kernel says of its progress while the block runs."""
    words = (folder / "checkpoints" / "progress.txt").resolve()
    write_text(words, "")
    os.environ.update(KERNEL_ENVIRONMENT | {VARIABLE: str(words)})
    ended = threading.Event()
    thread = threading.Thread(target=show_progress, args=(label, words, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        words.unlink(missing_ok=True)


def show_progress(label: str, words: Path, ended: threading.Event) -> None:
    """On a terminal one line that changes; in a log one line a minute."""
    terminal, started = sys.stderr.isatty(), time.monotonic()
    while not ended.wait(1.0 if terminal else 60.0):
        line = f"{label}  {clock(time.monotonic() - started)}  {words.read_text(encoding='utf-8')}"
        print(f"\r{line:<100.100}" if terminal else f"{line}\n", end="", file=sys.stderr, flush=True)
    if terminal:
        print("\r" + " " * 100 + "\r", end="", file=sys.stderr, flush=True)
