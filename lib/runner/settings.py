"""The settings of a notebook: what a person gave, else the experiment's file, else the notebook's own cell.

The runner and a notebook opened by hand ask the same function, so that both run with the same values.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.files import ROOT
from lib.models.methods import METHODS, Method, find_method, kind
from lib.runner.parameters import Parameter, check_value, closest, parse_lines, read_parameters
from lib.studies.experiment import Experiment

NOTEBOOKS = ROOT / "notebooks"
TRAIN = "01_train"
SECTIONS = {
    "00_cohort": "data",
    TRAIN: "train",
    "02_sampling_ablation": "ablation",
    "03_ensemble": "ensemble",
    "04_comparison": "comparison",
}  # notebook -> its section of a params file
ALONE = {"06_speed": "speed"}  # an experiment with this section runs this notebook and no other
COMMON = parse_lines("""
cohort = "outputs/cohorts/phantom"  # folder of the cohort of cases
first_cases = 0  # take only the first so many cases of the cohort, 0 takes all; 0..100000
coarsen = 2  # voxels averaged along each axis before a network sees them; 1..16
beams_deg = []  # gantry angles of coplanar beams, whose open fields networks see; any of 0..360
seed = 42  # names every random stream; 0..1000000000
device = "auto"  # where networks run; auto | cpu | cuda
precision = "auto"  # of the arithmetic, auto takes bf16 where the hardware has it; auto | 32 | bf16 | 16
methods = ["baseline"]  # what is trained and compared: <method>, or <method>-<variant>
""")  # what all notebooks of an experiment share, defined as a notebook's own parameters are
OF_ALL_TRAININGS = ("cohort", "first_cases", "coarsen", "methods")  # what no variant may change
OF_ONE_TRAINING = ("method", "variant")  # parameters of 01_train that the list of methods sets
SUITS: dict[str, Callable[[Method], bool]] = {
    "method": lambda method: method.timed,
    "regression": lambda method: not method.timed,
    "sampled": lambda method: method.sampled,
}  # which methods can stand for a parameter that names trainings; any, if it is not here
REPLACED = {
    "explore": "notebooks/explore.ipynb is opened by hand, its parameters stand in its first cell",
}  # keys of older params files


def check_params(params: dict[str, Any], path: str | Path) -> None:
    """Refuse a params file with keys that no notebook knows, without the needed ones, or with trainings that
    cannot be. Raises a UserError."""
    sections = sections_of(params)
    check_keys(params, sections, path)
    check_name(params["experiment"], f"{path}: experiment")
    if sections is SECTIONS:
        methods = check_value(COMMON["methods"], params["methods"], f"{path}: methods")
        check_methods(methods, params.get("variants"), path)


def sections_of(params: dict[str, Any]) -> dict[str, str]:
    return ALONE if set(ALONE.values()) & set(params) else SECTIONS


def check_keys(params: dict[str, Any], sections: dict[str, str], path: str | Path) -> None:
    top = ["experiment", *COMMON, "variants", "import", *sections.values()]
    for key in params:
        if key in REPLACED:
            raise UserError(f"{path}: the key {key!r} is no more: {REPLACED[key]}")
        check_key(key, "", top, path)
    for key in ("experiment", "cohort", *(["methods"] if sections is SECTIONS else [])):
        if key not in params:
            raise UserError(f"{path}: the key {key!r} is missing")
    for notebook, section in sections.items():
        known = [key for key in notebook_parameters(notebook) if key not in ("experiment", *COMMON)]
        if notebook == TRAIN:
            known = [key for key in known if key not in OF_ONE_TRAINING]
        for key in section_of(params.get(section), path, section):
            check_key(key, f"{section}.", known, path)


def check_key(key: object, prefix: str, known: list[str], path: str | Path) -> None:
    if key not in known:
        raise UserError(f"{path}: there is no key {f'{prefix}{key}'!r}{closest(key, known)}")


def section_of(value: Any, path: str | Path, name: str) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise UserError(f"{path}: {name} must be a section of keys, not {value!r}")
    return value or {}


def check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_-]+", name):
        raise UserError(f"{where} must be a name of small letters, digits and dashes, not {name!r}")


def check_methods(methods: list[str], variants: Any, path: str | Path) -> None:
    """Every training that is listed can be trained: its method, its prior and its variant are known."""
    variants = section_of(variants, path, "variants")
    for name in methods:
        check_name(name, f"{path}: methods")
        if kind(name) not in METHODS:
            raise UserError(f"{path}: there is no method {name!r}{closest(name, METHODS)}")
        prior = METHODS[kind(name)].prior
        if prior and prior not in methods:
            raise UserError(f"{path}: {name} starts from {prior}, which methods does not list; add it")
        if "-" in name and name not in variants:
            raise UserError(f"{path}: methods lists {name}, but variants does not say what it has otherwise")
    for name, section in variants.items():
        if name not in methods or "-" not in str(name) or not isinstance(section, dict | None):
            raise UserError(
                f"{path}: variants.{name} must be the keys of a training that methods lists as "
                "<method>-<variant>"
            )
        known = [key for key in COMMON | notebook_parameters(TRAIN) if key not in OF_ALL_TRAININGS]
        known = [key for key in known if key not in ("experiment", *OF_ONE_TRAINING)]
        for key in section or {}:
            check_key(key, f"variants.{name}.", known, path)


def notebook_parameters(notebook: str) -> dict[str, Parameter]:
    """name -> Parameter of the notebook's own cell."""
    return read_parameters(NOTEBOOKS / f"{notebook}.ipynb")


def notebook_values(
    params: dict[str, Any], notebook: str, path: str | Path, given: dict[str, Any]
) -> dict[str, Any]:
    """The value of every common setting and of every parameter of the notebook, checked: what is `given` by
    hand, else what a checked params file says, else the cell's. Raises a UserError."""
    parameters = COMMON | notebook_parameters(notebook)
    values = {name: parameter.default for name, parameter in parameters.items()}
    where = {}
    for prefix, section in sources(params, notebook, path, given):
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
    params: dict[str, Any], notebook: str, path: str | Path, given: dict[str, Any]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """(where it stands, values), the weakest first."""
    section = (SECTIONS | ALONE).get(notebook)
    yield f"{path}: ", {name: params[name] for name in ("experiment", *COMMON) if name in params}
    yield f"{path}: {section}.", params.get(section) or {}
    if notebook == TRAIN:
        name = training_name(given.get("method"), given.get("variant"))
        yield f"{path}: variants.{name}.", (params.get("variants") or {}).get(name) or {}
    yield "", given


def training_name(method: str, variant: str) -> str:
    return f"{method}-{variant}" if variant else method


def fitting_default(parameter: Parameter, values: dict[str, Any]) -> Any:
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
        return [name for name in default if name in methods] or ([] if parameter.may_be_empty else suiting)
    return default if default in methods else (suiting or methods)[0]


def check_trainings(names: str | list[str], methods: list[str], where: str) -> None:
    """Refuse a study of a training that is not among the methods."""
    for name in [names] if isinstance(names, str) else names:
        if name not in methods:
            raise UserError(f"{where} names {name}, which methods does not list{closest(name, methods)}")


def check_sizes(values: dict[str, Any], where: dict[str, str]) -> None:
    """Refuse an ensemble size above the number of members."""
    if "sizes" in where and max(values["sizes"]) > values["members"]:
        raise UserError(
            f"{where['sizes']} holds {max(values['sizes'])}, but members is only {values['members']}"
        )


def experiment_of(values: dict[str, Any]) -> Experiment:
    """The Experiment of checked values."""
    return Experiment(**{name: values[name] for name in ("experiment", *COMMON)})
