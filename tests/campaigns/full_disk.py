"""Run an experiment on disks that are full after every so many megabytes; what is left must never be taken for a result.

    python tests/campaigns/full_disk.py [--params params/smoke.yaml] [--disks 12]        as root, on Linux (a tmpfs is mounted)

An undisturbed run tells how much it writes. Then it starts again on one small disk after another, each larger than the one before by the
same step, with what the last one held: a run must end with exit code 1 and a sentence, or with 0. At last the disk is large enough, and
the results must equal the undisturbed ones, times and dates aside. Prints a line a disk, and the last line for the README's table.
"""
import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from kills import ROOT, contents, start

from lib.disk import size_mb


def run_there(folder, params):
    """(exit code, what it said last) of a run in a folder."""
    process = start(folder, params)
    _, said = process.communicate(timeout=1800)
    return process.returncode, (said.strip().splitlines() or [""])[-1]


def remount(disk, mb):
    kind = "remount,size" if disk.is_mount() else "size"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{kind}={int(mb * 1024)}k", "tmpfs", str(disk)], check=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--params", default="params/smoke.yaml")
    parser.add_argument("--disks", type=int, default=12)
    options = parser.parse_args()
    experiment = yaml.safe_load((ROOT / options.params).read_text())["experiment"]
    work, started = Path(tempfile.mkdtemp(prefix="full-disk-")), time.monotonic()
    assert run_there(work / "undisturbed", options.params)[0] == 0
    wanted, needed_mb = contents(work / "undisturbed", experiment), size_mb(work / "undisturbed")
    print(f"undisturbed: {len(wanted)} files, {needed_mb:.1f} MB, in {time.monotonic() - started:.0f} s", flush=True)
    disk, wrong = work / "disk", 0
    disk.mkdir()
    try:
        for number in range(1, options.disks + 1):
            mb = needed_mb * number / options.disks
            remount(disk, mb)
            code, said = run_there(disk, options.params)
            torn = [path for path in disk.rglob(".*.part") if path.is_file()]
            wrong += code not in (0, 1) or not said or bool(torn)
            print(f"{mb:.1f} MB: exit {code}, {said[:150]}{f', left behind: {torn}' if torn else ''}", flush=True)
        remount(disk, 4 * needed_mb + 50)
        code, said = run_there(disk, options.params)
        found = contents(disk, experiment)
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        wrong += code != 0 or bool(differing)
        print(f"with room: exit {code} {said[:150]}; {f'differing: {differing[:5]}' if differing else 'equal to the undisturbed one'}")
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    print(f"{options.disks} full disks: {wrong} wrong")
    if not wrong:
        shutil.rmtree(work)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
