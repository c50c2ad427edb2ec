"""One notebook executed by papermill into the output folder."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from lib.cache import digest
from lib.progress import VARIABLE
from lib.runner.command import Failure
from lib.runner.kernel import kernel_config
from lib.runner.parameters import read_parameters
from lib.runner.plan import Stage

GO_ON = "the same command goes on from here"


def execute(stage: Stage, folder: Path, words: Path, n_threads: int) -> float:
    """Execute a notebook into the output folder; returns the seconds. It computes on `n_threads` and writes
    how far it is to the file `words`. Raises a Failure; the notebook then stays there with its error."""
    import papermill

    target, started = folder / f"{stage.name}.ipynb", time.monotonic()
    environment = {VARIABLE: str(words), "OMP_NUM_THREADS": str(n_threads)}
    with kernel_sockets(target) as sockets, kernel_failures(stage.name, target):
        options = {"config": kernel_config(sockets, environment), "extra_arguments": ["--log-level=50"]}
        options |= {"kernel_name": "python3", "progress_bar": False, "request_save_on_cell_execute": False}
        papermill.execute_notebook(str(stage.notebook), str(target), parameters_to_pass(stage), **options)
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
def kernel_sockets(target: Path) -> Iterator[dict[str, str]]:
    """How the runner talks with its kernel: by sockets (Windows has none) in a folder that only this person
    reads, with the short path that they need; the same for an executed notebook each time, so that what a
    killed run left there is removed."""
    sockets = Path(gettempdir(), f"dose-kernel-{digest(str(target.resolve()))[:16]}")
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
