"""What a clinic says of its own DICOM: the section `import` of a params file, and flags of the command."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.errors import UserError


class Options(NamedTuple):
    """How a clinic's patients are read.

    spacing_mm       (dz, dy, dx) of the grid; None: the CT's own
    aliases          name in lib.cases.protocols -> structure names that go before those of ALIASES
    prescription_gy  target -> Gy for targets to which the RTPLAN prescribes nothing
    site             a key of PROTOCOLS; None: the one of which more organs are there
    """

    spacing_mm: Sequence[float] | None = None
    aliases: dict[str, str | list[str]] | None = None
    prescription_gy: dict[str, float] | None = None
    site: str | None = None


IMPORT_KEYS = Options._fields


def check_import(section: object, path: str | Path) -> dict:
    """The section `import` of the params file `path`, if it holds nothing but IMPORT_KEYS and fit values."""
    if not isinstance(section, dict) or not section:
        raise UserError(f"{path} has no section import with some of {', '.join(IMPORT_KEYS)}")
    for key in section:
        if key not in IMPORT_KEYS:
            raise UserError(f"{path}: there is no key 'import.{key}'; there are {', '.join(IMPORT_KEYS)}")
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
