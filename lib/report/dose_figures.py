"""Pictures of doses on CT, and dose-volume histograms."""

import numpy as np

from lib.metrics.dvh import dvh_curve
from lib.prediction.store import load_prediction, prediction_path
from lib.report.slices import (
    PLANES,
    Overlay,
    body_box,
    central_index,
    colour_lut,
    render_slice,
    structure_colour,
)
from lib.report.style import WIDTH_IN, panels

DOSE_STEP_GY = 0.5
DIFFERENCE_RANGE_GY = (-15.0, 15.0)
ISODOSE_SHARES = (0.95, 0.5)  # of the prescription


def dose_overlay(dose_gy, rx_gy):
    return Overlay(dose_gy, (0.0, 1.1 * rx_gy), isodoses_gy=tuple(share * rx_gy for share in ISODOSE_SHARES))


def difference_overlay(difference_gy):
    return Overlay(difference_gy, DIFFERENCE_RANGE_GY, "RdBu_r", hidden_below_gy=1.0)


def primary_target(case):
    return max(case.prescription_gy, key=case.prescription_gy.get)


def show(ax, case, plane, index, overlay, structures):
    box = slice_box(case, plane, index)
    ax.imshow(
        render_slice(case, plane, index, overlay, structures=structures, box=box, opacity=0.55, size_px=360)
    )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def dose_panels(run, case_id, methods, plane="axial"):
    """fig6: Planned and predicted doses of one patient and their differences, through the target's middle."""
    case = run.open_cohort().load(case_id)
    target = primary_target(case)
    index = central_index(case.masks[target], plane)
    shown = ["control", *methods]
    doses = {m: predicted_dose_gy(run, m, case) for m in shown}
    figure, axes = panels(
        1 + len(shown),
        rows=2,
        height_in=0.9 * WIDTH_IN / (1 + len(shown)) * aspect(case, plane, index) + 0.25,
    )
    for ax in axes:
        ax.set_title("")
    dose_row, difference_row = axes[: 1 + len(shown)], axes[1 + len(shown) :]
    show(dose_row[0], case, plane, index, dose_overlay(case.dose_gy, case.rx_gy), tuple(case.masks))
    dose_row[0].set_title("planned")
    for ax, below, method in zip(dose_row[1:], difference_row[1:], shown):
        show(ax, case, plane, index, dose_overlay(doses[method], case.rx_gy), tuple(case.masks))
        ax.set_title(method)
        show(below, case, plane, index, difference_overlay(doses[method] - case.dose_gy), (target,))
    legend_of_structures(difference_row[0], case)
    colour_bar(figure, dose_row, "turbo", (0, 1.1 * case.rx_gy), "dose / Gy")
    colour_bar(figure, difference_row, "RdBu_r", DIFFERENCE_RANGE_GY, "difference / Gy")
    return figure


def slice_box(case, plane, index):
    """Three slices around the dose mask as a slice of the plane shows it: shoulders do not shrink a neck."""
    mask = np.moveaxis(case.dose_mask, PLANES[plane], 0)[index]
    if not mask.any():
        return body_box(case)
    box = []
    for axis, spacing_mm in zip((0, 1), (s for a, s in enumerate(case.spacing_mm) if a != PLANES[plane])):
        found, margin = np.flatnonzero(mask.any(axis=1 - axis)), round(10 / spacing_mm)
        box.append(slice(max(0, found[0] - margin), found[-1] + 1 + margin))
    box.insert(PLANES[plane], slice(0, case.shape[PLANES[plane]]))
    return tuple(box)


def aspect(case, plane, index):
    """Height by width of a picture of the slice."""
    height, width = render_slice(case, plane, index, box=slice_box(case, plane, index), size_px=100).shape[:2]
    return height / width


def predicted_dose_gy(run, method, case):
    """A kept prediction, 0 outside the dose mask, where no dose is judged."""
    return load_prediction(prediction_path(run.folder, method, case.case_id), case.dose_mask).dose_gy


def legend_of_structures(ax, case):
    ax.axis("off")
    for name in case.masks:
        ax.plot([], [], color=structure_colour(name), label=name.replace("_", " "))
    ax.legend(loc="center", fontsize=6.5, labelspacing=0.25)


def colour_bar(figure, axes, name, limits, label):
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    mappable = ScalarMappable(Normalize(*limits), ListedColormap(colour_lut(name) / 255))
    figure.colorbar(mappable, ax=list(axes), label=label, shrink=0.9, pad=0.01)


def dvhs(run, case_id, methods):
    """fig7: Dose-volume histograms of one patient: planned as lines, predicted dashed, one panel a method."""
    case = run.open_cohort().load(case_id)
    figure, axes = panels(len(methods), height_in=3.0, sharey=True)
    for ax, method in zip(axes, methods):
        draw_dvhs(ax, case, [predicted_dose_gy(run, method, case)], case.masks)
        ax.set(title=method, ylabel="volume / %" if ax is axes[0] else "")
    axes[-1].legend(
        fontsize=7,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        title="planned, dashed: predicted",
        title_fontsize=7,
    )
    return figure


def draw_dvhs(ax, case, doses_hat_gy, structures):
    """DVHs of the named structures: planned as lines, the predicted doses [D,H,W] dashed, then dotted."""
    edges_gy = np.arange(0, 1.15 * case.rx_gy, DOSE_STEP_GY)
    for name in (name for name in structures if case.masks[name].any()):
        mask, line = case.masks[name], {"color": darkened(structure_colour(name)), "linewidth": 1.4}
        ax.plot(edges_gy, dvh_curve(case.dose_gy, mask, edges_gy), label=name.replace("_", " "), **line)
        for dose_hat_gy, style in zip(doses_hat_gy, ("--", ":")):
            ax.plot(edges_gy, dvh_curve(dose_hat_gy, mask, edges_gy), linestyle=style, **line)
    ax.set(xlabel="dose / Gy", ylabel="volume / %", xlim=(0, edges_gy[-1]), ylim=(0, 102))


def darkened(hex_colour, share=0.75):
    """A structure's colour for lines on white paper."""
    return tuple(share * int(hex_colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def planned_dvhs(cohort, rows):
    """Planned DVHs of up to 24 patients of the cohort, one panel a structure."""
    structures = list(cohort.protocol.structures)
    columns = 5
    figure, axes = panels(
        columns, rows=-(-len(structures) // columns), height_in=1.7, sharex=True, sharey=True
    )
    cases = [cohort.load(row["case_id"]) for row in rows[:: max(1, len(rows) // 24)][:24]]
    edges_gy = np.arange(0, 80, DOSE_STEP_GY)
    for ax, name in zip(axes, structures):
        present = [case for case in cases if name in case.masks and case.masks[name].any()]
        for case in present:
            ax.plot(
                edges_gy,
                dvh_curve(case.dose_gy, case.masks[name], edges_gy),
                color="#333333",
                alpha=0.3,
                linewidth=0.8,
            )
        ax.set_title(f"{name.replace('_', ' ')} (n = {len(present)})", fontsize=8)
    for ax in axes[len(structures) :]:
        ax.remove()
    figure.supxlabel("planned dose / Gy", fontsize=9)
    figure.supylabel("volume / %", fontsize=9)
    return figure


def gallery(cohort, rows, count):
    """Planned doses of `count` patients, those with findings first, axial and coronal through the target."""
    order = sorted(rows, key=lambda row: -len(row["findings"]))[:count]
    figure, axes = panels(len(order), rows=2, height_in=1.7)
    for column, row in enumerate(order):
        case = cohort.load(row["case_id"])
        for ax, plane in zip((axes[column], axes[len(order) + column]), ("axial", "coronal")):
            index = central_index(case.masks[primary_target(case)], plane)
            show(ax, case, plane, index, dose_overlay(case.dose_gy, case.rx_gy), tuple(case.masks))
            ax.set_title("")
        axes[column].set_title(row["case_id"] + (" (finding)" if row["findings"] else ""))
    return figure
