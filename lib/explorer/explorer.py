"""The explorer: a patient's planned dose beside predicted ones, to scrub through in a notebook.

What is seen is made by lib.report.views; here are the controls, and what follows them.
"""

import io
from html import escape
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as widgets
from matplotlib.figure import Figure

from lib.errors import UserError
from lib.explorer.anew_box import AnewBox, listen, row
from lib.explorer.panels import Panels
from lib.files import written_whole
from lib.importers.rtdose import write_rtdose
from lib.report import slices
from lib.report.style import WIDTH_IN, plt, use_style
from lib.report.tables import goals_of
from lib.report.views import (
    LAYERS,
    at_step,
    draw_dvh,
    draw_view,
    find_choices,
    judged,
    open_view,
    point_text,
    read_out,
    render_view,
    voxel_at,
    with_gamma,
)

NOTHING = "nothing"  # beside the first method
KEPT = 6  # slices


def explore(run, methods=None, case_id=None, method=None, plane="axial"):
    """The explorer of an experiment's predictions, a widget; `case_id`, `method`, `plane` are shown first."""
    return Explorer(run, *find_choices(run, methods, case_id, method), plane).widget


def make_controls(case_ids, methods, case_id, method, plane):
    """Every control, by the name of what it sets."""
    return SimpleNamespace(
        case_id=widgets.Dropdown(options=case_ids, value=case_id, description="patient"),
        method=widgets.Dropdown(options=methods, value=method, description="method"),
        beside=widgets.Dropdown(
            options=[NOTHING, *methods] if methods != [""] else [NOTHING],
            value=NOTHING,
            description="and beside",
        ),
        plane=widgets.ToggleButtons(options=list(slices.PLANES), value=plane, style={"button_width": "80px"}),
        layers=[toggle(name, name != "gamma") for name in LAYERS],
        opacity=widgets.FloatSlider(value=0.5, min=0, max=1, step=0.05, description="opacity"),
        top_gy=widgets.BoundedFloatText(
            value=77, min=1, max=200, step=1, description="dose to / Gy", layout={"width": "170px"}
        ),
        end_gy=widgets.FloatSlider(
            value=10, min=1, max=30, step=1, description="diff. ± Gy", readout_format=".0f"
        ),
        ct_hu=widgets.IntRangeSlider(
            value=(-160, 240), min=-1000, max=2000, step=10, description="CT / HU", layout={"width": "380px"}
        ),
        colours=toggle("dose colours"),
        contours=toggle("structures"),
        isodoses=toggle("isodoses / Gy", False),
        isodoses_gy=widgets.FloatsInput(format=".1f"),
        index=widgets.IntSlider(description="slice", continuous_update=True, layout={"width": "98%"}),
        step=widgets.IntSlider(
            description="step", continuous_update=True, layout={"width": "98%", "display": "none"}
        ),
    )


class Explorer:
    """The controls and the pictures that follow them; `widget` holds both."""

    def __init__(self, run, case_ids, methods, case_id, method, missing, plane):
        self.run, self.missing, self.opened, self.anew, self.gammas = run, missing, None, {}, {}
        self.index, self.look, self.drawn = (
            0,
            0,
            {},
        )  # the slice shown; which look the slices kept in `drawn` have
        c = self.controls = make_controls(case_ids, methods, case_id, method, plane)
        self.panels, self.dvh, self.structures, self.goals = Panels(), widgets.Image(), row(), widgets.HTML()
        self.anew_box = AnewBox(run, lambda: self.opened and self.opened.case, self.add_anew)
        self.below = widgets.Accordion(
            [self.goals, self.anew_box.widget, self.make_save_box()],
            titles=("clinical goals", "sample anew", "save"),
            selected_index=None,
        )
        self.widget = widgets.VBox(
            [
                row(c.case_id, c.method, c.beside, c.plane),
                row(*c.layers, c.opacity, c.top_gy, c.end_gy, c.ct_hu),
                row(c.colours, c.contours, c.isodoses, c.isodoses_gy),
                self.structures,
                c.index,
                c.step,
                self.panels,
                row(self.dvh),
                self.below,
            ]
        )
        self.panels.on_event(self.follow)
        self.open()
        listen(self.open, c.case_id, c.method, c.beside, c.plane)
        listen(self.turn_to_slider, c.index)
        listen(
            self.draw,
            c.step,
            c.opacity,
            c.top_gy,
            c.end_gy,
            c.ct_hu,
            c.isodoses_gy,
            c.colours,
            c.contours,
            c.isodoses,
            *c.layers,
        )
        listen(self.draw_dvh, c.contours, c.step)

    def make_save_box(self):
        """Buttons that write the picture and the RTDOSE, and say where."""
        picture, dose = (
            widgets.Button(description=name, layout={"width": "auto"})
            for name in ("save the picture", "write the RTDOSE")
        )
        self.saved = widgets.HTML()
        self.dicom = widgets.Text(placeholder="the patient's DICOM folder", layout={"width": "260px"})
        self.target = widgets.Text(placeholder="file to write, not below outputs", layout={"width": "260px"})
        picture.on_click(lambda _: self.say_saved(self.save_picture))
        dose.on_click(lambda _: self.say_saved(self.save_rtdose))
        return widgets.VBox([row(picture), row(dose, self.dicom, self.target), self.saved])

    def open(self, _=None):
        """Another patient, method or plane; another method alone leaves the slice where it is."""
        before, c = self.opened, self.controls
        methods = [c.method.value] + (
            [c.beside.value] if c.beside.value not in (NOTHING, c.method.value) else []
        )
        try:
            view = self.opened = open_view(self.run, c.case_id.value, methods, c.plane.value)
        except UserError as error:
            self.opened, self.dvh.value, self.goals.value = None, b"", ""
            self.look += 1
            self.panels.show(self.look, 0, {}, f"{error}.")
            return
        other = before is None or before.case is not view.case
        if other:
            self.forget_anew()
            self.meet_patient(view)
        if other or before.plane != view.plane:
            self.index = view.index
            c.index.max = view.case.shape[slices.PLANES[view.plane]] - 1
            c.index.value = view.index
        counts = [len(self.anew[m].estimates) for m in methods if m in self.anew]
        c.step.layout.display = "" if any(counts) else "none"
        c.step.max = max(counts, default=0)
        c.step.value = c.step.max
        self.anew_box.meet(c.method.value)
        self.draw()
        self.draw_dvh()

    def meet_patient(self, view):
        """Buttons and isodoses of a patient's own structures and prescriptions."""
        c = self.controls
        borders = {name: f"8px solid {slices.structure_colour(name)}" for name in view.structures}
        self.structures.children = [toggle(name, border_left=border) for name, border in borders.items()]
        listen(self.draw, *self.structures.children)
        listen(self.draw_dvh, *self.structures.children)
        shares = [0.95 * rx for rx in view.case.prescription_gy.values()] + [0.5 * view.case.rx_gy]
        c.isodoses_gy.value = c.isodoses_gy.value or sorted(set(shares), reverse=True)
        c.top_gy.value = view.top_gy

    def view(self):
        """The opened view as the controls want it."""
        c, opened = self.controls, self.opened
        chosen = tuple(
            button.description for button in self.structures.children if button.value and c.contours.value
        )
        layers = tuple(button.description for button in c.layers if button.value)
        shown = tuple(self.shown_as_wanted(one, "gamma" in layers) for one in opened.shown)
        return opened._replace(
            shown=shown,
            plane=c.plane.value,
            index=self.index,
            structures=chosen,
            layers=layers,
            end_gy=c.end_gy.value,
            top_gy=c.top_gy.value,
            opacity=c.opacity.value if c.colours.value else 0.0,
            ct_hu=c.ct_hu.value,
            isodoses_gy=tuple(c.isodoses_gy.value) if c.isodoses.value else (),
        )

    def shown_as_wanted(self, one, gamma):
        """A method's dose: sampled anew where it was, at the step wanted, with its gamma index if wanted."""
        final, step = self.anew.get(one.method, one), self.controls.step.value
        if final.estimates and step < len(final.estimates):
            final = at_step(self.opened.case, final, step, self.run.coarsen)
        if not gamma or final.prediction is None:
            return final
        key = (self.opened.case.case_id, one.method, step if final.estimates else None)
        if key not in self.gammas:
            self.panels.note = f"computing the gamma index of {one.method} …"
            self.gammas[key] = with_gamma(self.opened.case, final).gamma
        return final._replace(gamma=self.gammas[key])

    def draw(self, _=None):
        """The slice as the controls want it."""
        self.look, self.drawn = self.look + 1, {}
        self.show()

    def show(self):
        if self.opened is not None:
            view = self.view()
            self.panels.show(
                self.look,
                view.index,
                self.pictures_of(view),
                self.missing + read_out(view) + self.step_text(),
            )

    def pictures_of(self, view):
        """title -> JPEG bytes; the last few slices of this look are kept."""
        if view.index not in self.drawn:
            self.drawn[view.index] = {title: slices.to_jpeg(rgb) for title, rgb in render_view(view).items()}
            if len(self.drawn) > KEPT:
                del self.drawn[next(iter(self.drawn))]
        return self.drawn[view.index]

    def turn_to(self, index):
        """Another slice; returns what is done when it is seen: the slider follows, and the next slice the
        same way round is sent ahead."""
        low, high = self.controls.index.min, self.controls.index.max
        before, self.index = self.index, min(max(low, index), high)
        self.show()
        return lambda: self.follow_up(self.index + (1 if self.index >= before else -1))

    def follow_up(self, ahead):
        self.controls.index.value = self.index
        if 0 <= ahead <= self.controls.index.max:
            self.panels.send_ahead(self.look, ahead, self.pictures_of(self.view()._replace(index=ahead)))

    def turn_to_slider(self, change):
        if self.opened is not None and change["new"] != self.index:
            self.turn_to(change["new"])()

    def step_text(self):
        steps = next(
            (self.anew[one.method].estimates for one in self.opened.shown if one.method in self.anew), ()
        )
        at = self.controls.step.value
        return (
            f" Dose estimate after network call {at + 1} of {len(steps)}, t = {steps[at][0]:.4g}."
            if at < len(steps)
            else ""
        )

    def draw_dvh(self, _=None):
        if self.opened is None:
            return
        use_style()
        view, figure, buffer = self.view(), Figure(figsize=(WIDTH_IN, 2.6)), io.BytesIO()
        draw_dvh(view, figure.add_subplot())
        figure.savefig(buffer, format="png", dpi=110)
        self.dvh.value = buffer.getvalue()
        doses = {one.method: one.prediction.dose_gy for one in view.shown if one.prediction is not None}
        self.goals.value = goals_of(view.case, {"planned": view.case.dose_gy} | doses).to_html(border=0)

    def follow(self, what, given):
        """Wheel, key or pointer over the pictures; returns what is done after the answer, if anything."""
        if self.opened is None:
            return None
        if what == "turn":
            return self.turn_to(self.index + int(given["by"]))
        if what == "plane":
            self.controls.plane.value = given["plane"]
        elif "x" in given and "y" in given:
            view = self.view()
            self.panels.said = point_text(view, voxel_at(view, given["x"], given["y"]))
        else:
            self.panels.said = ""
        return None

    def add_anew(self, case, title, prediction, estimates):
        """A dose that was sampled anew becomes a method, shown beside the first."""
        c = self.controls
        if self.opened is None or case is not self.opened.case:
            return
        self.anew[title] = judged(case, title, prediction, estimates)
        self.gammas = {key: gamma for key, gamma in self.gammas.items() if key[1] != title}
        if title not in c.beside.options:
            c.beside.options = [*c.beside.options, title]
        if c.beside.value == title:
            self.open()
        else:
            c.beside.value = title

    def forget_anew(self):
        """Another patient: what was sampled is not his."""
        c, gone = self.controls, set(self.anew)
        self.anew, self.gammas = {}, {}
        if gone:
            c.beside.value = NOTHING
            c.beside.options = [option for option in c.beside.options if option not in gone]

    def say_saved(self, save):
        try:
            self.saved.value = f"written: {escape(str(save()))}"
        except (UserError, OSError) as error:
            self.saved.value = escape(f"{error}.")

    def save_picture(self):
        """The view with its DVHs as a PNG below the experiment's folder."""
        if self.opened is None:
            raise UserError("there is nothing to save")
        view = self.view()
        name = f"{view.case.case_id}-{'-'.join(one.method for one in view.shown)}-{view.plane}-{view.index}"
        path = (
            self.run.folder
            / "pictures"
            / f"{''.join(c if c.isalnum() or c in '._-' else '_' for c in name)}.png"
        )
        figure = draw_view(view)
        with written_whole(path) as temporary, open(temporary, "wb") as file:
            figure.savefig(file, format="png", dpi=200)
        plt.close(figure)
        return path

    def save_rtdose(self):
        """The first method's dose that is seen, on the grid of the patient's DICOM."""
        view = self.opened and self.view()
        if not view or view.shown[0].prediction is None:
            raise UserError("there is no predicted dose to write")
        if not self.dicom.value or not self.target.value:
            raise UserError("name the patient's DICOM folder and the file to write")
        return write_rtdose(
            Path(self.target.value),
            view.shown[0].prediction.dose_gy,
            view.case,
            self.dicom.value,
            description="dose",
            method=view.shown[0].method,
        )


def toggle(name, on=True, **layout):
    return widgets.ToggleButton(on, description=name, layout=widgets.Layout(width="auto", **layout))
