"""Run an experiment twice, in two folders, one after the other, then with another number of threads.

The first two ends must be equal; then it says by how much the third differs.

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
from kills import ROOT, contents, different, start

from lib.studies.results import by_patient, select


def run_in(folder: Path, params: str, threads: int) -> float:
    """Run to the end with a number of compute threads; returns the minutes."""
    started = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    process = start(folder, params)
    _, output = process.communicate()
    if process.returncode:
        sys.exit(f"the run in {folder} failed: {output[-2000:]}")
    return (time.monotonic() - started) / 60


def difference_lines(first: dict, second: dict) -> list[str]:
    """A line for each method: its mean error in both runs and the paired difference."""
    frames = (pd.read_csv(StringIO(end["results/04_comparison.csv"])) for end in (first, second))
    a, b = (by_patient(select(frame, measure="mae_gy", region="dose mask")) for frame in frames)
    lines = []
    for method in a:
        difference_gy = b[method] - a[method]
        lines.append(
            f"  {method}: MAE {a[method].mean():.3f} and {b[method].mean():.3f} Gy, "
            f"{difference_gy.mean():+.3f} Gy on average, {difference_gy.abs().max():.3f} at most in a patient"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--params", default="params/phantom-quick.yaml")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--other-threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    experiment = yaml.safe_load((ROOT / options.params).read_text())["experiment"]
    work, ends = options.keep or Path(tempfile.mkdtemp(prefix="twice-")), {}
    for name, threads in (
        ("first", options.threads),
        ("second", options.threads),
        ("other", options.other_threads),
    ):
        minutes = run_in(work / name, options.params, threads)
        ends[name] = contents(work / name, experiment)
        print(f"{name}: {threads} threads, {minutes:.1f} min, {len(ends[name])} files", flush=True)
    unlike = different(ends["first"], ends["second"])
    print(f"{options.threads} threads twice: {'equal' if not unlike else f'differing: {unlike}'}")
    print(
        f"{options.other_threads} threads against {options.threads}: "
        f"{len(different(ends['first'], ends['other']))} of {len(ends['first'])} files differ"
    )
    print("\n".join(difference_lines(ends["first"], ends["other"])))
    sys.exit(bool(unlike))


if __name__ == "__main__":
    main()
