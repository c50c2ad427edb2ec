"""Damaged files of every kind that is read: refused in one sentence, or read as they were.

No traceback, no hang, nothing taken in silently.

DAMAGE_VARIANTS=n takes n variants of each kind instead of a few: the campaign. What has a checksum (cases,
predictions, weights, the state of a training, the reference's npz) must be refused or equal. Text has none:
there a digit may become another digit, so it must only be read or refused.
"""

import io
import os
import re
import signal
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import test_vmat_npz as vmat
import torch
from toys import toy_case, toy_cohort, write_openkbp_folder

from lib.cases.case import load_case, save_case
from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.features.channels import channels_of
from lib.features.grid import Grid
from lib.files import ROOT, write_json
from lib.importers import openkbp, vmat_npz
from lib.models.config import TrainConfig
from lib.models.methods import find_method
from lib.prediction.predict import load_predictor
from lib.prediction.store import load_prediction, save_prediction
from lib.runner.parameters import read_parameters
from lib.runner.params_file import load_params
from lib.runner.plan import plan
from lib.tensors import save_tensors
from lib.training.checkpoint import load_state, save_state

VARIANTS = int(os.environ.get("DAMAGE_VARIANTS", "30"))
LONGEST_S = 20
HOSTILE = [
    b"nan",
    b"-inf",
    b"1e308",
    b"-1",
    b"",
    b"null",
    b"9" * 400,
    b"../../../etc/passwd",
    b"<script>alert(1)</script>",
    b"[" * 3000,
    b"\x00",
    b"!!python/object/apply:os.system ['touch pwned']",
    b"&a [*a, *a]",
    "\u202e\u0000\ud7ff".encode(),
    b"true",
    b"{}",
    b"\xff\xfe",
]


class Kind(NamedTuple):
    """One kind of file: `make(folder)` writes it, `read(folder)` gives its content in comparable form."""

    make: Callable
    read: Callable
    files: str  # which of the files below the folder are damaged, as a glob
    checked: bool  # a damaged one must be refused or read as it was


def made_weights(folder):
    words = {
        "method": "baseline",
        "cohort": "toys",
        "cohort_sha256": "0" * 64,
        "case_ids": ["toy_1"],
        "site": "prostate",
        "beams_deg": [],
        "patch_voxels": [0, 0, 0],
        "zero_snr": False,
        "weighting": "none",
        "region": "dose mask",
        "gradient_units": "per mm",
        "vgg_file": "",
        "augment": "none",
        "keep": "last",
        "snapshots_pct": [],
        "precision": "32",
        "base_channels": 8,
        "channels": list(channels_of("prostate").names),
        "dose_scale": 1.0,
    }
    numbers = {f.name: 1 for f in fields(TrainConfig) if f.name not in words and f.default is MISSING}
    config = TrainConfig(**words, **numbers)
    save_tensors(folder / "weights.safetensors", find_method("baseline").make_network(config).state_dict())
    write_json(folder / "config.json", asdict(config))


def content(value):
    """Anything that was read, as text or bytes that can be compared."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = np.asarray(value)
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {str(key): content(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return content(value._asdict())
    if hasattr(value, "__dict__"):
        return content(vars(value))
    return [content(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)


def read_card(folder):
    cohort = open_cohort(folder)
    return cohort.split, cohort.case_ids


def read_params(folder):
    path = folder / "p.yaml"
    return [(stage.name, stage.parameters) for stage in plan(load_params(path), path)]


def copied(name, target):
    return lambda folder: (folder / target).write_bytes((ROOT / name).read_bytes())


KINDS = {
    "case": Kind(
        lambda f: save_case(toy_case(shape=(8, 10, 12)), f / "a.npz"),
        lambda f: load_case(f / "a.npz"),
        "a.npz",
        True,
    ),
    "cohort card": Kind(lambda f: toy_cohort(f, n=4, shape=(8, 8, 8)), read_card, "card.json", False),
    "OpenKBP folder": Kind(
        write_openkbp_folder,
        lambda f: openkbp.read_patient(f / "train-pats" / "pt_1"),
        "train-pats/pt_1/*.csv",
        False,
    ),
    "prediction": Kind(
        lambda f: save_prediction(f / "a.npz", np.full((4, 5, 6), 3.0), Grid(2)),
        lambda f: load_prediction(f / "a.npz", np.ones((8, 10, 12), bool)),
        "a.npz",
        True,
    ),
    "weights": Kind(
        made_weights, lambda f: load_predictor(f, "cpu").network.state_dict(), "weights.safetensors", True
    ),
    "configuration": Kind(made_weights, lambda f: load_predictor(f, "cpu").config, "config.json", False),
    "state of a training": Kind(
        lambda f: save_state(f, "key", {"w": torch.arange(50.0), "epoch": 3}),
        lambda f: load_state(f, "key", "cpu") or refuse(),
        "state.pt",
        True,
    ),
    "params file": Kind(copied("params/phantom-quick.yaml", "p.yaml"), read_params, "p.yaml", False),
    "notebook": Kind(
        copied("notebooks/02_sampling_ablation.ipynb", "n.ipynb"),
        lambda f: read_parameters(f / "n.ipynb"),
        "n.ipynb",
        False,
    ),
    "reference npz": Kind(
        lambda f: vmat.write(f / "case_0007.npz", vmat.arrays()),
        lambda f: vmat_npz.read_npz(f / "case_0007.npz"),
        "*.npz",
        True,
    ),
}


def refuse():
    raise UserError("passed over")


# --- damage ---


def damaged(whole, rng):
    """(what was done, the bytes)."""
    ways = [flip, flip, cut, blank, doubled, noise, hostile, lines]
    if whole[:2] == b"PK":
        ways += [rezipped] * 3
    way = ways[rng.integers(len(ways))]
    return way.__name__, way(whole, rng)


def flip(whole, rng):
    out = bytearray(whole)
    for at in rng.integers(0, len(out), rng.integers(1, 4)):
        out[at] ^= 1 << rng.integers(8)
    return bytes(out)


def cut(whole, rng):
    return whole[: rng.integers(0, len(whole))]


def span_of(whole, rng):
    first, last = sorted(rng.integers(0, len(whole), 2))
    return first, min(last, first + 200)


def blank(whole, rng):
    first, last = span_of(whole, rng)
    return whole[:first] + b"\0" * (last - first) + whole[last:]


def doubled(whole, rng):
    first, last = span_of(whole, rng)
    return whole[:last] + whole[first:]


def noise(whole, rng):
    first, last = span_of(whole, rng)
    return whole[:first] + rng.bytes(last - first) + whole[last:]


def hostile(whole, rng):
    """A word or number replaced by something that nobody should trust."""
    words = [m.span() for m in re.finditer(rb"[\w.+-]+", whole[:200_000])]
    first, last = words[rng.integers(len(words))] if words else (0, 0)
    return whole[:first] + HOSTILE[rng.integers(len(HOSTILE))] + whole[last:]


def lines(whole, rng):
    """A line left out, twice, or elsewhere."""
    parts = whole.split(b"\n")
    at, to = rng.integers(0, len(parts), 2)
    taken = parts.pop(at)
    for _ in range(rng.integers(0, 3)):
        parts.insert(to, taken)
    return b"\n".join(parts)


def rezipped(whole, rng):
    """A sound archive with one array of other type or shape, an object, endless by its header, or gone."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[rng.integers(len(members))]
    way = rng.integers(5)
    if way == 0:
        members.pop(name)
    else:
        members[name] = bent(members[name], way)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, payload in members.items():
            archive.writestr(each, payload)
    return buffer.getvalue()


def bent(payload, way):
    if way == 4:  # 10^13 voxels by its header
        return re.sub(rb"\((\d+,?[^)]*)\), \} *", b"(100000, 100000, 1000), }".ljust(0), payload, count=1)
    array = np.load(io.BytesIO(payload), allow_pickle=False)
    changed = {1: array.astype("S"), 2: np.zeros((*array.shape, 2)), 3: np.array([{"a": 1}], object)}[way]
    out = io.BytesIO()
    np.save(out, changed, allow_pickle=True)
    return out.getvalue()


@contextmanager
def at_most(seconds):
    def stop(*_):
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_refused_or_harmless(name, tmp_path, monkeypatch):
    kind, number = KINDS[name], list(KINDS).index(name)
    kind.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = content(kind.read(tmp_path))
    paths = sorted(tmp_path.glob(kind.files))
    counts = {"refused": 0, "read as it was": 0, "read as other text": 0}
    for seed in range(VARIANTS):
        rng = np.random.default_rng([2026, number, seed])
        path = paths[rng.integers(len(paths))]
        whole = path.read_bytes()
        what, bad = damaged(whole, rng)
        path.write_bytes(bad)
        told = f"{name}, variant {seed}, {what} of {path.name}"
        try:
            with at_most(LONGEST_S):
                after = content(kind.read(tmp_path))
        except UserError as error:
            assert str(error) and "\n" not in str(error), told
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
        else:
            counts["read as it was" if after == before else "read as other text"] += 1
            assert after == before or not kind.checked, f"{told}: taken in silently"
        path.write_bytes(whole)
    print(f"{name}: {VARIANTS} damaged, {counts}")
    assert counts["refused"] > VARIANTS / 5 and not Path("pwned").exists()
