"""Slices to look through without a kernel: a patient's voxels lie in the page, its script draws them offline.

A volume is whole steps, from which neighbours are subtracted along each axis (Ibarria et al. 2003, Computer
Graphics Forum 22:343: few bits are left of what is smooth), deflated; `template/slices.js` undoes it.
"""

import base64
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from lib.cases.case import Case
from lib.cases.cohort import open_cohort
from lib.errors import UserError
from lib.files import in_project
from lib.prediction.store import load_steps, predicted_cases, predicted_methods
from lib.report import slices
from lib.report.pictures import webp_uri
from lib.report.slices import Box, Overlay, colour_index
from lib.report.teaching import SHARES
from lib.report.views import MethodDose, View, close_view, load_dose, overlays
from lib.strict_yaml import read_yaml

PATIENTS = 1
MOST_CHARACTERS = 1_450_000  # of a patient: as many methods as fit are in the page
MOST_VOXELS = 1_500_000  # of a patient
WIDTH_PX, STEP_WIDTH_PX = 300, 200
STEP_GY, STEP_SHARE = 0.1, 0.005  # of doses, and of dose estimates as fractions of the prescription
CT_GREYS = 64
LOADER = jinja2.FileSystemLoader(Path(__file__).parent)
TEMPLATES = jinja2.Environment(loader=LOADER, autoescape=True, trim_blocks=True, lstrip_blocks=True)
Page = dict[str, Any]  # what the script or the template is given


def deflate(values: np.ndarray) -> str:
    """uint8 of any shape, deflated, in base64."""
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def pack(volume: np.ndarray, step: float) -> str:
    """A volume [D,H,W] in whole steps, low bytes before high bytes, as the page holds it."""
    steps = np.rint(np.clip(volume / step, -32767, 32767)).astype(np.int16)
    for axis in range(3):
        steps = np.diff(steps, axis=axis, prepend=np.int16(0))
    folded = ((steps << 1) ^ (steps >> 15)).view(np.uint16)  # 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
    return deflate(np.stack([folded & 255, folded >> 8]).astype(np.uint8))


def scrubbers(folder: Path, wanted: Sequence[str] = (), patients: int | None = PATIENTS) -> Markup:
    """The first so many patients that have predictions (None: all), with the methods `wanted` first; a
    sentence if their cohort is not at hand."""
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
    """One patient in three planes: planned, predicted, difference; a slider, a list of methods; the first
    method is shown, and those that no longer fit are left out."""
    view, part, doses = close_view(case, [])._replace(layers=("difference",)), shown_part(case), iter(doses)
    first = next(doses)
    data = anatomy(case, view, part)
    room = MOST_CHARACTERS - len(data["ct"]) - sum(map(len, data["bits"]))
    volumes = {"planned": pack(case.dose_gy[part], STEP_GY), first.method: pack(first.dose_gy[part], STEP_GY)}
    for dose in doses:
        text = pack(dose.dose_gy[part], STEP_GY)
        if len(text) + sum(map(len, volumes.values())) > room:
            break
        volumes[dose.method] = text
    planned, predicted, difference = overlays(view._replace(doses=(first,))).values()
    data["panels"] = [panel("planned dose", planned, "planned"), panel("predicted dose", predicted)]
    data["panels"].append(panel("predicted - planned", difference, minus="planned"))
    data |= {"volumes": volumes, "step": STEP_GY, "unit": "Gy", "digits": 1, "width": WIDTH_PX}
    legend = [(structure_text(case, n), colour) for n, colour in zip(view.structures, data["colours"])]
    about = {"methods": list(volumes)[1:], "legend": legend, "isodoses_gy": view.isodoses_gy}
    return page_part(case.case_id, "slice", data, **about)


def anatomy(case: Case, view: View, part: Box) -> Page:
    """What does not depend on the method: planes, CT, dose mask (the first bit) and structures."""
    masks = [case.dose_mask[part], *(case.masks[name][part] for name in view.structures)]
    bits = np.packbits(np.stack(masks), axis=0, bitorder="little")
    ct = np.interp(case.ct_hu[part], view.ct_hu, (0, CT_GREYS - 1)).astype(np.uint8)
    data = {"bits": [deflate(of_eight) for of_eight in bits], "ct": deflate(ct), "greys": CT_GREYS}
    data |= {"shape": ct.shape, "structures": view.structures, "opacity": view.opacity}
    data |= {"planes": {plane: plane_of(case, plane, part) for plane in slices.PLANES}}
    data["colours"] = [slices.structure_colour(case, name) for name in view.structures]
    return data | {"spacing_mm": [s * p.step for s, p in zip(case.spacing_mm, part)]}


def shown_part(case: Case) -> Box:
    """The voxels that are shown: of the body, every one; of too many fewer, first along the finest axis."""
    spans = [range(*span.indices(n)) for span, n in zip(slices.body_box(case), case.shape)]
    while math.prod(map(len, spans)) > MOST_VOXELS:
        axis = min(range(3), key=lambda axis: spans[axis].step * case.spacing_mm[axis])
        spans[axis] = range(spans[axis].start, spans[axis].stop, spans[axis].step + 1)
    return tuple(slice(s.start, s.stop, s.step) for s in spans)


def plane_of(case: Case, plane: str, part: Box) -> Page:
    """Where the slices of a plane lie, in mm from the middle of the target, at which the view opens."""
    axis, middle = slices.PLANES[plane], slices.target_index(case, plane)
    away = np.arange(case.shape[axis])[part[axis]] - middle
    labels = [f"{mm:+.0f} mm" if round(mm) else "0 mm" for mm in away * case.spacing_mm[axis]]
    index = int(np.abs(away).argmin())
    return {"axis": axis, "labels": labels, "index": index, "letters": slices.LETTERS[plane]}


def structure_text(case: Case, name: str) -> str:
    """A structure's name, and how much of it has a known dose."""
    share = case.covered_pct.get(name)
    beyond = "" if share is None else f" ({share:.0f} % in the dose grid, beyond it no dose is known)"
    return name.replace("_", " ") + beyond


def panel(title: str, overlay: Overlay, volume: str = "", minus: str = "") -> Page:
    """How a quantity is drawn; of the method that is chosen, where no volume is named."""
    lut = base64.b64encode(slices.colour_lut(overlay.colours).tobytes()).decode()
    ends = {"range": overlay.range_gy, "hidden": overlay.hidden_below_gy, "full": overlay.full_from_gy}
    inks = slices.colour_lut(overlay.colours)[colour_index(np.float32(overlay.isodoses_gy), overlay.range_gy)]
    lines = [(gy, "rgb({}, {}, {})".format(*ink)) for gy, ink in zip(overlay.isodoses_gy, inks.tolist())]
    bar = slices.colour_bar(overlay.colours, overlay.range_gy, WIDTH_PX, overlay.unit)
    look = {"lut": lut, "lines": lines, "bar": webp_uri(Image.fromarray(bar))}
    return {"title": title, "volume": volume, "minus": minus} | ends | look


def step_scrubber(folder: Path) -> Markup:
    """One slice's dose estimate along the sampling steps, settings side by side; nothing if none was kept."""
    steps = load_steps(folder / "results" / "02_steps.npz")
    if steps is None:
        return Markup("")
    count = min(map(len, steps.estimates.values()))
    volumes = {name: dose[:count] for name, dose in steps.estimates.items()}
    volumes["planned"] = np.stack([steps.planned] * count)
    shown = {name: Overlay(dose, SHARES, hidden_below_gy=0.0, unit="Rx") for name, dose in volumes.items()}
    panels = [panel(name, overlay, name) for name, overlay in shown.items()]
    data = {"panels": panels, "spacing_mm": (1, 1, 1)}
    data |= {"volumes": {name: pack(dose, STEP_SHARE) for name, dose in volumes.items()}, "step": STEP_SHARE}
    alike = [dict.fromkeys(labels) for labels in zip(*steps.labels.values())]
    # "call 5, t = 799": at one call settings may be at different t
    labels = [next(iter(of)) if len(of) == 1 else next(iter(of)).partition(",")[0] for of in alike]
    data["planes"] = {"axial": {"axis": 0, "labels": labels, "index": count - 1, "letters": ""}}
    data |= {"bits": [], "ct": "", "structures": (), "shape": volumes["planned"].shape, "opacity": 1}
    data |= {"unit": "of the prescription", "digits": 2, "width": STEP_WIDTH_PX}
    return page_part(steps.case_id, "step", data)


def page_part(title: str, what: str, data: Page, **about: Any) -> Markup:
    """Panels under one slider over `what`. The script draws them from `data`: JSON that no name in it can
    end, without the pictures of the template."""
    drawn = data | {"panels": [{k: v for k, v in p.items() if k != "bar"} for p in data["panels"]]}
    script = Markup(json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c"))
    template = TEMPLATES.get_template("scrubber.html.jinja")
    return Markup(template.render(data | about, title=title, what=what, script=script))
