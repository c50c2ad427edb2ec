"""YAML read strictly, so that what stands there is what is meant; nothing that is read can run code."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from lib.errors import UserError

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


def read_yaml(path: str | Path, if_missing: str = "") -> dict[str, Any]:
    """What a YAML file holds, which must be keys and values; a UserError if there is none or it is damaged.

    `if_missing` goes on with the sentence that the file does not exist.
    """
    path = Path(path)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist{if_missing}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except DAMAGED_YAML as error:
        raise UserError(f"{path} is not readable as YAML: {yaml_problem(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, as the files of params/ do")
    return content


def parse_yaml(text: str) -> Any:
    return Loader(text).get_single_data()


def yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{problem} (line {mark.line + 1})" if mark else problem
