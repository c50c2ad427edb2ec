"""What a clinic says of its own DICOM: the section `import` of a params file, and flags of the command."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.cases.protocol import Protocol, check_aliases, protocol_of, read_protocol
from lib.errors import UserError


class Options(NamedTuple):
    """How a clinic's patients are read.

    spacing_mm       (dz, dy, dx) of the grid; None: the CT's own
    aliases          name in the protocol -> structure names that go before those of the protocol
    prescription_gy  target -> Gy for targets to which the RTPLAN prescribes nothing
    site             a protocol of this code; None: the one that the structures clearly tell
    protocol         a clinic's own instead
    """

    spacing_mm: Sequence[float] | None = None
    aliases: dict[str, str | list[str]] | None = None
    prescription_gy: dict[str, float] | None = None
    site: str | None = None
    protocol: Protocol | None = None


IMPORT_KEYS = Options._fields


def check_import(section: object, path: str | Path) -> dict:
    """The section `import` of the params file `path`, if it holds nothing but IMPORT_KEYS and fit values."""
    if not isinstance(section, dict) or not section:
        raise UserError(f"{path} has no section import with some of {', '.join(IMPORT_KEYS)}")
    for key in section:
        if key not in IMPORT_KEYS:
            raise UserError(f"{path}: there is no key 'import.{key}'; there are {', '.join(IMPORT_KEYS)}")
    doses, aliases = section.get("prescription_gy", {}), section.get("aliases", {})
    if not isinstance(doses, dict):
        raise UserError(f"{path}: import.prescription_gy must be keys and values, not {doses!r}")
    for name, gy in doses.items():
        check_prescription(name, gy, f"{path}: import.prescription_gy.{name}")
    check_aliases(aliases, aliases, f"{path}: import.aliases")  # whether it has the names is the protocol's
    for key in ("site", "protocol"):
        if not isinstance(section.get(key, ""), str):
            raise UserError(f"{path}: import.{key} must be one name, not {section[key]!r}")
    return section


def open_protocol(site: str | None, path: str | None) -> dict[str, str | Protocol]:
    """What Options says of the site by the name of a protocol of this code or the path of a clinic's own."""
    if site and path:
        raise UserError(f"give the site {site} or the protocol {path}, not both")
    if path:
        return {"protocol": read_protocol(path)}
    return {"site": protocol_of(site).site} if site else {}


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
