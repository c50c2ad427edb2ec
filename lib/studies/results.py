"""The results of the studies: one table a file, one row per measured thing, as CSV beside a JSON of settings.

Text that does not apply is "", a number that does not apply is NaN. What a row is of stands in its columns.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.errors import UserError
from lib.files import read_json, write_json, write_text

TRAINING = "training method variant group seed"
SETTING = f"{TRAINING} weights switch setting solver grid start clamp eta window window_noise n_steps nfe"
ANSWER = f"{TRAINING} n_steps nfe members averaged_over"
MEASURED = "case_id measure value"
FORECAST = f"{TRAINING} n_steps nfe source members"  # whose members say how sure it is
COVERAGE = "patients calibration_patients inside_pct inside_low_pct inside_high_pct width interval_score"
OF_STRUCTURE = "case_id region structure measure value"
PEAKS = "peak_gflop_s peak_gbyte_s of_peak_flop_pct of_peak_byte_pct"

VIEWS = 16  # of a patient: both sides, each where it is and moved along seven choices of axes
REFERENCE_GRID = "reference's grid"  # the ablation's setting from which one thing at a time is switched
COLUMNS = {  # of each file
    "00_cohort": "part case_id structure measure value met",
    "02_steps": f"{SETTING} {MEASURED}",
    "02_levels": f"{TRAINING} t {MEASURED}",
    "02_decomposition": f"{SETTING} members {MEASURED}",
    "03_ensemble": f"{TRAINING} n_steps nfe source members level_pct factor {OF_STRUCTURE}",
    "03_spread_skill": f"{TRAINING} source members factor bin_gy {MEASURED}",
    "04_comparison": f"{ANSWER} {OF_STRUCTURE} planned met planned_met",
    "04_grid": f"{ANSWER} {OF_STRUCTURE} planned met planned_met",
    "04_gamma": f"{ANSWER} case_id region measure value",
    "04_history": f"{TRAINING} epoch step loss learning_rate validation_mae_gy seconds",
    "06_speed": "part against plain_s ours_s ratio ratio_low ratio_high",
    "06_ceilings": f"part seconds gflop gbyte {PEAKS}",
    "06_kernels": "kernel calls ms share_pct",
    "06_devices": "part relative_difference",
    "06_scaling": "axis size seconds",
    "06_notebooks": "notebook minutes",
    "07_values": f"{FORECAST} part rule case_id structure quantity unit planned value spread",
    "07_anatomy": "part case_id structure measure value",
    "07_intervals": f"{FORECAST} rule level_pct bin_gy case_id structure quantity unit {COVERAGE}",
    "07_detection": f"{FORECAST} rule case_id structure score raised_score",
}
FRAMES = {file: tuple(columns.split()) for file, columns in COLUMNS.items()}
WORDS = """training method variant group weights switch setting solver grid clamp window_noise source
averaged_over case_id region structure quantity unit measure rule part against axis notebook kernel"""
TEXT = set(WORDS.split())


class Results(NamedTuple):
    """What a study found: its settings, and its tables by the name of their file, such as "02_steps"."""

    settings: dict[str, Any]
    frames: dict[str, pd.DataFrame]


def make_frame(file: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as the table `file`: its columns in order, empty where a row does not say; no other key."""
    columns = FRAMES[file]
    frame = pd.DataFrame(list(rows), columns=None if rows else columns)
    if unknown := set(frame) - set(columns):
        raise ValueError(f"{file} has no column {', '.join(sorted(unknown))}")
    text = [column for column in columns if column in TEXT]
    frame = frame.reindex(columns=list(columns))
    frame[text] = frame[text].astype(object).fillna("").astype(str)
    return frame.astype({column: float for column in columns if column not in TEXT})


def make_rows(columns: Mapping[str, Any], measures: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """One row for each measure that is not None."""
    known = {measure: value for measure, value in measures.items() if value is not None}
    return [{**columns, "measure": measure, "value": value} for measure, value in known.items()]


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, numbers to six significant digits."""
    if tuple(frame) != FRAMES[path.stem]:
        raise ValueError(f"{path.stem} has the columns {FRAMES[path.stem]}, not {tuple(frame)}")
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def read_frame(path: Path) -> pd.DataFrame:
    """Read a table; a UserError names the file and what is wrong where it was edited into nonsense."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if not isinstance(frame.index, pd.RangeIndex):  # pandas' way with lines longer than the first
            raise pd.errors.ParserError("lines of other lengths")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run its notebook") from None
    except (ValueError, OSError) as error:  # pandas' errors of parsing are ValueErrors
        sentence = f"{path} is not readable as CSV ({str(error).strip()})"
        raise UserError(f"{sentence}; run its notebook again") from None
    if missing := [column for column in FRAMES[path.stem] if column not in frame]:
        raise UserError(f"{path} has no column {', '.join(missing)}; run its notebook again")
    frame = frame[list(FRAMES[path.stem])].fillna("")
    return frame.assign(**{name: numbers(path, frame[name]) for name in frame if name not in TEXT})


def numbers(path: Path, texts: pd.Series) -> pd.Series:
    """The column as floats, NaN where it is empty; UserError for what is no finite number."""
    values = pd.to_numeric(texts.replace("", "nan"), errors="coerce").astype(float)
    wrong = (values.isna() & (texts != "")) | np.isinf(values)
    if wrong.any():
        line = int(wrong.idxmax())
        where = f"{path}, line {line + 2}: {texts[line]!r} is no number for {texts.name}"
        raise UserError(f"{where}; run its notebook again")
    return values


def save_results(folder: Path, name: str, settings: dict[str, Any], **frames: pd.DataFrame) -> None:
    """Write <name>.json of the settings, and each table as <number of the notebook>_<table>.csv beside it."""
    files = {f"{name[:2]}_{table}": frame for table, frame in frames.items()}
    for file, frame in files.items():
        write_frame(folder / f"{file}.csv", frame)
    write_json(folder / f"{name}.json", {**settings, "tables": list(files)})


def load_results(folder: Path, name: str) -> Results:
    """What `save_results` wrote; UserError where a file is missing or nonsense, or of another version."""
    path = folder / f"{name}.json"
    settings = read_json(path)
    files = settings.get("tables") if isinstance(settings, dict) else None
    if not isinstance(files, list) or not set(files) <= FRAMES.keys():
        raise UserError(f"{path} is not of this version; run {name} again")
    return Results(settings, {file: read_frame(folder / f"{file}.csv") for file in files})


def select(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows whose columns have these values: select(frame, measure="mae_gy", region="dose mask")."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def label(row: Mapping[str, Any]) -> str:
    """What a row is of, for people: "ddpm_v, mean of 3", "baseline, 2 seeds and both sides"."""
    averaged, count = row.get("averaged_over") or row.get("source", "none"), row.get("members", 1)
    ensemble = "averaged_over" not in row  # of any number of members
    words = {
        "samples": "" if ensemble else f", mean of {count:.0f}",
        "seeds": ", seeds" if ensemble else f", {count:.0f} seeds",
        "sides": ", both sides",
        "sides and seeds": f", {count / 2:.0f} seeds and both sides",
        "views": f", {count:.0f} views",
        "views and seeds": f", {count / VIEWS:.0f} seeds and {VIEWS} views",
    }
    return row["training"] + words.get(averaged, "")


def add_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column `label`."""
    columns = [c for c in ("training", "source", "members", "averaged_over") if c in frame]
    return frame.assign(label=[label(row) for row in frame[columns].to_dict("records")])


def by_patient(frame: pd.DataFrame) -> pd.DataFrame:
    """A table [patient, label] of the values of rows of one measure."""
    labelled = add_labels(frame)
    order = labelled["label"].unique()
    return labelled.pivot(index="case_id", columns="label", values="value")[order]
