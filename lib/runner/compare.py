"""The paired difference of two methods, also of two experiments that judged the same patients.

    python -m lib compare outputs/openkbp-best-small baseline outputs/openkbp-small "ddpm_dose, mean of 3"

A method is called as in the report's table of methods; one that was trained with several seeds is averaged
over them.
"""

from pathlib import Path

import pandas as pd

from lib.errors import UserError
from lib.metrics.statistics import paired_difference
from lib.report import frames
from lib.report.statements import interval_text, judge
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.parameters import closest
from lib.studies.results import add_labels, load_results, select


def measures(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What is compared -> its rows."""
    return {
        "MAE in the dose mask": frames.rows_of(frame),
        "RMSE in the dose mask": frames.rows_of(frame, "rmse_gy"),
        "dose score": select(frame, measure="dose_score_gy"),
        "dose score on the network's grid": select(frame, measure="grid_dose_score_gy"),
        "DVH points, mean of a patient's": frames.dvh_errors(frame),
    }


def find_answer(folder: str, frame: pd.DataFrame, name: str) -> tuple[pd.DataFrame, int]:
    """(rows of the answer called so, of all its seeds; how many). Raises a UserError."""
    groups, trainings = add_labels(frame.assign(training=frame["group"])), add_labels(frame)
    for labelled in (groups, trainings):
        if name in set(labelled["label"]):
            rows = frame[labelled["label"] == name]
            return rows, rows["training"].nunique()
    names = [*dict.fromkeys(groups["label"]), *dict.fromkeys(trainings["label"])]
    raise UserError(f"{folder} judged no {name!r}{closest(name, names)}")


def pair_lines(*two: tuple[str, str]) -> list[str]:
    """Lines that say how the first of two (folder, answer) stands to the second by every measure. Raises a
    UserError where the patients differ."""
    results = [load_results(Path(folder) / "results", "04_comparison") for folder, _ in two]
    first, second = (set(result.frames["04_comparison"]["case_id"]) for result in results)
    if first != second:
        folders = " and ".join(folder for folder, _ in two)
        raise UserError(f"{folders} judged other patients; a paired difference needs the same")
    found = [find_answer(folder, r.frames["04_comparison"], name) for (folder, name), r in zip(two, results)]
    seeds = [f"{n} seed{'' if n == 1 else 's'}" for _, n in found]
    lines = [" minus ".join(f"{name} ({folder}, {n})" for (folder, name), n in zip(two, seeds))]
    for title, *rows in zip(measures(found[0][0]), *(measures(rows).values() for rows, _ in found)):
        a, b = (
            own.groupby(["case_id", "training"])["value"].mean().groupby("case_id").mean() for own in rows
        )
        d = paired_difference(a, b)
        words = judge(d, results[0].settings["margin_gy"])
        lines.append(f"  {title:<33} {a.mean():.2f} - {b.mean():.2f}: {interval_text(d)}, {words}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    text = "The paired difference of two methods of one or two experiments."
    parser = Parser(prog="python -m lib compare", description=text)
    parser.add_argument("first_folder", help="folder of an experiment, such as outputs/openkbp-small")
    parser.add_argument("first", help='a method of its table, such as baseline or "flow, mean of 3"')
    parser.add_argument("second_folder")
    parser.add_argument("second")
    given = parser.parse_args(arguments)
    with one_sentence_errors():
        print("\n".join(pair_lines((given.first_folder, given.first), (given.second_folder, given.second))))
