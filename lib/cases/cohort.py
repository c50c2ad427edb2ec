"""A cohort: a folder of case files with a card that lists them, their split and whom the import left out.

python -m lib.cases.cohort openkbp /data/open-kbp/provided-data --name openkbp
python -m lib.cases.cohort dicom /data/clinic --name clinic --spacing-mm 3 3 3
        --prescription-gy PTV70=70 PTV56=56
python -m lib.cases.cohort dicom /data/clinic --name clinic --params clinic.yaml
python -m lib.cases.cohort vmat /data/processed_npz --name clinic-npz
python -m lib.cases.cohort phantom
"""

import argparse
import hashlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from lib.cases.case import load_case, save_case
from lib.cases.protocols import PROTOCOLS
from lib.command import told_in_a_sentence
from lib.errors import UserError
from lib.files import read_json, sha256, write_json, write_text

VERSION = 1
FOLDER = Path("outputs/cohorts")
IMPORT_KEYS = (
    "spacing_mm",
    "aliases",
    "prescription_gy",
    "site",
)  # of DICOM, in a params file's section import


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
            f"python -m lib.cases.cohort openkbp <folder of patients> --name {folder.name}"
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


def make_cohort(folder, items, read, split, source, workers=2, report=print):
    """Read each of `items` (case id -> what `read` takes) in parallel and write the cohort to `folder`.

    `read` returns a Case, or a Case and a dict of what the card should say of its import. A patient that
    cannot be used is left out, listed with the reason, and the others go on. Without a `split` it is the
    reference's rule.
    """
    folder = Path(folder)
    if not items:
        raise UserError(f"there is no patient to read for {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    cases, left_out = {}, {}
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(partial(import_case, folder, read), items, items.values(), chunksize=4)
        for case_id, (summary, reason) in zip(items, results):
            if reason:
                left_out[case_id] = reason
                report(f"left out {case_id}: {reason}")
            else:
                cases[case_id] = summary
    if not cases:
        raise UserError(
            f"none of {len(items)} patients could be used; the first: {next(iter(left_out.values()))}"
        )
    split = split or (
        reference_split(list(cases))
        if len(cases) > 2
        else {"train": [], "validation": [], "test": list(cases)}
    )
    split = {part: [i for i in ids if i in cases] for part, ids in split.items()}
    card = {
        "version": VERSION,
        "name": folder.name,
        "source": source,
        "site": next(iter(cases.values()))["site"],
        "cases": cases,
        "split": split,
        "left_out": left_out,
    }
    write_json(folder / "card.json", card)
    return open_cohort(folder)


def import_case(folder, read, case_id, item):
    """Read and write one case; returns (its summary, None) or (None, the reason why it is left out)."""
    try:
        made = read(item)
        case, details = made if isinstance(made, tuple) else (made, None)
        save_case(case, folder / f"{case_id}.npz")
    except UserError as error:
        return None, str(error)
    return summarise(case, folder / f"{case_id}.npz") | ({"import": details} if details else {}), None


def summarise(case, path):
    """What the card says of a case."""
    return {
        "site": case.site,
        "shape": list(case.shape),
        "spacing_mm": list(case.spacing_mm),
        "prescription_gy": case.prescription_gy,
        "structures": sorted(case.masks),
        "sha256": sha256(path),
    }


def make_openkbp(source, folder, workers=2):
    from lib.cases import openkbp

    found = openkbp.find_patients(source)
    items = {patient.name: patient for patients in found.values() for patient in patients}
    split = openkbp.split_patients({part: [p.name for p in patients] for part, patients in found.items()})
    return make_cohort(folder, items, openkbp.read_patient, split, "OpenKBP, public CSV folders", workers)


def make_dicom(source, folder, workers=2, pseudonyms=None, **options):
    """`options` go to lib.cases.dicom_rt.read_patient: IMPORT_KEYS.

    `pseudonyms` is a file to write, outside the cohort: who is who. The patients are then P001, P002, ... in
    an order that says nothing.
    """
    from lib.cases import dicom_rt

    found = dicom_rt.find_patients(source)
    names = {case_id: case_id for case_id in found}
    if pseudonyms:
        shuffled = sorted(found, key=lambda case_id: hashlib.sha256(case_id.encode()).digest())
        names = {case_id: f"P{number:03d}" for number, case_id in enumerate(shuffled, 1)}
        if Path(folder).resolve() in Path(pseudonyms).resolve().parents:
            raise UserError(f"{pseudonyms} lies in the cohort's folder; who is who belongs elsewhere")
        write_text(Path(pseudonyms), "".join(f"{name},{case_id}\n" for case_id, name in names.items()))
    items = {names[case_id]: (path, names[case_id]) for case_id, path in found.items()}
    return make_cohort(folder, items, partial(read_named, options), None, "DICOM-RT folders", workers)


def read_named(options, item):
    """A DICOM patient by the name that he has in the cohort; an error does not give another one away."""
    from lib.cases import dicom_rt

    folder, name = item
    try:
        return dicom_rt.read_patient(folder, pseudonym=name, **options)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name).replace(Path(folder).name, name)) from None


def make_vmat(source, folder, workers=2):
    from lib.cases import vmat_npz

    return make_cohort(
        folder,
        vmat_npz.find_cases(source),
        vmat_npz.read_npz,
        None,
        "the reference study's npz files",
        workers,
    )


def read_import(path):
    """The section `import` of a params file as keyword arguments for lib.cases.dicom_rt.read_patient."""
    try:
        params = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable as YAML ({' '.join(str(error).split())})") from None
    return check_import(params.get("import") if isinstance(params, dict) else None, path)


def check_import(section, path):
    """The section, if it is one; what it may hold is IMPORT_KEYS."""
    if not isinstance(section, dict) or not section:
        raise UserError(f"{path} has no section import with some of {', '.join(IMPORT_KEYS)}")
    for key in section:
        if key not in IMPORT_KEYS:
            raise UserError(
                f"{path}: there is no key {f'import.{key}'!r}; there are {', '.join(IMPORT_KEYS)}"
            )
    for key in ("aliases", "prescription_gy"):
        if not isinstance(section.get(key, {}), dict):
            raise UserError(f"{path}: import.{key} must be keys and values, not {section[key]!r}")
    for name, gy in section.get("prescription_gy", {}).items():
        check_prescription(name, gy, f"{path}: import.prescription_gy.{name}")
    return section


def check_prescription(name, gy, where):
    """A dose in Gy as a float; raises a UserError that says `where`."""
    try:
        value = float(gy)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 < value < 200:
        raise UserError(f"{where} must be a dose in Gy such as {name or 'PTV70'}=70, not {gy!r}")
    return value


def given_prescriptions(texts):
    """["PTV70=70", ...] as {"PTV70": 70.0}."""
    return {
        name: check_prescription(name, gy, "--prescription-gy")
        for name, _, gy in (text.partition("=") for text in texts)
    }


def make_phantoms(folder, workers=2):
    from lib.cases import phantom

    split = reference_split(phantom.REFERENCE_IDS)
    split["validation"] += phantom.EXTRA_VALIDATION
    split["test"] += phantom.EXTRA_TEST
    items = {case_id: case_id for case_id in phantom.CASE_IDS}
    return make_cohort(folder, items, phantom.make_phantom, split, "phantoms, dose by pydosert", workers)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m lib.cases.cohort", description="Make a cohort of case files."
    )
    parser.add_argument("source", choices=["openkbp", "dicom", "vmat", "phantom"])
    parser.add_argument("folder", nargs="?", help="the source's folder of patients (not for phantoms)")
    parser.add_argument("--name", help="name of the cohort; default: the source's")
    parser.add_argument("--workers", type=int, default=2, help="processes that read in parallel")
    parser.add_argument(
        "--spacing-mm",
        type=float,
        nargs=3,
        metavar=("DZ", "DY", "DX"),
        help="dicom: grid of the cases; default: the CT's",
    )
    parser.add_argument(
        "--params",
        help="dicom: params file whose section import holds spacing_mm, aliases, prescription_gy, site",
    )
    parser.add_argument(
        "--prescription-gy",
        nargs="+",
        default=[],
        metavar="PTV70=70",
        help="dicom: for targets to which no plan prescribes a dose",
    )
    parser.add_argument(
        "--pseudonyms",
        metavar="FILE.csv",
        help="dicom: call the patients P001, P002, ... and write who is who to this file",
    )
    parser.add_argument(
        "--site", choices=list(PROTOCOLS), help="dicom: default: the one whose organs are found"
    )
    options = parser.parse_args(arguments)
    with told_in_a_sentence():
        cohort = make_named(options, FOLDER / (options.name or options.source))
    parts = ", ".join(f"{len(ids)} {part}" for part, ids in cohort.split.items())
    print(
        f"{cohort.folder}: {len(cohort.card['cases'])} cases ({parts}); "
        f"{len(cohort.card['left_out'])} left out"
    )


def make_named(options, target):
    """The cohort that the command line asks for."""
    if options.source == "phantom":
        return make_phantoms(target, options.workers)
    if not options.folder:
        raise UserError(f"{options.source} needs the folder of its patients")
    if options.source in ("openkbp", "vmat"):
        make = make_openkbp if options.source == "openkbp" else make_vmat
        return make(options.folder, target, options.workers)
    given = {
        "spacing_mm": options.spacing_mm,
        "site": options.site,
        "pseudonyms": options.pseudonyms,
        "prescription_gy": given_prescriptions(options.prescription_gy),
    }
    stored = read_import(options.params) if options.params else {}
    return make_dicom(
        options.folder,
        target,
        options.workers,
        **stored | {key: value for key, value in given.items() if value},
    )


if __name__ == "__main__":
    main()
