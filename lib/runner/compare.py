"""The paired difference of two methods, also of two experiments that judged the same patients.

    python -m lib compare outputs/openkbp-best-small baseline outputs/openkbp-small "ddpm_dose, mean of 3"

A method is called as in the report's table of methods; one that was trained with several seeds is averaged
over them.
"""

from pathlib import Path

import numpy as np

from lib.errors import UserError
from lib.files import read_json
from lib.metrics.statistics import paired_difference
from lib.report.sentences import plural, span, told_difference
from lib.report.verdicts import over_seeds
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.parameters import closest
from lib.studies.rows import by_method

MEASURES = {
    "mae_gy": "MAE in the dose mask",
    "rmse_gy": "RMSE in the dose mask",
    "dose_score_gy": "dose score",
    "own_grid_dose_score_gy": "dose score on the network's grid",
    "dvh_gy": "DVH points, mean of a patient's",
}


def read_comparison(folder: str) -> dict:
    """The comparison's results of an experiment, rows in the order of their patients."""
    results = read_json(Path(folder) / "results" / "04_comparison.json")
    rows = sorted(results["rows"], key=lambda row: row["case_id"])
    return results | {"rows": [row | {"dvh_gy": float(np.mean(row["dvh_errors_gy"]))} for row in rows]}


def values_of(folder: str, rows: list[dict], method: str, measure: str) -> tuple[np.ndarray, int]:
    """(values of a method, one per patient, averaged over its seeds; number of seeds). Raises a UserError."""
    alone = by_method(rows, measure)
    if method not in alone:
        raise UserError(f"{folder} judged no {method!r}{closest(method, alone)}")
    return over_seeds(rows, measure).get(method, (alone[method], 1))


def pair_lines(*two: tuple[str, str]) -> list[str]:
    """Lines that say how the first of two (folder, method) stands to the second by every measure. Raises a
    UserError where the patients differ."""
    (first, a), (second, b) = ((folder, read_comparison(folder)) for folder, _ in two)
    if {row["case_id"] for row in a["rows"]} != {row["case_id"] for row in b["rows"]}:
        raise UserError(f"{first} and {second} judged other patients; a paired difference needs the same")
    sides = [(folder, results["rows"], method) for (folder, method), results in zip(two, (a, b))]
    seeds = [plural(values_of(*side, "mae_gy")[1], "seed") for side in sides]
    lines = [" minus ".join(f"{method} ({folder}, {n})" for (folder, method), n in zip(two, seeds))]
    for measure, title in MEASURES.items():
        x, y = (values_of(*side, measure)[0] for side in sides)
        d = paired_difference(x, y)
        words = told_difference(d, a["margin_gy"])
        lines.append(f"  {title:<33} {np.mean(x):.2f} - {np.mean(y):.2f}: {span(d)}, {words}")
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
