"""A params file: YAML read strictly, so that what stands there is what is meant."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from lib.errors import UserError, closest
from lib.files import ROOT

# experiments, and their files, by the names that they had
RENAMED = {"openkbp-cpu": "openkbp", "openkbp-medium": "openkbp", "openkbp-best-cpu": "openkbp-best"}
DAMAGED_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError)


class Loader(yaml.SafeLoader):
    """The core of YAML 1.2: yes, off, 042, 1:30 and 2026-01-31 are words, not what YAML 1.1 makes of them, so
    that a wrong one is refused by its own letters. A key twice is an error."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        known = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in known:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            known.add(key.value)
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9]\d*)", list("-+0123456789")),
    ("float", r"[-+]?(?:(?:0|[1-9]\d*)\.\d*|\.\d+)(?:[eE][-+]\d+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def load_params(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A params file, one of the project from any folder, as a dict, with `section.key=value` (values in YAML)
    put over it. Raises a UserError."""
    path = Path(path)
    try:
        params = parse_yaml((path if path.exists() else ROOT / path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = [other.stem for other in sorted((ROOT / path).parent.glob("*.yaml"))]
        meant = name_meant(path.stem, names, "; params/ holds the experiments")
        raise UserError(f"{path} does not exist{meant}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as a params file ({error.strerror})") from None
    except DAMAGED_YAML as error:
        raise UserError(f"{path} is not readable as YAML: {yaml_problem(error)}") from None
    if not isinstance(params, dict):
        raise UserError(f"{path} must hold keys and values, as params/smoke.yaml does")
    given = [override.partition("=") for override in overrides]
    for name, equals, text in given:
        if [other for other, _, _ in given].count(name) > 1:
            raise UserError(f"-p {name} is given twice; give it once")
        if not equals:
            raise UserError(f"-p {name}: write -p key=value or -p section.key=value")
        put(params, name, text)
    return params


def name_meant(name: str, names: Sequence[str], otherwise: str | None = None) -> str:
    """What to add to a sentence on an experiment that is not there."""
    return f"; it is {RENAMED[name]} now" if name in RENAMED else closest(name, names, otherwise)


def parse_yaml(text: str) -> Any:
    return Loader(text).get_single_data()


def yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{problem} (line {mark.line + 1})" if mark else problem


def put(params: dict[str, Any], name: str, text: str) -> None:
    """Put one `section.key`, with its value as YAML, over the params."""
    *sections, key = name.split(".")
    for section in sections:
        params[section] = params.get(section) or {}
        params = params[section]
        if not isinstance(params, dict):
            raise UserError(f"-p {name}: {section} is not a section")
    try:
        params[key] = parse_yaml(text)
    except DAMAGED_YAML as error:
        raise UserError(f"-p {name}: the value is not readable as YAML: {yaml_problem(error)}") from None
