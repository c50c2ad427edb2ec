"""Train the methods of a params file without notebooks: on several GPUs, or several at a time.

    torchrun --nproc-per-node 4 -m lib train params/openkbp-gpu.yaml        all methods, each on four GPUs
    python -m lib train params/openkbp-small.yaml baseline ddpm             these two, on this process alone

The notebooks then find the trainings finished and show their course.
"""

import argparse

from lib.device import choose_device
from lib.errors import UserError
from lib.files import ROOT
from lib.runner.command import told_in_a_sentence
from lib.runner.parameters import closest, load_params, read_parameters
from lib.runner.run import plan
from lib.studies.experiment import Experiment, training_in
from lib.training.loop import fit
from lib.training.processes import join_processes
from lib.training.setup import make_config, start_from_prior

OF_THE_EXPERIMENT = (
    "experiment",
    "cohort",
    "first_cases",
    "coarsen",
    "beams_deg",
    "seed",
    "device",
    "precision",
)


def trainings(params, path, names):
    """name -> parameters of 01_train, for the names, or for all methods in order."""
    defaults = {key: p.default for key, p in read_parameters(ROOT / "notebooks" / "01_train.ipynb").items()}
    stages = {
        stage.name.removeprefix("01_train_"): stage
        for stage in plan(params, path)
        if stage.name.startswith("01_train_")
    }
    for name in names:
        if name not in stages:
            raise UserError(f"{path}: methods does not list {name!r}{closest(name, list(stages))}")
    return {name: defaults | stages[name].parameters for name in names or stages}


def train_one(name, parameters):
    """What 01_train does."""
    run = Experiment(**{key: parameters.pop(key) for key in OF_THE_EXPERIMENT})
    parameters.pop("variant")
    parameters["start_from"] = training_in(parameters["start_from"], name)
    samples = run.load_samples("train"), run.load_samples("validation", optional=True)
    training, validation = start_from_prior(run, parameters["method"], *samples)
    config = make_config(run, training, **parameters)
    print(f"{name}:", flush=True)
    fit(
        config,
        training,
        validation,
        run.checkpoint(name),
        run.device,
        run.prior_checkpoint(parameters["method"]),
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m lib train", description="Train the methods of a params file without notebooks."
    )
    parser.add_argument("params", help="a params file, such as params/openkbp-small.yaml")
    parser.add_argument("methods", nargs="*", help="names from its list of methods; none for all")
    parser.add_argument(
        "-p", action="append", default=[], metavar="section.key=value", help="put a value over the file's"
    )
    options = parser.parse_intermixed_args(arguments)  # methods may stand behind -p
    with told_in_a_sentence():
        params = load_params(options.params, options.p)
        chosen = trainings(params, options.params, options.methods)
        with join_processes(choose_device(params.get("device", "auto"))):
            for name, parameters in chosen.items():
                train_one(name, parameters)
