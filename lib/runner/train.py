"""Train the methods of a params file without notebooks: on several GPUs, or several at a time.

    torchrun --nproc-per-node 4 -m lib train params/openkbp-gpu.yaml        all methods, each on four GPUs
    python -m lib train params/openkbp.yaml baseline ddpm                   these two, on this process alone

The notebooks then find the trainings finished and show their course.
"""

from pathlib import Path

from lib.device import choose_device
from lib.errors import UserError, closest
from lib.runner.command import Parser, one_sentence_errors
from lib.runner.params_file import load_params
from lib.runner.plan import plan
from lib.runner.settings import Values, experiment_of, training_parameters
from lib.studies.experiment import training_in
from lib.training.loop import fit
from lib.training.processes import join_processes
from lib.training.setup import make_config, start_from_prior


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(prog="python -m lib train", description="Train without notebooks.")
    parser.add_params()
    parser.add_argument("methods", nargs="*", help="names from the file's list of methods; none for all")
    options = parser.parse_intermixed_args(arguments)  # methods may stand behind -p
    with one_sentence_errors():
        params = load_params(options.params, options.p)
        chosen = trainings(params, options.params, options.methods)
        with join_processes(choose_device(params.get("device", "auto"))):
            for name, values in chosen.items():
                train_one(name, values)


def trainings(params: Values, path: str | Path, names: list[str]) -> dict[str, Values]:
    """name -> values of 01_train, for the names, or for all methods in order. Raises a UserError."""
    listed = {stage.training: stage.parameters for stage in plan(params, path) if stage.training}
    if not listed:
        raise UserError(f"{path} lists no methods, so there is nothing to train")
    for name in names:
        if name not in listed:
            raise UserError(f"{path}: methods does not list {name!r}{closest(name, listed)}")
    return {name: listed[name] for name in names or listed}


def train_one(name: str, values: Values) -> None:
    """What 01_train does."""
    run, method = experiment_of(values), values["method"]
    samples = run.load_samples("train"), run.load_samples("validation", optional=True)
    training, validation = start_from_prior(run, method, samples, values["residual"])
    start = {"start_from": training_in(values["start_from"], name)}
    print(f"{name}:", flush=True)
    config = make_config(run, training, **training_parameters(values) | start)
    fit(config, training, validation, run.checkpoint(name), run.device, run.prior_checkpoint(method))
