"""Tables of results: written and read back, edited by hand into nonsense, and what a row is called."""

import numpy as np
import pytest

from lib.errors import UserError
from lib.studies.results import (
    FRAMES,
    TEXT,
    add_labels,
    by_patient,
    label,
    load_results,
    make_frame,
    read_frame,
    save_results,
    select,
    write_frame,
)

LEVELS = [
    {
        "training": "ddpm",
        "method": "ddpm",
        "group": "ddpm",
        "seed": 42,
        "t": t,
        "case_id": "007",
        "measure": "mae_gy",
    }
    | {"value": 1 / 3}
    for t in (0, 999)
]


@pytest.mark.parametrize("file", FRAMES)
def test_a_table_is_read_back_as_it_was_written(file, tmp_path):
    rows = [{c: 'a, "b"' if c in TEXT else i + 0.25 for c in FRAMES[file][i:]} for i in range(3)]
    frame = make_frame(file, rows)
    write_frame(tmp_path / f"{file}.csv", frame)
    assert read_frame(tmp_path / f"{file}.csv").equals(frame)
    empty = make_frame(file, [])
    write_frame(tmp_path / f"{file}.csv", empty)
    assert read_frame(tmp_path / f"{file}.csv").equals(empty)


def test_text_that_looks_like_a_number_or_nothing_stays_text(tmp_path):
    frame = make_frame("02_levels", [LEVELS[0] | {"case_id": "NA"}, LEVELS[1]])
    write_frame(tmp_path / "02_levels.csv", frame)
    assert read_frame(tmp_path / "02_levels.csv")["case_id"].tolist() == ["NA", "007"]


def test_numbers_have_six_digits_and_none_is_nan(tmp_path):
    write_frame(tmp_path / "02_levels.csv", make_frame("02_levels", [*LEVELS, LEVELS[0] | {"t": None}]))
    frame = read_frame(tmp_path / "02_levels.csv")
    assert frame["value"].tolist() == [0.333333] * 3 and np.isnan(frame["t"][2]) and frame["variant"][0] == ""


def test_a_row_with_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match="02_levels has no column mae"):
        make_frame("02_levels", [{"mae": 1.0}])


def edit(change):
    return lambda path: path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    "damage, says",
    [
        (edit(lambda text: text.replace("value", "values")), "has no column value; run its notebook again"),
        (edit(lambda text: text.replace("999", "lots")), "line 3: 'lots' is no number for t"),
        (edit(lambda text: text.replace("999", "inf")), "line 3: 'inf' is no number for t"),
        (edit(lambda text: text.replace("999", "nan")), "line 3: 'nan' is no number for t"),
        (edit(lambda text: text.replace("0.333333", "0.333333,7")), "is not readable as CSV"),
        (edit(lambda text: text + "1,2,3,4,5,6,7,8,9,10\n"), "is not readable as CSV"),
        (edit(lambda text: text + '"'), "is not readable as CSV"),
        (edit(lambda text: ""), "is not readable as CSV"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00abc"), "is not readable as CSV"),
        (lambda path: path.unlink(), "does not exist; run its notebook"),
    ],
)
def test_a_table_edited_into_nonsense_ends_in_a_sentence_that_names_it(damage, says, tmp_path):
    path = tmp_path / "02_levels.csv"
    write_frame(path, make_frame("02_levels", LEVELS))
    damage(path)
    with pytest.raises(UserError, match=says) as caught:
        read_frame(path)
    assert "02_levels.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_settings_and_tables_come_back_and_another_version_is_refused(tmp_path):
    save_results(tmp_path, "02_sampling_ablation", {"margin_gy": 0.1}, levels=make_frame("02_levels", LEVELS))
    results = load_results(tmp_path, "02_sampling_ablation")
    assert results.settings["margin_gy"] == 0.1 and len(results.frames["02_levels"]) == 2
    (tmp_path / "02_sampling_ablation.json").write_text('{"rows": []}')
    with pytest.raises(UserError, match="is not of this version; run 02_sampling_ablation again"):
        load_results(tmp_path, "02_sampling_ablation")


@pytest.mark.parametrize(
    "row, says",
    [
        ({"training": "ddpm_v"}, "ddpm_v"),
        ({"averaged_over": "none", "members": 1.0}, "ddpm_v"),
        ({"averaged_over": "samples", "members": 3.0}, "ddpm_v, mean of 3"),
        ({"averaged_over": "sides", "members": 2.0}, "ddpm_v, both sides"),
        ({"averaged_over": "seeds", "members": 3.0}, "ddpm_v, 3 seeds"),
        ({"averaged_over": "sides and seeds", "members": 4.0}, "ddpm_v, 2 seeds and both sides"),
        ({"averaged_over": "views", "members": 16.0}, "ddpm_v, 16 views"),
        ({"averaged_over": "views and seeds", "members": 32.0}, "ddpm_v, 2 seeds and 16 views"),
        ({"source": "samples", "members": 8.0}, "ddpm_v"),
        ({"source": "seeds", "members": 2.0}, "ddpm_v, seeds"),
        ({"source": "sides", "members": 1.0}, "ddpm_v, both sides"),
    ],
)
def test_a_row_is_called_by_its_columns(row, says):
    assert label({"training": "ddpm_v"} | row) == says


def test_values_by_patient_have_labels_in_the_order_of_the_rows():
    rows = [
        {"training": name, "averaged_over": "samples", "members": n, "case_id": case_id, "value": n}
        | {"measure": measure}
        for name, n in (("flow", 3), ("ddpm", 2))
        for case_id in ("p1", "p0")
        for measure in ("mae_gy", "rmse_gy")
    ]
    table = by_patient(select(make_frame("04_comparison", rows), measure="mae_gy"))
    assert list(table) == ["flow, mean of 3", "ddpm, mean of 2"] and list(table.index) == ["p0", "p1"]
    assert table.loc["p0"].tolist() == [3, 2]
    assert "label" in add_labels(make_frame("04_comparison", rows))
