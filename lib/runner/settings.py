"""The settings of a notebook: what a person gave, else the experiment's file, else the notebook's own cell.

The runner and a notebook opened by hand ask the same function, so that both run with the same values.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lib.errors import UserError, closest
from lib.features.grid import Grid
from lib.files import ROOT
from lib.models.methods import METHODS, Method, find_method
from lib.runner.parameters import Parameter, check_value, parse_lines, read_parameters
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
condition = 1  # values of each channel along its edge that networks see; a divisor of answer; 1..16
beams_deg = []  # gantry angles of coplanar beams, whose open fields networks see; any of 0..360
seed = 42  # names every random stream; 0..1000000000
device = "auto"  # where networks run; auto | cpu | cuda
precision = "auto"  # of the arithmetic, auto takes bf16 where the hardware has it; auto | 32 | bf16 | 16
methods = ["baseline"]  # what is trained and compared: <method>, or <method>-<variant>
""")  # what all notebooks of an experiment share, defined as a notebook's own parameters are
IN_NO_CELL = {
    TRAIN: parse_lines("""
accumulate = 1  # parts into which a process cuts its share of a batch, to save memory; 1..256
patches_per_case = 1  # visits of each patient in an epoch; 1..64
patch_voxels = [0, 0, 0]  # training patch (z, y, x) after coarsening, zeros take whole volumes; 3 of 0..1024
standardise = "auto"  # dose to mean 0, deviation 1; auto: not ddpm, regressions in voxels; auto | yes | no
residual = "auto"  # whether the control's dose is corrected; auto: in voxels, except by ddpm; auto | yes | no
target_layer = "auto"  # whether voxels in targets have a last layer, auto: as residual; auto | yes | no
terminal_snr = "auto"  # whether noise ends pure, auto: if v or dose is predicted; auto | zero | reference
noise_shift = "yes"  # whether noise levels move with the number of answers in a block; yes | no
skip = "auto"  # whether x_t is added to the output, auto: if that holds noise in voxels; auto | yes | no
gradient_units = "per mm"  # of the gradient loss, the reference ignores the spacing; per mm | per voxel
vgg_weight = 0.01  # of the VGG loss of gradient_vgg; 0..100
vgg_file = ""  # torchvision's weights of VGG16 as .pth or .safetensors, needed by gradient_vgg
validate_every = 5  # epochs between two validations; 1..100000
validation_steps = 10  # sampling steps in a validation; 1..1000
patience = 0  # epochs without a better validation after which training stops, 0 for never; 0..100000
keep = "last"  # which averaged weights are kept; last | best
snapshots_pct = [25, 50]  # shares of the training in % after which the weights are kept as well; any of 1..99
compile = False  # torch.compile, also in sampling: minutes at the first call, for long trainings on a GPU
""")
}  # parameters that few change: a notebook's first cell does not show them, but takes them, as its file does
REGRESSION = "a regression", lambda method: not method.timed
TIMED = "a method that is sampled in steps", lambda method: method.timed
DIFFUSION = "a diffusion", lambda method: method.denoises
SUITS: dict[str, tuple[str, Callable[[Method], bool]]] = {
    "method": DIFFUSION,
    "others": TIMED,
    "variants": DIFFUSION,
    "sampled": ("a method whose samples differ", lambda method: method.sampled),
    "regression": REGRESSION,
    "deep": REGRESSION,
    "mirrored": REGRESSION,
    "views": REGRESSION,
}  # which methods can stand for a parameter that names trainings; any, if it is not here
# keys of older params files
REPLACED = {"explore": "its notebook is opened by hand, and its parameters stand in its first cell"}


def check_params(params: Values, path: str | Path) -> Values:
    """The params with every value in its own type. A UserError for keys that no notebook knows, values that
    do not fit, a file without the needed keys, and trainings that cannot be."""
    sections = sections_of(params)
    parts = dict.fromkeys(["experiment", "variants", "import", *sections.values()])
    needed = ("experiment", "cohort", *(["methods"] if sections is SECTIONS else []))
    checked = check_section(params, COMMON | parts, f"{path}: ")
    if missing := [key for key in needed if key not in params]:
        raise UserError(f"{path}: the key {missing[0]!r} is missing")
    check_name(params["experiment"], f"{path}: experiment")
    for notebook, name in sections.items():
        checked[name] = check_section(params.get(name), section_parameters(notebook), f"{path}: {name}.")
    if sections is SECTIONS:
        checked["variants"] = check_trainings(checked["methods"], params.get("variants"), path)
    return checked


def sections_of(params: Values) -> dict[str, str]:
    return ALONE if set(ALONE.values()) & set(params) else SECTIONS


def check_section(section: Any, known: dict[str, Parameter | None], where: str) -> Values:
    """The section's values in their own types; refuses one that is none, and keys and values that it cannot
    hold. `where` comes before a key; what is known as None is checked elsewhere."""
    if not isinstance(section, dict | None):
        raise UserError(f"{where.rstrip('. :')} must be a section of keys, not {section!r}")
    for key in section or {}:
        if key in REPLACED and where.endswith(": "):
            raise UserError(f"{where}the key {key!r} is no more: {REPLACED[key]}")
        if key not in known:
            *file, name = where.rpartition(": ")
            word = "key" if where else "parameter"
            raise UserError(f"{''.join(file)}there is no {word} {f'{name}{key}'!r}{closest(key, known)}")
    values = section or {}
    typed = {key: check_value(known[key], value, where + key) for key, value in values.items() if known[key]}
    return values | typed


def check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_-]+", name):
        quoted = f"; as a word it is written '{name}', in quotes" if type(name) is int else ""
        raise UserError(f"{where} must be a name of small letters, digits and dashes, not {name!r}{quoted}")


def check_trainings(methods: list[str], variants: Any, path: str | Path) -> Values:
    """The variants with every value in its own type. A UserError for a training whose method, prior or
    variant is not there, and for a variant of none that is listed, or of what a training cannot change."""
    where, known = f"{path}: variants.", section_parameters(TRAIN)
    known |= {key: COMMON[key] for key in ("beams_deg", "seed", "device", "precision")}
    variants = check_section(variants, dict.fromkeys(name for name in methods if "-" in name), where)
    for name in methods:
        check_name(name, f"{path}: methods")
        method = METHODS.get(name.partition("-")[0])
        if method is None:
            raise UserError(f"{path}: there is no method {name!r}{closest(name, METHODS)}")
        if method.prior and method.prior not in methods:
            raise UserError(f"{path}: {name} starts from {method.prior}, which methods does not list; add it")
        if "-" in name and name not in variants:
            raise UserError(f"{path}: methods lists {name}, but variants does not say what it has otherwise")
    return {name: check_section(section, known, f"{where}{name}.") for name, section in variants.items()}


def section_parameters(notebook: str) -> dict[str, Parameter]:
    """What the notebook's section of a params file may hold; `methods` says which trainings there are."""
    elsewhere = ("experiment", "method", "variant") if notebook == TRAIN else ("experiment",)
    return {name: line for name, line in notebook_parameters(notebook).items() if name not in elsewhere}


@cache
def notebook_parameters(notebook: str) -> dict[str, Parameter]:
    """name -> Parameter of the notebook's own cell, and of those that few change."""
    return read_parameters(NOTEBOOKS / f"{notebook}.ipynb") | IN_NO_CELL.get(notebook, {})


def notebook_values(params: Values, notebook: str, path: str | Path, given: Values) -> Values:
    """The value of every common setting and of every parameter of the notebook: what is `given` by hand, else
    what the checked params say, else the cell's. Raises a UserError."""
    parameters, section = COMMON | notebook_parameters(notebook), (SECTIONS | ALONE)[notebook]
    given = check_section(given, parameters, "")
    values = {name: parameter.default for name, parameter in parameters.items()}
    variant = params.get("variants", {}).get(training_name(values | given), {}) if notebook == TRAIN else {}
    chosen = {name: params[name] for name in ("experiment", *COMMON) if name in params}
    chosen |= params.get(section, {}) | variant | given
    values |= {name: chosen[name] for name in parameters if name in chosen}
    for name, parameter in parameters.items():
        where = name if name in given else f"{path}: {section}.{name}"
        if name not in chosen:
            values[name] = fitting_default(parameter, values)
        elif parameter.of_methods:
            check_named(parameter, values, where)
        else:
            check_together(name, values, where)
    return values


def check_together(name: str, values: Values, where: str) -> None:
    """Refuse a value that does not go with the others, or whose numbers do not go together."""
    value = values[name]
    if name == "sizes" and max(value) > values["members"]:
        raise UserError(f"{where} holds {max(value)}, but members is only {values['members']}")
    if name in ("answer", "condition"):
        grid = Grid(*(values[part] for part in Grid._fields))
        grid.check(where.removesuffix(name))
    if name == "patch_voxels" and 0 in value and any(value):
        raise UserError(f"{where} is {value}; it must be three sizes, or three zeros for whole volumes")


def training_name(values: Values) -> str:
    return f"{values['method']}-{values['variant']}" if values["variant"] else values["method"]


def fitting_default(parameter: Parameter, values: Values) -> Any:
    """The cell's value; of what names trainings those that the experiment has, or else such as can stand
    there; of ensemble sizes those that the members allow."""
    default, methods = parameter.default, values["methods"]
    if parameter.name == "sizes":
        return [size for size in default if size <= values["members"]]
    if not parameter.of_methods:
        return default
    _, suits = SUITS.get(parameter.name, ("", lambda method: True))
    suiting = [name for name in methods if suits(find_method(name))]
    if isinstance(default, list):
        return [name for name in default if name in methods] or ([] if parameter.count == "any" else suiting)
    return default if default in methods else (suiting or methods)[0]


def check_named(parameter: Parameter, values: Values, where: str) -> None:
    """Refuse a study of a training that is not among the methods, or that cannot stand there."""
    value, methods = values[parameter.name], values["methods"]
    needed, suits = SUITS.get(parameter.name, ("", lambda method: True))
    for name in [value] if isinstance(value, str) else value:
        if name not in methods:
            raise UserError(f"{where} names {name}, which methods does not list{closest(name, methods)}")
        if not suits(find_method(name)):
            raise UserError(f"{where} names {name}; it must be {needed}")


def training_parameters(values: Values) -> Values:
    """What of the values of 01_train a configuration is made of."""
    return {name: values[name] for name in ("method", *section_parameters(TRAIN))}


def experiment_of(values: Values) -> Experiment:
    """The Experiment of checked values."""
    return Experiment(**{name: values[name] for name in ("experiment", *COMMON)})
