"""Slices to scrub through without a kernel: pictures in the page and a little script, offline.

All slices of a kind lie in one WebP picture, of which a frame shows a tile: a move of the slider moves the
background, and the browser decodes nothing.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from lib.cases.case import Case
from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.files import in_project
from lib.prediction.store import load_steps, predicted_cases, predicted_methods
from lib.report.pictures import webp_uri
from lib.report.slices import DOSE_MAP, colour_bar, colour_index, colour_lut, mask_box, structure_colour
from lib.report.views import MethodDose, View, close_view, load_dose, overlays, render_panels
from lib.strict_yaml import read_yaml

PATIENTS = 1
MOST_CHARACTERS = 800_000  # of a patient: as many methods as fit are in the page
SIZE_PX, STEP_PX, COLUMNS, QUALITY = 300, 176, 8, 30
ESTIMATES = (0.0, 1.1)  # ends of the colours of a dose estimate, fractions of the prescription
LOADER = jinja2.FileSystemLoader(Path(__file__).parent)
TEMPLATES = jinja2.Environment(loader=LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True)


class Film(NamedTuple):
    """Slices of one kind as a sheet of tiles in rows of COLUMNS, with a colour bar, as data URIs; of `method`
    if another may be chosen instead."""

    title: str
    sheet: str
    bar: str = ""
    method: str = ""


def make_sheet(pictures: Sequence[np.ndarray]) -> str:
    """Pictures uint8 [H,W,3] of one size as a sheet."""
    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", (width * COLUMNS, height * -(-len(pictures) // COLUMNS)))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, COLUMNS)
        sheet.paste(Image.fromarray(picture), (column * width, row * height))
    return webp_uri(sheet, QUALITY)


def scrubbers(folder: Path, wanted: Sequence[str] = (), patients: int | None = PATIENTS) -> Markup:
    """The first so many patients that have predictions (None: all), with the methods `wanted` first.

    A sentence if their cohort is not at hand.
    """
    methods, path = predicted_methods(folder), folder / "experiment.yaml"
    methods = [name for name in dict.fromkeys([*wanted, *methods]) if name in methods]
    if not methods or not path.exists():
        return Markup("<p class=missing>No predictions are kept in this run.</p>")
    try:
        cohort, parts = open_cohort(in_project(read_yaml(path)["cohort"])), []
        for case_id in predicted_cases(folder, methods[0])[:patients]:
            case, there = cohort.load(case_id), [n for n in methods if case_id in predicted_cases(folder, n)]
            parts.append(scrubber(case, (load_dose(folder, name, case) for name in there)))
        return Markup("").join(parts)
    except UserError as error:
        return Markup("<p class=missing>The slices are not shown: {}.</p>").format(str(error))


def scrubber(case: Case, doses: Iterable[MethodDose]) -> Markup:
    """One patient: planned, predicted, difference side by side, a slider for the slice, a list of methods."""
    view = view_of(case)
    indices = np.arange(case.shape[0])[case.dose_mask.any(axis=(1, 2))]
    middle, films, methods = int(np.argmin(np.abs(indices - view.index))), films_of(view, indices), []
    for dose in doses:
        more = films_of(view._replace(doses=(dose,)), indices)[1:]
        if methods and sum(len(film.sheet) for film in films + more) > MOST_CHARACTERS:
            break
        films, methods = films + [film._replace(method=dose.method) for film in more], [*methods, dose.method]
    labels = [f"{z_mm:+.0f} mm" for z_mm in (indices - indices[middle]) * case.spacing_mm[0]]
    size = render_panels(view)["planned dose"].shape[:2]
    about = {"methods": methods, "structures": {n: structure_colour(case, n) for n in view.structures}}
    return page_part(
        case.case_id, "slice", labels, middle, films, size, **about, isodoses_gy=view.isodoses_gy
    )


def view_of(case: Case) -> View:
    """Doses and differences around the dose mask: what lies beyond it has no dose to be looked at."""
    box = mask_box(case.dose_mask, case.spacing_mm)
    return close_view(case, [])._replace(box=box, size_px=SIZE_PX, layers=("difference",))


def films_of(view: View, indices: Sequence[int]) -> list[Film]:
    """What the view shows, slice by slice, with colour bars."""
    rows = [render_panels(view._replace(index=index)) for index in indices]
    bars = {title: colour_bar(o.colours, o.range_gy, SIZE_PX, o.unit) for title, o in overlays(view).items()}
    return [
        Film(title, make_sheet([row[title] for row in rows]), webp_uri(Image.fromarray(bar)))
        for title, bar in bars.items()
    ]


def step_scrubber(folder: Path) -> Markup:
    """One slice's dose estimate along the sampling steps, settings side by side; nothing if none was kept."""
    steps = load_steps(folder / "results" / "02_steps.npz")
    if steps is None:
        return Markup("")
    count = min(map(len, steps.estimates.values()))
    volumes = steps.estimates | {"planned": [steps.planned] * count}
    films = [Film(name, make_sheet([in_colour(dose) for dose in doses])) for name, doses in volumes.items()]
    labels = next(iter(steps.labels.values()))[:count]
    return page_part(steps.case_id, "step", labels, count - 1, films, in_colour(steps.planned).shape[:2])


def in_colour(dose: np.ndarray) -> np.ndarray:
    """A slice of fractions of the prescription [h,w] as a picture of whole pixels."""
    times = max(1, round(STEP_PX / max(dose.shape)))
    return colour_lut(DOSE_MAP)[colour_index(dose, ESTIMATES)].repeat(times, axis=0).repeat(times, axis=1)


def page_part(
    title: str, what: str, labels: list[str], index: int, films: list[Film], size_px: tuple, **about
) -> Markup:
    """Films of tiles (height, width) under one slider over `what`, whose labels say where it stands; it opens
    at `index`."""
    (height, width), (row, column) = size_px, divmod(index, COLUMNS)
    values = {"title": title, "what": what, "labels": labels, "labels_json": json.dumps(labels)} | about
    values |= {"index": index, "films": films, "columns": COLUMNS, "width": width, "height": height}
    values["position"] = f"{-column * width}px {-row * height}px"
    return Markup(TEMPLATES.get_template("scrubber.html.jinja").render(values))
