"""What is up to date: a comment, a sentence or a moved file makes nothing stale; versions and numbers do."""

import json
from pathlib import Path

import pytest

from lib import cache


def notebook(folder, *cells):
    """A notebook of (kind, source) pairs."""
    cells = [{"cell_type": kind, "source": [source]} for kind, source in cells]
    (folder / "n.ipynb").write_text(json.dumps({"cells": cells}))
    return folder / "n.ipynb"


CELLS = [("markdown", "# Title"), ("code", "x = 1  # why\nprint(x)")]


def test_words_make_no_notebook_stale(tmp_path):
    key = cache.stage_key(notebook(tmp_path, *CELLS), {"a": 1}, {"cohort": "c"})
    (tmp_path / "moved").mkdir()
    other = [("markdown", "# Another title"), ("code", "x = 1\nprint(x)  # because")]
    assert cache.stage_key(notebook(tmp_path / "moved", *other), {"a": 1}, {"cohort": "c"}) == key


@pytest.mark.parametrize("version", [name for name in vars(cache) if name.endswith("_VERSION")])
def test_cells_parameters_inputs_and_versions_make_it_stale(tmp_path, monkeypatch, version):
    path = notebook(tmp_path, *CELLS)
    given = [({"a": 1}, {}), ({"a": 2}, {}), ({"a": 1}, {"cohort": ""})]
    keys = [cache.stage_key(path, *each) for each in given]
    keys.append(cache.stage_key(notebook(tmp_path, ("code", "x = 2\nprint(x)")), {"a": 1}, {}))
    monkeypatch.setattr(cache, version, 0)
    keys.append(cache.stage_key(notebook(tmp_path, *CELLS), {"a": 1}, {}))
    assert len(set(keys)) == len(keys)


def test_a_stage_is_fresh_while_its_products_are_what_it_wrote(tmp_path):
    stamp, product = tmp_path / "stamp.json", tmp_path / "a.csv"
    assert not cache.is_fresh(stamp, "key")
    product.write_text("1")
    cache.write_stamp(stamp, "key", [product])
    assert cache.is_fresh(stamp, "key") and not cache.is_fresh(stamp, "other")
    product.write_text("2")
    assert not cache.is_fresh(stamp, "key")
    product.unlink()
    assert not cache.is_fresh(stamp, "key")
    stamp.write_text("{")
    assert not cache.is_fresh(stamp, "key")


def test_a_stamp_holds_wherever_its_folder_is_moved_and_from_wherever_it_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "stamps").mkdir(parents=True)
    (tmp_path / "a" / "x.csv").write_text("1")
    cache.write_stamp(tmp_path / "a" / "stamps" / "x.json", "key", [Path("a", "x.csv")])
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    assert cache.is_fresh(Path("stamps", "x.json"), "key")
    assert cache.is_fresh(tmp_path / "b" / "stamps" / "x.json", "key")


def test_a_stamp_of_before_names_its_products_from_the_projects_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "x.csv").write_text("1")
    products = {"outputs/x.csv": cache.sha256(tmp_path / "outputs" / "x.csv")}
    cache.write_json(tmp_path / "outputs" / "x.json", {"key": "key", "products": products})
    assert cache.is_fresh(tmp_path / "outputs" / "x.json", "key")
