"""What is to be executed: the stages of a params file, in order."""

from pathlib import Path
from typing import NamedTuple

from lib.files import in_project
from lib.importers.options import check_import
from lib.models.methods import find_method
from lib.runner.settings import NOTEBOOKS, SECTIONS, TRAIN, Values, check_params, notebook_values, sections_of
from lib.studies.experiment import OUTPUTS, has_study

READS = {
    "04_comparison": ("01", "02", "03"),
    "05_report": ("00", "01", "02", "03", "04"),
}  # what a notebook reads, by the numbers of notebooks; one that is not named here reads the trainings


class Stage(NamedTuple):
    """One execution of a notebook: `name` is its file in the output folder, `needs` the stages it reads."""

    name: str
    notebook: Path
    parameters: Values  # of the notebook and of the experiment, all of them
    products: list[Path]
    needs: list[str]
    failure: Path | None = None  # stands for the products if the stage says in it why it has none

    @property
    def training(self) -> str:
        """Name of the training that it does; "" for a study."""
        return self.name.removeprefix(f"{TRAIN}_") if self.name.startswith(TRAIN) else ""


def plan(params: Values, path: str | Path) -> list[Stage]:
    """The stages of a params file, in order. Raises a UserError that names what is wrong in the file."""
    checked, stages = check_params(params, path), []
    if "import" in params:
        check_import(params["import"], path)
    for notebook in sections_of(params):
        if notebook == TRAIN:
            stages += [training_stage(name, checked, path) for name in checked["methods"]]
        elif notebook not in SECTIONS or has_study(notebook, checked["methods"]):
            stages.append(study_stage(notebook, checked, path, stages))
    return stages


def training_stage(name: str, params: Values, path: str | Path) -> Stage:
    """The training `name`, a method or <method>-<variant>; one with a prior needs the prior's training."""
    method, _, variant = name.partition("-")
    prior = find_method(method).prior
    checkpoint = in_project(OUTPUTS / params["experiment"] / "checkpoints" / name)
    values = notebook_values(params, TRAIN, path, {"method": method, "variant": variant})
    products = [checkpoint / file for file in ("weights.safetensors", "config.json", "history.csv")]
    needs, notebook = [f"{TRAIN}_{prior}"] if prior else [], NOTEBOOKS / f"{TRAIN}.ipynb"
    return Stage(f"{TRAIN}_{name}", notebook, values, products, needs, checkpoint / "failed.json")


def study_stage(notebook: str, params: Values, path: str | Path, before: list[Stage]) -> Stage:
    """A study, which reads the trainings; the comparison reads the studies too, and the report everything."""
    values = notebook_values(params, notebook, path, {})
    needs = [stage.name for stage in before if stage.name.startswith(READS.get(notebook, "01"))]
    results = in_project(OUTPUTS / params["experiment"] / "results" / f"{notebook}.json")
    products = [] if notebook == "05_report" else [results]
    return Stage(notebook, NOTEBOOKS / f"{notebook}.ipynb", values, products, needs)
