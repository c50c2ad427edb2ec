"""Run an experiment: check its params file, execute its notebooks in order, build the report.

    python -m lib run params/phantom-quick.yaml [-p train.epochs=40 ...] [--only 02] [--force] [--publish]

What is up to date is not done again (lib.cache says what that means). A person's mistake ends with exit
code 2 before anything runs, a failed notebook with 1.
"""

import argparse
import os
import re
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import NamedTuple

import yaml

from lib.cache import is_fresh, stage_key, write_stamp
from lib.errors import UserError
from lib.files import ROOT, lock, read_json, sha256, write_text
from lib.importers.options import check_import
from lib.models.methods import METHODS, find_method, kind
from lib.progress import VARIABLE, clock
from lib.runner.command import Failed, told_in_a_sentence
from lib.runner.parameters import check_value, closest, load_params, read_parameters
from lib.studies.experiment import OUTPUTS, has_study, training_in

NOTEBOOKS = ROOT / "notebooks"
SECTIONS = {
    "00_cohort": "data",
    "01_train": "train",
    "02_sampling_ablation": "ablation",
    "03_ensemble": "ensemble",
    "04_comparison": "comparison",
}
ALONE = {"06_speed": "speed"}  # an experiment with this section runs this notebook and no other
COMMON = (
    "experiment",
    "cohort",
    "first_cases",
    "coarsen",
    "beams_deg",
    "seed",
    "device",
    "precision",
    "methods",
)
BESIDE = (
    "variants",
    "import",
)  # what else a params file may hold: trainings that differ, and how DICOM is imported
NAMING = {
    "ablation": ("method", "regression", "others", "variants"),
    "ensemble": ("sampled", "regression", "deep"),
    "comparison": ("mirrored", "drawn"),
}  # parameters that name trainings
OF_A_TRAINING = ("method", "variant")  # parameters of 01_train that the list of methods sets
SOCKETS = "dose-kernel-"
KERNEL_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


class Stage(NamedTuple):
    """One execution of a notebook: `name` is its file in the output folder, `needs` the stages it reads."""

    name: str
    notebook: Path
    parameters: dict
    products: list
    needs: list
    failure: Path | None = None  # stands for the products if the stage says in it why it has none


def plan(params, path):
    """The stages of a checked params file, in order."""
    sections = {n: s for n, s in ALONE.items() if s in params} or SECTIONS
    definitions = {notebook: read_parameters(NOTEBOOKS / f"{notebook}.ipynb") for notebook in sections}
    check_keys(params, definitions, sections, path)
    folder = OUTPUTS / check_name(params["experiment"], path)
    if sections is not SECTIONS:
        return [
            study_stage(n, folder, values_for(params, s, definitions[n], path), [])
            for n, s in sections.items()
        ]
    methods = check_value(definitions["04_comparison"]["methods"], params["methods"], f"{path}: methods")
    variants = check_variants(methods, params.get("variants") or {}, definitions["01_train"], path)
    stages = []
    for notebook, section in SECTIONS.items():
        values = values_for(params, section, definitions[notebook], path)
        if notebook == "01_train":
            stages += [training_stage(folder, values | variants[name], name) for name in methods]
        elif has_study(notebook, methods):
            check_named(section, values, methods, path)
            stages.append(
                study_stage(
                    notebook,
                    folder,
                    listed_defaults(section, values, definitions[notebook], methods) | values,
                    methods,
                )
            )
    planned = {stage.name for stage in stages}
    return [stage._replace(needs=[name for name in stage.needs if name in planned]) for stage in stages]


def check_named(section, values, methods, path):
    """Refuse a study of a training that is not among the methods."""
    for key in NAMING.get(section, ()):
        given = values.get(key, [])
        for name in [given] if isinstance(given, str) else given:
            if name not in methods:
                raise UserError(
                    f"{path}: {section}.{key} names {name}, "
                    f"which methods does not list{closest(name, methods)}"
                )


def listed_defaults(section, values, definitions, methods):
    """What stands for a notebook's names of trainings where the file leaves them to it and not all are among
    the methods: those that are, or else the methods that can stand there; for one name the first that is
    sampled in steps, or for the regression the first that is not."""
    able = {"sampled": [name for name in methods if find_method(name).sampled], "drawn": methods}
    found = {}
    for key in NAMING.get(section, ()):
        usual = definitions[key].default
        if isinstance(usual, list):
            found[key] = [name for name in usual if name in methods] or able.get(key, [])
        else:
            found[key] = (
                usual
                if usual in methods
                else next(
                    (name for name in methods if find_method(name).timed == (key == "method")), methods[0]
                )
            )
    return {
        key: value for key, value in found.items() if key not in values and value != definitions[key].default
    }


def values_for(params, section, definitions, path):
    """The values that a params file gives to one notebook's parameters, checked."""
    given = {key: params[key] for key in COMMON if key in params} | (params.get(section) or {})
    return {
        key: check_value(p, given[key], f"{path}: {key if key in COMMON else f'{section}.{key}'}")
        for key, p in definitions.items()
        if key in given
    }


def training_stage(folder, values, name):
    """The training `name`, a method or <method>-<variant>; one with a prior needs the prior's training."""
    method, _, variant = name.partition("-")
    prior = find_method(method).prior
    checkpoint = folder / "checkpoints" / name
    products = [checkpoint / file for file in ("weights.safetensors", "config.json", "history.csv")]
    return Stage(
        f"01_train_{name}",
        NOTEBOOKS / "01_train.ipynb",
        values | {"method": method, "variant": variant},
        products,
        [f"01_train_{prior}"] if prior else [],
        checkpoint / "failed.json",
    )


def study_stage(notebook, folder, values, methods):
    trainings = [f"01_train_{name}" for name in methods]
    needs = {
        "02_sampling_ablation": trainings,
        "03_ensemble": trainings,
        "04_comparison": [*trainings, "02_sampling_ablation", "03_ensemble"],
    }.get(notebook, [])
    products = [folder / "results" / f"{notebook}.json"]
    return Stage(notebook, NOTEBOOKS / f"{notebook}.ipynb", values, products, needs)


def check_variants(methods, variants, definitions, path):
    """name -> where its training differs from the section train, for every training that methods lists."""
    if not isinstance(variants, dict):
        raise UserError(
            f"{path}: variants must be a section of trainings, each with what it has otherwise; "
            f"not {variants!r}"
        )
    known = [key for key in definitions if key not in (*COMMON[:4], *OF_A_TRAINING)]
    checked = {}
    for name in dict.fromkeys([*methods, *variants]):
        check_name(name, path, "methods")
        if kind(name) not in METHODS:
            raise UserError(f"{path}: there is no method {name!r}{closest(name, list(METHODS))}")
        prior = METHODS[kind(name)].prior
        if prior and prior not in methods:
            raise UserError(f"{path}: {name} starts from {prior}, which methods does not list; add it")
        if "-" in name and name not in variants:
            raise UserError(f"{path}: methods lists {name}, but variants does not say what it has otherwise")
        given = variants.get(name) or {}
        if name in variants and (name not in methods or "-" not in name or not isinstance(given, dict)):
            raise UserError(
                f"{path}: variants.{name} must be the keys of a training "
                "that methods lists as <method>-<variant>"
            )
        for key in given:
            if key not in known:
                raise UserError(
                    f"{path}: there is no key {f'variants.{name}.{key}'!r}{closest(str(key), known)}"
                )
        checked[name] = {
            key: check_value(definitions[key], value, f"{path}: variants.{name}.{key}")
            for key, value in given.items()
        }
    return checked


def check_keys(params, definitions, sections, path):
    """Refuse keys that no notebook knows, and missing ones."""
    known = {
        section: [
            k
            for k in definitions[notebook]
            if k not in COMMON and not (section == "train" and k in OF_A_TRAINING)
        ]
        for notebook, section in sections.items()
    }
    for key in params:
        if key not in (*COMMON, *BESIDE, *known):
            raise UserError(f"{path}: there is no key {key!r}{closest(str(key), [*COMMON, *BESIDE, *known])}")
    if "import" in params:
        check_import(params["import"], path)
    for key in ("experiment", "cohort", *(["methods"] if sections is SECTIONS else [])):
        if key not in params:
            raise UserError(f"{path}: the key {key!r} is missing")
    for section, names in known.items():
        values = params.get(section) or {}
        if not isinstance(values, dict):
            raise UserError(f"{path}: {section} must be a section of keys, not {values!r}")
        for key in values:
            if key not in names:
                raise UserError(f"{path}: there is no key {f'{section}.{key}'!r}{closest(str(key), names)}")


def check_name(name, path, key="experiment"):
    if (
        not isinstance(name, str)
        or not name
        or any(c not in "abcdefghijklmnopqrstuvwxyz0123456789-_" for c in name)
    ):
        raise UserError(f"{path}: {key} must be a name of small letters, digits and dashes, not {name!r}")
    return name


def stamp_path(folder, stage):
    return folder / "checkpoints" / "stamps" / f"{stage.name}.json"


def key_of(stage, stages, folder):
    """The stage's key: its code and parameters, the cohort's card, the weights it starts from, and what the
    stages it needs have written."""
    card = Path(stage.parameters["cohort"]) / "card.json"
    inputs = {"cohort": sha256(card) if card.exists() else None}
    start = training_in(stage.parameters.get("start_from"), stage.name.removeprefix("01_train_"))
    if start and Path(start, "weights.safetensors").exists():
        inputs["start"] = sha256(Path(start, "weights.safetensors"))
    for needed in stages:
        if needed.name in stage.needs:
            stamp = stamp_path(folder, needed)
            inputs[needed.name] = read_json(stamp)["products"] if stamp.exists() else None
    return stage_key(stage.notebook, stage.parameters, inputs)


def execute(stage, folder, label):
    """Execute one notebook into the output folder; a failed one stays there with its error."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    target = folder / f"{stage.name}.ipynb"
    started = time.monotonic()
    with live_line(label, folder), socket_folder(folder) as sockets:
        try:
            papermill.execute_notebook(
                str(stage.notebook),
                str(target),
                stage.parameters,
                progress_bar=False,
                kernel_name="python3",
                cwd=str(Path.cwd()),
                request_save_on_cell_execute=False,
                config=Config({"KernelManager": kernel_manager(sockets)}),
                extra_arguments=["--log-level=50"],
            )
        except papermill.PapermillExecutionError as error:
            sentence = error.evalue if error.ename == "UserError" else f"{error.ename}: {error.evalue}"
            raise Failed(f"{stage.name} failed: {sentence}\nsee {target}") from None
        except DeadKernelError:
            raise Failed(
                f"{stage.name}: its kernel died, perhaps for want of memory; "
                "the same command goes on from here"
            ) from None
        except (
            RuntimeError
        ) as error:  # how jupyter_client says that a kernel died or hung before it was ready
            if not str(error).startswith("Kernel "):
                raise
            raise Failed(
                f"{stage.name}: its kernel died before it was ready ({error}); "
                "the same command goes on from here"
            ) from None
    tidy(target)
    return time.monotonic() - started


def kernel_manager(sockets):
    """How the runner talks with its kernel: by sockets in a folder that only this person reads; Windows has
    none."""
    connection = {"connection_file": f"{sockets}/kernel.json"}
    return connection if os.name == "nt" else connection | {"transport": "ipc", "ip": f"{sockets}/k"}


@contextmanager
def socket_folder(folder):
    """A temporary folder for the kernel's sockets, whose paths must be short; one that a killed run of this
    experiment left is removed."""
    note = folder / "checkpoints" / "sockets.txt"
    left = note.read_text(encoding="utf-8") if note.exists() else ""
    if re.fullmatch(f"{SOCKETS}[a-z0-9_]+", left):
        shutil.rmtree(Path(gettempdir()) / left, ignore_errors=True)
    with TemporaryDirectory(prefix=SOCKETS) as sockets:
        write_text(note, Path(sockets).name)
        try:
            yield sockets
        finally:
            note.unlink()


def tidy(path):
    """Take this machine's paths out of an executed notebook's metadata, controls that have lost their kernel
    out of its outputs, and colours that nobody sees out of its figures."""
    import nbformat

    from lib.report.html import without_widgets
    from lib.report.pictures import smaller_output

    notebook = without_widgets(nbformat.read(path, as_version=4))
    for key in ("input_path", "output_path", "environment_variables"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    for output in (o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o):
        output.data = smaller_output(output.data)
    nbformat.write(notebook, path)


@contextmanager
def live_line(label, folder):
    """Show the label and what the kernel tells of its progress while the block runs."""
    told = (folder / "checkpoints" / "progress.txt").resolve()
    told.parent.mkdir(parents=True, exist_ok=True)
    told.write_text("", encoding="utf-8")
    os.environ[VARIABLE] = str(told)
    os.environ.update(KERNEL_ENVIRONMENT)
    done = threading.Event()
    thread = threading.Thread(target=show_progress, args=(label, told, done, time.monotonic()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        told.unlink(missing_ok=True)


def show_progress(label, told, done, started):
    """On a terminal one line that changes; in a log one line a minute."""
    terminal = sys.stderr.isatty()
    while not done.wait(1.0 if terminal else 60.0):
        words = told.read_text(encoding="utf-8") if told.exists() else ""
        line = f"{label}  {clock(time.monotonic() - started)}  {words}"
        print(
            f"\r{line:<100.100}" if terminal else line,
            end="" if terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
    if terminal:
        print("\r" + " " * 100 + "\r", end="", file=sys.stderr, flush=True)


def run_stages(stages, folder, only, force):
    """Execute what is not up to date; returns whether anything was executed."""
    chosen = [s for s in stages if not only or any(s.name.startswith(o) for o in only)]
    if not chosen:
        raise UserError(
            f"--only {' '.join(only)}: no notebook begins so; there are {', '.join(s.name for s in stages)}"
        )
    executed = False
    for number, stage in enumerate(chosen, 1):
        label = f"[{number}/{len(chosen)}] {stage.name}"
        key = key_of(stage, stages, folder)
        if not force and is_fresh(stamp_path(folder, stage), key):
            print(f"{label}  up to date", flush=True)
            continue
        seconds = execute(stage, folder, label)
        made = [stage.failure] if stage.failure and stage.failure.exists() else stage.products
        write_stamp(stamp_path(folder, stage), key, [*made, folder / f"{stage.name}.ipynb"])
        print(f"{label}  done in {clock(seconds)}", flush=True)
        executed = True
    return executed


def run(arguments):
    params = load_params(arguments.params, arguments.p)
    stages = plan(params, arguments.params)
    folder = OUTPUTS / params["experiment"]
    card = Path(stages[0].parameters["cohort"]) / "card.json"
    if not card.exists():
        raise UserError(f"{card} does not exist; make the cohort with python -m lib import (--help says how)")
    with lock(
        folder / "checkpoints" / "run.lock", f"another run is working on {folder}; wait for it or stop it"
    ):
        write_text(folder / "experiment.yaml", yaml.safe_dump(params, sort_keys=False))
        forget_all_but(stages, folder)
        executed = run_stages(stages, folder, arguments.only, arguments.force)
        finish(folder, executed, arguments.publish, arguments.every_patient)


def forget_all_but(stages, folder):
    """Remove what notebooks of dropped trainings and studies wrote; checkpoints stay."""
    names = {stage.name for stage in stages}
    for path in [
        *folder.glob("0[123]_*.ipynb"),
        *folder.glob("pages/0[123]_*.html"),
        *folder.glob("results/0[23]_*.json"),
    ]:
        if path.stem not in names:
            path.unlink()


def finish(folder, executed, published, every_patient):
    """Build the report if anything is new, publish or compare with what is published, say where the report
    lies."""
    from lib.report.html import build_report
    from lib.runner.published import compare_with_published, publish, read_published, write_weights

    report = folder / "report.html"
    if executed or published or every_patient or not report.exists():
        build_report(folder, every_patient, read_published(folder))
    if published:
        write_weights(folder)
        publish(folder)
    for line in compare_with_published(folder)[0]:
        print(line)
    print(f"report: {report}")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m lib run", description="Run an experiment's notebooks and build its report."
    )
    parser.add_argument("params", help="a params file, such as params/phantom-quick.yaml")
    parser.add_argument(
        "-p", action="append", default=[], metavar="section.key=value", help="put a value over the file's"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="02", help="only the notebooks that begin so"
    )
    parser.add_argument("--force", action="store_true", help="execute also what is up to date")
    parser.add_argument("--publish", action="store_true", help="put the results below outputs/published")
    parser.add_argument(
        "--every-patient",
        action="store_true",
        help="write a second, larger report to scrub through every patient of comparison.shown",
    )
    options = parser.parse_args(arguments)
    with told_in_a_sentence():
        run(options)
