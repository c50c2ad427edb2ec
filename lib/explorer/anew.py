"""One patient sampled again from a finished training, watched step by step and stopped on request."""

import threading
from collections.abc import Callable
from html import escape
from itertools import count
from typing import NamedTuple

import ipywidgets as widgets

from lib.cases.case import Case
from lib.errors import UserError
from lib.explorer.controls import button, number, row
from lib.features.samples import make_sample
from lib.metrics.uncertainty import spread_gy
from lib.models.methods import METHODS, Method, kind
from lib.prediction.predict import Predictor, on_case_grid, predict_doses, usual_sampling
from lib.report.views import MethodDose, dose_of
from lib.studies.experiment import Experiment

# title -> changes to the usual sampling
FLOW = {"Euler": {"solver": "euler"}, "midpoint": {"solver": "midpoint"}}
GAUSSIAN = {"mean": {"temperature": 0.0}, "sample": {"temperature": 1.0}}
DIFFUSION = {
    "DDIM, usual": {},
    "DDIM, the reference's grid": {"grid": "leading", "clamp": "keep noise"},
    "DDPM (eta 1)": {"eta": 1.0},
    "DPM-Solver++": {"solver": "dpm_solver"},
}


class Stop(Exception):
    """The user asked for it."""


class Settings(NamedTuple):
    """How the patient is sampled; `sampler` is a title of samplers_of."""

    training: str
    sampler: str
    n_steps: int
    seed: int
    members: int

    def title(self, method: Method) -> str:
        """What the dose is called in the list of methods."""
        steps = [f"{self.n_steps} steps"] if method.timed else []
        seed = [f"seed {self.seed}"] if method.sampled else []
        mean = [f"mean of {self.members}"] if method.sampled and self.members > 1 else []
        return ", ".join([f"{self.training} anew", self.sampler, *steps, *seed, *mean])


def samplers_of(method: Method) -> dict[str, dict]:
    """The samplers that a method can be sampled with, by their titles."""
    if not method.timed:
        return GAUSSIAN if method.sampled else {"one pass": {}}
    return FLOW if method.predicts == "velocity" else DIFFUSION


def sample_anew(
    run: Experiment, predictor: Predictor, case: Case, settings: Settings, hear: Callable[[int, int], None]
) -> MethodDose:
    """The mean of new samples, with their spread and the first one's estimates along the steps.

    `hear(call, calls)` is called after every network call and may raise Stop.
    """
    method, (_, sampler, n_steps, seed, members) = predictor.method, settings
    sample = make_sample(case, run.coarsen, run.beams_deg)
    sampling = usual_sampling(predictor.config, n_steps)._replace(seed=seed, **samplers_of(method)[sampler])
    numbers, estimates = tuple(range(members if method.sampled else 1)), []
    calls, call = len(numbers) * sampling.nfe(method), count(1)

    def watch(case_id, member, step, t, dose_hat):
        hear(next(call), calls)
        if member == 0:
            estimates.append((t, dose_hat.float().cpu() * (sample.mask > 0)))

    [doses] = predict_doses(predictor, [sample], sampling, numbers, batch_size=1, watch=watch, label="")
    members_gy = on_case_grid(doses, case, run.coarsen)
    spread = spread_gy(members_gy) if len(numbers) > 1 else None
    return dose_of(case, settings.title(method), members_gy.mean(axis=0), spread, tuple(estimates))


class AnewBox:
    """Its controls. `show(case, dose)` is called once the patient of `case_of()` is sampled, in a thread."""

    def __init__(self, run: Experiment, case_of: Callable[[], Case | None], show: Callable):
        self.run, self.case_of, self.show = run, case_of, show
        self.training, self.thread, self.stop = "", None, threading.Event()
        self.sampler = widgets.Dropdown(description="sampler")
        self.n_steps = number(widgets.BoundedIntText, 25, 1, 1000, "steps")
        self.seed = number(widgets.BoundedIntText, run.seed, 0, 10**9, "seed")
        self.members = number(widgets.BoundedIntText, 1, 1, 20, "samples")
        self.start = button("sample", self.begin, button_style="primary")
        self.cancel = button("stop", self.stop.set, disabled=True)
        self.bar, self.message = widgets.IntProgress(max=1, layout={"width": "200px"}), widgets.HTML()
        self.inputs = (self.sampler, self.n_steps, self.seed, self.members)
        self.widget = widgets.VBox([row(*self.inputs), row(self.start, self.cancel, self.bar, self.message)])

    def set_training(self, name: str) -> None:
        """Offer the samplers of a training; its network is read only when asked for."""
        if name != self.training and kind(name) in METHODS:
            self.training, folder = name, self.run.checkpoint(name)
            self.sampler.options, self.sampler.index = list(samplers_of(METHODS[kind(name)])), 0
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
        settings = Settings(self.training, *(control.value for control in self.inputs))
        self.thread = threading.Thread(target=self.work, args=(case, settings), daemon=True)
        self.thread.start()

    def work(self, case: Case, settings: Settings) -> None:
        try:
            predictor = self.run.load_predictor(settings.training)
            dose = sample_anew(self.run, predictor, case, settings, self.hear)
            self.message.value = escape(f"{case.case_id} sampled by {settings.training}")
            self.show(case, dose)
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
