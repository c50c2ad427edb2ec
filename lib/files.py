"""Writing whole files or none: written beside under another name, synced, then renamed."""

import hashlib
import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lib.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # the folder of the project
PROJECT = "DOSE_FOLDER"  # names another folder, absolute, with outputs of its own

# what reading a damaged npz can end in; RuntimeError is an encrypted or an unknown way of packing
DAMAGED_NPZ = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError, EOFError)
DAMAGED_NPZ += (RuntimeError, SyntaxError, MemoryError)
DAMAGED_NPZ += (tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile)


def in_project(path: str | Path) -> Path:
    """A path of the project, such as outputs/quick, from wherever the process runs: a relative one is of
    ROOT, or of the folder that the environment's DOSE_FOLDER names."""
    folder = Path(os.environ.get(PROJECT, ROOT))
    return Path(path) if folder.absolute() == Path.cwd() else folder / path


def find_path(path: str | Path) -> Path:
    """A path as a person types it: from the folder that the process runs in, or else the project's."""
    return Path(path) if Path(path).exists() else in_project(path)


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; it takes `path`'s place only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, sentence: str) -> Iterator[None]:
    """Hold the lock file for the block, to its process's end at the latest; where another process holds it, a
    UserError with `sentence`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise UserError(sentence) from None


def is_below_outputs(path: str | Path) -> bool:
    """Whether a file would lie in the project's outputs, or in those of the current folder, by any link."""
    parents = Path(path).resolve().parents
    there = [parent for parent in parents if parent.exists()]
    for outputs in (ROOT / "outputs", Path("outputs").resolve()):
        if outputs in parents or outputs.exists() and any(parent.samefile(outputs) for parent in there):
            return True
    return False


def write_text(path: str | Path, text: str) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON in the order of the value's keys; a NaN or an infinity is refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """What a JSON file holds; a UserError if there is none or it is damaged."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}); delete it and make it again") from None


def sha256(path: str | Path) -> str:
    """The checksum of a file."""
    return hashlib.file_digest(open(path, "rb"), "sha256").hexdigest()
