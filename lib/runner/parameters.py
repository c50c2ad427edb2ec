"""The parameters cell of a notebook is the definition of its parameters; every value is checked against it.

A line reads `name = default  # meaning; limits`. The default gives the type, the limits what is allowed, of a
list for each element:

    1..1000             a number in this range
    auto | cpu | cuda   one of these words
    one of methods      a training of the experiment; `some of methods` for a list
    any of 0..360       a list that may be empty; others hold at least one element
    3 of 0..1024        a list of exactly so many elements
"""

import ast
import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from lib.errors import UserError

NUMBER = r"-?[\d.]+(?:e-?\d+)?"
LIMITS = re.compile(
    rf"(?:(one|some|any|\d+) of )?(?:({NUMBER})\.\.({NUMBER})|(methods)|(\w[^|;]*(?: \| [^|;]+)+))"
)
TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
DAMAGED_CODE = (SyntaxError, AttributeError, TypeError, RecursionError, MemoryError)
DAMAGED_NOTEBOOK = (nbformat.ValidationError, ValueError, LookupError, *DAMAGED_CODE)


class Parameter(NamedTuple):
    """One line of a parameters cell; `low` and `high` or `choices` are None where the comment gives none."""

    name: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    of_methods: bool = False  # whether it names trainings of the experiment
    count: str | None = None  # of a list's elements: "any", a number, or None for at least one

    def element(self) -> "Parameter":
        """The definition of one element of a list."""
        usual = "" if self.low is None else float(self.low)
        return self._replace(default=self.default[0] if self.default else usual)


def read_parameters(path: Path) -> dict[str, Parameter]:
    """name -> Parameter of a notebook file, in the order of its parameters cell. Raises a UserError."""
    try:
        return parse_lines(parameters_cell(nbformat.read(path, as_version=4)))
    except DAMAGED_NOTEBOOK as error:
        raise UserError(
            f"{path} is not a notebook with lines `name = value  # meaning` as its parameters "
            f"({' '.join(str(error).split())[:80]})"
        ) from None


def parameters_cell(notebook: nbformat.NotebookNode) -> str:
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"a notebook must have one cell tagged parameters, this has {len(cells)}")
    return cells[0].source


def parse_lines(source: str) -> dict[str, Parameter]:
    """name -> Parameter of lines `name = default  # meaning; limits`."""
    lines = source.splitlines()
    parameters = {}
    for node in ast.parse(source).body:
        name, comment = node.targets[0].id, lines[node.lineno - 1].partition("  # ")[2]
        parameters[name] = parse_line(name, ast.literal_eval(node.value), comment)
    return parameters


def parse_line(name: str, default: Any, comment: str) -> Parameter:
    meaning, _, limits = comment.rpartition("; ")
    match = LIMITS.fullmatch(limits.strip())
    if not match:
        return Parameter(name, default, comment)
    count, low, high, methods, words = match.groups()
    low, high = (float(low), float(high)) if low else (None, None)
    choices = tuple(word.strip() for word in words.split("|")) if words else None
    count = None if count in ("one", "some") else count
    return Parameter(name, default, meaning, low, high, choices, bool(methods), count)


def check_value(parameter: Parameter, value: Any, where: str) -> Any:
    """The value in the parameter's own type; raises a UserError that says `where` and what was expected."""
    default = parameter.default
    if isinstance(default, list):
        return check_list(parameter, value, where)
    typed = as_type(value, type(default))
    if typed is None:
        raise UserError(f"{where} must be {TYPE_WORDS[type(default)]} like {default!r}, not {value!r}")
    if parameter.choices and typed not in parameter.choices:
        choices = ", ".join(parameter.choices) + closest(typed, parameter.choices, "")
        raise UserError(f"{where} is {typed!r}; it must be one of {choices}")
    if parameter.low is not None and not parameter.low <= typed <= parameter.high:
        span = f"from {parameter.low:g} to {parameter.high:g}"
        raise UserError(f"{where} is {typed}; it must be {span} ({parameter.help})")
    return typed


def check_list(parameter: Parameter, value: Any, where: str) -> list:
    if not isinstance(value, list):
        of_text = "; papermill takes a list by -y 'name: [1, 2]'" if isinstance(value, str) else ""
        raise UserError(f"{where} must be a list like {parameter.default}, not {value!r}{of_text}")
    values = [check_value(parameter.element(), item, where) for item in value]
    if not values and parameter.count != "any":
        raise UserError(f"{where} is an empty list; it must hold at least one ({parameter.help})")
    if parameter.count and parameter.count.isdigit():
        if len(values) != int(parameter.count):
            raise UserError(f"{where} must be {parameter.count} numbers, not {values} ({parameter.help})")
        return values
    repeated = next((item for item in values if values.count(item) > 1), None)
    if repeated is not None:
        raise UserError(f"{where} holds {repeated} twice")
    return values


def as_type(value: Any, wanted: type) -> Any:
    """The value if it is of the wanted type (whole numbers pass as floats, "1e-4" too), else None."""
    if wanted is float:
        if isinstance(value, str) and re.fullmatch(NUMBER, value):
            return float(value)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return value if type(value) is wanted else None


def closest(name: object, names: Iterable[str], otherwise: str | None = None) -> str:
    """What to add to a sentence on a wrong name: the one that was meant, or else what there is."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    listed = f"; there are {', '.join(names)}" if otherwise is None else otherwise
    return f"; did you mean {near[0]}?" if near else listed
