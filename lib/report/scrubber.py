"""Slices to scrub through without a kernel: pictures in the page and a little script, offline.

All slices of a kind lie in one WebP picture, of which a frame shows a tile: a move of the slider moves the
background, and the browser decodes nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from lib.cases.case import Case
from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.prediction.store import load_steps, predicted_cases, predicted_methods
from lib.report.pictures import webp_uri
from lib.report.slices import DOSE_MAP, colour_index, colour_lut, mask_box
from lib.report.views import MethodDose, View, close_view, load_dose, render_panels

PATIENTS, METHODS, SLICES = 1, 3, 22
SIZE_PX, COLUMNS, QUALITY = 176, 8, 40
ESTIMATES = (0.0, 1.1)  # ends of the colours of a dose estimate, fractions of the prescription
LOADER = jinja2.FileSystemLoader(Path(__file__).parent)
TEMPLATES = jinja2.Environment(loader=LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True)


class Film(NamedTuple):
    """Pictures of one kind, uint8 [H,W,3] of one size; of `method` if another may be chosen instead."""

    title: str
    pictures: Sequence[np.ndarray]
    method: str = ""

    def sheet(self) -> str:
        """The pictures in rows of COLUMNS, as a data URI."""
        height, width = self.pictures[0].shape[:2]
        sheet = Image.new("RGB", (width * COLUMNS, height * -(-len(self.pictures) // COLUMNS)))
        for number, picture in enumerate(self.pictures):
            row, column = divmod(number, COLUMNS)
            sheet.paste(Image.fromarray(picture), (column * width, row * height))
        return webp_uri(sheet, QUALITY)


def scrubbers(folder: Path, wanted: Sequence[str] = (), patients: int | None = PATIENTS) -> Markup:
    """The first so many patients that have predictions (None: all), with the first few methods `wanted`.

    A sentence if their cohort is not at hand.
    """
    methods, path = predicted_methods(folder), folder / "experiment.yaml"
    methods = [name for name in dict.fromkeys([*wanted, *methods]) if name in methods][:METHODS]
    if not methods or not path.exists():
        return Markup("<p class=missing>No predictions are kept in this run.</p>")
    try:
        cohort = open_cohort(yaml.safe_load(path.read_text(encoding="utf-8"))["cohort"])
        cases = (cohort.load(case_id) for case_id in predicted_cases(folder, methods[0])[:patients])
        return Markup("").join(scrubber(case, load_doses(folder, methods, case)) for case in cases)
    except UserError as error:
        return Markup("<p class=missing>The slices are not shown: {}.</p>").format(str(error))


def load_doses(folder: Path, methods: Sequence[str], case: Case) -> list[MethodDose]:
    """The doses by those methods that predicted the patient."""
    there = [method for method in methods if case.case_id in predicted_cases(folder, method)]
    return [load_dose(folder, method, case) for method in there]


def scrubber(case: Case, doses: Sequence[MethodDose]) -> Markup:
    """One patient: planned, predicted, difference side by side, a slider for the slice, a list of methods."""
    view, indices = view_of(case, doses), slices_to_show(case)
    middle = int(np.argmin(np.abs(indices - view.index)))
    rows = [render_panels(view._replace(index=index)) for index in indices]
    of = ["", *(dose.method for dose in doses for _ in range(2))]  # its dose and its difference
    films = [Film(title, [row[title] for row in rows], method) for title, method in zip(rows[0], of)]
    labels = [f"{z_mm:+.0f} mm" for z_mm in (indices - indices[middle]) * case.spacing_mm[0]]
    return page_part(case.case_id, "slice", labels, middle, films, [dose.method for dose in doses])


def view_of(case: Case, doses: Sequence[MethodDose]) -> View:
    """Doses and differences around the dose mask: what lies beyond it has no dose to be looked at."""
    box = mask_box(case.dose_mask, case.spacing_mm)
    return close_view(case, doses)._replace(box=box, size_px=SIZE_PX, layers=("difference",))


def slices_to_show(case: Case) -> np.ndarray:
    """At most SLICES axial slices, evenly through the dose mask."""
    first, last = np.flatnonzero(case.dose_mask.any(axis=(1, 2)))[[0, -1]]
    return np.unique(np.linspace(first, last, SLICES).round().astype(int))


def step_scrubber(folder: Path) -> Markup:
    """One slice's dose estimate along the sampling steps, settings side by side; nothing if none was kept."""
    steps = load_steps(folder / "results" / "02_steps.npz")
    if steps is None:
        return Markup("")
    count = min(map(len, steps.estimates.values()))
    films = [Film(name, [in_colour(dose) for dose in doses]) for name, doses in steps.estimates.items()]
    films.append(Film("planned", [in_colour(steps.planned)] * count))
    labels = next(iter(steps.labels.values()))[:count]
    return page_part(steps.case_id, "step", labels, count - 1, films)


def in_colour(dose: np.ndarray) -> np.ndarray:
    """A slice of fractions of the prescription [h,w] as a picture of whole pixels."""
    times = max(1, round(SIZE_PX / max(dose.shape)))
    return colour_lut(DOSE_MAP)[colour_index(dose, ESTIMATES)].repeat(times, axis=0).repeat(times, axis=1)


def page_part(
    title: str, what: str, labels: list[str], index: int, films: list[Film], methods: Sequence[str] = ()
) -> Markup:
    """Films under one slider over `what`, whose labels say where it stands; it opens at `index`."""
    height, width = films[0].pictures[0].shape[:2]
    row, column = divmod(index, COLUMNS)
    values = {"title": title, "what": what, "labels": labels, "labels_json": json.dumps(labels)}
    values |= {"index": index, "films": films, "methods": methods, "columns": COLUMNS}
    values |= {"width": width, "height": height, "position": f"{-column * width}px {-row * height}px"}
    return Markup(TEMPLATES.get_template("scrubber.html.jinja").render(values))
