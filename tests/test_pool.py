"""Work that several processes share: in order, errors where they stand, nothing left behind."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from toys import toy_cohort

from lib import parallel
from lib.features import samples as of_samples
from lib.features.grid import Grid
from lib.features.samples import load_samples
from lib.files import ROOT


@pytest.fixture
def two_processes(monkeypatch):
    """As with two threads, and for whatever takes time."""
    torch.set_num_threads(2)
    monkeypatch.setattr(parallel, "WORTH_S", 0.0)
    yield
    torch.set_num_threads(1)


def test_what_is_soon_done_is_done_here(monkeypatch):
    monkeypatch.setattr(parallel, "by_pool", None)
    torch.set_num_threads(2)
    try:
        assert list(parallel.in_processes(lambda item: (item, torch.get_num_threads()), [3, 1])) == [
            (3, 1),
            (1, 1),
        ]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_processes_keep_the_order_and_pass_an_error_on_where_it_stands(two_processes):
    """The square root of -1 is the fortieth."""
    numbers = [*range(40), -1, 2]
    results = parallel.in_processes(math.sqrt, numbers)
    assert [next(results) for _ in range(40)] == [math.sqrt(n) for n in range(40)]
    with pytest.raises(ValueError, match="math domain|nonnegative"):
        next(results)


def test_a_script_is_not_run_again_by_processes_that_it_starts(tmp_path):
    """One without a guard, which processes would execute when they import it."""
    script = tmp_path / "script.py"
    code = "import math, torch\nfrom lib import parallel\nparallel.WORTH_S = 0\ntorch.set_num_threads(2)\n"
    script.write_text(f"{code}print(list(parallel.in_processes(math.sqrt, [1, 4, 9])))")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n") == ["[1.0, 2.0, 3.0]", ""], done.stderr


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    """Each writes its number and would sleep for a minute."""
    code = "import pathlib, os, time, torch; from lib import parallel; from functools import partial\n"
    code += "import test_pool; torch.set_num_threads(2); parallel.WORTH_S = 0\n"
    code += f"list(parallel.in_processes(partial(test_pool.sleep, {str(tmp_path)!r}), [0, 60, 60]))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until(lambda: len(list(tmp_path.iterdir())) == 3, 60)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until(lambda: not any(map(runs, pids)), 20)


def sleep(folder, seconds):
    Path(folder, str(os.getpid())).write_text("")
    time.sleep(seconds)


def until(condition, seconds):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.1)


def runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_features_made_by_processes_are_those_made_here(tmp_path, monkeypatch):
    """To the bit, with several threads here as well."""
    monkeypatch.chdir(tmp_path)
    cohort, made = toy_cohort(tmp_path / "toys", n=3, site="head-and-neck"), []
    arguments = (cohort, cohort.case_ids, Grid(1), (0.0, 90.0))
    monkeypatch.setattr(of_samples, "n_workers", lambda n: made.append(n) or 1)
    plain = load_samples(*arguments)
    for path in Path(of_samples.CACHE).rglob("*.safetensors"):
        path.rename(path.with_suffix(".before"))
    monkeypatch.setattr(of_samples, "n_workers", lambda n: 2)
    by_files = load_samples(*arguments)
    assert made == [3]
    for a, b in zip(plain, by_files):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in of_samples.TENSORS)


def test_a_kernel_ends_with_a_runner_that_is_killed(tmp_path):
    """Its notebook writes the process's number and would sleep for a minute."""
    cell = f"import os, time\nopen({str(tmp_path / 'pid')!r} + str(os.getpid()), 'w').close()\ntime.sleep(60)"
    tagged = nbformat.v4.new_code_cell("experiment = 'x'", metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [tagged, nbformat.v4.new_code_cell(cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "sleeps.ipynb")
    code = "from pathlib import Path; from lib.runner.execute import execute\n"
    code += f"from lib.runner.plan import Stage; folder = Path({str(tmp_path)!r})\n"
    code += "stage = Stage('slept', folder / 'sleeps.ipynb', {'experiment': 'x'}, [], [])\n"
    code += "execute(stage, folder, folder / 'words', 1)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runner = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path)
    until(lambda: list(tmp_path.glob("pid*")), 60)
    (pid,) = [int(path.name.removeprefix("pid")) for path in tmp_path.glob("pid*")]
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    until(lambda: not runs(pid), 20)
