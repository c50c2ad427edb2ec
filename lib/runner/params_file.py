"""A params file: strict YAML, with values of the command line put over it, and how it is run again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.errors import UserError, closest
from lib.files import ROOT
from lib.strict_yaml import DAMAGED_YAML, parse_yaml, read_yaml, yaml_problem

# experiments, and their files, by the names that they had
RENAMED = {"openkbp-cpu": "openkbp", "openkbp-medium": "openkbp"}


def load_params(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A params file, one of the project from any folder, as a dict with the overrides put over it. Raises a
    UserError."""
    path, names = Path(path), [other.stem for other in sorted((ROOT / path).parent.glob("*.yaml"))]
    in_root = (ROOT / path).exists() and not path.exists()
    meant = name_meant(path.stem, names, "; params/ holds the experiments")
    return put_over(read_yaml(ROOT / path if in_root else path, meant), overrides)


def put_over(params: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The params with each `section.key=value`, its value in YAML, put over them. Raises a UserError."""
    given = [override.partition("=") for override in overrides]
    names = [name for name, _, _ in given]
    for name, equals, text in given:
        if names.count(name) > 1:
            raise UserError(f"-p {name} is given twice; give it once")
        if not equals:
            raise UserError(f"-p {name}: write -p key=value or -p section.key=value")
        put(params, name, text)
    return params


def name_meant(name: str, names: Sequence[str], otherwise: str | None = None) -> str:
    """What to add to a sentence on an experiment that is not there."""
    return f"; it is {RENAMED[name]} now" if name in RENAMED else closest(name, names, otherwise)


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


def commands(folder: Path) -> str:
    """The commands that run an experiment again, as it was and sampled in at most 100 steps, as Markdown."""
    made = load_params(folder / "experiment.yaml")
    same = [path.name for path in sorted((ROOT / "params").glob("*.yaml")) if load_params(path) == made]
    # the copy in its folder, if something was changed for it
    path = f"params/{same[0]}" if same else f"outputs/{folder.name}/experiment.yaml"
    steps = [f'-p ablation.{name}="[5, 25, 100]"' for name in ("n_steps", "others_steps", "few_steps")]
    fewer = " ".join([f"-p experiment={folder.name}-100", *steps, "-p ensemble.n_steps=100"])
    return f"```\npython -m lib run {path}\npython -m lib run {path} {fewer}\n```"
