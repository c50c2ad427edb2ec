"""Rows of results by what they are of."""

import math
from typing import NamedTuple

from lib.models.methods import find_method


class Goal(NamedTuple):
    """A clinical goal's value by a predicted dose and as planned, and whether each meets it; None where the
    structure is missing or too small.

    A list of four in files: there are thousands.
    """

    predicted: float | None
    planned: float | None
    predicted_met: bool | None
    planned_met: bool | None


def has_study(notebook, methods):
    """Whether an experiment of these methods runs the notebook: that of steps if one is sampled in steps,
    that of ensembles if members of one differ."""
    needed = {
        "02_sampling_ablation": lambda method: method.timed,
        "03_ensemble": lambda method: method.sampled,
    }
    return notebook not in needed or any(needed[notebook](find_method(name)) for name in methods)


def grouped(rows, key, value="mae_gy"):
    """row[key] -> values, one per patient in the same order."""
    found = {}
    for row in rows:
        found.setdefault(row[key], []).append(row[value])
    return found


def by_method(rows, value="mae_gy"):
    return grouped(rows, "method", value)


def sizes_of(rows):
    """Ensemble sizes of ensemble rows as they are keyed, small to large (JSON sorts "10" before "3")."""
    return sorted(rows[0]["mae_gy"], key=int)


def plain_of(name):
    """The training of which `name` is another seed: "ddpm_v-seed43, mean of 3" is of "ddpm_v, mean of 3";
    else the name."""
    training, comma, rest = name.partition(",")
    method, _, variant = training.partition("-")
    return (method if variant.startswith("seed") else training) + comma + rest


def answers_in(name):
    """Of how many answers a result is the mean: 6 of "cascade, mean of 2 sides, mean of 3 seeds"."""
    return math.prod(int(part.split()[0]) for part in name.split(", mean of ")[1:])


def seeds_of(names):
    """method -> its trainings that differ in nothing but the seed, the first one first."""
    found = {}
    for name in names:
        plain = plain_of(name)
        if "-" not in plain.partition(",")[0]:
            found.setdefault(plain, []).append(name)
    return found
