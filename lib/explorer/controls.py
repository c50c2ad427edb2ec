"""The explorer's controls, and what there is to choose."""

from collections.abc import Callable
from types import SimpleNamespace

import ipywidgets as widgets
import pandas as pd

from lib.prediction.store import predicted_cases, predicted_methods
from lib.report.slices import PLANES
from lib.report.views import LAYERS
from lib.studies.experiment import Experiment

NOTHING = "nothing"  # beside the first method


def find_choices(run: Experiment, case_id: str, method: str) -> tuple[list[str], list[str], str]:
    """Patients with a prediction, or else the test patients, methods, and a sentence on what is missing."""
    cohort, methods, note = run.open_cohort(), predicted_methods(run.prediction_folder), ""
    predicted = {i for name in methods for i in predicted_cases(run.prediction_folder, name)}
    case_ids = [i for i in cohort.case_ids if i in predicted]
    if not case_ids:
        methods, case_ids = [], cohort.split["test"] or cohort.case_ids
        note = f"{run.folder} has no prediction for {run.cohort}; 04_comparison makes them. "
    for name, options in ((case_id, case_ids), (method, methods)):
        if name and options and name not in options:
            note += f"There is nothing to show of {name}; {options[0]} comes first. "
    return case_ids, methods, note


def make_controls(
    case_ids: list[str], methods: list[str], case_id: str, method: str, plane: str
) -> SimpleNamespace:
    """Every control of the view, by the name of what it sets; patient, method and plane come first."""
    return SimpleNamespace(
        case_id=dropdown(case_ids, case_id, "patient"),
        method=dropdown(methods or [""], method, "method"),
        beside=dropdown([NOTHING, *methods], NOTHING, "and below"),
        plane=widgets.ToggleButtons(options=list(PLANES), value=plane, style={"button_width": "74px"}),
        layers=[toggle(name, name != "gamma") for name in LAYERS],
        opacity=widgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="opacity"),
        top_gy=number(widgets.BoundedFloatText, 77, 1, 200, "dose to / Gy"),
        end_gy=widgets.FloatSlider(14, min=1, max=30, step=1, description="diff. ± Gy", readout_format=".0f"),
        ct_hu=widgets.IntRangeSlider(value=(-160, 240), min=-1000, max=2000, step=10, description="CT / HU"),
        colours=toggle("dose colours"),
        contours=toggle("structures"),
        isodoses=toggle("isodoses"),
        crosshair=toggle("crosshair"),
        isodoses_gy=widgets.FloatsInput(format=".1f"),
        index=widgets.IntSlider(description="slice", layout={"width": "98%"}),
        step=widgets.IntSlider(description="step", layout={"width": "98%", "display": "none"}),
    )


def dropdown(options: list[str], first: str, name: str) -> widgets.Dropdown:
    look = {"style": {"description_width": "auto"}, "layout": {"width": "auto"}}
    index = options.index(first) if first in options else 0
    return widgets.Dropdown(options=options, index=index, description=name, **look)


def toggle(name: str, on: bool = True, **layout) -> widgets.ToggleButton:
    return widgets.ToggleButton(on, description=name, layout=widgets.Layout(width="auto", **layout))


def number(kind: type, value: float, low: float, high: float, name: str) -> widgets.Widget:
    return kind(value, min=low, max=high, description=name, layout={"width": "170px"})


def button(name: str, action: Callable, **options) -> widgets.Button:
    pressable = widgets.Button(description=name, layout={"width": "auto"}, **options)
    pressable.on_click(lambda _: action())
    return pressable


def row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


def table(frame: pd.DataFrame, sentence: str) -> str:
    """HTML of a table of words with a sentence below."""
    if frame.empty:
        return "<p>There is nothing to judge.</p>"
    return f"{frame.to_html(border=0, index_names=False)}<p>{sentence}</p>"


def listen(action: Callable, *controls: widgets.Widget) -> None:
    for control in controls:
        control.observe(action, "value")
