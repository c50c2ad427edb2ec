"""What the explorer shows, without any widget: planned dose beside predicted, as pictures, sentences, curves.

A `View` says what is looked at and how; every function here is a pure one of it.
"""

import textwrap
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lib.cases.case import Case
from lib.cases.protocols import PROTOCOLS
from lib.errors import UserError
from lib.metrics.dose import errors_gy
from lib.metrics.gamma import gamma_index
from lib.prediction.predict import on_case_grid
from lib.prediction.store import (
    Prediction,
    load_prediction,
    predicted_cases,
    predicted_methods,
    prediction_path,
)
from lib.report import slices
from lib.report.dose_figures import draw_dvhs, primary_target
from lib.report.style import ERROR_MAP, SPREAD_MAP, WIDTH_IN, plt, use_style

LAYERS = ("difference", "spread", "gamma")
GAMMA = {"dose_pct": 3, "distance_mm": 3, "max_gamma": 2.0}


class Shown(NamedTuple):
    """One method's dose; `prediction` is None where `missing` says why. Volumes [D,H,W] on the case's grid.

    error_gy   predicted - planned, 0 outside the dose mask, where no dose is judged
    mae_gy     its mean magnitude inside the dose mask
    gamma      gamma index (3 %, 3 mm), 0 where not judged; None until it is asked for
    estimates  dose along the sampling steps, pairs (t, [1,d,h,w] as fraction of prescription), if watched
    """

    method: str
    missing: str = ""
    prediction: Prediction | None = None
    error_gy: np.ndarray | None = None
    mae_gy: float | None = None
    gamma: np.ndarray | None = None
    estimates: tuple = ()


class View(NamedTuple):
    """What is looked at, and how."""

    case: Case
    box: tuple  # the part of the volume that is shown
    shown: tuple  # of Shown
    plane: str = "axial"
    index: int = 0
    layers: tuple = ("difference", "spread")
    structures: tuple = ()
    opacity: float = 0.5
    isodoses_gy: tuple = ()
    top_gy: float = 77.0  # of the colours of the dose
    end_gy: float = 10.0  # of the colours of the difference, and twice that of the spread
    ct_hu: tuple = (-160, 240)  # black and white
    size_px: int = 300  # longest side of a picture


def find_choices(run, methods=None, case_id=None, method=None):
    """(case ids, methods, the case and the method shown first, sentences on what is missing)."""
    cohort = run.open_cohort()
    methods = list(methods or predicted_methods(run.prediction_folder)) or [""]
    predicted = {i for m in methods if m for i in predicted_cases(run.prediction_folder, m)}
    case_ids = [i for i in cohort.case_ids if i in predicted]
    missing = (
        "" if case_ids else f"{run.folder} has no prediction for {run.cohort}; 04_comparison makes them. "
    )
    case_ids = case_ids or cohort.split["test"]
    for wanted, options in ((case_id, case_ids), (method, methods)):
        if wanted and options[0] and wanted not in options:
            missing += f"There is nothing to show of {wanted}; {options[0]} comes first. "
    return (
        case_ids,
        methods,
        *(w if w in o else o[0] for w, o in ((case_id, case_ids), (method, methods))),
        missing,
    )


def open_view(run, case_id, methods, plane="axial", index=None):
    """The view that opens: every structure, at the centre of the target with the highest prescription."""
    case, box = read_case(run, case_id)
    order = {name: number for number, name in enumerate(PROTOCOLS[case.site].structures)}
    structures = tuple(sorted(case.masks, key=lambda name: order.get(name, 99)))
    centre = slices.central_index(case.masks[primary_target(case)], plane)
    shown = tuple(read_shown(run, case_id, method) for method in methods)
    return View(
        case,
        box,
        shown,
        plane,
        centre if index is None else index,
        structures=structures,
        top_gy=float(np.ceil(1.1 * case.rx_gy)),
    )


@lru_cache(maxsize=2)
def read_case(run, case_id):
    case = run.open_cohort().load(case_id)
    return case, slices.body_box(case)


def read_shown(run, case_id, method):
    path = prediction_path(run.prediction_folder, method, case_id)
    if not path.exists():
        return Shown(
            method, f"{case_id} has no prediction{method and f' by {method}'}: this is the plan alone."
        )
    return read_prediction(path, run, case_id, method, path.stat().st_mtime_ns)


@lru_cache(maxsize=6)
def read_prediction(path, run, case_id, method, written_ns):
    """A kept prediction; `written_ns` makes a newer file be read."""
    case, _ = read_case(run, case_id)
    try:
        return judged(case, method, load_prediction(path, case.dose_mask))
    except UserError as error:
        return Shown(method, f"This is the plan alone: {error}.")


def judged(case, method, prediction, estimates=()):
    """A prediction with its error."""
    error_gy = np.where(case.dose_mask, prediction.dose_gy - case.dose_gy, 0)
    return Shown(
        method,
        "",
        prediction,
        error_gy,
        errors_gy(prediction.dose_gy, case.dose_gy, case.dose_mask)["mae_gy"],
        None,
        estimates,
    )


def at_step(case, shown, step, coarsen):
    """The dose estimate after network call `step` (from 0) in place of the final dose."""
    dose_gy = on_case_grid(shown.estimates[step][1][None], case, coarsen)[0]
    return judged(case, shown.method, Prediction(dose_gy, None), shown.estimates)


def with_gamma(case, shown):
    """The same with its gamma index; some seconds at full size."""
    if shown.prediction is None or shown.gamma is not None:
        return shown
    gamma = gamma_index(
        case.dose_gy, shown.prediction.dose_gy, case.spacing_mm, global_gy=case.rx_gy, **GAMMA
    )
    return shown._replace(gamma=np.nan_to_num(gamma))


def overlays(view):
    """title -> Overlay, for what there is."""
    plan = slices.Overlay(view.case.dose_gy, (0.0, view.top_gy), isodoses_gy=view.isodoses_gy)
    found = {"planned dose": plan}
    for one in view.shown:
        if one.prediction is not None:
            found[f"{one.method}: predicted dose"] = plan._replace(volume_gy=one.prediction.dose_gy)
            found |= {
                f"{one.method}: {title}": overlay
                for title, overlay in layers_of(one, view.layers, view.end_gy).items()
            }
    return found


def layers_of(shown, layers, end_gy):
    """title -> Overlay of the layers that are asked for and there."""
    found = {}
    if "difference" in layers:
        found["predicted - planned"] = slices.Overlay(
            shown.error_gy, (-end_gy, end_gy), ERROR_MAP, 0.5, full_from_gy=0.4 * end_gy
        )
    if "spread" in layers and shown.prediction.spread_gy is not None:
        found["spread of samples"] = slices.Overlay(
            shown.prediction.spread_gy, (0.0, end_gy / 2), SPREAD_MAP, 0.25
        )
    if "gamma" in layers and shown.gamma is not None:
        found["gamma, 3 % 3 mm"] = slices.Overlay(
            shown.gamma, (0.0, GAMMA["max_gamma"]), ERROR_MAP, 0.05, full_from_gy=1.0, unit="gamma"
        )
    return found


def render_view(view):
    """title -> picture uint8 [H,W,3] with its colour bar below, from left to right."""
    shown, (low_hu, high_hu) = overlays(view), view.ct_hu
    pictures = slices.render_slices(
        view.case,
        view.plane,
        view.index,
        shown.values(),
        opacity=view.opacity,
        structures=view.structures,
        box=view.box,
        window_hu=high_hu - low_hu,
        level_hu=(low_hu + high_hu) / 2,
        size_px=view.size_px,
    )
    width_px = max(150, pictures[0].shape[1])  # what the bar needs
    pictures = [np.pad(rgb, ((0, 0), (0, width_px - rgb.shape[1]), (0, 0))) for rgb in pictures]
    bars = [
        slices.colour_bar(overlay.colours, overlay.range_gy, width_px, overlay.unit)
        for overlay in shown.values()
    ]
    return {title: np.vstack(parts) for title, *parts in zip(shown, pictures, bars)}


def voxel_at(view, x_px, y_px):
    """The voxel (z, y, x) under a point of a picture, in pixels from its top left; None beyond the slice."""
    axis = slices.PLANES[view.plane]
    rows, columns = (b for a, b in enumerate(view.box) if a != axis)
    count = tuple(b.stop - b.start for b in (rows, columns))
    height, width = slices.slice_size_px(count, view.case.spacing_mm, view.plane, view.size_px)
    if not (0 <= x_px < width and 0 <= y_px < height):
        return None
    row, column = int(y_px * count[0] / height), int(x_px * count[1] / width)
    row = rows.start + row if view.plane == "axial" else rows.stop - 1 - row  # the head is up
    voxel = [row, columns.start + column]
    voxel.insert(axis, view.index)
    return tuple(voxel)


def point_text(view, voxel):
    """What lies in a voxel: HU, Gy planned and predicted, and the structures it belongs to."""
    if voxel is None:
        return ""
    case, z, y, x = view.case, *voxel
    parts = [
        f"voxel z {z}, y {y}, x {x}",
        f"CT {case.ct_hu[voxel]:.0f} HU",
        f"planned {case.dose_gy[voxel]:.2f} Gy",
    ]
    for one in view.shown:
        if one.prediction is not None:
            parts.append(f"{one.method} {one.prediction.dose_gy[voxel]:.2f} Gy ({one.error_gy[voxel]:+.2f})")
            parts += (
                [f"spread {one.prediction.spread_gy[voxel]:.2f} Gy"]
                if one.prediction.spread_gy is not None
                else []
            )
            parts += [f"gamma {one.gamma[voxel]:.2f}"] if one.gamma is not None else []
    parts.append(", ".join(name.replace("_", " ") for name in view.structures if case.masks[name][voxel]))
    return " · ".join(part for part in parts if part)


def read_out(view):
    """The errors of the slice and of the patient in a sentence, or what is missing."""
    where = f"{view.case.case_id}, {view.plane} slice {view.index}."
    return " ".join(
        [
            where,
            *(slice_errors(view, one) if one.prediction is not None else one.missing for one in view.shown),
        ]
    )


def slice_errors(view, shown):
    mask, error_gy = (
        slices.take_slice(v, view.plane, view.index) for v in (view.case.dose_mask, shown.error_gy)
    )
    here = f"{np.abs(error_gy[mask]).mean():.2f} Gy in this slice" if mask.any() else "no voxel in this slice"
    return f"{shown.method}: MAE inside the dose mask {here}, {shown.mae_gy:.2f} Gy in the patient."


def draw_dvh(view, ax):
    """Dose-volume histograms of the structures shown: planned lines, predicted dashed, a second dotted."""
    predicted = [one for one in view.shown if one.prediction is not None]
    draw_dvhs(ax, view.case, [one.prediction.dose_gy for one in predicted], view.structures)
    ax.set_title(
        "planned" + "".join(f", {line}: {one.method}" for line, one in zip(("dashed", "dotted"), predicted))
    )
    if ax.lines:
        ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_view(view, said=""):
    """A view as a figure: panels with colour bars, the read-out, DVHs."""
    panels = render_view(view._replace(size_px=400))
    height, width, _ = panels["planned dose"].shape
    columns = (
        min(len(panels), 4) if len(panels) != 4 or width <= 1.1 * height else 2
    )  # wide panels in two rows
    rows = -(-len(panels) // columns)
    above_in = 0.35 + rows * (WIDTH_IN / max(3, columns) * height / width + 0.3)
    use_style()
    figure = plt.figure(figsize=(WIDTH_IN, above_in + 2.6))
    above, below = figure.subfigures(2, 1, height_ratios=(above_in, 2.6))
    above.suptitle("\n".join(textwrap.wrap(said + read_out(view), 115)), x=0.01, ha="left", fontsize=9)
    for number, (title, rgb) in enumerate(panels.items(), 1):
        ax = above.add_subplot(rows, max(3, columns) if rows == 1 else columns, number)
        ax.set_title(title, fontsize=8)
        ax.imshow(rgb)
        ax.set_axis_off()
    draw_dvh(view, below.add_subplot())
    return figure


def draw_static(run, case_id=None, method=None, plane="axial", index=None):
    """The view that the explorer opens with as a figure."""
    _, _, case_id, method, missing = find_choices(run, None, case_id, method)
    return draw_view(open_view(run, case_id, [method], plane, index), missing)
