"""A cohort made: patients read in parallel, written as case files, listed in a card.

What a source's module needs (pydicom, pydosert) is needed nowhere else, so it is imported when asked for.
"""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import yaml

from lib.cases.case import save_case
from lib.cases.cohort import VERSION, open_cohort, reference_split
from lib.errors import UserError
from lib.files import sha256, write_json, write_text

IMPORT_KEYS = (
    "spacing_mm",
    "aliases",
    "prescription_gy",
    "site",
)  # of DICOM, in a params file's section import


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
    from lib.importers import openkbp

    found = openkbp.find_patients(source)
    items = {patient.name: patient for patients in found.values() for patient in patients}
    split = openkbp.split_patients({part: [p.name for p in patients] for part, patients in found.items()})
    return make_cohort(folder, items, openkbp.read_patient, split, "OpenKBP, public CSV folders", workers)


def make_dicom(source, folder, workers=2, pseudonyms=None, **options):
    """`options` go to lib.importers.dicom_rt.read_patient: IMPORT_KEYS.

    `pseudonyms` is a file to write, outside the cohort: who is who. The patients are then P001, P002, ... in
    an order that says nothing.
    """
    from lib.importers import dicom_rt

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
    from lib.importers import dicom_rt

    folder, name = item
    try:
        return dicom_rt.read_patient(folder, pseudonym=name, **options)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name).replace(Path(folder).name, name)) from None


def make_vmat(source, folder, workers=2):
    from lib.importers import vmat_npz

    return make_cohort(
        folder,
        vmat_npz.find_cases(source),
        vmat_npz.read_npz,
        None,
        "the reference study's npz files",
        workers,
    )


def read_import(path):
    """The section `import` of a params file as keyword arguments for lib.importers.dicom_rt.read_patient."""
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
    from lib.importers import phantom

    split = reference_split(phantom.REFERENCE_IDS)
    split["validation"] += phantom.EXTRA_VALIDATION
    split["test"] += phantom.EXTRA_TEST
    items = {case_id: case_id for case_id in phantom.CASE_IDS}
    return make_cohort(folder, items, phantom.make_phantom, split, "phantoms, dose by pydosert", workers)
