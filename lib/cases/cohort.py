"""A cohort: a folder of case files with a card that lists them, their split and whom the import left out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.cases.case import load_case
from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.files import read_json

VERSION = 1
FOLDER = Path("outputs/cohorts")


@dataclass(frozen=True)
class Cohort:
    """`folder` with its `card` (as JSON) and `split`, a dict train / validation / test -> case ids."""

    folder: Path
    card: dict
    split: dict

    @property
    def name(self):
        return self.card["name"]

    @property
    def protocol(self):
        return PROTOCOLS[self.card["site"]]

    @property
    def case_ids(self):
        return [case_id for part in self.split.values() for case_id in part]

    def path(self, case_id):
        return self.folder / f"{case_id}.npz"

    def load(self, case_id):
        if case_id not in self.card["cases"]:
            raise UserError(
                f"{case_id} is not in the cohort {self.folder}; "
                f"it has {', '.join(list(self.card['cases'])[:5])} ..."
            )
        return load_case(self.path(case_id))


def open_cohort(folder, first_cases=0):
    """The cohort in `folder`; with `first_cases` > 0 only that many, split by the reference's rule."""
    folder = Path(folder)
    if not (folder / "card.json").exists():
        raise UserError(
            f"{folder} is not a cohort: it has no card.json; make one with "
            f"python -m lib import openkbp <folder of patients> --name {folder.name}"
        )
    card, split = read_card(folder / "card.json")
    if first_cases:
        split = reference_split(sorted(card["cases"])[:first_cases])
    missing = [i for part in split.values() for i in part if not (folder / f"{i}.npz").exists()]
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}.npz, which its card lists; make the cohort again")
    return Cohort(folder, card, split)


def read_card(path):
    """(card, its split in order) of a cohort; a file that is no card of this version is refused."""
    card = read_json(path)
    version = card.get("version") if isinstance(card, dict) else None
    if version != VERSION:
        raise UserError(f"{path} is of version {version}, this code reads {VERSION}; make the cohort again")
    try:
        split = {part: list(card["split"][part]) for part in ("train", "validation", "test")}
        foreign = [case_id for part in split.values() for case_id in part if case_id not in card["cases"]]
        listed = [case_id for part in split.values() for case_id in part]
        twice = sorted({case_id for case_id in listed if listed.count(case_id) > 1})
        if twice:
            raise UserError(
                f"{path} lists {twice[0]} twice in its split; "
                "nobody may be trained on and judged on, make the cohort again"
            )
        if foreign or card["site"] not in PROTOCOLS or not isinstance(card["name"], str):
            raise KeyError(*foreign[:1])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a cohort's card ({error}); make the cohort again") from None
    return card, split


def reference_split(case_ids):
    """The reference study's rule: sorted ids, permuted with seed 42, a tenth each for validation and test."""
    case_ids = sorted(case_ids)
    n = len(case_ids)
    n_held = max(1, int(0.1 * n))
    if n < 3:
        raise UserError(
            f"{n} patients cannot be split into training, validation and test; at least 3 are needed"
        )
    order = [case_ids[i] for i in np.random.RandomState(42).permutation(n)]
    return {
        "train": order[: n - 2 * n_held],
        "validation": order[n - 2 * n_held : n - n_held],
        "test": order[n - n_held :],
    }
