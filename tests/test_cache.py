"""What is up to date: a comment, a sentence or a moved file makes nothing stale; versions and numbers do."""

import json

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
    assert not cache.is_fresh(stamp, "key", tmp_path)
    product.write_text("1")
    cache.write_stamp(stamp, "key", tmp_path, [product])
    assert cache.is_fresh(stamp, "key", tmp_path) and not cache.is_fresh(stamp, "other", tmp_path)
    product.write_text("2")
    assert not cache.is_fresh(stamp, "key", tmp_path)
    product.unlink()
    assert not cache.is_fresh(stamp, "key", tmp_path)
    stamp.write_text("{")
    assert not cache.is_fresh(stamp, "key", tmp_path)
