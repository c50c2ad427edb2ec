"""What trainings take, and how many of their epochs fit in a time.

A few steps of every training are measured by the loop's own step; of trainings that do the same operations
one is measured.
"""

import math
import time
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch

from lib.cache import digest
from lib.device import choose_device
from lib.errors import UserError
from lib.features.samples import Sample, add_prior, make_files, no_prior
from lib.models.graphs import uses_graphs
from lib.models.methods import find_method
from lib.prediction.predict import usual_sampler
from lib.runner.plan import Stage, plan
from lib.runner.schedule import threads_of
from lib.runner.settings import Values, experiment_of, training_parameters
from lib.studies.experiment import Experiment
from lib.studies.speed import kernel_times, seconds_of
from lib.training.loop import train_step
from lib.training.setup import corrects_control, make_config
from lib.training.state import CannotTrain, TrainingState

NOTEBOOK_S = 6.0  # of a training's notebook beside its training: patients read, weights kept, a figure
STEPS, PROFILED = 16, 2  # measured of each training, at most; the profiler is slow
FEW = 8  # patients that tell how the dose is scaled


class Cost(NamedTuple):
    """What a training was measured to take."""

    training: str
    step_s: float
    steps: int  # an epoch
    epoch_s: float  # its share of validations counted in
    once_s: float  # its notebook, what a new volume size takes, and the validation at the end
    shared_s: float = 0.0  # of an epoch what no other training can do meanwhile: a GPU's kernels


def measure_trainings(
    params: Values, path: str, batch_size: int, limit_s: float, jobs: int
) -> tuple[int, list[Cost]]:
    """The patients a step for which there is memory, at most `batch_size`, and the cost of every training
    with them, within about `limit_s`. Raises UserError."""
    while True:
        train = (params.get("train") or {}) | {"batch_size": batch_size, "epochs": 1}
        try:
            return batch_size, measure_all(plan(params | {"train": train}, path), limit_s, jobs)
        except torch.OutOfMemoryError:
            batch_size = halve(batch_size)


def halve(batch_size: int) -> int:
    if batch_size == 1:
        raise UserError("too little memory to train with one patient a step; lower train.base_channels")
    torch.cuda.empty_cache()
    print(f"too little memory for {batch_size} patients a step: {batch_size // 2} are taken", flush=True)
    return batch_size // 2


def measure_all(stages: list[Stage], limit_s: float, jobs: int) -> list[Cost]:
    """The cost of every training that can be trained. The features of all patients are made on the way."""
    trainings = [stage for stage in stages if stage.training]
    costs, threads = {}, torch.get_num_threads()

    @cache
    def samples_of(run: Experiment) -> list[Sample]:
        cohort = run.open_cohort()
        make_files(cohort, cohort.case_ids, run.grid, run.beams_deg)
        return run.load_samples("train")

    @cache
    def on_device(run: Experiment) -> list[Sample]:
        return [sample.to(choose_device(run.device)) for sample in samples_of(run)]

    def measure(stage: Stage) -> Cost | None:
        run, values = experiment_of(stage.parameters), training_parameters(stage.parameters)
        any_seed, method = replace(run, seed=0, methods=()), find_method(values["method"])
        network = [method.timed, method.outputs, method.extra]
        samples, key = samples_of(any_seed), digest([any_seed, values | {"method": network}])
        if key not in costs:
            torch.set_num_threads(threads_of(stage, stages, jobs))
            costs[key] = measure_training(run, values, samples, on_device(any_seed), limit_s / len(trainings))
            torch.set_num_threads(threads)
        return costs[key] and costs[key]._replace(training=stage.training)

    try:
        return [cost for cost in map(measure, trainings) if cost]
    finally:
        torch.set_num_threads(threads)
        on_device.cache_clear()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def measure_training(
    run: Experiment, values: Values, samples: list[Sample], copies: list[Sample], limit_s: float
) -> Cost | None:
    """A few steps of a training on the samples, whose `copies` lie on its device, after the same to warm up,
    as a GPU looks for its kernels at every new volume size. None for one that cannot be trained. A prior's
    dose takes no time: here it is 0."""
    few, method = samples[:FEW], find_method(values["method"])
    if method.prior or corrects_control(method, run.grid, values["residual"]):
        few, copies = ([add_prior(s, no_prior(s.dose)) for s in part] for part in (few, copies))
    config = make_config(run, few, **values | {"start_from": ""})
    config = replace(config, case_ids=[sample.case_id for sample in samples])
    try:
        state = TrainingState(config, choose_device(run.device))
    except CannotTrain:
        return None
    passes, warm_up_s = 2 if uses_graphs(state.device) else 1, 0.0  # a graph is captured the second time
    for _ in range(passes):
        warm_s = seconds_of_steps(state, copies, limit_s / (passes + 1))
        warm_up_s, state.step = warm_up_s + sum(warm_s), 0  # its number names what is drawn: the same again
    steps_s = seconds_of_steps(state, copies, limit_s / (passes + 1))[: len(warm_s)]
    step_s, busy = sum(steps_s) / len(steps_s), busy_share(state, copies, steps_s[:PROFILED])
    sampler = usual_sampler(config, config.validation_steps)
    patients = len(run.open_cohort().split["validation"]) * (sampler.nfe if sampler else 1)
    validation_s = patients * step_s / config.batch_size / 3  # a call is about a third of a step
    epoch_s = config.steps_per_epoch * step_s + validation_s / config.validate_every
    once_s = NOTEBOOK_S + validation_s + max(0.0, warm_up_s - passes * len(warm_s) * step_s)
    return Cost("", step_s, config.steps_per_epoch, epoch_s, once_s, busy * epoch_s)


def seconds_of_steps(state: TrainingState, samples: list[Sample], limit_s: float) -> list[float]:
    """Of at most STEPS steps, of which none begins after the limit but the first."""
    ends, seconds = time.monotonic() + limit_s, []
    while not seconds or (len(seconds) < STEPS and time.monotonic() < ends):
        seconds.append(seconds_of(lambda: train_step(state, samples)))
    return seconds


def busy_share(state: TrainingState, samples: list[Sample], seconds: list[float]) -> float:
    """Share of the first steps, which took so long, in which a GPU computes; 0 on a CPU, where each training
    has cores of its own."""
    if state.device.type != "cuda":
        return 0.0
    state.step = 0
    _, kernels_s, _ = kernel_times(lambda: [train_step(state, samples) for _ in seconds], state.device)
    return min(1.0, kernels_s / sum(seconds))


def time_for(costs: list[Cost], epochs: int, jobs: int) -> float:
    """Seconds of all trainings, `jobs` at a time; what they share is done one after the other."""
    rounds = math.ceil(len(costs) / jobs) / max(1, len(costs))
    once_s, epoch_s = sum(cost.once_s for cost in costs), sum(cost.epoch_s for cost in costs)
    return rounds * once_s + epochs * max(rounds * epoch_s, sum(cost.shared_s for cost in costs))


def epochs_that_fit(costs: list[Cost], left_s: float, jobs: int) -> int:
    """The most epochs of all trainings in `left_s`; 0 where not one fits, 1 where there is no training."""
    once_s = time_for(costs, 0, jobs)
    epoch_s = time_for(costs, 1, jobs) - once_s
    return max(0, int((left_s - once_s) // epoch_s)) if costs else 1
