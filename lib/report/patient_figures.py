"""One patient closely: every layer in three planes, doses along lines through the target, samples' DVHs."""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.features.samples import Sample
from lib.metrics.dvh import dvh_curve
from lib.prediction.predict import on_case_grid
from lib.report import views
from lib.report.slices import PLANES, structure_colour, target_index
from lib.report.style import BESIDE, colour, dashes, panels, picture_grid
from lib.studies.experiment import Experiment

LINES = {"right - left": 2, "front - back": 1, "foot - head": 0}  # and the axis they follow
PICTURE_PX = 220


def three_planes(run: Experiment, case_id: str, method: str) -> Figure:
    """fig17: One method's dose of one patient through the middle of the target: planned, predicted,
    difference, spread, gamma; a row a plane."""
    case = run.open_cohort().load(case_id)
    doses = [views.with_gamma(case, views.load_dose(run.folder, method, case))]
    rows = [
        views.render_view(
            views.close_view(case, doses, plane)._replace(layers=views.LAYERS, size_px=PICTURE_PX)
        )
        for plane in PLANES
    ]
    titles = [title.replace(": ", ":\n") for title in rows[0]]
    return picture_grid([list(row.values()) for row in rows], titles)[0]


def profiles(run: Experiment, case_id: str, methods: Sequence[str]) -> Figure:
    """fig18: Doses of one patient along lines through the middle of the target of highest prescription."""
    case = run.open_cohort().load(case_id)
    target, centre = case.masks[case.primary_target], [target_index(case, plane) for plane in PLANES]
    doses = [views.load_dose(run.folder, method, case) for method in methods]
    figure, axes = panels(len(LINES), height_in=2.9, sharey=True)
    for ax, (name, axis) in zip(axes, LINES.items()):
        line = tuple(slice(None) if a == axis else index for a, index in enumerate(centre))
        at_mm = (np.arange(case.shape[axis]) - centre[axis]) * case.spacing_mm[axis]
        shade_extent(ax, at_mm, target[line])
        ax.plot(at_mm, case.dose_gy[line], color="black", label="planned")
        for dose in doses:
            draw_profile(ax, at_mm, dose, line)
        ax.set(xlabel=f"{name} / mm", xlim=at_mm[np.flatnonzero(case.dose_mask[line])[[0, -1]]])
    axes[0].set(ylabel="dose / Gy", ylim=(0, None))
    axes[-1].legend(fontsize=7.5, **BESIDE)
    return figure


def shade_extent(ax: Axes, at_mm: np.ndarray, inside: np.ndarray) -> None:
    """Grey where the line runs through the target."""
    look = {"transform": ax.get_xaxis_transform(), "color": "#E6E6E6", "linewidth": 0, "step": "mid"}
    ax.fill_between(at_mm, 0, 1, where=inside, **look)


def draw_profile(ax: Axes, at_mm: np.ndarray, dose: views.MethodDose, line: tuple) -> None:
    """A predicted dose along a line; where it is a mean of samples, with two of their spreads each way."""
    dose_gy, ink = dose.dose_gy[line], colour(dose.method)
    stroke = ":" if dashes(dose.method) == "--" else "--"  # a variant has its method's colour
    ax.plot(at_mm, dose_gy, stroke, color=ink, linewidth=1.4, label=dose.method)
    if dose.spread_gy is not None:
        reach_gy = 2 * dose.spread_gy[line]
        ax.fill_between(at_mm, dose_gy - reach_gy, dose_gy + reach_gy, color=ink, alpha=0.18, linewidth=0)


def dvh_bands(run: Experiment, sample: Sample, members: dict[str, torch.Tensor]) -> Figure:
    """fig19: DVHs of a patient, planned lines, members' range bands; `members`: source -> [N,1,d,h,w]."""
    case, columns = run.open_cohort().load(sample.case_id), min(4, len(members))
    figure, axes = panels(columns, rows=-(-len(members) // columns), height_in=2.5, sharex=True, sharey=True)
    for ax, (source, dose) in zip(axes, members.items()):
        members_gy = on_case_grid(dose, case, run.grid)
        views.draw_dvhs(ax, case, [], tuple(case.masks))
        for name, mask in case.judged_masks.items():
            ink = views.darken(structure_colour(case, name))
            draw_band(ax, members_gy, mask, np.arange(0, 1.15 * case.rx_gy, views.DOSE_STEP_GY), ink)
        ax.set_title("\n".join(textwrap.wrap(f"{source}, {len(members_gy)} members", 26)), fontsize=8)
        ax.label_outer()
    for ax in axes[len(members) :]:
        ax.set_axis_off()
    title = "planned; bands:\nrange of members"
    axes[columns - 1].legend(fontsize=6.5, title=title, title_fontsize=6.5, **BESIDE)
    return figure


def draw_band(ax: Axes, members_gy: np.ndarray, mask: np.ndarray, edges_gy: np.ndarray, ink: tuple) -> None:
    """From the lowest to the highest DVH of members [N,D,H,W] in one structure."""
    curves = [dvh_curve(member_gy, mask, edges_gy) for member_gy in members_gy]
    ax.fill_between(
        edges_gy, np.min(curves, axis=0), np.max(curves, axis=0), color=ink, alpha=0.3, linewidth=0
    )
