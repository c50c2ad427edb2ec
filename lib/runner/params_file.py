"""A params file: strict YAML, with values of the command line put over it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.runner.parameters import closest
from lib.strict_yaml import DAMAGED_YAML, parse_yaml, read_yaml, yaml_problem

# experiments, and their files, by the names that they had
RENAMED = {"openkbp-cpu": "openkbp", "openkbp-medium": "openkbp", "openkbp-best-cpu": "openkbp-best"}


def load_params(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A params file as a dict, with `section.key=value` (values in YAML) put over it. Raises a UserError."""
    path = Path(path)
    params = read_yaml(path, "" if path.exists() else file_meant(path))
    for override in overrides:
        put(params, override)
    return params


def file_meant(path: Path) -> str:
    if path.stem in RENAMED:
        return f"; it is {path.with_stem(RENAMED[path.stem])} now"
    names = [other.stem for other in sorted(path.parent.glob("*.yaml"))]
    return closest(path.stem, names, "; params/ holds the experiments")


def put(params: dict[str, Any], override: str) -> None:
    """Put one `section.key=value` over the params."""
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"-p {override}: write -p key=value or -p section.key=value")
    *sections, key = name.split(".")
    for section in sections:
        if params.get(section) is None:
            params[section] = {}
        params = params[section]
        if not isinstance(params, dict):
            raise UserError(f"-p {override}: {section} is not a section")
    try:
        params[key] = parse_yaml(text)
    except DAMAGED_YAML as error:
        raise UserError(f"-p {override}: the value is not readable as YAML: {yaml_problem(error)}") from None
