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


def start(folder, params):
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    if not (folder / "outputs" / "cohorts").exists():
        (folder / "outputs" / "cohorts").symlink_to(ROOT / "outputs" / "cohorts")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
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


def kill(process, kernel_only):
    """The runner and its children, wherever they stand, or they alone. Returns whether any was there."""
    pids = children(process.pid) + ([] if kernel_only else [process.pid])
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if pids:
        _, said = process.communicate(timeout=120)
        told = (
            process.returncode == 0 or process.returncode == 1 and "its kernel died" in said
        )  # 0: it was done with its kernel
        if kernel_only and ("Traceback" in said or not told):
            sys.exit(f"a killed kernel was not told in a sentence: exit {process.returncode}, {said[-2000:]}")
    return bool(pids)


def children(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(path.parent.name), *children(int(path.parent.name))]
        except (OSError, ValueError):
            pass
    return found


def contents(folder, experiment):
    """Everything that must be equal: results and histories without times, weights exactly, predictions."""
    root = folder / "outputs" / experiment
    found = {
        path.name: without_times(json.loads(path.read_text()))
        for path in sorted((root / "results").glob("*.json"))
    }
    for path in sorted((root / "results").glob("*.csv")):
        frame = pd.read_csv(path).drop(columns="seconds", errors="ignore")
        rows = frame[frame["measure"] != "seconds"] if "measure" in frame else frame
        found[path.name] = rows.to_csv(index=False)
    for path in sorted((root / "checkpoints").glob("*/history.csv")):
        found[str(path.relative_to(root))] = pd.read_csv(path).drop(columns="seconds").to_csv()
    for path in sorted((root / "checkpoints").glob("*/weights*.safetensors")):
        found[str(path.relative_to(root))] = {name: w.tobytes() for name, w in load_file(path).items()}
    for path in sorted((root / "predictions").glob("*/*.npz")):
        found[str(path.relative_to(root))] = path.read_bytes()
    return found


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def disturbed_round(folder, params, left, draw, longest_s, kernel_only=False):
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest-s", type=float, default=20.0)
    parser.add_argument("--params", default="params/smoke.yaml")
    parser.add_argument("--kernel", action="store_true", help="kill the kernel alone")
    options = parser.parse_args()
    experiment, draw = (
        yaml.safe_load((ROOT / options.params).read_text())["experiment"],
        random.Random(options.seed),
    )
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
        found = contents(folder, experiment)
        differing = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
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
