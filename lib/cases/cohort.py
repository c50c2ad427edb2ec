"""A cohort: a folder of case files with a card that lists them, their split and whom the import left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.cases.case import Case, load_case
from lib.cases.protocol import Protocol, protocol_of
from lib.errors import UserError
from lib.files import read_json, sha256

VERSION = 1
FOLDER = Path("outputs/cohorts")
PARTS = ("train", "validation", "test")
SOURCES = {
    "openkbp": "openkbp <open-kbp>/provided-data",
    "phantom": "phantom",
    "vmat": "vmat <folder of npz>",
}
SHORT, SHORT_CASE = ("version", "name", "site", "protocol"), ("prescription_gy", "spacing_mm")
Split = dict[str, list[str]]  # each of PARTS -> case ids


@dataclass(frozen=True)
class Cohort:
    """`folder` with its `card` (as JSON) and `split`."""

    folder: Path
    card: dict
    split: Split

    @property
    def name(self) -> str:
        return self.card["name"]

    @property
    def protocol(self) -> Protocol:
        return protocol_of(self.card.get("protocol", self.card["site"]))

    @property
    def checksum(self) -> str:
        """That of the card; what is published of a card says that of the whole."""
        return self.card.get("card_sha256") or sha256(self.folder / "card.json")

    @property
    def short_card(self) -> dict:
        """What of the card is of use without the patients: the split, prescriptions and sizes of voxels."""
        short = {name: self.card[name] for name in SHORT if name in self.card}
        cases = {case_id: self.card["cases"][case_id] for case_id in self.case_ids}
        cases = {case_id: {name: case[name] for name in SHORT_CASE} for case_id, case in cases.items()}
        return short | {"cases": cases, "split": self.split, "card_sha256": self.checksum}

    @property
    def case_ids(self) -> list[str]:
        return [case_id for part in self.split.values() for case_id in part]

    def path(self, case_id: str) -> Path:
        return self.folder / f"{case_id}.npz"

    def load(self, case_id: str) -> Case:
        """The patient's Case; raises a UserError if the cohort has no such patient."""
        if case_id not in self.card["cases"]:
            some = ", ".join(list(self.card["cases"])[:5])
            raise UserError(f"{case_id} is not in the cohort {self.folder}; it has {some} ...")
        return load_case(self.path(case_id))


def open_cohort(folder: str | Path, first_cases: int = 0) -> Cohort:
    """The cohort in `folder`; with `first_cases` > 0 only that many, split by the reference's rule."""
    folder = Path(folder)
    if not (folder / "card.json").exists():
        source = next((source for source in SOURCES if source in folder.name), "dicom <folder of patients>")
        command = f"python -m lib import {SOURCES.get(source, source)} --name {folder.name}"
        raise UserError(f"{folder} is not a cohort: it has no card.json; make one with {command}")
    card, split = read_card(folder / "card.json")
    if first_cases:
        split = reference_split(sorted(card["cases"])[:first_cases], card.get("one_person", ()))
    cohort = Cohort(folder, card, split)
    missing = [case_id for case_id in cohort.case_ids if not cohort.path(case_id).exists()]
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}.npz, which its card lists; make the cohort again")
    return cohort


def read_card(path: Path) -> tuple[dict, Split]:
    """(card, its split in the order of PARTS); a file that is no card of this version is refused."""
    card = read_json(path)
    version = card.get("version") if isinstance(card, dict) else None
    if version != VERSION:
        raise UserError(f"{path} is of version {version}, this code reads {VERSION}; make the cohort again")
    try:
        split = {part: list(card["split"][part]) for part in PARTS}
        case_ids = [case_id for part in split.values() for case_id in part]
        foreign = [case_id for case_id in case_ids if case_id not in card["cases"]]
        repeated = sorted({case_id for case_id in case_ids if case_ids.count(case_id) > 1})
        protocol_of(card.get("protocol", card["site"]))
        if not repeated and (foreign or not isinstance(card["name"], str)):
            raise KeyError(*foreign[:1])
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"{path} is not a cohort's card ({error}); make the cohort again") from None
    if repeated:
        advice = "nobody may be trained on and judged on, make the cohort again"
        raise UserError(f"{path} lists {repeated[0]} twice in its split; {advice}")
    return card, split


def reference_split(case_ids: Sequence[str], one_person: Sequence[Sequence[str]] = ()) -> Split:
    """The reference study's rule: sorted ids, permuted with seed 42, a tenth each for validation and test.

    The cases of one person, a list of ids each, count once and stay together.
    """
    groups = [sorted(set(ids) & set(case_ids)) for ids in one_person]
    groups = {ids[0]: ids for ids in groups if ids}
    first_ids = set(case_ids) - {case_id for ids in groups.values() for case_id in ids[1:]}
    n = len(first_ids)
    if n < 3:
        parts = "training, validation and test"
        raise UserError(f"{n} patients cannot be split into {parts}; at least 3 are needed")
    tenth = max(1, int(0.1 * n))
    order = [sorted(first_ids)[i] for i in np.random.RandomState(42).permutation(n)]
    parts = order[: -2 * tenth], order[-2 * tenth : -tenth], order[-tenth:]
    parts = ([case_id for first in ids for case_id in groups.get(first, [first])] for ids in parts)
    return dict(zip(PARTS, parts))
