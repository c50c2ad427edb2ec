"""Figures of patients: doses on CT, dose-volume histograms, profiles; by several methods, or of a cohort."""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from lib.cases.cohort import Cohort
from lib.features.samples import Sample
from lib.metrics.dvh import dvh_curve
from lib.models.methods import kind
from lib.prediction.predict import on_case_grid
from lib.report import views
from lib.report.slices import PLANES, structure_colour, target_index
from lib.report.style import BESIDE, NO_PICTURE, colour, panels, picture_grid, small_panels
from lib.studies.experiment import Experiment

PATIENTS = 24  # whose planned DVHs are drawn
LINES = {"right - left": 2, "front - back": 1, "foot - head": 0}  # and the axis they follow
PICTURE_PX = 220


def dose_panels(run: Experiment, case_id: str, methods: Sequence[str]) -> Figure:
    """fig6: Planned and predicted doses of one patient and their differences, through the target's middle."""
    case, methods = run.open_cohort().load(case_id), ["control", *methods]
    view = views.close_view(case, [views.load_dose(run.folder, method, case) for method in methods])
    planned, *others = views.render_view(view._replace(layers=("difference",))).values()
    pictures = [planned, *others[::2], NO_PICTURE, *others[1::2]]
    figure, axes = picture_grid(pictures, ["planned", *methods], 1 + len(methods))
    legend = axes[1 + len(methods)]
    for name in view.structures:
        legend.plot([], [], color=structure_colour(case, name), label=name.replace("_", " "))
    legend.legend(loc="center", fontsize=6.5, labelspacing=0.25, labelcolor="white")
    return figure


def dvhs(run: Experiment, case_id: str, methods: Sequence[str]) -> Figure:
    """fig7: Dose-volume histograms of one patient: planned as lines, predicted dashed, one panel a method."""
    case = run.open_cohort().load(case_id)
    figure, axes = panels(len(methods), height_in=3.0, sharex=True, sharey=True)
    for ax, method in zip(axes, methods):
        views.draw_dvhs(ax, case, [views.load_dose(run.folder, method, case).dose_gy], tuple(case.masks))
        ax.set(title=method, ylabel="volume / %" if ax is axes[0] else "")
    axes[-1].legend(fontsize=7, title="planned, dashed: predicted", title_fontsize=7, **BESIDE)
    return figure


def planned_dvhs(cohort: Cohort) -> Figure:
    """fig22: Planned DVHs of up to 24 patients of the cohort, one panel a structure, a line a patient."""
    structures = list(cohort.protocol.structures)
    figure, axes = small_panels(len(structures), 5, height_in=1.7)
    every = max(1, len(cohort.case_ids) // PATIENTS)
    cases = [cohort.load(case_id) for case_id in cohort.case_ids[::every][:PATIENTS]]
    edges_gy = views.dose_axis_gy(*(case.dose_gy for case in cases))
    for ax, name in zip(axes, structures):
        drawn = [case for case in cases if name in case.judged_masks]
        for case in drawn:
            volume_pct = dvh_curve(case.dose_gy, case.judged_masks[name], edges_gy)
            ax.plot(edges_gy, volume_pct, color="#333333", alpha=0.3, linewidth=0.8)
        ax.set_title(f"{name.replace('_', ' ')} (n = {len(drawn)})", fontsize=8)
    figure.supxlabel("planned dose / Gy", fontsize=9)
    figure.supylabel("volume / %", fontsize=9)
    return figure


def gallery(cohort: Cohort, findings: Sequence[str], count: int) -> Figure:
    """fig0: Planned doses of `count` patients, those with findings first, axial and coronal."""
    case_ids = list(dict.fromkeys([*findings, *cohort.case_ids]))[:count]
    cases = [cohort.load(case_id) for case_id in case_ids]
    seen = [views.close_view(case, [], plane) for plane in ("axial", "coronal") for case in cases]
    titles = [f"{i} (finding)" if i in findings else i for i in case_ids]
    return picture_grid([views.render_panels(view)["planned dose"] for view in seen], titles, len(cases))[0]


def three_planes(run: Experiment, case_id: str, method: str) -> Figure:
    """fig17: A method's dose in planes through the target: planned, predicted, difference, spread, gamma."""
    case = run.open_cohort().load(case_id)
    doses = [views.with_gamma(case, views.load_dose(run.folder, method, case))]
    look = {"layers": views.LAYERS, "size_px": PICTURE_PX}
    rows = [views.render_view(views.close_view(case, doses, plane)._replace(**look)) for plane in PLANES]
    titles = [title.replace(": ", ":\n") for title in rows[0]]
    return picture_grid([picture for row in rows for picture in row.values()], titles, len(titles))[0]


def profiles(run: Experiment, case_id: str, methods: Sequence[str]) -> Figure:
    """fig18: Doses of one patient along lines through the middle of the target, which is grey; with two of
    their spreads each way where they are means of samples."""
    case = run.open_cohort().load(case_id)
    target, centre = case.masks[case.primary_target], [target_index(case, plane) for plane in PLANES]
    doses = [views.load_dose(run.folder, method, case) for method in methods]
    figure, axes = panels(len(LINES), height_in=2.9, sharey=True)
    for ax, (name, axis) in zip(axes, LINES.items()):
        line = tuple(slice(None) if a == axis else index for a, index in enumerate(centre))
        at_mm = (np.arange(case.shape[axis]) - centre[axis]) * case.spacing_mm[axis]
        grey = {"transform": ax.get_xaxis_transform(), "color": "#E6E6E6", "step": "mid"}
        ax.fill_between(at_mm, 0, 1, where=target[line], linewidth=0, **grey)
        ax.plot(at_mm, case.dose_gy[line], color="black", label="planned")
        for dose in doses:
            dose_gy, ink = dose.dose_gy[line], colour(dose.method)
            stroke = "--" if dose.method == kind(dose.method) else ":"  # a variant has its method's colour
            ax.plot(at_mm, dose_gy, stroke, color=ink, linewidth=1.4, label=dose.method)
            if dose.spread_gy is not None:
                ends_gy = (dose_gy + times * dose.spread_gy[line] for times in (-2, 2))
                ax.fill_between(at_mm, *ends_gy, color=ink, alpha=0.18, linewidth=0)
        ax.set(xlabel=f"{name} / mm", xlim=at_mm[np.flatnonzero(case.dose_mask[line])[[0, -1]]])
    axes[0].set(ylabel="dose / Gy", ylim=(0, None))
    axes[-1].legend(fontsize=7.5, **BESIDE)
    return figure


def dvh_bands(run: Experiment, sample: Sample, members: dict[str, torch.Tensor]) -> Figure:
    """fig19: DVHs of a patient, planned lines, members' range bands; `members`: source -> [N,1,d,h,w]."""
    case, columns = run.open_cohort().load(sample.case_id), min(4, len(members))
    figure, axes = small_panels(len(members), columns, height_in=2.5)
    for ax, (source, dose) in zip(axes, members.items()):
        members_gy = on_case_grid(dose, case, run.grid)
        views.draw_dvhs(ax, case, [], tuple(case.masks))
        views.draw_dvh_bands(ax, case, members_gy, opacity=0.3)
        ax.set_title("\n".join([*textwrap.wrap(source, 20), f"{len(members_gy)} members"]), fontsize=8)
        ax.label_outer()
    title = "planned; bands:\nrange of members"
    axes[columns - 1].legend(fontsize=6.5, title=title, title_fontsize=6.5, **BESIDE)
    return figure
