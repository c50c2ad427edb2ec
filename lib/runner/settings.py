"""The settings of a notebook: what a person gave, else the experiment's file, else the notebook's own cell.

The runner and a notebook opened by hand ask the same function, so that both run with the same values.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.files import ROOT
from lib.models.methods import METHODS, Method, find_method, kind
from lib.runner.parameters import Parameter, check_value, closest, parse_lines, read_parameters
from lib.studies.experiment import Experiment

Values = dict[str, Any]  # name -> value
NOTEBOOKS = ROOT / "notebooks"
TRAIN = "01_train"
SECTIONS = {
    "00_cohort": "data",
    TRAIN: "train",
    "02_sampling_ablation": "ablation",
    "03_ensemble": "ensemble",
    "04_comparison": "comparison",
    "05_report": "report",
}  # notebook -> its section of a params file
ALONE = {"06_speed": "speed"}  # an experiment with this section runs this notebook and no other
COMMON = parse_lines("""
cohort = "outputs/cohorts/phantom"  # folder of the cohort of cases
first_cases = 0  # take only the first so many cases of the cohort, 0 takes all; 0..100000
coarsen = 2  # voxels averaged along each axis before a network sees them; 1..16
answer = 1  # doses along the edge of such a block that networks give; a divisor of coarsen; 1..16
beams_deg = []  # gantry angles of coplanar beams, whose open fields networks see; any of 0..360
seed = 42  # names every random stream; 0..1000000000
device = "auto"  # where networks run; auto | cpu | cuda
precision = "auto"  # of the arithmetic, auto takes bf16 where the hardware has it; auto | 32 | bf16 | 16
methods = ["baseline"]  # what is trained and compared: <method>, or <method>-<variant>
""")  # what all notebooks of an experiment share, defined as a notebook's own parameters are
SUITS: dict[str, Callable[[Method], bool]] = {
    "method": lambda method: method.timed,
    "regression": lambda method: not method.timed,
    "sampled": lambda method: method.sampled,
}  # which methods can stand for a parameter that names trainings; any, if it is not here
# keys of older params files
REPLACED = {"explore": "its notebook is opened by hand, and its parameters stand in its first cell"}


def check_params(params: Values, path: str | Path) -> None:
    """Refuse a params file with keys that no notebook knows, without the needed ones, or with trainings that
    cannot be. Raises a UserError."""
    sections = sections_of(params)
    check_keys(params, ["experiment", *COMMON, "variants", "import", *sections.values()], path, "")
    for key in ("experiment", "cohort", *(["methods"] if sections is SECTIONS else [])):
        if key not in params:
            raise UserError(f"{path}: the key {key!r} is missing")
    check_name(params["experiment"], f"{path}: experiment")
    for notebook, section in sections.items():
        check_keys(params.get(section), section_keys(notebook), path, section)
        for key, value in (params.get(section) or {}).items():
            check_value(notebook_parameters(notebook)[key], value, f"{path}: {section}.{key}")
    if sections is SECTIONS:
        methods = check_value(COMMON["methods"], params["methods"], f"{path}: methods")
        check_variants(params.get("variants"), methods, path)
        check_methods(methods, params.get("variants") or {}, path)


def sections_of(params: Values) -> dict[str, str]:
    return ALONE if set(ALONE.values()) & set(params) else SECTIONS


def check_keys(section: Any, known: list[str], path: str | Path, name: str) -> None:
    """Refuse a section that is none, and keys that it cannot hold."""
    if not isinstance(section, dict | None):
        raise UserError(f"{path}: {name} must be a section of keys, not {section!r}")
    for key in section or {}:
        if key in REPLACED and not name:
            raise UserError(f"{path}: the key {key!r} is no more: {REPLACED[key]}")
        if key not in known:
            where = f"{name}.{key}" if name else key
            raise UserError(f"{path}: there is no key {where!r}{closest(key, known)}")


def check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_-]+", name):
        raise UserError(f"{where} must be a name of small letters, digits and dashes, not {name!r}")


def check_methods(methods: list[str], variants: Any, path: str | Path) -> None:
    """Every training that is listed can be trained: its method, its prior and its variant are known."""
    for name in methods:
        check_name(name, f"{path}: methods")
        if kind(name) not in METHODS:
            raise UserError(f"{path}: there is no method {name!r}{closest(name, METHODS)}")
        prior = METHODS[kind(name)].prior
        if prior and prior not in methods:
            raise UserError(f"{path}: {name} starts from {prior}, which methods does not list; add it")
        if "-" in name and name not in variants:
            raise UserError(f"{path}: methods lists {name}, but variants does not say what it has otherwise")


def check_variants(variants: Any, methods: list[str], path: str | Path) -> None:
    """Every variant is that of a listed training, and changes what a training may change."""
    if not isinstance(variants, dict | None):
        raise UserError(f"{path}: variants must be a section of trainings, not {variants!r}")
    for name, section in (variants or {}).items():
        if name not in methods or "-" not in str(name):
            raise UserError(f"{path}: variants.{name} is no training that methods lists, <method>-<variant>")
        known = ["beams_deg", "seed", "device", "precision", *section_keys(TRAIN)]
        check_keys(section, known, path, f"variants.{name}")


def section_keys(notebook: str) -> list[str]:
    """What the notebook's section of a params file may hold; `methods` says which trainings there are."""
    not_there = ("experiment", "method", "variant") if notebook == TRAIN else ("experiment",)
    return [name for name in notebook_parameters(notebook) if name not in not_there]


@cache
def notebook_parameters(notebook: str) -> dict[str, Parameter]:
    """name -> Parameter of the notebook's own cell."""
    return read_parameters(NOTEBOOKS / f"{notebook}.ipynb")


def notebook_values(params: Values, notebook: str, path: str | Path, given: Values) -> Values:
    """The value of every common setting and of every parameter of the notebook, checked: what is `given` by
    hand, else what a checked params file says, else the cell's. Raises a UserError."""
    parameters = COMMON | notebook_parameters(notebook)
    values = {name: parameter.default for name, parameter in parameters.items()}
    where = {}
    training = training_name(values | given) if notebook == TRAIN else ""
    for prefix, section in sources(params, notebook, training, path, given):
        for name in [name for name in parameters if name in section]:
            where[name] = f"{prefix}{name}"
            values[name] = check_value(parameters[name], section[name], where[name])
    for name, parameter in parameters.items():
        if name not in where:
            values[name] = fitting_default(parameter, values)
        elif parameter.of_methods:
            check_trainings(values[name], values["methods"], where[name])
    check_sizes(values, where)
    return values


def sources(
    params: Values, notebook: str, training: str, path: str | Path, given: Values
) -> Iterable[tuple[str, Values]]:
    """(where it stands, values), the weakest first."""
    section = (SECTIONS | ALONE).get(notebook)
    yield f"{path}: ", {name: params[name] for name in ("experiment", *COMMON) if name in params}
    yield f"{path}: {section}.", params.get(section) or {}
    yield f"{path}: variants.{training}.", (params.get("variants") or {}).get(training) or {}
    yield "", given


def training_name(values: Values) -> str:
    return f"{values['method']}-{values['variant']}" if values["variant"] else values["method"]


def fitting_default(parameter: Parameter, values: Values) -> Any:
    """The cell's value; of what names trainings those that the experiment has, or else such as can stand
    there; of ensemble sizes those that the members allow."""
    default = parameter.default
    if parameter.name == "sizes":
        return [size for size in default if size <= values["members"]]
    if not parameter.of_methods:
        return default
    methods = values["methods"]
    suits = SUITS.get(parameter.name, lambda method: True)
    suiting = [name for name in methods if suits(find_method(name))]
    if isinstance(default, list):
        return [name for name in default if name in methods] or ([] if parameter.count == "any" else suiting)
    return default if default in methods else (suiting or methods)[0]


def check_trainings(names: str | list[str], methods: list[str], where: str) -> None:
    """Refuse a study of a training that is not among the methods."""
    for name in [names] if isinstance(names, str) else names:
        if name not in methods:
            raise UserError(f"{where} names {name}, which methods does not list{closest(name, methods)}")


def check_sizes(values: Values, where: dict[str, str]) -> None:
    """Refuse an ensemble size above the number of members."""
    if "sizes" in where and max(values["sizes"]) > values["members"]:
        raise UserError(
            f"{where['sizes']} holds {max(values['sizes'])}, but members is only {values['members']}"
        )


def experiment_of(values: Values) -> Experiment:
    """The Experiment of checked values; its lists are tuples, as it is a key of what is kept."""
    common = {name: values[name] for name in ("experiment", *COMMON)}
    return Experiment(**{k: tuple(v) if isinstance(v, list) else v for k, v in common.items()})
