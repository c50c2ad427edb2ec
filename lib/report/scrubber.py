"""Slices to scrub through without a kernel: pictures in the page and a little script, offline.

All slices of a kind lie in one WebP picture, of which a frame shows a tile: a move of the slider moves the
background, and the browser decodes nothing.
"""

import json

import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.prediction.store import (
    load_prediction,
    load_steps,
    predicted_cases,
    predicted_methods,
    prediction_path,
)
from lib.report.dose_figures import difference_overlay, dose_overlay, primary_target
from lib.report.pictures import webp_uri
from lib.report.slices import central_index, colour_lut, render_slices
from lib.report.steps_figures import shade_of

PATIENTS, METHODS, SLICES = 1, 3, 22
SIZE_PX, COLUMNS, QUALITY = 176, 8, 40


def step_scrubber(folder):
    """One slice's dose estimate along the sampling steps, settings side by side; nothing if none was kept."""
    steps = load_steps(folder / "results" / "02_steps.npz")
    if steps is None:
        return Markup("")
    frames = {name: [coloured(dose) for dose in estimates] for name, estimates in steps.estimates.items()}
    count = min(map(len, frames.values()))
    height, width = coloured(steps.planned).shape[:2]
    figures = [
        frame("", name, sprite(pictures), width, height, count - 1) for name, pictures in frames.items()
    ]
    figures.append(frame("", "planned", sprite([coloured(steps.planned)] * count), width, height, count - 1))
    labels = next(iter(steps.labels.values()))[:count]
    return view(labels, width, height, count - 1, steps.case_id, Markup(""), "step", figures)


def coloured(dose):
    """A slice of fractions of the prescription [h,w] as a picture of whole pixels in the colours of fig11."""
    times = max(1, round(SIZE_PX / max(dose.shape)))
    return colour_lut("turbo")[shade_of(dose)].repeat(times, axis=0).repeat(times, axis=1)


def scrubbers(folder, wanted=(), patients=PATIENTS):
    """The first so many patients that have predictions, with the first few methods `wanted` and kept.

    A sentence if their cohort is not at hand.
    """
    kept, path = predicted_methods(folder), folder / "experiment.yaml"
    methods = [name for name in dict.fromkeys([*wanted, *kept]) if name in kept][:METHODS]
    if not methods or not path.exists():
        return Markup("<p class=missing>No predictions are kept in this run.</p>")
    try:
        cohort = open_cohort(yaml.safe_load(path.read_text(encoding="utf-8"))["cohort"])
        views = [
            scrubber(cohort.load(case_id), predictions_of(folder, methods, cohort.load(case_id)))
            for case_id in predicted_cases(folder, methods[0])[:patients]
        ]
    except UserError as error:
        return Markup("<p class=missing>The slices are not shown: {}.</p>").format(str(error))
    return Markup("").join(views)


def predictions_of(folder, methods, case):
    """method -> predicted dose / Gy [D,H,W]."""
    paths = {method: prediction_path(folder, method, case.case_id) for method in methods}
    return {
        method: load_prediction(path, case.dose_mask).dose_gy
        for method, path in paths.items()
        if path.exists()
    }


def scrubber(case, doses_gy):
    """One patient: planned, predicted, difference side by side, a slider for the slice, a list of methods."""
    indices, box = shown_slices(case), shown_box(case)
    middle = int(np.argmin(np.abs(indices - central_index(case.masks[primary_target(case)], "axial"))))
    overlays = {("", "planned"): dose_overlay(case.dose_gy, case.rx_gy)}
    for method, dose_gy in doses_gy.items():
        overlays[method, f"predicted by {method}"] = dose_overlay(dose_gy, case.rx_gy)
        overlays[method, f"{method} - planned"] = difference_overlay(dose_gy - case.dose_gy)
    slices = [
        render_slices(
            case,
            "axial",
            index,
            overlays.values(),
            structures=tuple(case.masks),
            box=box,
            opacity=0.55,
            size_px=SIZE_PX,
        )
        for index in indices
    ]
    height, width = slices[0][0].shape[:2]
    figures = [
        frame(method, title, sprite(pictures), width, height, middle)
        for (method, title), pictures in zip(overlays, zip(*slices))
    ]
    z_mm = (indices - indices[middle]) * case.spacing_mm[0]
    options = Markup("").join(Markup("<option>{}</option>").format(method) for method in doses_gy)
    chooser = Markup("<label>method <select>{}</select></label>").format(options)
    return view(
        [f"{z:+.0f} mm" for z in z_mm], width, height, middle, case.case_id, chooser, "slice", figures
    )


def view(labels, width, height, index, title, chooser, what, figures):
    """Frames under one slider over `what`, whose labels say where it stands."""
    return Markup(
        '<div class="scrub" data-labels="{}" data-width="{}" data-height="{}" data-columns="{}">'
        '<p><strong>{}</strong> {} <label>{} <input type="range" min="0" max="{}" value="{}"></label> '
        '<output>{}</output></p><div class="frames">{}</div></div>'
    ).format(
        json.dumps(labels),
        width,
        height,
        COLUMNS,
        title,
        chooser,
        what,
        len(labels) - 1,
        index,
        labels[index],
        Markup("").join(figures),
    )


def shown_slices(case):
    """At most SLICES axial slices, evenly through the dose mask."""
    held = np.flatnonzero(case.dose_mask.any(axis=(1, 2)))
    first, last = (held[0], held[-1]) if len(held) else (0, len(case.dose_mask) - 1)
    return np.unique(np.linspace(first, last, SLICES).round().astype(int))


def shown_box(case, margin_mm=10.0):
    """Three slices around the dose mask: what lies beyond it has no dose to be looked at."""
    found = [np.flatnonzero(case.dose_mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    margins = [int(margin_mm / s) for s in case.spacing_mm]
    return tuple(
        slice(max(0, f[0] - m), f[-1] + 1 + m) if len(f) else slice(None) for f, m in zip(found, margins)
    )


def sprite(pictures):
    """Pictures uint8 [H,W,3] of one size in rows of COLUMNS, as a data URI."""
    height, width = pictures[0].shape[:2]
    sheet = Image.new("RGB", (width * COLUMNS, height * -(-len(pictures) // COLUMNS)))
    for number, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (number % COLUMNS * width, number // COLUMNS * height))
    return webp_uri(sheet, QUALITY)


def frame(method, title, uri, width, height, index):
    """A window of one tile on the sheet."""
    position = f"{-(index % COLUMNS) * width}px {-(index // COLUMNS) * height}px"
    attribute = Markup(' data-method="{}"').format(method) if method else ""
    return Markup(
        '<figure{}><div class="frame" role="img" aria-label="{}" '
        'style="width:{}px;height:{}px;background-image:url({});'
        'background-position:{}"></div><figcaption>{}</figcaption></figure>'
    ).format(attribute, title, width, height, uri, position, title)
