"""Kill an experiment at random moments, often enough; each end must equal the undisturbed one.

    python tests/campaigns/kills.py [--kills 50] [--seed 1] [--params params/smoke.yaml] [--kernel]

Every round starts an experiment from nothing, kills the runner with its kernel (SIGKILL to the whole group)
after a random time, and starts it again, until it ends by itself. Then all results, histories and weights are
compared with those of an undisturbed run, times and dates aside. With --kernel only the kernel is killed, and
the runner must end with a sentence. Prints a line a round, and the last line for the README's table.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import yaml
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent.parent
TIMES = {"made", "seconds", "seconds_per_member", "date"}  # what may differ between equal runs


def start(folder: Path, params: str) -> subprocess.Popen:
    """An experiment in a folder, in a process group of its own."""
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    if not (folder / "outputs" / "cohorts").exists():
        (folder / "outputs" / "cohorts").symlink_to(ROOT / "outputs" / "cohorts")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "DOSE_FOLDER": str(folder.resolve()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "lib", "run", str(ROOT / params)],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen, kernel_only: bool) -> bool:
    """The runner and its children, wherever they stand, or they alone. Returns whether any was there."""
    pids = children(process.pid) + ([] if kernel_only else [process.pid])
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if pids:
        _, output = process.communicate(timeout=120)
        code = process.returncode  # 0: it was done with its kernel
        in_a_sentence = code == 0 or code == 1 and "its kernel died" in output
        if kernel_only and ("Traceback" in output or not in_a_sentence):
            sys.exit(f"a killed kernel did not end in a sentence: exit {code}, {output[-2000:]}")
    return bool(pids)


def children(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                pids += [int(path.parent.name), *children(int(path.parent.name))]
        except (OSError, ValueError):
            pass
    return pids


def contents(folder: Path, experiment: str) -> dict[str, object]:
    """Everything that must be equal: results and histories without times, weights exactly, predictions."""
    root = folder / "outputs" / experiment
    read = {
        "results/*.json": lambda path: without_times(json.loads(path.read_text())),
        "results/*.csv": table_without_times,
        "checkpoints/*/history.csv": table_without_times,
        "checkpoints/*/weights*.safetensors": lambda path: {
            name: weight.tobytes() for name, weight in load_file(path).items()
        },
        "predictions/*/*.npz": Path.read_bytes,
    }
    paths = [(path, reader) for pattern, reader in read.items() for path in sorted(root.glob(pattern))]
    return {path.relative_to(root).as_posix(): reader(path) for path, reader in paths}


def different(first: dict, second: dict) -> list[str]:
    """The names of what differs between the contents of two runs."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def table_without_times(path: Path) -> str:
    table = pd.read_csv(path)
    if "measure" in table:  # one row per measured thing
        table = table[~table["measure"].isin(TIMES)]
    return table.drop(columns=[name for name in table if name in TIMES]).to_csv()


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def disturbed_round(
    folder: Path, params: str, left: int, draw: random.Random, longest_s: float, kernel_only: bool = False
) -> int:
    """Run to the end with kills on the way; returns how many."""
    kills = 0
    while True:
        process, deadline = start(folder, params), time.monotonic() + draw.uniform(1, longest_s)
        killed = False
        while process.poll() is None and not killed:
            time.sleep(0.05)
            killed = kills < left and time.monotonic() >= deadline and kill(process, kernel_only)
        if killed:
            kills += 1
        elif process.returncode == 0:
            return kills
        else:
            sys.exit(f"a run that was not killed failed after {kills} kills: {process.stderr.read()[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest-s", type=float, default=20.0)
    parser.add_argument("--params", default="params/smoke.yaml")
    parser.add_argument("--kernel", action="store_true", help="kill the kernel alone")
    options = parser.parse_args()
    experiment = yaml.safe_load((ROOT / options.params).read_text())["experiment"]
    draw = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    started = time.monotonic()
    disturbed_round(work / "undisturbed", options.params, 0, draw, 0)
    wanted = contents(work / "undisturbed", experiment)
    print(f"undisturbed: {len(wanted)} files in {time.monotonic() - started:.0f} s", flush=True)
    kills = rounds = wrong = 0
    while kills < options.kills:
        folder = work / f"round{rounds}"
        kills += disturbed_round(
            folder, options.params, options.kills - kills, draw, options.longest_s, options.kernel
        )
        differing = different(wanted, contents(folder, experiment))
        wrong += bool(differing)
        rounds += 1
        print(
            f"round {rounds}: {kills} kills so far, "
            f"{'equal' if not differing else f'differing: {differing[:5]}'}",
            flush=True,
        )
        if not differing:
            shutil.rmtree(folder)
    print(
        f"{kills} kills in {rounds} runs of {options.params}: {rounds - wrong} ended as the undisturbed one, "
        f"{wrong} did not"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
