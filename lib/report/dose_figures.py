"""Doses on CT and dose-volume histograms, of one patient by several methods or of many patients."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.cases.case import Case
from lib.cases.cohort import Cohort
from lib.metrics.dvh import dvh_curve
from lib.report.slices import structure_colour
from lib.report.style import BESIDE, NO_PICTURE, panels, picture_grid
from lib.report.views import DOSE_STEP_GY, close_view, draw_dvhs, load_dose, render_panels, render_view
from lib.studies.experiment import Experiment

PATIENTS = 24  # whose DVHs are drawn


def dose_panels(run: Experiment, case_id: str, methods: Sequence[str], plane: str = "axial") -> Figure:
    """fig6: Planned and predicted doses of one patient and their differences, through the target's middle."""
    case, methods = run.open_cohort().load(case_id), ["control", *methods]
    view = close_view(case, [load_dose(run.folder, method, case) for method in methods], plane)
    planned, *others = render_view(view._replace(layers=("difference",))).values()
    figure, axes = picture_grid([[planned, *others[::2]], [NO_PICTURE, *others[1::2]]], ["planned", *methods])
    legend = axes[1 + len(methods)]
    for name in case.masks:
        legend.plot([], [], color=structure_colour(case, name), label=name.replace("_", " "))
    legend.legend(loc="center", fontsize=6.5, labelspacing=0.25)
    return figure


def dvhs(run: Experiment, case_id: str, methods: Sequence[str]) -> Figure:
    """fig7: Dose-volume histograms of one patient: planned as lines, predicted dashed, one panel a method."""
    case = run.open_cohort().load(case_id)
    figure, axes = panels(len(methods), height_in=3.0, sharey=True)
    for ax, method in zip(axes, methods):
        draw_dvhs(ax, case, [load_dose(run.folder, method, case).dose_gy], tuple(case.masks))
        ax.set(title=method, ylabel="volume / %" if ax is axes[0] else "")
    axes[-1].legend(fontsize=7, title="planned, dashed: predicted", title_fontsize=7, **BESIDE)
    return figure


def planned_dvhs(cohort: Cohort) -> Figure:
    """Planned DVHs of up to 24 patients of the cohort, one panel a structure."""
    structures, columns = list(cohort.protocol.structures), 5
    rows = -(-len(structures) // columns)
    figure, axes = panels(columns, rows=rows, height_in=1.7, sharex=True, sharey=True)
    every = max(1, len(cohort.case_ids) // PATIENTS)
    cases = [cohort.load(case_id) for case_id in cohort.case_ids[::every][:PATIENTS]]
    for ax, name in zip(axes, structures):
        draw_planned(ax, name, [case for case in cases if name in case.judged_masks])
    for ax in axes[len(structures) :]:
        ax.remove()
    figure.supxlabel("planned dose / Gy", fontsize=9)
    figure.supylabel("volume / %", fontsize=9)
    return figure


def draw_planned(ax: Axes, name: str, cases: list[Case]) -> None:
    """The planned DVH of one structure, a line a patient."""
    top_gy = max([80.0, *(1.15 * case.rx_gy for case in cases)])
    edges_gy, line = np.arange(0, top_gy, DOSE_STEP_GY), {"color": "#333333", "alpha": 0.3, "linewidth": 0.8}
    for case in cases:
        ax.plot(edges_gy, dvh_curve(case.dose_gy, case.masks[name], edges_gy), **line)
    ax.set_title(f"{name.replace('_', ' ')} (n = {len(cases)})", fontsize=8)


def gallery(cohort: Cohort, findings: Sequence[str], count: int) -> Figure:
    """Planned doses of `count` patients, those with findings first, axial and coronal through the target."""
    case_ids = list(dict.fromkeys([*findings, *cohort.case_ids]))[:count]
    cases = [cohort.load(case_id) for case_id in case_ids]
    rows = [
        [render_panels(close_view(case, [], plane))["planned dose"] for case in cases]
        for plane in ("axial", "coronal")
    ]
    return picture_grid(rows, [f"{i} (finding)" if i in findings else i for i in case_ids])[0]
