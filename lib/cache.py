"""What is up to date: a stamp per stage covers its code, its parameters and its inputs.

Code is the notebook's cells and every module of lib it imports, directly or not, compared as syntax trees
without docstrings: a comment retrains nothing. Stamps lie in the git-ignored checkpoint folder, so that a
fresh clone computes instead of finding everything done.
"""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from lib.errors import UserError
from lib.files import read_json, sha256, write_json

LIB = Path(__file__).resolve().parent


def stage_key(notebook, parameters, inputs):
    """Digest of the notebook's code, the modules it uses, its parameters and its inputs (name -> digest)."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return digest([code_digest(source), modules_digest(source), parameters, inputs])


def modules_digest(source):
    """Digest of all modules of lib that a source uses."""
    return digest({path.relative_to(LIB).as_posix(): module_digest(path) for path in modules_used(source)})


def digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def code_digest(source):
    """Digest of Python source as a syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]
    return digest(ast.dump(tree))


@cache
def module_digest(path):
    return code_digest(path.read_text(encoding="utf-8"))


def modules_used(source):
    """Paths of the modules of lib that the source imports, and that those import in turn."""
    found, waiting = set(), list(imported(source))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(imported(path.read_text(encoding="utf-8")))
    return sorted(found)


def imported(source):
    """Files of lib named by the import statements of a source."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    paths = (LIB.parent / (name.replace(".", "/") + ".py") for name in names if name.split(".")[0] == "lib")
    return {path for path in paths if path.exists()}


def is_fresh(stamp, key):
    """Whether the stage was made by `key` and its products still are what it wrote."""
    if not stamp.exists():
        return False
    try:
        stored = read_json(stamp)
    except UserError:
        return False
    return stored["key"] == key and all(
        Path(p).exists() and sha256(p) == d for p, d in stored["products"].items()
    )


def write_stamp(stamp, key, products):
    write_json(stamp, {"key": key, "products": {str(path): sha256(path) for path in products}})
