"""Run an experiment twice, in two folders, one after the other, then with another number of threads.

The first two ends must be equal; by how much the third differs is told.

    python tests/campaigns/twice.py [--params params/phantom-quick.yaml] [--threads 2] [--other-threads 1]
                                    [--keep FOLDER]

Results, histories, weights and predictions are compared, times and dates aside. Prints a line a run with its
minutes, then how the runs with the same number of threads differ (they must not), then by how much the mean
errors of the methods differ with the other number. With --keep the runs lie in that folder, and one that is
finished there is not run again.
"""

import argparse
import os
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

import pandas as pd
import yaml
from kills import ROOT, contents, start

from lib.studies.results import by_patient, select


def run_there(folder, params, threads):
    """Run to the end with a number of compute threads; returns the minutes."""
    started = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    process = start(folder, params)
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"the run in {folder} failed: {said[-2000:]}")
    return (time.monotonic() - started) / 60


def differing(first, second):
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def told_differences(first, second):
    """A line for each method: its mean error in both runs and the paired difference."""
    frames = (pd.read_csv(StringIO(found["04_comparison.csv"])) for found in (first, second))
    a, b = (by_patient(select(frame, measure="mae_gy", region="dose mask")) for frame in frames)
    lines = []
    for method in a:
        difference_gy = b[method] - a[method]
        lines.append(
            f"  {method}: MAE {a[method].mean():.3f} and {b[method].mean():.3f} Gy, "
            f"{difference_gy.mean():+.3f} Gy on average, {difference_gy.abs().max():.3f} at most in a patient"
        )
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--params", default="params/phantom-quick.yaml")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--other-threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    experiment = yaml.safe_load((ROOT / options.params).read_text())["experiment"]
    work, found = options.keep or Path(tempfile.mkdtemp(prefix="twice-")), {}
    for name, threads in (
        ("first", options.threads),
        ("second", options.threads),
        ("other", options.other_threads),
    ):
        minutes = run_there(work / name, options.params, threads)
        found[name] = contents(work / name, experiment)
        print(f"{name}: {threads} threads, {minutes:.1f} min, {len(found[name])} files", flush=True)
    unlike = differing(found["first"], found["second"])
    print(f"{options.threads} threads twice: {'equal' if not unlike else f'differing: {unlike}'}")
    print(
        f"{options.other_threads} threads against {options.threads}: "
        f"{len(differing(found['first'], found['other']))} of {len(found['first'])} files differ"
    )
    print("\n".join(told_differences(found["first"], found["other"])))
    sys.exit(bool(unlike))


if __name__ == "__main__":
    main()
