"""What a clinic says of its own DICOM: the section `import` of a params file, and flags of the command."""

from collections.abc import Iterable
from pathlib import Path

from lib.errors import UserError

IMPORT_KEYS = ("spacing_mm", "aliases", "prescription_gy", "site")


def check_import(section: object, path: str | Path) -> dict:
    """The section `import` of `path`, keyword arguments for lib.importers.dicom_rt.read_patient.

    Raises a UserError where it is no section, or holds a key or a value that it must not.
    """
    if not isinstance(section, dict) or not section:
        raise UserError(f"{path} has no section import with some of {', '.join(IMPORT_KEYS)}")
    for key in section:
        if key not in IMPORT_KEYS:
            there_are = ", ".join(IMPORT_KEYS)
            raise UserError(f"{path}: there is no key {f'import.{key}'!r}; there are {there_are}")
    for key in ("aliases", "prescription_gy"):
        if not isinstance(section.get(key, {}), dict):
            raise UserError(f"{path}: import.{key} must be keys and values, not {section[key]!r}")
    for name, gy in section.get("prescription_gy", {}).items():
        check_prescription(name, gy, f"{path}: import.prescription_gy.{name}")
    return section


def check_prescription(name: str, gy: object, where: str) -> float:
    """A dose in Gy as a float; raises a UserError that says `where`."""
    try:
        value = float(gy)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 < value < 200:
        raise UserError(f"{where} must be a dose in Gy such as {name or 'PTV70'}=70, not {gy!r}")
    return value


def parse_prescriptions(texts: Iterable[str]) -> dict[str, float]:
    """["PTV70=70", ...] as {"PTV70": 70.0}."""
    pairs = [text.partition("=") for text in texts]
    return {name: check_prescription(name, gy, "--prescription-gy") for name, _, gy in pairs}
