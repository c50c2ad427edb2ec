"""One patient closely: every layer in three planes, doses along lines through the target, samples' DVHs."""

import textwrap

import numpy as np

from lib.metrics.dvh import dvh_curve
from lib.prediction.predict import on_case_grid
from lib.prediction.store import load_prediction, prediction_path
from lib.report.dose_figures import (
    DOSE_STEP_GY,
    ISODOSE_SHARES,
    darkened,
    draw_dvhs,
    primary_target,
    slice_box,
)
from lib.report.slices import PLANES, central_index, structure_colour
from lib.report.style import WIDTH_IN, colour, dashes, panels
from lib.report.views import LAYERS, open_view, render_view, with_gamma

LINES = {"right - left": 2, "front - back": 1, "foot - head": 0}  # and the axis they follow
PICTURE_PX = 220


def three_planes(run, case_id, method):
    """fig17: One method's dose of one patient through the middle of the target: planned, predicted,
    difference, spread, gamma; a row a plane."""
    view = open_view(run, case_id, [method])
    view = view._replace(
        shown=(with_gamma(view.case, view.shown[0]),),
        layers=LAYERS,
        size_px=PICTURE_PX,
        isodoses_gy=tuple(share * view.case.rx_gy for share in ISODOSE_SHARES),
    )
    target = view.case.masks[primary_target(view.case)]
    middle = {plane: central_index(target, plane) for plane in PLANES}
    rows = [
        list(
            render_view(
                view._replace(plane=plane, index=index, box=slice_box(view.case, plane, index))
            ).items()
        )
        for plane, index in middle.items()
    ]
    columns, heights = len(rows[0]), [pictures[0][1].shape[0] / pictures[0][1].shape[1] for pictures in rows]
    figure, axes = panels(
        columns, rows=len(rows), height_in=WIDTH_IN / columns * np.mean(heights) + 0.15, height_ratios=heights
    )
    for ax, (title, rgb) in zip(axes, (picture for pictures in rows for picture in pictures)):
        ax.set_title(title.replace(": ", ":\n") if ax in axes[:columns] else "", fontsize=8)
        ax.imshow(rgb)
        ax.set_axis_off()
    return figure


def profiles(run, case_id, methods):
    """fig18: Doses of one patient along lines through the middle of the target of highest prescription."""
    case = run.open_cohort().load(case_id)
    target = case.masks[primary_target(case)]
    centre = [central_index(target, plane) for plane in PLANES]
    predictions = {
        method: load_prediction(prediction_path(run.folder, method, case_id), case.dose_mask)
        for method in methods
    }
    figure, axes = panels(len(LINES), height_in=2.9, sharey=True)
    for ax, (name, axis) in zip(axes, LINES.items()):
        line = tuple(slice(None) if a == axis else index for a, index in enumerate(centre))
        at_mm = (np.arange(case.shape[axis]) - centre[axis]) * case.spacing_mm[axis]
        ax.fill_between(
            at_mm,
            0,
            1,
            where=target[line],
            transform=ax.get_xaxis_transform(),
            color="#E6E6E6",
            linewidth=0,
            step="mid",
        )
        ax.plot(at_mm, case.dose_gy[line], color="black", label="planned")
        for method, prediction in predictions.items():
            draw_profile(ax, at_mm, prediction, line, method)
        ax.set(xlabel=f"{name} / mm", xlim=at_mm[np.flatnonzero(case.dose_mask[line])[[0, -1]]])
    axes[0].set(ylabel="dose / Gy", ylim=(0, None))
    axes[-1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_profile(ax, at_mm, prediction, line, method):
    """A predicted dose along a line; where it is a mean of samples, with two of their spreads each way."""
    dose_gy = prediction.dose_gy[line]
    stroke = ":" if dashes(method) == "--" else "--"  # a variant has its method's colour
    ax.plot(at_mm, dose_gy, stroke, color=colour(method), linewidth=1.4, label=method)
    if prediction.spread_gy is not None:
        reach_gy = 2 * prediction.spread_gy[line]
        ax.fill_between(
            at_mm, dose_gy - reach_gy, dose_gy + reach_gy, color=colour(method), alpha=0.18, linewidth=0
        )


def dvh_bands(run, sample, members):
    """fig19: DVHs of a patient, planned lines, members' range bands; `members`: source -> [N,1,d,h,w]."""
    case, columns = run.load_case(sample.case_id), min(4, len(members))
    figure, axes = panels(columns, rows=-(-len(members) // columns), height_in=2.5, sharex=True, sharey=True)
    edges_gy = np.arange(0, 1.15 * case.rx_gy, DOSE_STEP_GY)
    for ax, (source, dose) in zip(axes, members.items()):
        members_gy = on_case_grid(dose, case, run.coarsen)
        draw_dvhs(ax, case, [], case.masks)
        for name, mask in ((name, mask) for name, mask in case.masks.items() if mask.any()):
            curves = [dvh_curve(member_gy, mask, edges_gy) for member_gy in members_gy]
            ax.fill_between(
                edges_gy,
                np.min(curves, axis=0),
                np.max(curves, axis=0),
                color=darkened(structure_colour(name)),
                alpha=0.3,
                linewidth=0,
            )
        ax.set_title("\n".join(textwrap.wrap(f"{source}, {len(members_gy)} members", 26)), fontsize=8)
        ax.label_outer()
    for ax in axes[len(members) :]:
        ax.set_axis_off()
    axes[columns - 1].legend(
        fontsize=6.5,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        title="planned; bands:\nrange of members",
        title_fontsize=6.5,
    )
    return figure
