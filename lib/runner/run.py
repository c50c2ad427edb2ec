"""Run an experiment: check its params file, execute its notebooks in order, build the report.

    python -m lib run params/phantom-quick.yaml [-p train.epochs=40 ...] [--only 02] [--jobs 2] [--force]
                                                [--minutes 9] [--publish]

What is up to date is not done again (lib.cache says what that means). A person's mistake ends with exit
code 2 before anything runs, a failed notebook with 1.
"""

import argparse
from functools import partial
from pathlib import Path

import yaml

from lib.errors import UserError
from lib.files import in_project, lock, write_text
from lib.runner.budget import FILE, close_budget, open_budget, within
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.params_file import load_params
from lib.runner.plan import Stage, plan
from lib.runner.schedule import execute_stages, usual_jobs
from lib.runner.settings import Values
from lib.studies.experiment import OUTPUTS


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m lib run", description="Run an experiment's notebooks, build its report.")
    parser.add_params()
    text = "only the notebooks that begin so; may be given several times"
    parser.add_argument("--only", action="append", default=[], metavar="02", help=text)
    text = "notebooks at a time that do not need one another; default: one a core, and one on a GPU"
    parser.add_argument("--jobs", type=int, default=0, metavar="2", help=text)
    text = "end within so many minutes: trainings of as many epochs as fit, at most the file's"
    parser.add_argument("--minutes", type=float, metavar="9", help=text)
    parser.add_argument("--force", action="store_true", help="execute also what is up to date")
    parser.add_argument("--publish", action="store_true", help="put the results below outputs/published")
    options = parser.parse_args(arguments)
    with one_sentence_errors():
        run_experiment(load_params(options.params, options.p), options)


def run_experiment(params: Values, options: argparse.Namespace) -> None:
    """Execute the stages that are not up to date, then build the report. Raises UserError and Failure."""
    stages = plan(params, options.params)
    if options.jobs < 0:
        raise UserError(f"--jobs is {options.jobs}; it must be a number of notebooks, 1 or more")
    chosen = choose(stages, options.only)
    folder, card = in_project(OUTPUTS / params["experiment"]), in_project(params["cohort"]) / "card.json"
    if not card.exists():
        raise UserError(f"{card} does not exist; make the cohort with python -m lib import (--help says how)")
    sentence = f"another run is working on {folder}; wait for it or stop it"
    with lock(folder / "checkpoints" / "run.lock", sentence):
        jobs, budget = options.jobs or usual_jobs(params.get("device", "auto")), None
        if options.minutes is not None:
            params, stages, budget = open_budget(params, options.params, folder, options.minutes, jobs)
            chosen = choose(stages, options.only)
            chosen.sort(key=lambda stage: not stage.training)  # the longest first
        else:
            (folder / FILE).unlink(missing_ok=True)  # without a budget nothing is left out for want of time
        write_text(folder / "experiment.yaml", yaml.safe_dump(params, sort_keys=False))
        remove_others(stages, folder)
        bound = partial(within, budget, folder) if budget else None
        executed = execute_stages(chosen, stages, folder, options.force, jobs, bound)
        finish(folder, executed, options.publish)
        if budget:
            close_budget(budget, folder)


def choose(stages: list[Stage], starts: list[str]) -> list[Stage]:
    """The stages whose names begin so, all if none is given. Raises a UserError where there is none."""
    chosen = [stage for stage in stages if stage.name.startswith(tuple(starts or [""]))]
    if not chosen:
        names = ", ".join(stage.name for stage in stages)
        raise UserError(f"--only {' '.join(starts)}: no notebook begins so; there are {names}")
    return chosen


def remove_others(stages: list[Stage], folder: Path) -> None:
    """Remove what notebooks of dropped trainings and studies wrote; checkpoints stay."""
    names = {stage.name for stage in stages}
    numbers = {name[:3] for name in names}
    pages = [*folder.glob("0[0-9]_*.ipynb"), *folder.glob("pages/0[0-9]_*.html")]
    results = [path for path in folder.glob("results/0[0-6]_*") if path.name[:3] not in numbers]
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
