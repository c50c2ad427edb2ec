"""Controls that sample the patient anew from a checkpoint, in a thread, with progress and a stop button."""

import threading
from html import escape

import ipywidgets as widgets

from lib.errors import UserError
from lib.explorer.anew import Stopped, sample_anew, samplers_of, sampling_of
from lib.models.methods import METHODS, kind


class AnewBox:
    """`found(case, title, prediction, estimates)` is called once the patient of `case_of()` is sampled."""

    def __init__(self, run, case_of, found):
        self.run, self.case_of, self.found, self.method, self.thread, self.stop = (
            run,
            case_of,
            found,
            "",
            None,
            threading.Event(),
        )
        self.seed = widgets.BoundedIntText(
            value=run.seed, min=0, max=10**9, description="seed", layout={"width": "180px"}
        )
        self.n_steps = widgets.BoundedIntText(
            value=25, min=1, max=1000, description="steps", layout={"width": "160px"}
        )
        self.members = widgets.BoundedIntText(
            value=1, min=1, max=20, description="samples", layout={"width": "160px"}
        )
        self.sampler = widgets.Dropdown(description="sampler")
        self.start = widgets.Button(description="sample", button_style="primary", layout={"width": "auto"})
        self.cancel = widgets.Button(description="stop", disabled=True, layout={"width": "auto"})
        self.bar, self.said = widgets.IntProgress(value=0, max=1, layout={"width": "200px"}), widgets.HTML()
        self.start.on_click(self.begin)
        self.cancel.on_click(lambda _: self.stop.set())
        self.widget = widgets.VBox(
            [
                row(self.sampler, self.seed, self.n_steps, self.members),
                row(self.start, self.cancel, self.bar, self.said),
            ]
        )

    def meet(self, method):
        """The method to sample; its kind tells the samplers, the network is read only when asked for."""
        if method == self.method or kind(method) not in METHODS:
            return
        self.method = method
        self.sampler.options = list(samplers_of(METHODS[kind(method)]))
        self.sampler.index = 0
        trained = (self.run.checkpoint(method) / "weights.safetensors").exists()
        self.start.disabled = not trained
        self.said.value = (
            ""
            if trained
            else escape(
                f"{method} has no checkpoint in {self.run.checkpoint(method)}; train it to sample anew."
            )
        )

    def begin(self, _=None):
        case = self.case_of()
        if case is None or (self.thread and self.thread.is_alive()):
            return
        self.stop.clear()
        self.start.disabled, self.cancel.disabled, self.bar.value, self.said.value = (
            True,
            False,
            0,
            "reading the network …",
        )
        self.thread = threading.Thread(
            target=self.work,
            args=(
                case,
                self.method,
                self.sampler.value,
                self.n_steps.value,
                self.seed.value,
                self.members.value,
            ),
            daemon=True,
        )
        self.thread.start()

    def work(self, case, method, sampler, n_steps, seed, members):
        try:
            predictor = self.run.load_predictor(method)
            sampling = sampling_of(predictor, sampler, n_steps)
            prediction, estimates = sample_anew(
                self.run, predictor, case, sampling, seed, members, self.tell, self.stop.is_set
            )
            self.said.value = f"{escape(case.case_id)} sampled by {escape(method)}"
            self.found(
                case,
                title_of(method, sampler, n_steps, seed, predictor.method, members),
                prediction,
                estimates,
            )
        except Stopped:
            self.said.value = "stopped"
        except (UserError, RuntimeError, MemoryError) as error:
            self.said.value = escape(f"{error}.")
        finally:
            self.start.disabled, self.cancel.disabled = False, True

    def tell(self, done, calls):
        self.bar.max, self.bar.value, self.said.value = calls, done, f"network call {done} of {calls}"


def title_of(method, sampler, n_steps, seed, kind_of, members):
    """What a dose that was sampled anew is called in the list of methods."""
    parts = [f"{method} anew", sampler]
    if kind_of.timed:
        parts.append(f"{n_steps} steps")
    if kind_of.sampled:
        parts += [f"seed {seed}"] + ([f"mean of {members}"] if members > 1 else [])
    return ", ".join(parts)


def row(*children):
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


def listen(action, *controls):
    for control in controls:
        control.observe(action, "value")
