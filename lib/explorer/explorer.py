"""The explorer: a patient's planned dose beside predicted ones, to scrub through in a notebook.

What is seen is made by lib.report.views; here is what follows the controls.
"""

import io
from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure
from PIL import Image

from lib.cases.case import Case
from lib.errors import UserError
from lib.explorer.anew import AnewBox
from lib.explorer.controls import NOTHING, button, find_choices, listen, make_controls, row, toggle
from lib.explorer.panels import Panels
from lib.files import replace_file
from lib.importers.rtdose import write_rtdose
from lib.report import views
from lib.report.pictures import to_file
from lib.report.slices import PLANES, structure_colour, target_index
from lib.report.style import BESIDE, WIDTH_IN, plt, use_style
from lib.report.views import MethodDose, View
from lib.studies.experiment import Experiment

KEPT = 6  # slices


def explore(run: Experiment, case_id: str = "", method: str = "", plane: str = "axial") -> widgets.Widget:
    """The explorer of an experiment's predictions; patient, method and plane are shown first. Without its
    patients a sentence."""
    try:
        return Explorer(run, case_id, method, plane).widget
    except UserError as error:
        return widgets.HTML(escape(f"{error}."))


class Explorer:
    """The controls and the pictures that follow them; `widget` holds both."""

    def __init__(self, run: Experiment, case_id: str = "", method: str = "", plane: str = "axial"):
        self.run = run
        case_ids, self.methods, self.note = find_choices(run, case_id, method)
        self.controls = make_controls(case_ids, self.methods, case_id, method, plane)
        self.opened: View | None = None  # as a patient opens
        self.names, self.missing = [], ""  # methods whose doses are shown, and why others are not
        self.doses: dict[tuple, MethodDose] = {}  # by method and step, None for the last
        self.look, self.index, self.jpegs = 0, 0, {}  # `jpegs`: slice -> pictures, of this look
        self.panels, self.structures = Panels(self.follow), row()
        self.dvhs, self.goals, self.message = widgets.Image(), widgets.HTML(), widgets.HTML()
        self.dicom = widgets.Text(placeholder="the patient's DICOM folder")
        self.target = widgets.Text(placeholder="file to write, not below outputs")
        self.anew_box = AnewBox(run, lambda: self.opened and self.opened.case, self.add_anew)
        self.widget = self.lay_out()
        self.open_patient()
        self.listen()

    def lay_out(self) -> widgets.VBox:
        c = self.controls
        picture = button("save the picture", lambda: self.save(self.save_picture))
        rtdose = button("write the RTDOSE", lambda: self.save(self.save_rtdose))
        saving = widgets.VBox([row(picture, rtdose, self.dicom, self.target), self.message])
        below = {"clinical goals": self.goals, "sample anew": self.anew_box.widget, "save": saving}
        rows = [
            row(c.case_id, c.method, c.beside, c.plane),
            row(*c.layers, c.opacity, c.top_gy, c.end_gy, c.ct_hu),
            row(c.colours, c.contours, c.isodoses, c.isodoses_gy),
        ]
        pictures = [self.structures, c.index, c.step, self.panels, row(self.dvhs)]
        return widgets.VBox([*rows, *pictures, widgets.Accordion(list(below.values()), titles=tuple(below))])

    def listen(self) -> None:
        c = self.controls
        listen(self.open_patient, c.case_id)
        listen(self.open_methods, c.method, c.beside)
        listen(self.open_plane, c.plane)
        listen(self.turn_to_slider, c.index)
        listen(self.draw, c.step, c.opacity, c.top_gy, c.end_gy, c.ct_hu, c.isodoses_gy, *c.layers)
        listen(self.draw, c.colours, c.contours, c.isodoses)
        listen(self.draw_dvhs, c.contours, c.step)

    def open_patient(self, _=None) -> None:
        c, self.opened, self.doses = self.controls, None, {}  # nothing is drawn while controls are set
        try:
            opened = views.open_view(self.run.open_cohort().load(c.case_id.value), [])
        except UserError as error:
            self.dvhs.value, self.goals.value, self.look = b"", "", self.look + 1
            self.panels.show(self.look, 0, {}, f"{error}.")
            return
        beside = c.beside.value if c.beside.value in self.methods else NOTHING  # nothing sampled anew
        c.beside.options, c.beside.value = [NOTHING, *self.methods], beside
        borders = {name: f"8px solid {structure_colour(opened.case, name)}" for name in opened.structures}
        self.structures.children = [toggle(name, border_left=border) for name, border in borders.items()]
        listen(self.draw, *self.structures.children)
        listen(self.draw_dvhs, *self.structures.children)
        levels_gy = [0.95 * rx_gy for rx_gy in opened.case.prescription_gy.values()]
        c.isodoses_gy.value = sorted({*levels_gy, 0.5 * opened.case.rx_gy}, reverse=True)
        c.top_gy.value, c.end_gy.value = opened.top_gy, opened.end_gy
        self.go_to_target(opened.case)
        self.opened = opened
        self.open_methods()

    def open_plane(self, _=None) -> None:
        if self.opened is not None:
            self.go_to_target(self.opened.case)
            self.draw()

    def go_to_target(self, case: Case) -> None:
        plane, slider = self.controls.plane.value, self.controls.index
        index = target_index(case, plane)
        slider.max = case.shape[PLANES[plane]] - 1
        self.index = slider.value = index

    def open_methods(self, _=None) -> None:
        """Another method leaves the slice where it is."""
        if self.opened is None:
            return
        c, folder, self.names, self.missing = self.controls, self.run.prediction_folder, [], ""
        for name in dict.fromkeys(n for n in (c.method.value, c.beside.value) if n not in ("", NOTHING)):
            try:
                if (name, None) not in self.doses:
                    self.doses[name, None] = views.load_dose(folder, name, self.opened.case)
                self.names.append(name)
            except UserError as error:
                self.missing += f"This is the plan alone: {error}. "
        c.step.max = max([len(self.doses[name, None].estimates) for name in self.names], default=0)
        c.step.value, c.step.layout.display = c.step.max, "" if c.step.max else "none"
        self.anew_box.set_training(c.method.value)
        self.draw()
        self.draw_dvhs()

    def view(self) -> View:
        """What the controls want."""
        c = self.controls
        same = {name: getattr(c, name).value for name in ("plane", "opacity", "top_gy", "end_gy", "ct_hu")}
        same |= {} if c.colours.value else {"opacity": 0.0}
        outlined = [b.description for b in self.structures.children if b.value and c.contours.value]
        layers = tuple(b.description for b in c.layers if b.value)
        return self.opened._replace(
            **same,
            doses=tuple(self.dose_of(name, "gamma" in layers) for name in self.names),
            index=self.index,
            layers=layers,
            structures=tuple(outlined),
            isodoses_gy=tuple(c.isodoses_gy.value) if c.isodoses.value else (),
            note=self.note + self.missing,
        )

    def dose_of(self, name: str, gamma: bool) -> MethodDose:
        """A method's dose at the step of the slider, if it has steps, and with its gamma index if wanted."""
        case, step = self.opened.case, self.controls.step.value
        final = self.doses[name, None]
        key = (name, step if step < len(final.estimates) else None)
        if key not in self.doses:  # of estimates only those of one step are kept
            self.doses = {k: dose for k, dose in self.doses.items() if k[1] in (None, step)}
            self.doses[key] = views.at_step(case, final, step, self.run.grid)
        if gamma and self.doses[key].gamma is None:
            self.panels.note = f"computing the gamma index of {name} …"
            self.doses[key] = views.with_gamma(case, self.doses[key])
        return self.doses[key]

    def draw(self, _=None) -> None:
        """Another look of the slice."""
        if self.opened is not None:
            self.look, self.jpegs = self.look + 1, {}
            self.show()

    def show(self) -> None:
        view = self.view()
        self.panels.show(self.look, view.index, self.pictures(view), views.read_out(view))

    def pictures(self, view: View) -> dict[str, bytes]:
        """title -> JPEG; the last few slices of this look are kept."""
        if view.index not in self.jpegs:
            rendered = {title: Image.fromarray(rgb) for title, rgb in views.render_view(view).items()}
            how = {"quality": 92, "subsampling": 0}  # PNG takes many times as long
            self.jpegs[view.index] = {t: to_file(image, "JPEG", **how) for t, image in rendered.items()}
            if len(self.jpegs) > KEPT:
                del self.jpegs[next(iter(self.jpegs))]
        return self.jpegs[view.index]

    def turn_to(self, index: int) -> Callable:
        """Another slice; returns what is done when it is seen: the slider follows, and the next slice the
        same way round is sent ahead."""
        before, self.index = self.index, min(max(0, index), self.controls.index.max)
        self.show()
        return lambda: self.follow_up(self.index + (1 if self.index >= before else -1))

    def follow_up(self, ahead: int) -> None:
        self.controls.index.value = self.index
        if 0 <= ahead <= self.controls.index.max:
            self.panels.send_ahead(self.look, ahead, self.pictures(self.view()._replace(index=ahead)))

    def turn_to_slider(self, change) -> None:
        if self.opened is not None and change["new"] != self.index:
            self.turn_to(change["new"])()

    def draw_dvhs(self, _=None) -> None:
        if self.opened is None:
            return
        use_style()
        view, figure, buffer = self.view(), Figure(figsize=(WIDTH_IN, 2.6)), io.BytesIO()
        ax, lines = figure.add_subplot(), zip(("dashed", "dotted"), view.doses)
        views.draw_dvhs(ax, view.case, [dose.dose_gy for dose in view.doses], view.structures)
        ax.set_title("planned" + "".join(f", {line}: {dose.method}" for line, dose in lines))
        if ax.lines:
            ax.legend(fontsize=7, **BESIDE)
        figure.savefig(buffer, format="png", dpi=110)
        self.dvhs.value, self.goals.value = buffer.getvalue(), views.goal_table(view).to_html(border=0)

    def follow(self, what: str, event: dict) -> Callable | None:
        """Wheel, key or pointer over the pictures; returns what is done after the answer, if anything."""
        if self.opened is None:
            return None
        if what == "turn":
            return self.turn_to(self.index + int(event["by"]))
        if what == "plane":
            self.controls.plane.value = event["plane"]
        else:
            view = self.view()
            voxel = views.voxel_at(view, event["x"], event["y"]) if "x" in event else None
            self.panels.readout = views.point_text(view, voxel) if voxel else ""
        return None

    def add_anew(self, case: Case, dose: MethodDose) -> None:
        """A dose that was sampled anew becomes a method, shown beside the first."""
        beside = self.controls.beside
        if self.opened is None or case is not self.opened.case:
            return
        self.doses = {key: d for key, d in self.doses.items() if key[0] != dose.method}
        self.doses[dose.method, None] = dose
        if dose.method not in beside.options:
            beside.options = [*beside.options, dose.method]
        if beside.value == dose.method:
            self.open_methods()
        beside.value = dose.method

    def save(self, write: Callable[[], Path]) -> None:
        try:
            self.message.value = f"written: {escape(str(write()))}"
        except (UserError, OSError) as error:
            self.message.value = escape(f"{error}.")

    def save_picture(self) -> Path:
        """The pictures and, beside them, the DVHs as PNG below the experiment's folder."""
        if self.opened is None:
            raise UserError("there is nothing to save")
        view = self.view()
        name = "-".join([view.case.case_id, *self.names, view.plane, str(view.index)])
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
        path, figure = self.run.folder / "pictures" / f"{name}.png", views.draw_view(view)
        with replace_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=200)
        plt.close(figure)
        path.with_name(f"{name}-dvhs.png").write_bytes(self.dvhs.value)
        return path

    def save_rtdose(self) -> Path:
        """The first method's dose that is seen, on the grid of the patient's DICOM."""
        doses = self.view().doses if self.opened else ()
        if not doses:
            raise UserError("there is no predicted dose to write")
        if not self.dicom.value or not self.target.value:
            raise UserError("name the patient's DICOM folder and the file to write")
        about = {"description": "dose", "method": doses[0].method}
        path, case = Path(self.target.value), self.opened.case
        return write_rtdose(path, doses[0].dose_gy, case, self.dicom.value, **about)
