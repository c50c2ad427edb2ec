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
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import UserError, closest

NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?"
LIMITS = re.compile(
    rf"(?:(one|some|any|\d+) of )?(?:({NUMBER})\.\.({NUMBER})|(methods)|(\w[^|;]*(?: \| [^|;]+)+))"
)
TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
DAMAGED_NOTEBOOK = (ValueError, LookupError, SyntaxError, AttributeError, TypeError)
DAMAGED_NOTEBOOK += (RecursionError, MemoryError)


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


def read_parameters(path: Path) -> dict[str, Parameter]:
    """name -> Parameter of a notebook file, in the order of its parameters cell. Raises a UserError."""
    try:
        return parse_lines(parameters_cell(path.read_text(encoding="utf-8")))
    except DAMAGED_NOTEBOOK as error:
        wanted, why = "lines `name = value  # meaning` as its parameters", " ".join(str(error).split())
        raise UserError(f"{path} is not a notebook with {wanted} ({why[:80]})") from None


def parameters_cell(notebook: str) -> str:
    """The source of that cell in a notebook's JSON; to load nbformat takes two seconds, in every kernel."""
    cells = [c for c in json.loads(notebook)["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"a notebook must have one cell tagged parameters, this has {len(cells)}")
    return "".join(cells[0]["source"])


def parse_lines(source: str) -> dict[str, Parameter]:
    """name -> Parameter of lines `name = default  # meaning; limits`."""
    lines, parameters = source.splitlines(), {}
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
    if isinstance(parameter.default, list):
        return check_list(parameter, value, where)
    typed, usual, choices = as_type(value, parameter), parameter.default, parameter.choices
    if choices and typed not in choices:
        must = f"it must be one of {', '.join(choices)}{closest(value, choices, '')}"
        raise UserError(f"{where} is {value!r}; {must}")
    if typed is None:
        quoted = f"; as a word it is written '{value}', in quotes"
        is_number = isinstance(usual, str) and type(value) in (int, float)
        sentence = f"{where} must be {TYPE_WORDS[type(usual)]} like {usual!r}, not {value!r}"
        raise UserError(sentence + (quoted if is_number else ""))
    if parameter.low is not None and not parameter.low <= typed <= parameter.high:
        span = f"from {parameter.low:g} to {parameter.high:g}"
        raise UserError(f"{where} is {typed}; it must be {span} ({parameter.help})")
    return typed


def check_list(parameter: Parameter, value: Any, where: str) -> list:
    if not isinstance(value, list):
        of_text = "; papermill takes a list by -y 'name: [1, 2]'" if isinstance(value, str) else ""
        raise UserError(f"{where} must be a list like {parameter.default}, not {value!r}{of_text}")
    usual = "" if parameter.low is None else float(parameter.low)  # one element, where the default has none
    element, count = parameter._replace(default=(parameter.default or [usual])[0]), parameter.count
    values = [check_value(element, item, where) for item in value]
    if not values and count != "any":
        raise UserError(f"{where} is an empty list; it must hold at least one ({parameter.help})")
    if count and count.isdigit():
        if len(values) != int(count):
            raise UserError(f"{where} must be {count} numbers, not {values} ({parameter.help})")
    elif repeated := [item for item in values if values.count(item) > 1]:
        raise UserError(f"{where} holds {repeated[0]} twice")
    return values


def as_type(value: Any, parameter: Parameter) -> Any:
    """The value in the parameter's type, else None: a whole number passes as a float, "1e-4" too, and a
    number as a word where that is among those to choose from (precision: 32)."""
    wanted = type(parameter.default)
    if type(value) is wanted:
        return value
    if wanted is float and (type(value) is int or isinstance(value, str) and re.fullmatch(NUMBER, value)):
        return float(value)
    return str(value) if type(value) is int and str(value) in (parameter.choices or ()) else None
