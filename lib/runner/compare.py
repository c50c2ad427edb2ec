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


def judged(folder):
    """The comparison's results of an experiment, rows in the order of their patients."""
    found = read_json(Path(folder) / "results" / "04_comparison.json")
    rows = sorted(found["rows"], key=lambda row: row["case_id"])
    return found | {"rows": [row | {"dvh_gy": float(np.mean(row["dvh_errors_gy"]))} for row in rows]}


def values_of(folder, rows, method, measure):
    """(values of a method, one per patient, averaged over its seeds; number of seeds). Raises a UserError."""
    alone = by_method(rows, measure)
    if method not in alone:
        raise UserError(f"{folder} judged no {method!r}{closest(method, list(alone))}")
    return over_seeds(rows, measure).get(method, (alone[method], 1))


def pair_lines(*two):
    """Lines that say how the first of two (folder, method) stands to the second by every measure. Raises a
    UserError where the patients differ."""
    (first, a), (second, b) = ((folder, judged(folder)) for folder, _ in two)
    if {row["case_id"] for row in a["rows"]} != {row["case_id"] for row in b["rows"]}:
        raise UserError(f"{first} and {second} judged other patients; a paired difference needs the same")
    sides = [(folder, found["rows"], method) for (folder, method), found in zip(two, (a, b))]
    seeds = [values_of(*side, "mae_gy")[1] for side in sides]
    lines = [
        " minus ".join(f"{method} ({folder}, {plural(n, 'seed')})" for (folder, method), n in zip(two, seeds))
    ]
    for measure, title in MEASURES.items():
        x, y = (values_of(*side, measure)[0] for side in sides)
        d = paired_difference(x, y)
        lines.append(
            f"  {title:<33} {np.mean(x):.2f} - {np.mean(y):.2f}: {span(d)}, "
            f"{told_difference(d, a['margin_gy'])}"
        )
    return lines


def main(arguments=None):
    parser = Parser(
        prog="python -m lib compare",
        description="The paired difference of two methods of one or two experiments.",
    )
    parser.add_argument("first_folder", help="folder of an experiment, such as outputs/openkbp-small")
    parser.add_argument("first", help='a method of its table, such as baseline or "flow, mean of 3"')
    parser.add_argument("second_folder")
    parser.add_argument("second")
    given = parser.parse_args(arguments)
    with one_sentence_errors():
        print("\n".join(pair_lines((given.first_folder, given.first), (given.second_folder, given.second))))
