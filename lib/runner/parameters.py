"""The parameters cell of a notebook is the definition of its parameters; a params file is checked against it.

A line reads `name = default  # meaning; low..high` or `# meaning; a | b | c`. The default gives the type,
the comment the range or the choices (of each element, for a list).
"""

import ast
import difflib
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml

from lib.errors import UserError

NUMBER = r"-?[\d.]+(?:e-?\d+)?"


class Parameter(NamedTuple):
    """One line of a parameters cell; `low` and `high` or `choices` are None where the comment gives none."""

    name: str
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple | None


def parameters_cell(notebook):
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise UserError(f"a notebook must have one cell tagged parameters, this has {len(cells)}")
    return cells[0].source


def read_parameters(path):
    """name -> Parameter of a notebook file, in the order of its parameters cell."""
    try:
        source = parameters_cell(nbformat.read(path, as_version=4))
        lines = source.splitlines()
        found = {}
        for node in ast.parse(source).body:
            comment = lines[node.lineno - 1].partition("  # ")[2]
            found[node.targets[0].id] = describe(node.targets[0].id, ast.literal_eval(node.value), comment)
        return found
    except (
        nbformat.reader.NotJSONError,
        nbformat.ValidationError,
        SyntaxError,
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
        RecursionError,
        MemoryError,
    ) as error:
        raise UserError(
            f"{path} is not a notebook with lines `name = value  # meaning` as its parameters "
            f"({' '.join(str(error).split())[:80]})"
        ) from None


def describe(name, default, comment):
    meaning, _, limits = comment.rpartition("; ")
    span = re.fullmatch(rf"({NUMBER})\.\.({NUMBER})", limits.strip())
    choices = tuple(word.strip() for word in limits.split("|")) if "|" in limits else None
    low, high = (float(span[1]), float(span[2])) if span else (None, None)
    return Parameter(name, default, meaning or comment, low, high, choices)


def load_params(path, overrides=()):
    """A params file as a dict, with `section.key=value` (values in YAML) put over it."""
    path = Path(path)
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; params/ holds the experiments") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise UserError(f"{path} must hold keys and values, as params/smoke.yaml does")
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"-p {override}: write -p key=value or -p section.key=value")
        put(params, name.split("."), parse_value(text, override), override)
    return params


def parse_value(text, override):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"-p {override}: the value is not readable as YAML") from None


def put(params, keys, value, override):
    for key in keys[:-1]:
        params = params.setdefault(key, {})
        if not isinstance(params, dict):
            raise UserError(f"-p {override}: {key} is not a section")
    params[keys[-1]] = value


def check_value(parameter, value, where):
    """The value in the parameter's own type; raises a UserError that says `where` and what was expected."""
    default = parameter.default
    if isinstance(default, list):
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list like {default}, not {value!r}")
        element = parameter._replace(
            default=default[0] if default else "" if parameter.low is None else float(parameter.low)
        )
        return [check_value(element, item, where) for item in value]
    value = as_type(value, type(default))
    if value is None:
        raise UserError(f"{where} must be {type_words(default)} like {default!r}; it is not")
    if parameter.choices and value not in parameter.choices:
        raise UserError(f"{where} is {value!r}; it must be one of {', '.join(parameter.choices)}")
    if parameter.low is not None and not parameter.low <= value <= parameter.high:
        raise UserError(
            f"{where} is {value}; it must be from {parameter.low:g} to {parameter.high:g} ({parameter.help})"
        )
    return value


def as_type(value, wanted):
    """The value if it is of the wanted type (whole numbers pass as floats, "1e-4" too), else None."""
    if wanted is float:
        if isinstance(value, str) and re.fullmatch(NUMBER, value):
            return float(value)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return value if type(value) is wanted else None


def type_words(default):
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[type(default)]


def closest(name, names):
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
