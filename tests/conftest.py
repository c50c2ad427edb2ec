"""Fixtures for all tests; `import toys` works because pytest puts this folder on the path."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Toy tensors are too small for threads, and one thread sums in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def openkbp_folder():
    """The real patients: the folder that holds train-pats and validation-pats."""
    folder = os.environ.get("OPENKBP_FOLDER")
    if not folder:
        pytest.skip(
            "OPENKBP_FOLDER is not set; it names the folder that holds train-pats and validation-pats"
        )
    return Path(folder)
