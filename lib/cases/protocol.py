"""What a treatment site has: targets and prescriptions, organs, clinical goals, how its CT is scaled.

Each is a YAML file in lib/cases/protocols, or a clinic's own with the same keys; prostate.yaml explains them.
A changed protocol makes features and studies anew; who changes how the CT of a site is scaled also raises
TRAINING_VERSION (lib/cache.py), as trained networks saw it otherwise.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import UserError
from lib.strict_yaml import read_yaml

NEEDED = ("title", "targets", "organs")
KEYS = {"aliases": {}, "mirrored": [], "goals": [], "fractions": 0, "source": "", "constraint_vector": []}
KEYS |= {"ct": {"window_hu": [-1024, 1500], "scale_hu": 1000, "offset": 0}, "dose_mask_channel": True}
KINDS = {str: "words", dict: "keys and values", list: "a list", int: "a number", bool: "true or false"}
FROM_PLAN = "from the plan"
BEYOND = " beyond 10 mm of "  # "A beyond 10 mm of B" in a goal
NUMBER = r"\d+(?:\.\d+)?"
GOAL = re.compile(
    rf"(?P<of>.+) (?:V(?P<dose>{NUMBER}) (?P<dose_unit>Gy|%)|D(?:(?P<kind>mean|max)|(?P<volume>{NUMBER}) "
    rf"(?P<volume_unit>%|cc))) (?P<sense><=|>=|≤|≥) (?P<limit>{NUMBER}) (?P<unit>Gy|%|cc)"
)
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
CHANNELS = ("ct", "dose mask", "open fields", "prior")  # names that no structure can have


class Goal(NamedTuple):
    """A clinical goal.

    `statistic` "V" (volume share) and "Vcc" take `at` in Gy, "D" in %, "Dcc" in cc; "mean" and "max" take
    none. A `relative` goal has its dose, which is `at` of V and else the limit, in % of the prescription.
    """

    structure: str
    statistic: str
    at: float | None
    sense: str  # "<=" or ">="
    limit: float
    unit: str  # "%", "cc" or "Gy"
    relative: bool = False

    @property
    def quantity(self) -> str:
        """What it limits, such as "V50 Gy" or "Dmean"."""
        dose_unit = " %" if self.relative else " Gy"
        unit = {"V": dose_unit, "Vcc": dose_unit, "D": " %", "Dcc": " cc"}.get(self.statistic)
        return f"{self.statistic[0]}{self.at:g}{unit}" if unit else f"D{self.statistic}"

    @property
    def text(self) -> str:
        """The goal in words, such as "Rectum V50 Gy ≤ 50 %"; goal_from reads it."""
        sense = "≤" if self.sense == "<=" else "≥"
        return f"{self.structure} {self.quantity} {sense} {self.limit:g} {self.unit}"


@dataclass(frozen=True)
class Protocol:
    """One treatment site; `stored` is what a case file and a card keep of it."""

    site: str  # the name of its file
    title: str
    targets: dict[str, float | None] = field(hash=False)  # name -> prescription in Gy, None: as planned
    organs: tuple[str, ...]
    aliases: dict[str, list[str]] = field(hash=False)  # name -> other names, best first
    mirrored: tuple[tuple[str, str], ...]  # pairs of structures that a left-right flip swaps
    goals: tuple[Goal, ...]
    ct_window_hu: tuple[float, float]  # CT is clipped to it
    ct_scale_hu: float  # then divided by this
    ct_offset: float  # and this added
    dose_mask_channel: bool  # whether the dose mask is an input of the network
    fractions: int  # 0: not said
    constraint_vector: tuple[str, ...]  # lib.features.channels.constraint_vector; empty: the usual one
    content: dict[str, Any] = field(compare=False, repr=False)  # as the file has it

    @property
    def structures(self) -> tuple[str, ...]:
        return (*self.targets, *self.organs)

    @property
    def stored(self) -> str | dict[str, Any]:
        """The site's name, or, where no file of this code has just this under it, all of the protocol."""
        return self.site if PROTOCOLS.get(self.site) == self else {"site": self.site, **self.content}


def protocol_of(stored: "str | dict | Protocol") -> Protocol:
    """A Protocol from its site's name or from what `stored` gave; an unknown one is a UserError."""
    if isinstance(stored, Protocol):
        return stored
    if isinstance(stored, dict):
        content = dict(stored)
        return make_protocol(str(content.pop("site", "")), content, "the protocol")
    if not isinstance(stored, str) or stored not in PROTOCOLS:
        raise UserError(f"there is no site {stored!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[stored]


def read_protocol(path: str | Path) -> Protocol:
    """The Protocol in a YAML file; a UserError names the file and what is wrong in it."""
    return make_protocol(Path(path).stem, read_yaml(path), str(path))


def make_protocol(site: str, content: dict[str, Any], where: str) -> Protocol:
    """The Protocol of a file's keys and values; `where` begins the sentence of a UserError."""
    unknown, lacking = set(content) - {*NEEDED, *KEYS}, [key for key in NEEDED if not content.get(key)]
    if unknown or lacking:
        what = f"there is no key {min(map(str, unknown))!r}" if unknown else f"it lacks {lacking[0]!r}"
        raise UserError(f"{where}: {what}; a protocol has {', '.join((*NEEDED, *KEYS))}")
    values = KEYS | content
    for key, usual in {"title": "", "targets": {}, "organs": [], **KEYS}.items():
        if type(values[key]) is not type(usual) or (usual == 0 and values[key] < 0):
            raise UserError(f"{where}: {key} must be {KINDS[type(usual)]}, not {values[key]!r}")
    targets = {name: prescription(name, gy, where) for name, gy in values["targets"].items()}
    names = (*targets, *values["organs"])
    check_names(names, where)
    aliases = check_aliases(values["aliases"], names, f"{where}: aliases")
    ct = check_ct(KEYS["ct"] | values["ct"], where)
    return Protocol(
        site=site,
        title=values["title"],
        targets=targets,
        organs=tuple(values["organs"]),
        aliases=aliases,
        mirrored=check_pairs(values["mirrored"], names, where),
        goals=tuple(goal_from(text, names, where) for text in values["goals"]),
        ct_window_hu=tuple(map(float, ct["window_hu"])),
        ct_scale_hu=float(ct["scale_hu"]),
        ct_offset=float(ct["offset"]),
        dose_mask_channel=values["dose_mask_channel"],
        fractions=values["fractions"],
        constraint_vector=check_vector(values["constraint_vector"], where),
        content=content,
    )


def prescription(name: str, gy: Any, where: str) -> float | None:
    """Gy of a target, None where the plan says it."""
    if gy == FROM_PLAN:
        return None
    if type(gy) not in (int, float) or not 1 <= gy <= 120:
        example = f"a dose in Gy such as 60, or {FROM_PLAN}"
        raise UserError(f"{where}: the prescription of {name} must be {example}, not {gy!r}")
    return float(gy)


def check_names(names: tuple, where: str) -> None:
    """Structures must have names, each one once, that differ in more than case, _ and -."""
    wrong = [n for n in names if type(n) is not str or not NAME.fullmatch(n) or n in CHANNELS]
    if wrong:
        raise UserError(f"{where}: {wrong[0]!r} cannot be a structure's name; write letters, digits, _ and -")
    for name, count in Counter(map(plain, names)).items():
        if count > 1:
            twice = " and ".join(other for other in names if plain(other) == name)
            raise UserError(f"{where}: {twice} are two structures of one name")


def plain(name: str) -> str:
    """A name as it is compared: without case, blanks, _ and -."""
    return re.sub(r"[\s_-]", "", str(name)).lower()


def check_aliases(aliases: Any, names: Collection[str], where: str) -> dict[str, list[str]]:
    """name -> list of other names; a name alone becomes a list of one. Nothing may stand for two names."""
    if not isinstance(aliases, dict):
        raise UserError(f"{where} must be keys and values, not {aliases!r}")
    lists = {name: [of] if isinstance(of, str) else of for name, of in aliases.items()}
    for name, of in lists.items():
        if name not in names:
            raise UserError(f"{where}: {name} is not among {', '.join(names)}")
        if not isinstance(of, list) or not of or not all(isinstance(a, str) and plain(a) for a in of):
            raise UserError(f"{where}.{name} must be structure names such as [Rectum], not {of!r}")
    every = Counter(alias for of in lists.values() for alias in {plain(a) for a in of})
    if max(every.values(), default=1) > 1:
        raise UserError(f"{where}: {max(every, key=every.get)!r} would stand for two structures")
    return lists


def check_pairs(pairs: list, names: tuple[str, ...], where: str) -> tuple[tuple[str, str], ...]:
    """The mirrored pairs: each of two structures, none twice."""
    flat = [str(name) for pair in pairs if isinstance(pair, list) and len(pair) == 2 for name in pair]
    if len(flat) != 2 * len(pairs) or len(set(flat)) != len(flat) or not set(flat) <= set(names):
        raise UserError(f"{where}: mirrored must be pairs of its structures, left and right, not {pairs!r}")
    return tuple(map(tuple, pairs))


def check_ct(ct: dict, where: str) -> dict:
    """How the CT is scaled: a window, a scale and an offset."""
    numbers = [*ct["window_hu"], ct["scale_hu"], ct["offset"]] if isinstance(ct["window_hu"], list) else []
    sound = len(numbers) == 4 and all(type(number) in (int, float) for number in numbers)
    if set(ct) != set(KEYS["ct"]) or not sound or not numbers[0] < numbers[1] or not numbers[2] > 0:
        example = "{window_hu: [-1000, 3000], scale_hu: 4000, offset: 0.5}"
        raise UserError(f"{where}: ct must be like {example}, not {ct!r}")
    return ct


def check_vector(entries: list, where: str) -> tuple[str, ...]:
    """The entries of a constraint vector: a target's name, or a limit in %, cc or Gy."""
    for entry in map(str, entries):
        if not NAME.fullmatch(entry) and not re.fullmatch(f"{NUMBER} (?:%|cc|Gy)", entry):
            raise UserError(f"{where}: constraint_vector: {entry!r} is neither a name nor like '50 %'")
    return tuple(map(str, entries))


def goal_from(text: Any, names: tuple[str, ...], where: str) -> Goal:
    """A Goal from its words; raises a UserError for other words, and for a structure that is not there."""
    match = GOAL.fullmatch(str(text))
    unit = match and match["unit"]
    if not match or unit not in (("%", "cc") if match["dose"] else ("%", "Gy")):
        like = "'Rectum V50 Gy <= 50 %', 'PTV D98 % >= 95 %' (of the prescription) or 'Lungs Dmean <= 20 Gy'"
        raise UserError(f"{where}: the goal {text!r} is not clear; write like {like}")
    for name in match["of"].split(BEYOND):
        if name not in names:
            raise UserError(f"{where}: the goal {text!r} is on {name}, which is not among {', '.join(names)}")
    if match["dose"]:
        statistic, relative = "V" if unit == "%" else "Vcc", match["dose_unit"] == "%"
    else:
        statistic, relative = match["kind"] or ("D" if match["volume_unit"] == "%" else "Dcc"), unit == "%"
    at, limit = match["dose"] or match["volume"], float(match["limit"])
    sense = "<=" if match["sense"] in ("<=", "≤") else ">="
    return Goal(match["of"], statistic, float(at) if at else None, sense, limit, unit, relative)


FILES = sorted(Path(__file__).with_name("protocols").glob("*.yaml"))
PROTOCOLS = {path.stem: read_protocol(path) for path in FILES}
