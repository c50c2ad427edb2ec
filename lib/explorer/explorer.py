"""The explorer: a patient's planned dose above predicted ones, to scrub through in a notebook.

What is seen is made by scene and dvhs; here is what follows the controls.
"""

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from lib.cases.case import Case
from lib.errors import UserError
from lib.explorer import dvhs, scene
from lib.explorer.anew import AnewBox
from lib.explorer.controls import NOTHING, button, find_choices, listen, make_controls, row, table, toggle
from lib.explorer.dvhs import DVHs
from lib.explorer.panels import Panels, Plot
from lib.explorer.scene import Panel
from lib.explorer.sight import Sight, Voxel, voxel_at, voxels_along
from lib.files import replace_file
from lib.importers.images import write_dose
from lib.report import views
from lib.report.slices import PLANES, mask_box, slice_box, structure_colour, target_index
from lib.report.views import MethodDose, View
from lib.studies.experiment import Experiment

KEPT = 12  # pictures of slices
ZOOM_STEP = 1.25
SIZES_PX = (140, 420)  # of a picture's longer side
SAVED_PX = 400


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
        self.run, self.cohort = run, run.open_cohort()
        case_ids, self.methods, self.note = find_choices(run, case_id, method)
        self.controls = make_controls(case_ids, self.methods, case_id, method, plane)
        self.opened: View | None = None  # as a patient opens
        self.sight: Sight | None = None
        self.names, self.missing = [], ""  # methods whose doses are shown, and why others are not
        self.doses: dict[tuple, MethodDose] = {}  # by method and step, None for the last
        self.look, self.size_px, self.dvhs = 0, 300, None
        self.kept: dict[tuple, list] = {}  # panels of slices, of this look
        self.seen: list[View] = []  # what each panel shows
        self.structures = row()
        self.panels = Panels(self.follow, layout={"flex": "2 1 400px", "min_width": "0"})
        self.plot = Plot(self.read_plot, layout={"flex": "1 1 300px", "max_width": "480px", "min_width": "0"})
        self.statistics, self.goals, self.message = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.dicom = widgets.Text(placeholder="for RTDOSE: the patient's DICOM folder")
        self.target = widgets.Text(placeholder="file to write: x.nii.gz, x.nrrd, x.dcm")
        self.anew_box = AnewBox(run, lambda: self.opened and self.opened.case, self.add_anew)
        self.widget = self.lay_out()
        self.open_patient()
        self.listen()

    def lay_out(self) -> widgets.VBox:
        c = self.controls
        picture = button("save the picture", lambda: self.save(self.save_picture))
        dose = button("write the dose", lambda: self.save(self.save_dose))
        saving = widgets.VBox([row(picture, dose, self.target, self.dicom), self.message])
        colours = row(c.opacity, c.top_gy, c.end_gy, c.ct_hu, widgets.Label("isodoses / Gy"), c.isodoses_gy)
        below = {"dose statistics": self.statistics, "clinical goals": self.goals, "colours": colours}
        below |= {"sample anew": self.anew_box.widget, "save": saving}
        steps = {"zoom in": 1, "out": -1, "whole": 0}
        zooms = [button(text, self.if_open(partial(self.zoom, by))) for text, by in steps.items()]
        choices = row(c.case_id, c.method, c.beside, c.plane)
        layers = row(*c.layers, c.colours, c.contours, c.isodoses, c.crosshair, *zooms)
        rows = [choices, layers, self.structures, c.index, c.step, row(self.panels, self.plot)]
        accordion = widgets.Accordion(list(below.values()), titles=tuple(below))
        for html in (self.statistics, self.goals):
            html.add_class("dose-table")
        return widgets.VBox([*rows, accordion]).add_class("dose-explorer")

    def listen(self) -> None:
        c = self.controls
        listen(lambda _: self.open_patient(), c.case_id)
        listen(self.if_open(self.open_methods), c.method, c.beside)
        listen(self.if_open(self.open_plane), c.plane)
        listen(self.if_open(self.turn_to_slider), c.index)
        looks = (c.step, c.opacity, c.top_gy, c.end_gy, c.ct_hu, c.isodoses_gy, *c.layers)
        listen(self.if_open(self.draw), *looks, c.colours, c.contours, c.isodoses, c.crosshair)
        listen(self.if_open(self.draw_dvhs), c.contours, c.step)

    def if_open(self, action: Callable) -> Callable:
        """The action, but nothing while no patient is open or the controls are set for one."""
        return lambda _=None: action() if self.opened else None

    def open_patient(self) -> None:
        c, self.opened, self.doses = self.controls, None, {}
        try:
            opened = views.open_view(self.cohort.load(c.case_id.value), [])
        except UserError as error:
            self.plot.picture, self.goals.value, self.statistics.value = b"", "", ""
            self.look += 1
            self.panels.show({"look": self.look, "index": 0, "rows": []}, [], f"{error}.")
            return
        beside = c.beside.value if c.beside.value in self.methods else NOTHING  # nothing sampled anew
        c.beside.options, c.beside.value = [NOTHING, *self.methods], beside
        borders = {name: f"8px solid {structure_colour(opened.case, name)}" for name in opened.structures}
        self.structures.children = [toggle(name, border_left=border) for name, border in borders.items()]
        listen(self.if_open(self.draw), *self.structures.children)
        listen(self.if_open(self.draw_dvhs), *self.structures.children)
        levels_gy = [0.95 * rx_gy for rx_gy in opened.case.prescription_gy.values()]
        c.isodoses_gy.value = sorted({*levels_gy, 0.5 * opened.case.rx_gy}, reverse=True)
        c.top_gy.value, c.end_gy.value = opened.top_gy, opened.end_gy
        self.sight = open_sight(opened.case, c.plane.value)
        self.opened = opened
        self.set_slider()
        self.open_methods()

    def open_plane(self) -> None:
        """Another plane through the same point."""
        self.set_slider()
        self.draw()

    @property
    def index(self) -> int:
        return self.sight.point[PLANES[self.controls.plane.value]]

    def set_slider(self) -> None:
        slider, last = self.controls.index, self.opened.case.shape[PLANES[self.controls.plane.value]] - 1
        slider.max = max(last, self.index)
        slider.value, slider.max = self.index, last

    def open_methods(self) -> None:
        """Another method leaves the slice where it is."""
        c, folder, self.names, self.missing = self.controls, self.run.prediction_folder, [], ""
        for name in dict.fromkeys(n for n in (c.method.value, c.beside.value) if n not in ("", NOTHING)):
            try:
                if (name, None) not in self.doses:
                    self.doses[name, None] = views.load_dose(folder, name, self.opened.case)
                self.names.append(name)
            except UserError as error:
                self.missing += f"{error}. "
        c.step.max = max([len(self.doses[name, None].estimates) for name in self.names], default=0)
        c.step.value, c.step.layout.display = c.step.max, "" if c.step.max else "none"
        self.anew_box.set_training(c.method.value)
        self.draw()
        self.draw_dvhs()

    def view(self, sight: Sight | None = None) -> View:
        """What the controls want, here or elsewhere."""
        c, sight = self.controls, sight or self.sight
        same = {name: getattr(c, name).value for name in ("plane", "opacity", "top_gy", "end_gy", "ct_hu")}
        same |= {} if c.colours.value else {"opacity": 0.0}
        outlined = [b.description for b in self.structures.children if b.value and c.contours.value]
        layers = tuple(b.description for b in c.layers if b.value)
        return self.opened._replace(
            **same,
            doses=tuple(self.dose_of(name, "gamma" in layers) for name in self.names),
            box=sight.box,
            index=sight.point[PLANES[c.plane.value]],
            layers=layers,
            structures=tuple(outlined),
            isodoses_gy=tuple(c.isodoses_gy.value) if c.isodoses.value else (),
            size_px=self.size_px,
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

    def draw(self) -> None:
        """Another look of the slice."""
        self.kept = {}
        self.show()

    def show(self, same_look: bool = False) -> None:
        """What is to be seen; the browser keeps the slices of one look."""
        self.look += not same_look
        rows, note = self.rows(self.sight), self.note + self.missing + scene.beyond_text(self.view())
        self.seen = [panel.view for row in rows for panel in row]
        self.panels.show(*self.message_of(self.sight, rows), note)

    def rows(self, sight: Sight) -> list[list[Panel]]:
        """The plan in three planes, that of the slider first, and below it each method."""
        view = self.view(sight)
        planned, *others = self.render(view)
        linked = [scene.other_plane(view, plane, sight.point) for plane in PLANES if plane != view.plane]
        return [[*planned, *(self.render(plane)[0][0] for plane in linked)], *others]

    def render(self, view: View) -> list[list[Panel]]:
        """The slice's panels; the last few of this look are kept."""
        spans = tuple((b.start, b.stop) for axis, b in enumerate(view.box) if axis != PLANES[view.plane])
        key = (view.plane, view.index, spans, len(view.doses))
        if key not in self.kept:
            self.kept[key] = scene.render(view)
            if len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
        return self.kept[key]

    def message_of(self, sight: Sight, rows: list[list[Panel]]) -> tuple[dict, list[bytes]]:
        """What the browser is told of the rows, and their pictures."""
        view, point = self.view(sight), sight.point if self.controls.crosshair.value else None
        panels = ([panel.about(point) for panel in row] for row in rows)
        texts = [{"heading": h, "panels": of} for h, of in zip(scene.headings(view), panels)]
        frame = {"look": self.look, "index": view.index, "rows": texts}
        return frame, [panel.jpeg for row in rows for panel in row]

    def turn_to(self, index: int) -> Callable:
        """Another slice; returns what is done when it is seen: the slider follows, and the next slice the
        same way round is sent ahead."""
        before, last = self.index, self.controls.index.max
        self.go(self.sight.turn(self.controls.plane.value, min(max(0, index), last)))
        return lambda: self.follow_up(self.index + (1 if self.index >= before else -1))

    def go(self, sight: Sight) -> None:
        """Look elsewhere."""
        same_look, self.sight = sight.box == self.sight.box, sight
        self.show(same_look)

    def follow_up(self, ahead: int) -> None:
        self.set_slider()
        sight = self.sight.turn(self.controls.plane.value, ahead)
        if 0 <= ahead <= self.controls.index.max and sight.box == self.sight.box:
            self.panels.send_ahead(*self.message_of(sight, self.rows(sight)))

    def turn_to_slider(self) -> None:
        if self.controls.index.value != self.index:
            self.turn_to(self.controls.index.value)()

    def draw_dvhs(self) -> None:
        """The DVHs, and what they say in numbers."""
        view = self.view()
        self.dvhs = DVHs(view)
        self.plot.picture, self.plot.readout = self.dvhs.png, ""
        self.goals.value = table(dvhs.goal_table(view), dvhs.GOALS_SAY)
        self.statistics.value = table(dvhs.statistic_table(view), dvhs.STATISTICS_SAY)

    def read_plot(self, _: str, event: dict) -> None:
        """What lies under the pointer on the DVHs."""
        here = "x" in event and self.opened is not None
        self.plot.readout = self.dvhs.text_at(event["x"], event["y"]) if here else ""

    def follow(self, what: str, event: dict) -> Callable | None:
        """Wheel, key, press or pointer over the pictures; returns what, if anything, follows the answer."""
        if what == "size":
            self.resize(event["px"])
        elif self.opened is None:
            return None
        elif what == "turn":
            return self.turn_to(self.index + int(event["by"]))
        elif what == "plane":
            self.controls.plane.value = event["plane"]
        elif what == "zoom":
            self.zoom(event["by"], self.voxel_under(event))
        elif what == "pan":
            self.pan(event)
        elif what == "pick":
            return self.pick(self.voxel_under(event))
        else:
            voxel = self.voxel_under(event)
            self.panels.readout = scene.point_text(self.view(), voxel) if voxel else ""
        return None

    def view_under(self, event: dict) -> View | None:
        """What the panel of the event shows, if it is still there."""
        return self.seen[event["panel"]] if event.get("panel", len(self.seen)) < len(self.seen) else None

    def voxel_under(self, event: dict) -> Voxel | None:
        """The voxel under the pointer, if it is over a slice."""
        view = self.view_under(event)
        return voxel_at(view, event["x"], event["y"]) if view else None

    def pan(self, event: dict) -> None:
        """What is seen follows the hand."""
        if view := self.view_under(event):
            way = voxels_along(view, event["dx"], event["dy"])
            self.go(self.sight.shift([-voxels for voxels in way]))

    def resize(self, px: float) -> None:
        """Pictures as large as there is room, so that the browser need not shrink them."""
        size_px = min(max(int(px), SIZES_PX[0]), SIZES_PX[1])
        if abs(size_px - self.size_px) > 3:
            self.size_px = size_px
            self.if_open(self.draw)()

    def zoom(self, steps: int, voxel: Voxel | None = None) -> None:
        """Closer by so many steps, around a voxel or the point; 0 for all of the patient."""
        factor = ZOOM_STEP**steps if steps else 0.0
        self.go(self.sight.enlarge(factor, voxel or self.sight.point))

    def pick(self, voxel: Voxel | None) -> Callable | None:
        """The three planes go through the voxel."""
        if voxel is None:
            return None
        self.sight = self.sight.go(voxel)
        self.show()
        return self.set_slider

    def add_anew(self, case: Case, dose: MethodDose) -> None:
        """A dose that was sampled anew becomes a method, shown below the first."""
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

    def save(self, write: Callable[[], list[Path]]) -> None:
        try:
            self.message.value = f"written: {escape(', '.join(map(str, write())))}"
        except (UserError, OSError) as error:
            self.message.value = escape(f"{error}.")

    def save_picture(self) -> list[Path]:
        """The pictures and the DVHs as one PNG below the experiment's folder."""
        if self.opened is None:
            raise UserError("there is nothing to save")
        case, plane = self.opened.case, self.controls.plane.value
        name = "-".join([case.case_id, *self.names, plane, str(self.index)])
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
        path = self.run.folder / "pictures" / f"{name}.png"
        with replace_file(path) as temporary:
            self.draw_picture().savefig(temporary, format="png", dpi=200)
        return [path]

    def draw_picture(self) -> Figure:
        """What is seen, larger and in one figure."""
        size_px, kept = self.size_px, self.kept
        self.size_px, self.kept = SAVED_PX, {}
        view, rows = self.view(), self.rows(self.sight)
        self.size_px, self.kept = size_px, kept
        return scene.draw_figure(view, rows)

    def save_dose(self) -> list[Path]:
        """The first method's dose that is seen: RTDOSE on the grid of the patient's DICOM, or images."""
        doses = self.view().doses if self.opened else ()
        if not doses:
            raise UserError("there is no predicted dose to write")
        if not self.target.value:
            raise UserError("name the file to write, and for RTDOSE the patient's DICOM folder")
        about = {"description": "dose", "method": doses[0].method}
        target, source, dicom = self.target.value, self.cohort.card["source"], self.dicom.value
        return write_dose(target, doses[0].dose_gy, self.opened.case, source, dicom, **about)


def open_sight(case: Case, plane: str) -> Sight:
    """The middle of the primary target, so close that the dose mask in the plane's slice fills the picture:
    shoulders do not shrink a neck."""
    point = tuple(target_index(case, plane) for plane in PLANES)
    boxes = mask_box(case.dose_mask, case.spacing_mm), slice_box(case, plane, point[PLANES[plane]])
    whole, here = ([slice(*b.indices(n)[:2]) for b, n in zip(box, case.shape)] for box in boxes)
    closer = [(w.stop - w.start) / (h.stop - h.start) for w, h in zip(whole, here)]
    zoom = min(factor for axis, factor in enumerate(closer) if axis != PLANES[plane])
    return Sight(tuple(whole), point, tuple((h.start + h.stop) / 2 for h in here), zoom)
