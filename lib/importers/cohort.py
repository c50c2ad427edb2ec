"""A cohort made: a source's patients read in parallel, written as case files, listed in a card."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from lib.cases.case import Case, save_case
from lib.cases.cohort import VERSION, Cohort, Split, open_cohort, reference_split
from lib.cases.protocol import Protocol
from lib.errors import UserError
from lib.files import read_json, sha256, write_json

PERSON = "person"  # in what `read` says: equal, and not empty, for the cases of one person; not kept


class Source(NamedTuple):
    """The patients of one origin.

    title     what the card calls the origin
    patients  case id -> what `read` takes
    read      gives a Case, or a Case and what the card should say of its import; raises a UserError
    split     None: by the reference's rule
    """

    title: str
    patients: dict[str, Any]
    read: Callable[[Any], Case | tuple[Case, dict]]
    split: Split | None = None


def make_cohort(folder: str | Path, source: Source, workers: int = 2) -> Cohort:
    """Read the patients in parallel and write the cohort to `folder`; print whom it leaves out, and why.

    A patient that cannot be used is left out, listed with the reason, and the others go on; patients of
    several protocols are refused, because a network has the structures of one. What was there is replaced
    when all is read, or not at all.
    """
    folder, patients = Path(folder), source.patients
    if not patients:
        raise UserError(f"there is no patient to read for {folder}")
    if workers < 1:
        raise UserError(f"{workers} workers read nothing; give 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    cases, protocols, persons, left_out = {}, {}, {}, {}
    with TemporaryDirectory(prefix=".part.", dir=folder) as part, ProcessPoolExecutor(workers) as pool:
        read = partial(import_case, Path(part), source.read)
        for case_id, result in zip(patients, pool.map(read, patients, patients.values(), chunksize=4)):
            if isinstance(result, str):
                left_out[case_id] = result
                print(f"left out {case_id}: {result}")
            else:
                cases[case_id], protocols[case_id], persons[case_id] = result
        if not cases:
            first = next(iter(left_out.values()))
            raise UserError(f"none of {len(patients)} patients could be used; the first: {first}")
        one_person = group_persons(persons)
        card = make_card(folder.name, source, one_protocol(protocols), cases, left_out, one_person)
        for case_id in cases:
            os.replace(Path(part) / f"{case_id}.npz", folder / f"{case_id}.npz")
    earlier = cases_in(folder / "card.json") - set(cases)
    write_json(folder / "card.json", card)
    for path in folder.glob("*.npz"):
        if path.stem in earlier:  # perhaps by a name that is a pseudonym now
            path.unlink()
    for ids in one_person:
        print(f"{', '.join(ids)} have one PatientID and stay in one part of the split")
    return open_cohort(folder)


def cases_in(path: Path) -> set[str]:
    """The cases that a card lists; none where it is missing or damaged."""
    try:
        return set(read_json(path)["cases"])
    except (UserError, KeyError, TypeError):
        return set()


def group_persons(persons: dict[str, str]) -> list[list[str]]:
    """The case ids of each person who has several; one who would have all is a blank put for every name."""
    ids_of = {}
    for case_id, person in persons.items():
        ids_of.setdefault(person or (case_id,), []).append(case_id)
    return [ids for ids in ids_of.values() if len(ids) > 1] if len(ids_of) > 1 else []


def one_protocol(protocols: dict[str, Protocol]) -> Protocol:
    """The one protocol of all patients, by case id; a UserError says who has which if they differ."""
    patients = {}
    for case_id, protocol in protocols.items():
        patients.setdefault(protocol, []).append(case_id)
    if len(patients) > 1:
        who = "; ".join(f"{protocol.site}: {', '.join(ids)}" for protocol, ids in patients.items())
        raise UserError(f"a cohort is of one site, and here are {who}; import the patients of each alone")
    return next(iter(patients))


def import_case(folder: Path, read: Callable, case_id: str, item: Any) -> tuple[dict, Protocol, str] | str:
    """Read and write one case: (its summary, its protocol, PERSON), or why it is left out."""
    path = folder / f"{case_id}.npz"
    try:
        result = read(item)
        case, details = result if isinstance(result, tuple) else (result, {})
        person = details.pop(PERSON, "")
        save_case(case, path)
    except UserError as error:
        return str(error)
    return summarise(case, path) | ({"import": details} if details else {}), case.protocol, person


def summarise(case: Case, path: Path) -> dict:
    """What the card says of a case."""
    return {
        "site": case.site,
        "shape": list(case.shape),
        "spacing_mm": list(case.spacing_mm),
        "prescription_gy": case.prescription_gy,
        "structures": sorted(case.masks),
        "sha256": sha256(path),
    }


def make_card(
    name: str, source: Source, protocol: Protocol, cases: dict, left_out: dict, one_person: Sequence = ()
) -> dict:
    """The card of a cohort: summaries by case id, reasons by the ids of those left out, the split, and which
    cases are of one person, a list of ids each.

    Without a split of the source's own, fewer than three patients are all for testing.
    """
    split, n = source.split, len(cases) - sum(len(ids) - 1 for ids in one_person)
    if split is None:
        few = {"train": [], "validation": [], "test": list(cases)}
        split = reference_split(list(cases), one_person) if n > 2 else few
    card = {
        "version": VERSION,
        "name": name,
        "source": source.title,
        "site": protocol.site,
        "cases": cases,
        "split": {part: [case_id for case_id in ids if case_id in cases] for part, ids in split.items()},
        "left_out": left_out,
    }
    card |= {"one_person": one_person} if one_person else {}
    return card | ({"protocol": protocol.stored} if isinstance(protocol.stored, dict) else {})
