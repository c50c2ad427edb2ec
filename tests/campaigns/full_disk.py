"""Run an experiment on a disk that fills up; what is left must never be taken for a result.

    python tests/campaigns/full_disk.py [--params params/smoke.yaml] [--disks 12]   as root, on Linux (tmpfs)

An undisturbed run tells how much it writes. Then it starts again and again on a disk on which, as soon as it
has begun, something else leaves it only a little room: a run must end with exit code 1 and a sentence, or
with 0, and goes on from what the last one left. At last it has room, and the results must equal the
undisturbed ones, times and dates aside. Prints a line a disk, and the last line for the README.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from kills import ROOT, contents, different, start


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def run_in(folder: Path, params: str, begun: Path | None = None, free_mb: float = 0) -> tuple[int, str]:
    """(exit code, its last line) of a run in a folder; with `free_mb` the disk is filled up to it once
    the file `begun` is written."""
    before = begun.stat().st_mtime_ns if begun and begun.exists() else 0
    process, ballast = start(folder, params), folder / "ballast"
    if begun:
        while process.poll() is None and not (begun.exists() and begun.stat().st_mtime_ns > before):
            time.sleep(0.02)
        left = shutil.disk_usage(folder).free - int(free_mb * 2**20)
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, left))
    _, output = process.communicate(timeout=1800)
    ballast.unlink(missing_ok=True)
    return process.returncode, (output.strip().splitlines() or [""])[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--params", default="params/smoke.yaml")
    parser.add_argument("--disks", type=int, default=12)
    options = parser.parse_args()
    experiment = yaml.safe_load((ROOT / options.params).read_text())["experiment"]
    work, started = Path(tempfile.mkdtemp(prefix="full-disk-")), time.monotonic()
    assert run_in(work / "undisturbed", options.params)[0] == 0
    wanted, needed_mb = contents(work / "undisturbed", experiment), size_mb(work / "undisturbed")
    print(
        f"undisturbed: {len(wanted)} files, {needed_mb:.1f} MB, in {time.monotonic() - started:.0f} s",
        flush=True,
    )
    disk, wrong = work / "disk", 0
    disk.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={int(4 * needed_mb + 200)}m", "tmpfs", str(disk)],
            check=True,
        )
        begun, mb = disk / "outputs" / experiment / "experiment.yaml", needed_mb / options.disks
        for _ in range(options.disks):
            code, output = run_in(disk, options.params, begun, mb)
            torn = [path for path in disk.rglob(".*.part") if path.is_file()]
            wrong += code not in (0, 1) or not output or bool(torn)
            print(
                f"{mb:.1f} MB left: exit {code}, {output[:150]}{f', left behind: {torn}' if torn else ''}",
                flush=True,
            )
        code, output = run_in(disk, options.params)
        differing = different(wanted, contents(disk, experiment))
        wrong += code != 0 or bool(differing)
        print(
            f"with room: exit {code} {output[:150]}; "
            f"{f'differing: {differing[:5]}' if differing else 'equal to the undisturbed one'}"
        )
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    print(f"{options.disks} full disks: {wrong} wrong")
    if not wrong:
        shutil.rmtree(work)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
