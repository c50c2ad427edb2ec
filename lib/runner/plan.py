"""What is to be executed: the stages of a params file, in order."""

from pathlib import Path
from typing import NamedTuple

from lib.importers.options import check_import
from lib.models.methods import find_method
from lib.runner.settings import NOTEBOOKS, SECTIONS, TRAIN, Values, check_params, notebook_values, sections_of
from lib.studies.experiment import OUTPUTS, has_study


class Stage(NamedTuple):
    """One execution of a notebook: `name` is its file in the output folder, `needs` the stages it reads."""

    name: str
    notebook: Path
    parameters: Values  # of the notebook and of the experiment, all of them
    products: list[Path]
    needs: list[str]
    failure: Path | None = None  # stands for the products if the stage says in it why it has none


def plan(params: Values, path: str | Path) -> list[Stage]:
    """The stages of a params file, in order. Raises a UserError that names what is wrong in the file."""
    check_params(params, path)
    if "import" in params:
        check_import(params["import"], path)
    folder = OUTPUTS / params["experiment"]
    if sections_of(params) is not SECTIONS:
        return [study_stage(name, folder, params, path, []) for name in sections_of(params)]
    methods, stages = params["methods"], []
    for notebook in SECTIONS:
        if notebook == TRAIN:
            stages += [training_stage(name, folder, params, path) for name in methods]
        elif has_study(notebook, methods):
            stages.append(study_stage(notebook, folder, params, path, stages))
    return stages


def training_stage(name: str, folder: Path, params: Values, path: str | Path) -> Stage:
    """The training `name`, a method or <method>-<variant>; one with a prior needs the prior's training."""
    method, _, variant = name.partition("-")
    prior = find_method(method).prior
    checkpoint = folder / "checkpoints" / name
    values = notebook_values(params, TRAIN, path, {"method": method, "variant": variant})
    products = [checkpoint / file for file in ("weights.safetensors", "config.json", "history.csv")]
    needs = [f"{TRAIN}_{prior}"] if prior else []
    notebook = NOTEBOOKS / f"{TRAIN}.ipynb"
    return Stage(f"{TRAIN}_{name}", notebook, values, products, needs, checkpoint / "failed.json")


def study_stage(notebook: str, folder: Path, params: Values, path: str | Path, before: list[Stage]) -> Stage:
    """A study, which reads the trainings; the comparison reads the studies too, and the report everything."""
    values = notebook_values(params, notebook, path, {})
    read = {"04_comparison": ("01", "02", "03"), "05_report": ("00", "01", "02", "03", "04")}.get(
        notebook, "01"
    )
    needs = [stage.name for stage in before if stage.name.startswith(read)]
    products = [] if notebook == "05_report" else [folder / "results" / f"{notebook}.json"]
    return Stage(notebook, NOTEBOOKS / f"{notebook}.ipynb", values, products, needs)
