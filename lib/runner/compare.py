"""The paired difference of two answers, also of two experiments that judged the same patients.

    python -m lib compare outputs/openkbp baseline outputs/published/openkbp "ddpm_dose, mean of 4"

An answer is called as in the report's tables; one that was trained with several seeds is averaged over them.
"""

import pandas as pd

from lib.errors import UserError, closest
from lib.files import find_path
from lib.metrics.statistics import paired_difference, verdict
from lib.runner.command import Parser, one_sentence_errors
from lib.studies.results import add_labels, read_frame, select

MEASURES = {  # title -> which rows
    "MAE in the dose mask": {"measure": "mae_gy", "region": "dose mask"},
    "RMSE in the dose mask": {"measure": "rmse_gy", "region": "dose mask"},
    "dose score": {"measure": "dose_score_gy"},
    "dose score on the network's grid": {"measure": "grid_dose_score_gy"},
}
MARGIN_GY = 0.1
ANSWER = ["group", "averaged_over", "members"]


def read_answer(folder: str, name: str) -> pd.DataFrame:
    """The rows of an answer by its label, of all its seeds. Raises a UserError."""
    frame = add_labels(read_frame(find_path(folder) / "results" / "04_comparison.csv"))
    named = select(frame, label=name)
    if named.empty:
        raise UserError(f"{folder} judged no {name!r}{closest(name, frame['label'].unique())}")
    return frame.merge(named[ANSWER].drop_duplicates(), on=ANSWER)


def compare(first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Lines that say how the first (folder, answer) stands to the second by every measure they share. Raises
    a UserError where the patients differ."""
    answers = [read_answer(*first), read_answer(*second)]
    if len({frozenset(rows["case_id"]) for rows in answers}) > 1:
        other = f"{first[0]} and {second[0]} judged other patients"
        raise UserError(f"{other}; a paired difference needs the same")
    seeds = [rows["training"].nunique() for rows in answers]
    named = [f"{name} ({folder}, seeds: {n})" for (folder, name), n in zip((first, second), seeds)]
    lines = [" minus ".join(named)]
    for title, which in MEASURES.items():
        x, y = (select(rows, **which).groupby("case_id")["value"].mean() for rows in answers)
        if len(x) and len(y):
            d = paired_difference(x, y.loc[x.index])
            interval = "" if d.low is None else f", 95 % interval {d.low:+.2f} to {d.high:+.2f}"
            means = f"{x.mean():.2f} - {y.mean():.2f}: {d.mean:+.2f} Gy"
            lines.append(f"  {title:<33} {means}{interval}, {d.n} patients: {verdict(d, MARGIN_GY)}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    text = "The paired difference of two answers of one or two experiments."
    parser = Parser(prog="python -m lib compare", description=text)
    for which in ("first", "second"):
        parser.add_argument(f"{which}_folder", help="of an experiment, such as outputs/openkbp")
        parser.add_argument(which, help='an answer of its tables, such as baseline or "flow, mean of 3"')
    given = parser.parse_args(arguments)
    with one_sentence_errors():
        print("\n".join(compare((given.first_folder, given.first), (given.second_folder, given.second))))
