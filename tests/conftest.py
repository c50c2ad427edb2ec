"""Fixtures for all tests, and what some of them need beyond Python; `import toys` works because pytest puts
this folder on the path."""

import os
import shutil
from pathlib import Path

import pytest
import torch

os.environ["DOSE_FOLDER"] = "."  # tests run in folders of their own, and so do the processes that they start
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENTS, AXE = os.environ.get("OPENKBP_FOLDER"), os.environ.get("AXE_FILE")
NEEDS = {  # marker -> whether it is here, and how to have it
    "chromium": (CHROMIUM, "needs Chromium: apt install chromium"),
    "dciodvfy": (shutil.which("dciodvfy"), "needs dciodvfy: apt install dicom3tools"),
    "axe": (AXE, "needs axe-core: npm install axe-core; AXE_FILE names its axe.min.js"),
    "plastimatch": (shutil.which("plastimatch"), "needs plastimatch: apt install plastimatch"),
    "openkbp": (
        PATIENTS,
        "needs OpenKBP's patients: OPENKBP_FOLDER names the folder that holds train-pats and validation-pats",
    ),
}


SLOW = ("test_run", "test_parallel")  # files that begin first, so that two workers end together


def pytest_configure(config):
    for marker, (_, reason) in NEEDS.items():
        config.addinivalue_line("markers", f"{marker}: {reason}")


def pytest_addoption(parser):
    parser.addoption("--skipped", action="store_true", help="only the tests that the last run skipped")


def pytest_collection_modifyitems(config, items):
    if config.getoption("skipped"):
        before = set(config.cache.get("skipped", []))
        items[:] = [item for item in items if item.nodeid in before]
    items.sort(key=lambda item: item.path.stem not in SLOW)
    for item in items:
        for marker, (there, reason) in NEEDS.items():
            if item.get_closest_marker(marker) and not there:
                item.add_marker(pytest.mark.skip(reason=reason))


SKIPPED = []


def pytest_runtest_logreport(report):
    if report.skipped:
        SKIPPED.append(report.nodeid)


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):  # not in a worker of xdist
        session.config.cache.set("skipped", SKIPPED)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Toy tensors are too small for threads, and one thread sums in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def openkbp_folder():
    """The real patients."""
    return Path(PATIENTS)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
