"""How fast the explorer answers in JupyterLab, from wheel to painted pictures; and whether memory grows.

    python tests/benchmarks/explorer.py phantom-quick outputs/cohorts/phantom --below ddpm_dose --slices 1000

Contours, isodoses and crosshair are on. Prints milliseconds, and megabytes of page and kernel.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import nbformat
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
from lab import jupyterlab, open_notebook

from lib.files import ROOT

REACH = 14  # slices there and back, less than half of the thinnest patient

TURN = (
    "async ({by, pause_ms}) => {\n"
    "  await new Promise(done => setTimeout(done, pause_ms));\n"
    "  const root = document.querySelector('.dose-panels');\n"
    "  const started = performance.now();\n"
    "  const painted = new Promise(done => root.addEventListener('painted', () => "
    "requestAnimationFrame(() => setTimeout(() => done(performance.now() - started))), {once: true}));\n"
    "  root.querySelector('.rows').dispatchEvent(new WheelEvent('wheel', {deltaY: by, bubbles: true, "
    "cancelable: true}));\n"
    "  return painted;\n"
    "}"
)


def place(folder, experiment, cohort):
    """A copy of the notebook whose parameters name the experiment, and what it reads."""
    notebook = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    lines = {"experiment": f"{experiment!r}", "cohort": f"{cohort!r}"}
    cell.source = "\n".join(
        f"{line.split(' =')[0]} = {lines[line.split(' =')[0]]}" if line.split(" =")[0] in lines else line
        for line in cell.source.splitlines()
    )
    nbformat.write(notebook, folder / "explore.ipynb")
    (folder / "outputs" / experiment).mkdir(parents=True)
    shutil.copytree(
        ROOT / "outputs" / "published" / experiment / "predictions",
        folder / "outputs" / experiment / "predictions",
    )
    (folder / "outputs" / "cohorts").symlink_to(ROOT / "outputs" / "cohorts")


def memory_mb(page):
    """Of the page's script, and of the largest kernel on this machine, resident."""
    page.evaluate("window.gc && window.gc()")
    kernels = subprocess.run(
        ["ps", "-eo", "rss,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    resident = [int(line.split()[0]) / 1024 for line in kernels if "ipykernel_launcher" in line]
    return page.evaluate("performance.memory.usedJSHeapSize") / 2**20, max(resident)


def main():
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser()
    parser.add_argument("experiment")
    parser.add_argument("cohort")
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--below", help="a second method")
    parser.add_argument("--picture")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        place(Path(folder), given.experiment, given.cohort)
        chromium = started.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--js-flags=--expose-gc", "--enable-precise-memory-info"],
        )
        with jupyterlab(folder) as address:
            page, wrong = open_notebook(chromium, address, "explore.ipynb")
            began = time.monotonic()
            page.locator(".dose-panels[data-painted]").wait_for()
            print(
                f"opened {time.monotonic() - began:.1f} s after Run All (imports and the notebook's other "
                "cells included)"
            )
            if given.below:
                page.locator(".widget-dropdown", has_text="and below").locator("select").select_option(
                    given.below
                )
            page.wait_for_timeout(3000)
            before = memory_mb(page)
            panels = page.locator(".dose-panels canvas").count()
            turns = cycle([-100] * REACH + [100] * REACH)
            for what, pause_ms in (("as fast as they are painted", 0), ("eight a second", 125)):
                turns_ms = [
                    page.evaluate(TURN, {"by": next(turns), "pause_ms": pause_ms})
                    for _ in range(given.slices // 2)
                ]
                print(
                    f"{len(turns_ms)} slices of {panels} panels, {what}: median {np.median(turns_ms):.0f} "
                    f"ms, 95th percentile {np.percentile(turns_ms, 95):.0f} ms, largest {max(turns_ms):.0f} "
                    "ms"
                )
            after = memory_mb(page)
            print(
                f"memory of the page {before[0]:.0f} to {after[0]:.0f} MB, of the kernel {before[1]:.0f} to "
                f"{after[1]:.0f} MB; errors: {wrong or 'none'}"
            )
            if given.picture:
                page.locator(".jp-Notebook .dose-panels").scroll_into_view_if_needed()
                page.screenshot(path=given.picture)


if __name__ == "__main__":
    main()
