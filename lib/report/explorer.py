"""The explorer: a patient's planned and predicted dose side by side, to scrub through; the only importer of ipywidgets.

What is seen is made from a `View` by functions that know no widgets; `explore` connects them with controls,
`draw_static` shows the same where no kernel answers.
"""
import io
import textwrap
from functools import lru_cache
from html import escape
from types import SimpleNamespace
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from lib.cases.case import Case
from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.evaluation.dose import errors_gy
from lib.predictions import Prediction, load_prediction, predicted_cases, predicted_methods, prediction_path
from lib.report import slices
from lib.report.dose_figures import draw_dvhs, primary_target
from lib.report.style import ERROR_MAP, SPREAD_MAP, WIDTH_IN, plt, use_style


class View(NamedTuple):
    """What is looked at, and how; `prediction` is None where `missing` says why."""

    case: Case
    box: tuple  # the part of the volume that is shown
    method: str
    missing: str
    prediction: Prediction | None = None
    error_gy: np.ndarray | None = None  # predicted - planned [D,H,W], 0 outside the dose mask, where no dose is judged
    mae_gy: float | None = None  # inside the dose mask
    plane: str = "axial"
    index: int = 0
    structures: tuple = ()
    opacity: float = 0.5
    isodoses_gy: tuple = ()
    end_gy: float = 10.0  # of the colours of the difference, and twice that of the spread
    ct_hu: tuple = (-160, 240)  # black and white


def find_choices(run, methods=None, case_id=None, method=None):
    """(case ids, methods, the case and the method shown first, sentences on what is missing)."""
    cohort = run.open_cohort()
    methods = list(methods or predicted_methods(run.folder)) or [""]
    predicted = {i for m in methods if m for i in predicted_cases(run.folder, m)}
    case_ids = [i for i in cohort.case_ids if i in predicted]
    missing = "" if case_ids else f"{run.folder} has no prediction for {run.cohort}; 04_comparison makes them. "
    case_ids = case_ids or cohort.split["test"]
    for wanted, options in ((case_id, case_ids), (method, methods)):
        if wanted and options[0] and wanted not in options:
            missing += f"There is nothing to show of {wanted}; {options[0]} comes first. "
    return case_ids, methods, *(w if w in o else o[0] for w, o in ((case_id, case_ids), (method, methods))), missing


def open_view(run, case_id, method, plane="axial", index=None):
    """The view that opens: every structure, at the centre of the target with the highest prescription."""
    case, box = read_case(run, case_id)
    missing = f"{case_id} has no prediction{method and f' by {method}'}: this is the plan alone."
    order = {name: number for number, name in enumerate(PROTOCOLS[case.site].structures)}
    view = View(case, box, method, missing, structures=tuple(sorted(case.masks, key=lambda name: order.get(name, 99))))
    path = prediction_path(run.folder, method, case_id)
    if path.exists():
        view = view._replace(**read_prediction(path, run, case_id, path.stat().st_mtime_ns))
    centre = slices.central_index(case.masks[primary_target(case)], plane)
    return view._replace(plane=plane, index=centre if index is None else index)


@lru_cache(maxsize=2)
def read_case(run, case_id):
    case = run.open_cohort().load(case_id)
    return case, slices.body_box(case)


@lru_cache(maxsize=4)
def read_prediction(path, run, case_id, written_ns):
    """What a prediction adds to a view; `written_ns` makes a newer file be read."""
    case, _ = read_case(run, case_id)
    try:
        prediction = load_prediction(path, case.dose_mask)
    except UserError as error:
        return dict(missing=f"This is the plan alone: {error}.")
    error_gy = np.where(case.dose_mask, prediction.dose_gy - case.dose_gy, 0)
    mae_gy = errors_gy(prediction.dose_gy, case.dose_gy, case.dose_mask)["mae_gy"]
    return dict(prediction=prediction, error_gy=error_gy, mae_gy=mae_gy, missing="")


def overlays(view):
    """title -> Overlay, for what there is."""
    plan = slices.Overlay(view.case.dose_gy, (0.0, float(np.ceil(1.1 * view.case.rx_gy))), isodoses_gy=view.isodoses_gy)
    found = {"planned dose": plan}
    if view.prediction is not None:
        found[f"predicted dose, {view.method}"] = plan._replace(volume_gy=view.prediction.dose_gy)
        found["predicted - planned"] = slices.Overlay(view.error_gy, (-view.end_gy, view.end_gy), ERROR_MAP, 0.5,
                                                      full_from_gy=0.4 * view.end_gy)
        if view.prediction.spread_gy is not None:
            range_gy = (0.0, view.end_gy / 2)
            found["spread of samples"] = slices.Overlay(view.prediction.spread_gy, range_gy, SPREAD_MAP, 0.25)
    return found


def render_view(view, size_px=300):
    """title -> picture uint8 [H,W,3] with its colour bar below, from left to right."""
    shown, (low_hu, high_hu) = overlays(view), view.ct_hu
    pictures = slices.render_slices(view.case, view.plane, view.index, shown.values(), opacity=view.opacity,
                                    structures=view.structures, box=view.box, window_hu=high_hu - low_hu,
                                    level_hu=(low_hu + high_hu) / 2, size_px=size_px)
    width_px = max(150, pictures[0].shape[1])  # what the bar needs
    pictures = [np.pad(rgb, ((0, 0), (0, width_px - rgb.shape[1]), (0, 0))) for rgb in pictures]
    bars = [slices.colour_bar(overlay.colours, overlay.range_gy, width_px) for overlay in shown.values()]
    return {title: np.vstack(parts) for title, *parts in zip(shown, pictures, bars)}


def read_out(view):
    """The errors of the slice and of the patient in a sentence, or what is missing."""
    where = f"{view.case.case_id}, {view.plane} slice {view.index}"
    if view.prediction is None:
        return f"{where}. {view.missing}"
    mask, error_gy = (slices.take_slice(v, view.plane, view.index) for v in (view.case.dose_mask, view.error_gy))
    here = f"{np.abs(error_gy[mask]).mean():.2f} Gy in this slice" if mask.any() else "no voxel in this slice"
    return f"{where}. MAE inside the dose mask: {here}, {view.mae_gy:.2f} Gy in the patient."


def draw_dvh(view, ax):
    """Dose-volume histograms of the structures shown, planned as lines, predicted dashed."""
    draw_dvhs(ax, view.case, view.prediction and view.prediction.dose_gy, view.structures)
    ax.set_title("planned" + (f", dashed: predicted by {view.method}" if view.prediction is not None else ""))
    if ax.lines:
        ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_static(run, case_id=None, method=None, plane="axial", index=None):
    """The view that `explore` opens with as a figure: panels with colour bars, the read-out, DVHs."""
    _, _, case_id, method, missing = find_choices(run, None, case_id, method)
    view = open_view(run, case_id, method, plane, index)
    panels = render_view(view, size_px=400)
    height, width, _ = panels["planned dose"].shape
    rows = 2 if len(panels) == 4 and width > 1.1 * height else 1  # wide panels in two rows
    columns = max(3, len(panels)) if rows == 1 else 2
    above_in = 0.3 + rows * (WIDTH_IN / columns * height / width + 0.3)
    use_style()
    figure = plt.figure(figsize=(WIDTH_IN, above_in + 2.6))
    above, below = figure.subfigures(2, 1, height_ratios=(above_in, 2.6))
    above.suptitle("\n".join(textwrap.wrap(missing + read_out(view), 115)), x=0.01, ha="left", fontsize=9)
    for number, (title, rgb) in enumerate(panels.items(), 1):
        ax = above.add_subplot(rows, columns, number, title=title)
        ax.imshow(rgb)
        ax.set_axis_off()
    draw_dvh(view, below.add_subplot())
    return figure


def explore(run, methods=None, case_id=None, method=None, plane="axial"):
    """The explorer of an experiment's predictions as a widget; `case_id`, `method` and `plane` are shown first."""
    return Explorer(run, *find_choices(run, methods, case_id, method), plane).widget


def make_controls(case_ids, methods, case_id, method, plane):
    """Every control, by the name of what it sets."""
    return SimpleNamespace(
        case_id=widgets.Dropdown(options=case_ids, value=case_id, description="patient"),
        method=widgets.Dropdown(options=methods, value=method, description="method"),
        plane=widgets.ToggleButtons(options=list(slices.PLANES), value=plane, style={"button_width": "80px"}),
        opacity=widgets.FloatSlider(value=0.5, min=0, max=1, step=0.05, description="opacity"),
        end_gy=widgets.FloatSlider(value=10, min=1, max=30, step=1, description="diff. ± Gy", readout_format=".0f"),
        ct_hu=widgets.IntRangeSlider(value=(-160, 240), min=-1000, max=2000, step=10, description="CT / HU",
                                     layout={"width": "380px"}),
        colours=toggle("dose colours"), contours=toggle("structures"), isodoses=toggle("isodoses / Gy", False),
        isodoses_gy=widgets.FloatsInput(format=".1f"),
        index=widgets.IntSlider(description="slice", continuous_update=True, layout={"width": "98%"}))


class Explorer:
    """The controls and the pictures that follow them; `widget` holds both."""

    def __init__(self, run, case_ids, methods, case_id, method, missing, plane):
        self.run, self.missing, self.opened = run, missing, None
        c = self.controls = make_controls(case_ids, methods, case_id, method, plane)
        self.note, self.dvh, self.structures, self.panels = widgets.HTML(), widgets.Image(), row(), row()
        self.boxes = [widgets.VBox([widgets.HTML(), widgets.Image(format="jpeg")]) for _ in range(4)]
        self.widget = widgets.VBox([row(c.case_id, c.method, c.plane), row(c.opacity, c.end_gy, c.ct_hu),
                                    row(c.colours, c.contours, c.isodoses, c.isodoses_gy), self.structures, c.index,
                                    self.note, self.panels, row(self.dvh)])
        self.open()
        listen(self.open, c.case_id, c.method, c.plane)
        listen(self.draw, c.index, c.opacity, c.end_gy, c.ct_hu, c.isodoses_gy, c.colours, c.contours, c.isodoses)
        listen(self.draw_dvh, c.contours)

    def open(self, _=None):
        """Another patient, method or plane; another method alone leaves the slice where it is."""
        before, c = self.opened, self.controls
        try:
            view = self.opened = open_view(self.run, c.case_id.value, c.method.value, c.plane.value)
        except UserError as error:
            self.opened, self.panels.children, self.dvh.value = None, (), b""
            self.note.value = escape(f"{error}.")
            return
        other = before is None or before.case is not view.case
        if other:
            borders = {name: f"8px solid {slices.structure_colour(name)}" for name in view.structures}
            self.structures.children = [toggle(name, border_left=border) for name, border in borders.items()]
            listen(self.draw, *self.structures.children)
            listen(self.draw_dvh, *self.structures.children)
            shares = [0.95 * rx for rx in view.case.prescription_gy.values()] + [0.5 * view.case.rx_gy]
            c.isodoses_gy.value = c.isodoses_gy.value or sorted(set(shares), reverse=True)
        if other or before.plane != view.plane:
            with c.index.hold_trait_notifications():
                c.index.max, c.index.value = view.case.shape[slices.PLANES[view.plane]] - 1, view.index
        self.draw()
        self.draw_dvh()

    def view(self):
        """The opened view as the controls want it."""
        c = self.controls
        shown = tuple(button.description for button in self.structures.children if button.value and c.contours.value)
        return self.opened._replace(plane=c.plane.value, index=c.index.value, structures=shown, end_gy=c.end_gy.value,
                                    opacity=c.opacity.value if c.colours.value else 0.0, ct_hu=c.ct_hu.value,
                                    isodoses_gy=tuple(c.isodoses_gy.value) if c.isodoses.value else ())

    def draw(self, _=None):
        if self.opened is None:
            return
        view = self.view()
        panels = render_view(view)
        for (title, rgb), box in zip(panels.items(), self.boxes):
            caption, picture = box.children
            caption.value, picture.value = f"<b>{escape(title)}</b>", slices.to_jpeg(rgb)
        self.panels.children = self.boxes[: len(panels)]
        self.note.value = escape(self.missing + read_out(view))

    def draw_dvh(self, _=None):
        if self.opened is None:
            return
        use_style()
        figure, buffer = Figure(figsize=(WIDTH_IN, 2.6)), io.BytesIO()
        draw_dvh(self.view(), figure.add_subplot())
        figure.savefig(buffer, format="png", dpi=110)
        self.dvh.value = buffer.getvalue()


def row(*children):
    return widgets.HBox(children, layout={"flex_flow": "row wrap"})


def toggle(name, on=True, **layout):
    return widgets.ToggleButton(on, description=name, layout=widgets.Layout(width="auto", **layout))


def listen(action, *controls):
    for control in controls:
        control.observe(action, "value")
