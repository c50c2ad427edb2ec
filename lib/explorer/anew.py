"""One patient sampled again from a finished training, watched step by step and stopped on request."""

import threading
from collections.abc import Callable
from dataclasses import replace
from html import escape
from itertools import count

import ipywidgets as widgets
import numpy as np

from lib.cases.case import Case
from lib.diffusion.samplers import REFERENCE, DPMSolver, Midpoint, Sampler
from lib.errors import UserError
from lib.explorer.controls import button, number, row
from lib.features.samples import make_sample
from lib.metrics.uncertainty import spread_gy
from lib.models.methods import METHODS, Method, kind
from lib.prediction.predict import Predictor, on_case_grid, predict, usual_sampler
from lib.report.views import dose_of
from lib.studies.experiment import Experiment

How = tuple[Sampler | None, float]  # a sampler, and a temperature
# title -> the sampler made of the usual one; a deviation has no steps, but a temperature
FLOW = {"Euler": lambda usual: usual, "midpoint": lambda usual: Midpoint(usual.n_steps)}
GAUSSIAN = {"mean": 0.0, "sample": 1.0}
DIFFUSION = {
    "DDIM, usual": lambda usual: usual,
    "DDIM, the reference's grid": lambda usual: replace(REFERENCE, n_steps=usual.n_steps),
    "DDPM (eta 1)": lambda usual: replace(usual, eta=1.0),
    "DPM-Solver++": lambda usual: DPMSolver(usual.n_steps, usual.grid, usual.start, usual.clamp),
}


class Stop(Exception):
    """The user asked for it."""


def samplers_of(method: Method) -> dict[str, Callable | float]:
    """The samplers that a method can be sampled with, by their titles."""
    if not method.timed:
        return GAUSSIAN if method.sampled else {"one pass": 1.0}
    return FLOW if method.predicts == "velocity" else DIFFUSION


def sampler_of(predictor: Predictor, title: str, n_steps: int) -> How:
    """That of a title of `samplers_of`."""
    choice, usual = samplers_of(predictor.method)[title], usual_sampler(predictor.config, n_steps)
    return (choice(usual), 1.0) if usual else (None, choice)


def sample_anew(
    run: Experiment, predictor: Predictor, case: Case, how: How, seed: int, members: int, hear: Callable
) -> tuple[np.ndarray, tuple]:
    """New samples in Gy [members,D,H,W], and the first one's estimates (t, [1,d,h,w]) along the steps.

    `hear(call, calls)` is called after every network call and may raise Stop.
    """
    sampler, temperature = how
    sample = make_sample(case, run.grid, run.beams_deg)
    numbers, estimates = tuple(range(members if predictor.method.sampled else 1)), []
    calls, call = len(numbers) * (sampler.nfe if sampler else 1), count(1)

    def watch(case_id, member, step, t, dose_hat):
        hear(next(call), calls)
        if member == 0:
            estimates.append((t, dose_hat.float().cpu() * (sample.mask > 0)))

    options = {"members": numbers, "seed": seed, "temperature": temperature, "batch_size": 1, "label": ""}
    [doses] = predict(predictor, [sample], sampler, watch=watch, **options)
    return on_case_grid(doses, case, run.grid), tuple(estimates)


class AnewBox:
    """Its controls. `show(case, dose)` is called once the patient of `case_of()` is sampled, in a thread."""

    def __init__(self, run: Experiment, case_of: Callable[[], Case | None], show: Callable):
        self.run, self.case_of, self.show = run, case_of, show
        self.training, self.thread, self.stop = None, None, threading.Event()
        self.sampler = widgets.Dropdown(description="sampler")
        self.n_steps = number(widgets.BoundedIntText, 25, 1, 1000, "steps")
        self.seed = number(widgets.BoundedIntText, run.seed, 0, 10**9, "seed")
        self.members = number(widgets.BoundedIntText, 1, 1, 20, "samples")
        self.start = button("sample", self.begin, button_style="primary")
        self.cancel = button("stop", self.stop.set, disabled=True)
        self.bar, self.message = widgets.IntProgress(max=1, layout={"width": "200px"}), widgets.HTML()
        self.numbers = (self.n_steps, self.seed, self.members)
        state = row(self.start, self.cancel, self.bar, self.message)
        self.widget = widgets.VBox([row(self.sampler, *self.numbers), state])

    def set_training(self, name: str) -> None:
        """Offer what a training can be sampled with; its network is read only when asked for."""
        if name == self.training:
            return
        self.training, method, folder = name, METHODS.get(kind(name)), self.run.checkpoint(name)
        if method is None:
            self.start.disabled, self.message.value = True, escape(f"{name or 'The plan'} has no network.")
            return
        self.sampler.options, self.sampler.index = list(samplers_of(method)), 0
        self.n_steps.disabled = not method.timed
        self.seed.disabled = self.members.disabled = not method.sampled
        self.start.disabled = not (folder / "weights.safetensors").exists()
        missing = f"{name} has no checkpoint in {folder}; train it to sample anew."
        self.message.value = escape(missing) if self.start.disabled else ""

    def begin(self) -> None:
        case = self.case_of()
        if case is None or (self.thread and self.thread.is_alive()):
            return
        self.stop.clear()
        self.start.disabled, self.cancel.disabled = True, False
        self.bar.value, self.message.value = 0, "reading the network …"
        numbers = [f"{n.description} {n.value}" for n in self.numbers if not n.disabled]
        title = ", ".join([f"{self.training} anew", self.sampler.value, *numbers])
        values = [self.training, self.sampler.value, *(n.value for n in self.numbers)]
        self.thread = threading.Thread(target=self.work, args=(case, title, *values), daemon=True)
        self.thread.start()

    def work(self, case: Case, title: str, name: str, sampler: str, *numbers: int) -> None:
        try:
            predictor = self.run.load_predictor(name)
            n_steps, seed, members = numbers
            how = sampler_of(predictor, sampler, n_steps)
            members_gy, estimates = sample_anew(self.run, predictor, case, how, seed, members, self.hear)
            spread = spread_gy(members_gy) if len(members_gy) > 1 else None
            self.message.value = escape(f"{case.case_id} sampled by {name}")
            self.show(case, dose_of(case, title, members_gy.mean(axis=0), spread, estimates))
        except Stop:
            self.message.value = "stopped"
        except (UserError, RuntimeError, MemoryError) as error:
            self.message.value = escape(f"{error}.")
        finally:
            self.start.disabled, self.cancel.disabled = False, True

    def hear(self, call: int, calls: int) -> None:
        self.bar.max, self.bar.value, self.message.value = calls, call, f"network call {call} of {calls}"
        if self.stop.is_set():
            raise Stop
