"""Run an experiment: check its params file, execute its notebooks in order, build the report.

    python -m lib run params/phantom-quick.yaml [-p train.epochs=40 ...] [--only 02] [--force] [--publish]

What is up to date is not done again (lib.cache says what that means). A person's mistake ends with exit
code 2 before anything runs, a failed notebook with 1.
"""

import argparse
from pathlib import Path

import yaml

from lib.cache import is_fresh, stage_key, write_stamp
from lib.errors import UserError
from lib.files import in_project, lock, read_json, sha256, write_text
from lib.progress import clock
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.execute import execute
from lib.runner.params_file import load_params
from lib.runner.plan import Stage, plan
from lib.runner.settings import TRAIN, Values
from lib.studies.experiment import OUTPUTS, training_in


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m lib run", description="Run an experiment's notebooks, build its report.")
    parser.add_params()
    text = "only the notebooks that begin so; may be given several times"
    parser.add_argument("--only", action="append", default=[], metavar="02", help=text)
    parser.add_argument("--force", action="store_true", help="execute also what is up to date")
    parser.add_argument("--publish", action="store_true", help="put the results below outputs/published")
    options = parser.parse_args(arguments)
    with one_sentence_errors():
        run_experiment(load_params(options.params, options.p), options)


def run_experiment(params: Values, options: argparse.Namespace) -> None:
    """Execute the stages that are not up to date, then build the report. Raises UserError and Failure."""
    stages = plan(params, options.params)
    chosen = [stage for stage in stages if stage.name.startswith(tuple(options.only or [""]))]
    if not chosen:
        names = ", ".join(stage.name for stage in stages)
        raise UserError(f"--only {' '.join(options.only)}: no notebook begins so; there are {names}")
    folder, card = in_project(OUTPUTS / params["experiment"]), in_project(params["cohort"]) / "card.json"
    if not card.exists():
        raise UserError(f"{card} does not exist; make the cohort with python -m lib import (--help says how)")
    sentence = f"another run is working on {folder}; wait for it or stop it"
    with lock(folder / "checkpoints" / "run.lock", sentence):
        write_text(folder / "experiment.yaml", yaml.safe_dump(params, sort_keys=False))
        remove_others(stages, folder)
        executed = execute_stages(chosen, stages, folder, options.force)
        finish(folder, executed, options.publish)


def execute_stages(chosen: list[Stage], stages: list[Stage], folder: Path, force: bool) -> bool:
    """Execute what is not up to date; returns whether anything was executed."""
    executed = False
    for number, stage in enumerate(chosen, 1):
        label, stamp = f"[{number}/{len(chosen)}] {stage.name}", stamp_path(folder, stage.name)
        key = key_of(stage, stages, folder)
        if not force and is_fresh(stamp, key):
            print(f"{label}  up to date", flush=True)
            continue
        seconds = execute(stage, folder, label)
        write_stamp(stamp, key, [*products_of(stage, folder), folder / f"{stage.name}.ipynb"])
        print(f"{label}  done in {clock(seconds)}", flush=True)
        executed = True
    return executed


def products_of(stage: Stage, folder: Path) -> list[Path]:
    """What an executed stage has written: what it must, or why not, and the tables beside its results."""
    if stage.failure and stage.failure.exists():
        return [stage.failure]
    tables = folder.glob(f"results/{stage.name[:3]}*") if not stage.failure else []
    return sorted({*stage.products, *tables})


def stamp_path(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / "stamps" / f"{name}.json"


def key_of(stage: Stage, stages: list[Stage], folder: Path) -> str:
    """The stage's key: its code and parameters, the cohort's card, the weights it starts from, and what the
    stages it needs have written. The list of trainings is a parameter of the comparison alone."""
    lists = () if stage.name == "04_comparison" else ("methods",)
    parameters = {name: value for name, value in stage.parameters.items() if name not in lists}
    start = training_in(parameters.get("start_from"), stage.name.removeprefix(f"{TRAIN}_"))
    files = {"cohort": Path(parameters["cohort"], "card.json"), "start": Path(start, "weights.safetensors")}
    paths = {name: in_project(path) for name, path in files.items()}
    inputs = {name: sha256(path) for name, path in paths.items() if path.exists()}
    for name in [other.name for other in stages if other.name in stage.needs]:
        stamp = stamp_path(folder, name)
        inputs[name] = read_json(stamp)["products"] if stamp.exists() else None
    return stage_key(stage.notebook, parameters, inputs)


def remove_others(stages: list[Stage], folder: Path) -> None:
    """Remove what notebooks of dropped trainings and studies wrote; checkpoints stay."""
    names = {stage.name for stage in stages}
    numbers = {name[:3] for name in names}
    pages = [*folder.glob("0[0-9]_*.ipynb"), *folder.glob("pages/0[0-9]_*.html")]
    results = [path for path in folder.glob("results/0[0-9]_*") if path.name[:3] not in numbers]
    for path in [page for page in pages if page.stem not in names] + results:
        path.unlink()


def finish(folder: Path, executed: bool, publishes: bool) -> None:
    """Build the report if anything is new, publish or compare with what is published, say where the report
    lies."""
    from lib.report.render import build_report
    from lib.runner.published import compare_with_published, publish

    report = folder / "report.html"
    if executed or publishes or not report.exists():
        build_report(folder)
    if publishes:
        publish(folder)
    print("\n".join([*compare_with_published(folder)[0], f"report: {report}"]))
