"""One network trained by several processes: steps as one process, a process that dies, a batch's share."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from toys import toy_cohort

from lib.files import ROOT, read_json
from lib.runner import train
from lib.training import loop
from lib.training import processes as parallel

PARAMS = {
    "experiment": "try",
    "cohort": "toys",
    "coarsen": 1,
    "precision": "32",
    "methods": ["baseline", "ddpm"],
    "train": {"epochs": 3, "batch_size": 3, "base_channels": 8, "validate_every": 1, "validation_steps": 2},
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a cohort of 5 training patients (batches of 3 and 2) and a params file."""
    cohort = toy_cohort(tmp_path / "toys", n=7, site="head-and-neck")
    assert len(cohort.split["train"]) % 3
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(PARAMS))
    return tmp_path


def command(processes, *arguments):
    started = (
        ["-m", "lib", "train"]
        if processes == 1
        else [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            "-m",
            "lib",
            "train",
        ]
    )
    return [sys.executable, *started, "p.yaml", *arguments]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def one_method(folder, processes, name, *overrides, method="baseline"):
    """Train in `folder`; a method's history, weights and what was printed."""
    given = [part for o in (f"experiment={name}", *overrides) for part in ("-p", o)]
    done = subprocess.run(
        command(processes, *given, method),
        check=False,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = folder / "outputs" / name / "checkpoints" / method
    return pd.read_csv(checkpoint / "history.csv"), load_file(checkpoint / "weights.safetensors"), done.stdout


def test_two_processes_train_as_one_does(folder):
    """The same batches, noise, losses: a batch of 2 or 3 in two shares, and in one share of three parts."""
    history, weights, _ = one_method(folder, 1, "alone", method="ddpm")
    for other in (
        one_method(folder, 2, "two", method="ddpm"),
        one_method(folder, 1, "parts", "train.accumulate=3", method="ddpm"),
    ):
        for column in ("loss", "validation_mae_gy"):
            assert other[0][column].tolist() == pytest.approx(history[column].tolist(), rel=2e-3)
        assert all(torch.allclose(other[1][name], weight, atol=2e-3) for name, weight in weights.items())


def test_a_training_stopped_on_one_process_goes_on_on_two(folder, monkeypatch, capsys):
    """Stopped by hand after 3 of 6 steps; the course and the weights are those of an undisturbed run."""
    monkeypatch.chdir(folder)
    step = loop.train_step

    def interrupted(state, samples):
        if state.step == 3:
            raise KeyboardInterrupt
        step(state, samples)

    params = PARAMS | {"methods": ["baseline"]}
    (folder / "p.yaml").write_text(yaml.safe_dump(params))
    alone = one_method(folder, 1, "alone")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", interrupted)
        with pytest.raises(SystemExit):
            train.main(["p.yaml", "-p", "experiment=stopped"])
    assert "stopped by hand at step 3 of 6" in capsys.readouterr().err
    again = one_method(folder, 2, "stopped")
    assert "going on from step 3 of 6" in again[2]
    assert again[0].loss.tolist() == pytest.approx(alone[0].loss.tolist(), rel=2e-3)
    assert all(torch.allclose(again[1][name], weight, atol=2e-3) for name, weight in alone[1].items())


def test_a_killed_process_ends_the_training_with_a_sentence_and_it_goes_on(folder):
    """The survivor says so; the same command, with another number of processes, ends where an undisturbed run
    does."""
    long = ("-p", "train.epochs=40", "baseline")
    with open(folder / "log", "w") as log:
        done = subprocess.Popen(command(2, *long), cwd=folder, env=environment(), stdout=log, stderr=log)
    workers = children(done.pid, 2)
    wait_for(lambda: any((folder / "outputs/try/checkpoints/baseline").glob("weights-25pct*")), 120)
    os.kill(workers[1], signal.SIGKILL)
    assert done.wait(timeout=120) != 0
    assert "another process of this training has ended" in (folder / "log").read_text()
    assert not (folder / "outputs/try/checkpoints/baseline/weights.safetensors").exists()
    again = subprocess.run(
        command(1, *long),
        check=False,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert read_json(folder / "outputs/try/checkpoints/baseline/config.json")["epochs"] == 40


def children(pid, wanted):
    """Process numbers of the workers, in the order of their start."""
    found = []

    def there():
        found[:] = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and parent(p) == pid]
        return len(found) >= wanted

    wait_for(there, 60)
    return sorted(found)


def parent(process):
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return None


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "patients, processes, accumulate",
    [(1, 1, 1), (4, 2, 1), (3, 2, 1), (1, 2, 1), (5, 2, 2), (2, 1, 4), (7, 3, 2)],
)
def test_the_shares_of_a_batch_hold_each_patient_once_and_weigh_them_alike(
    monkeypatch, patients, processes, accumulate
):
    seen = torch.zeros(patients)
    counts = set()
    for rank in range(processes):
        monkeypatch.setattr(parallel, "world", lambda: processes)
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts = parallel.parts_of_batch(patients, accumulate)
        counts.add(len(parts))
        for part, share in parts:
            size = len(seen[part])
            seen[part] += (
                share / size / processes
            )  # a process's part is a mean over its patients; processes are averaged
    assert len(counts) == 1 and torch.allclose(seen, torch.full((patients,), 1 / patients))


def test_alone_nothing_is_shared():
    value = torch.tensor(2.0)
    assert parallel.world() == 1 and parallel.is_first()
    assert parallel.mean_over_all(value) is value and parallel.sum_over_all(3.0, "cpu") == 3.0
    network = torch.nn.Linear(1, 1)
    assert parallel.share_gradients(network) is network


def test_an_unknown_method_is_named(folder):
    done = subprocess.run(
        command(1, "basline"),
        check=False,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        done.returncode == 2
        and "methods does not list 'basline'" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_two_trainings_of_one_folder_are_refused(folder):
    from lib.files import lock

    with lock(folder / "outputs/try/checkpoints/baseline/training.lock", ""):
        done = subprocess.run(
            command(1, "baseline"),
            check=False,
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2 and "another process is training" in done.stderr
