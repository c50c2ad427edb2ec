"""What is up to date: a stamp per stage covers its notebook, parameters, inputs and the versions below.

No digest of the code decides: a comment, a sentence or a moved file makes nothing stale, and whoever changes
numbers raises the version. Stamps lie in the git-ignored checkpoint folder, so that a fresh clone computes
instead of finding everything done.
"""

import ast
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.files import in_project, read_json, sha256, write_json

FEATURES_VERSION = 2  # what a network sees of a patient; raise TRAINING_VERSION with it
TRAINING_VERSION = 1  # the weights that a training ends with (tests/frozen.py holds its numbers)
PREDICTION_VERSION = 1  # the dose that given weights predict
STUDIES_VERSION = 4  # what the studies compute of doses, and its columns


def stage_key(notebook: str | Path, parameters: dict, inputs: dict) -> str:
    """Digest of a notebook's code cells, its parameters, its inputs (name -> digest) and the versions."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    versions = [FEATURES_VERSION, TRAINING_VERSION, PREDICTION_VERSION, STUDIES_VERSION]
    return digest([ast.dump(ast.parse(source)), parameters, inputs, versions])


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def is_fresh(stamp: Path, key: str) -> bool:
    """Whether the stage was made by `key` and its products still are what it wrote."""
    try:
        stored = read_json(stamp)
    except UserError:
        return False
    products = [(product_path(stamp, name), digest) for name, digest in stored["products"].items()]
    return stored["key"] == key and all(path.exists() and sha256(path) == digest for path, digest in products)


def product_path(stamp: Path, name: str) -> Path:
    """A product by its path from the stamp's folder, or, as older stamps name it, from the project's."""
    path = stamp.parent / name
    return path if path.exists() else in_project(name)


def write_stamp(stamp: Path, key: str, products: list[Path]) -> None:
    """Note that `products` were made by `key`, by their paths from the stamp's folder."""
    digests = {os.path.relpath(path, stamp.parent): sha256(path) for path in products}
    write_json(stamp, {"key": key, "products": digests})
