"""What the second cell of a notebook calls: its parameters checked as the runner checks them, and completed
by the experiment's file.

    run = open_experiment("03_ensemble", globals())

A value that papermill passed or that a person typed into the first cell counts first, then the experiment's
file, then the cell as it came. The cell as it came is the committed one: an editor saves what is typed.
"""

import ast
import subprocess
from pathlib import Path

from IPython.display import display

from lib.errors import UserError
from lib.files import ROOT, in_project
from lib.report import tables
from lib.runner import settings
from lib.runner.parameters import DAMAGED_NOTEBOOK, Parameter, parameters_cell, parse_lines
from lib.runner.params_file import load_params, name_meant
from lib.runner.settings import COMMON, Values
from lib.studies.experiment import OUTPUTS, Experiment, git

TYPED, PASSED = "experiment = ", "# Parameters\n"  # how the first cell begins, and papermill's after it


def open_experiment(notebook: str, namespace: Values) -> Experiment:
    """The Experiment that the notebook's `globals()` name; the checked parameters are put in there. Raises a
    UserError that says which parameter is wrong."""
    path, params = find_params(namespace["experiment"])
    parameters = settings.notebook_parameters(notebook)
    given = given_values(notebook, parameters, namespace)
    values = settings.notebook_values(params, notebook, path, given)
    namespace.update({name: values[name] for name in parameters})
    # what a reader sees in no cell: common settings, and what the file says otherwise
    otherwise = [name for name, line in parameters.items() if values[name] != line.default]
    unseen = {n: values[n] for n in (*COMMON, *otherwise) if n not in given and n != "experiment"}
    display(tables.styled(tables.pairs(unseen, f"from {path.parent.name}/{path.name}")))
    return settings.experiment_of(values)


def find_params(experiment: object, outputs: Path = OUTPUTS) -> tuple[Path, Values]:
    """The file of an experiment, as the runner wrote it or else of params/, and what it holds, checked."""
    settings.check_name(experiment, "experiment")
    path = in_project(outputs / experiment / "experiment.yaml")
    path = path if path.exists() else ROOT / "params" / f"{experiment}.yaml"
    if not path.exists():
        files = [*(ROOT / "params").glob("*.yaml"), *in_project(OUTPUTS).glob("*/experiment.yaml")]
        names = {path.parent.name if path.stem == "experiment" else path.stem for path in files}
        raise UserError(f"there is no experiment {experiment!r}{name_meant(experiment, sorted(names))}")
    params = settings.check_params(load_params(path), path)
    if params["experiment"] != experiment:
        raise UserError(f"{path} is of the experiment {params['experiment']}, not of {experiment}")
    return path, params


def given_values(notebook: str, parameters: dict[str, Parameter], namespace: Values) -> Values:
    """name -> value of what papermill passed or a person typed, common settings as well."""
    typed, passed = (names_in_cell(namespace, start) for start in (TYPED, PASSED))
    usual = parameters | committed_parameters(notebook)
    in_cell = parameters.keys() - settings.IN_NO_CELL.get(notebook, {}).keys()
    changed = {name for name in in_cell if name in namespace and namespace[name] != usual[name].default}
    return {name: namespace[name] for name in changed | passed | typed - in_cell}


def names_in_cell(namespace: Values, start: str) -> set[str]:
    """The names set by the last executed cell that begins so."""
    cells = [source for source in namespace.get("In", []) if source.startswith(start)]
    nodes = [node for source in cells[-1:] for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)}


def committed_parameters(notebook: str) -> dict[str, Parameter]:
    """The notebook's parameters as they are committed; none where that cannot be asked."""
    try:
        text = git("show", f"HEAD:notebooks/{notebook}.ipynb")
        return parse_lines(parameters_cell(text))
    except (OSError, subprocess.CalledProcessError, UserError, *DAMAGED_NOTEBOOK):
        return {}
