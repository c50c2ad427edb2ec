"""What the second cell of a notebook calls: its parameters checked as the runner checks them, and completed
by the experiment's file.

    run = open_experiment("03_ensemble", globals())

A value that papermill passed or that a person typed into the first cell counts first, then the experiment's
file, then the cell as it came. The cell as it came is the committed one: an editor saves what is typed.
"""

import ast
import os
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import yaml

from lib.errors import UserError
from lib.files import ROOT
from lib.runner.parameters import Parameter, closest, parameters_cell, parse_lines
from lib.runner.params_file import RENAMED, load_params
from lib.runner.settings import (
    COMMON,
    Values,
    check_name,
    check_params,
    experiment_of,
    notebook_parameters,
    notebook_values,
)
from lib.studies.experiment import OUTPUTS, Experiment, git, project_folder

TYPED, PASSED = "experiment = ", "# Parameters\n"  # how the first cell begins, and papermill's after it


def open_experiment(notebook: str, namespace: Values) -> Experiment:
    """The Experiment that the notebook's `globals()` name; the checked parameters are put in there. Raises a
    UserError that says which parameter is wrong."""
    go_to_project()
    path, params = find_params(namespace["experiment"])
    parameters = notebook_parameters(notebook)
    given = given_values(notebook, parameters, namespace)
    values = notebook_values(params, notebook, path, given)
    print(f"{path}: {in_yaml({name: values[name] for name in not_in_cell(values, parameters, given)})}")
    namespace.update({name: values[name] for name in parameters})
    return experiment_of(values)


def go_to_project() -> None:
    """A notebook opened by hand starts in its own folder; paths, also those that a training's configuration
    holds, are from the project's."""
    os.chdir(project_folder())
    if not OUTPUTS.is_dir():
        raise UserError(f"{Path.cwd()} has no folder outputs; start the notebook in the project's, {ROOT}")


def find_params(experiment: Any) -> tuple[Path, Values]:
    """The file of an experiment, as the runner wrote it or else of params/, and what it holds."""
    check_name(experiment, "experiment")
    path = OUTPUTS / experiment / "experiment.yaml"
    path = path if path.exists() else ROOT / "params" / f"{experiment}.yaml"
    if not path.exists():
        raise UserError(f"there is no experiment {experiment!r}{experiment_meant(experiment)}")
    params = load_params(path)
    check_params(params, path)
    if params["experiment"] != experiment:
        raise UserError(f"{path} is of the experiment {params['experiment']}, not of {experiment}")
    return path, params


def experiment_meant(experiment: str) -> str:
    if experiment in RENAMED:
        return f"; it is {RENAMED[experiment]} now"
    files = [*(ROOT / "params").glob("*.yaml"), *OUTPUTS.glob("*/experiment.yaml")]
    names = {path.parent.name if path.stem == "experiment" else path.stem for path in files}
    return closest(experiment, sorted(names))


def given_values(notebook: str, parameters: dict[str, Parameter], namespace: Values) -> Values:
    """name -> value of what papermill passed or a person typed, common settings as well."""
    typed, passed = (names_in_cell(namespace, start) for start in (TYPED, PASSED))
    for name in typed | passed:
        if name not in parameters and name not in COMMON:
            raise UserError(f"there is no parameter {name!r}{closest(name, [*parameters, *COMMON])}")
    committed = committed_parameters(notebook) or parameters
    usual = {name: committed.get(name, parameter).default for name, parameter in parameters.items()}
    names = {name for name in parameters if name in namespace and namespace[name] != usual[name]}
    return {name: namespace[name] for name in names | passed | typed & set(COMMON)}


def names_in_cell(namespace: Values, start: str) -> set[str]:
    """The names set by the last executed cell that begins so."""
    cells = [source for source in namespace.get("In", []) if source.startswith(start)]
    nodes = [node for source in cells[-1:] for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)}


def committed_parameters(notebook: str) -> dict[str, Parameter]:
    """The notebook's parameters as they are committed; none where that cannot be asked."""
    try:
        text = git("show", f"HEAD:notebooks/{notebook}.ipynb")
        return parse_lines(parameters_cell(nbformat.reads(text, as_version=4)))
    except (OSError, subprocess.CalledProcessError, nbformat.reader.NotJSONError, SyntaxError, UserError):
        return {}


def not_in_cell(values: Values, parameters: dict[str, Parameter], given: Values) -> list[str]:
    """The names of what a reader sees in no cell: common settings, and what the file says otherwise."""
    hidden = [name for name, parameter in parameters.items() if values[name] != parameter.default]
    return [name for name in (*COMMON, *hidden) if name not in given and name != "experiment"]


def in_yaml(values: Values) -> str:
    return yaml.safe_dump(values, default_flow_style=True, width=10**6, sort_keys=False).strip()[1:-1]
