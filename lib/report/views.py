"""A patient's planned dose beside predicted ones: pictures and curves of what is looked at.

A `View` says what is looked at and how. The explorer changes its fields, figures draw it once; every function
here is a pure one of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lib.cases.case import Case
from lib.errors import UserError
from lib.features.grid import Grid
from lib.metrics.dose import errors_gy
from lib.metrics.dvh import dvh_curve
from lib.metrics.gamma import gamma_index
from lib.prediction.predict import on_case_grid
from lib.prediction.store import load_prediction, prediction_path
from lib.report import slices

LAYERS = ("difference", "spread", "gamma")
MOST_GAMMA = 2.0
DOSE_STEP_GY = 0.5  # of DVHs


class MethodDose(NamedTuple):
    """One method's dose of the patient. Volumes [D,H,W] on the case's grid.

    spread_gy  standard deviation of several samples
    error_gy   predicted - planned, 0 outside the dose mask, where no dose is judged
    mae_gy     its mean magnitude inside the dose mask
    gamma      gamma index (3 %, 3 mm), 0 where not judged; None until it is asked for
    estimates  dose along the sampling steps, pairs (t, [1,d,h,w] as fraction of prescription), if watched
    """

    method: str
    dose_gy: np.ndarray
    spread_gy: np.ndarray | None
    error_gy: np.ndarray
    mae_gy: float
    gamma: np.ndarray | None = None
    estimates: tuple = ()


class View(NamedTuple):
    """What is looked at, and how."""

    case: Case
    doses: tuple[MethodDose, ...]
    box: slices.Box  # the part of the volume that is shown
    plane: str = "axial"
    index: int = 0
    layers: tuple[str, ...] = ("difference", "spread")
    structures: tuple[str, ...] = ()
    opacity: float = 0.5
    isodoses_gy: tuple[float, ...] = ()
    top_gy: float = 77.0  # of the colours of the dose
    end_gy: float = 14.0  # of the colours of the difference, and twice that of the spread
    ct_hu: tuple[float, float] = (-160, 240)  # black and white
    size_px: int = 300  # longest side of a picture


def dose_of(
    case: Case, method: str, dose_gy: np.ndarray, spread_gy: np.ndarray | None = None, estimates: tuple = ()
) -> MethodDose:
    """A dose [D,H,W] with its error."""
    error_gy = np.where(case.dose_mask, dose_gy - case.dose_gy, 0)
    mae_gy = errors_gy(dose_gy, case.dose_gy, case.dose_mask)["mae_gy"]
    return MethodDose(method, dose_gy, spread_gy, error_gy, mae_gy, None, estimates)


def load_dose(folder: Path, method: str, case: Case) -> MethodDose:
    """A method's dose as `folder` keeps it, with its error; a missing or damaged one is a UserError."""
    path = prediction_path(folder, method, case.case_id)
    if not path.exists():
        raise UserError(f"{case.case_id} has no prediction by {method}")
    return dose_of(case, method, *load_prediction(path, case.dose_mask))


def at_step(case: Case, dose: MethodDose, step: int, grid: Grid) -> MethodDose:
    """The dose estimate after network call `step` (from 0) in place of the final dose."""
    t, estimate = dose.estimates[step]
    name = f"{dose.method}, call {step + 1} of {len(dose.estimates)} (t = {t:.4g})"
    return dose_of(case, name, on_case_grid(estimate[None], case, grid)[0], None, dose.estimates)


def with_gamma(case: Case, dose: MethodDose) -> MethodDose:
    """The same with its gamma index; some seconds at full size."""
    how = {"dose_pct": 3, "distance_mm": 3, "max_gamma": MOST_GAMMA, "global_gy": case.rx_gy}
    return dose._replace(gamma=np.nan_to_num(gamma_index(case.dose_gy, dose.dose_gy, case.spacing_mm, **how)))


def open_view(case: Case, doses: Sequence[MethodDose], plane: str = "axial") -> View:
    """The view that opens: every structure, at the middle of the primary target. The ends of the colours
    follow from the plan, so that a patient has the same in all pictures; what exceeds them is marked."""
    index, order = slices.target_index(case, plane), [*case.protocol.structures, *case.masks]
    structures = tuple(sorted(case.masks, key=order.index))
    ends = {"top_gy": float(np.ceil(1.05 * case.dose_gy.max())), "end_gy": float(np.ceil(0.2 * case.rx_gy))}
    return View(case, tuple(doses), slices.body_box(case), plane, index, structures=structures, **ends)


def close_view(case: Case, doses: Sequence[MethodDose], plane: str = "axial") -> View:
    """The view of figures: around the dose mask within the slice, with two isodoses."""
    view = open_view(case, doses, plane)
    isodoses_gy = tuple(share * case.rx_gy for share in slices.ISODOSE_SHARES)
    box = slices.slice_box(case, plane, view.index)
    return view._replace(box=box, isodoses_gy=isodoses_gy, opacity=0.55)


def overlays(view: View) -> dict[str, slices.Overlay]:
    """title -> Overlay, of what there is."""
    plan = slices.Overlay(view.case.dose_gy, (0.0, view.top_gy), isodoses_gy=view.isodoses_gy)
    panels, end_gy = {"planned dose": plan}, view.end_gy
    for dose in view.doses:
        difference = slices.Overlay(dose.error_gy, (-end_gy, end_gy), slices.ERROR_MAP, 0.5, 0.4 * end_gy)
        spread = slices.Overlay(dose.spread_gy, (0.0, end_gy / 2), slices.SPREAD_MAP, 0.25)
        gamma = slices.Overlay(dose.gamma, (0.0, MOST_GAMMA), slices.ERROR_MAP, 0.05, 1.0, (), "gamma")
        titles = ("predicted - planned", "spread of samples", "gamma, 3 % 3 mm")
        layers = zip(LAYERS, titles, (difference, spread, gamma))
        shown = {"predicted dose": plan._replace(volume_gy=dose.dose_gy)}
        shown |= {title: overlay for name, title, overlay in layers if name in view.layers}
        there = {title: overlay for title, overlay in shown.items() if overlay.volume_gy is not None}
        panels |= {f"{dose.method}: {title}": overlay for title, overlay in there.items()}
    return panels


def render_panels(view: View) -> dict[str, np.ndarray]:
    """title -> picture uint8 [H,W,3], from left to right."""
    panels = overlays(view)
    look = {name: getattr(view, name) for name in ("opacity", "structures", "box", "ct_hu", "size_px")}
    return dict(zip(panels, slices.render_slices(view.case, view.plane, view.index, panels.values(), **look)))


def render_view(view: View) -> dict[str, np.ndarray]:
    """title -> picture uint8 [H,W,3] with its colour bar below."""
    panels = overlays(view)
    return {title: slices.put_bar(rgb, panels[title]) for title, rgb in render_panels(view).items()}


def draw_dvhs(ax: Axes, case: Case, doses_hat_gy: Sequence[np.ndarray], structures: Sequence[str]) -> None:
    """DVHs of the named structures: planned as lines, the predicted doses [D,H,W] dashed, then dotted."""
    edges_gy = dose_axis_gy(case.dose_gy, *doses_hat_gy)
    for name in (name for name in structures if name in case.judged_masks):
        mask = case.judged_masks[name]
        line = {"color": darken(slices.structure_colour(case, name)), "linewidth": 1.4}
        ax.plot(edges_gy, dvh_curve(case.dose_gy, mask, edges_gy), label=name.replace("_", " "), **line)
        for dose_hat_gy, style in zip(doses_hat_gy, ("--", ":")):
            ax.plot(edges_gy, dvh_curve(dose_hat_gy, mask, edges_gy), linestyle=style, **line)
    ax.set(xlabel="dose / Gy", ylabel="volume / %", ylim=(0, 102))
    ax.margins(x=0)


def draw_dvh_bands(ax: Axes, case: Case, members_gy: np.ndarray, opacity: float) -> None:
    """The range of the members' [N,D,H,W] DVHs as a band for each structure."""
    edges_gy = dose_axis_gy(case.dose_gy, members_gy)
    for name, mask in case.judged_masks.items():
        curves = [dvh_curve(member_gy, mask, edges_gy) for member_gy in members_gy]
        look = {"color": darken(slices.structure_colour(case, name)), "alpha": opacity, "linewidth": 0}
        ax.fill_between(edges_gy, np.min(curves, 0), np.max(curves, 0), **look)


def dose_axis_gy(*doses_gy: np.ndarray) -> np.ndarray:
    """Doses from 0 to beyond the highest of all volumes, so that no overdose is cut off."""
    return np.arange(0, max(dose_gy.max() for dose_gy in doses_gy) + 2 * DOSE_STEP_GY, DOSE_STEP_GY)


def darken(hex_colour: str) -> tuple:
    """A structure's colour for lines on white paper."""
    return tuple(0.75 * int(hex_colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
