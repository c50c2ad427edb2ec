"""The page of a checked plan: one file to print, without a network or a kernel."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from lib.cases.case import Case
from lib.report import views
from lib.report.pictures import webp_uri
from lib.report.scrubber import TEMPLATES
from lib.report.slices import PLANES, slice_box
from lib.report.style import panels, picture_grid, plt

INSIDE, OUTSIDE = "#777777", "#D55E00"  # of planned values in their intervals and beyond
PICTURE_PX = 260
HALF_IN = 4.6  # width of one of two figures side by side


def plan_page(
    case: Case,
    table: pd.DataFrame,
    members_gy: np.ndarray,
    answer: str,
    stands_out: Sequence[str],
    cautions: Sequence[str],
    about: dict[str, str],
) -> str:
    """The page as HTML; `table` of lib.studies.plan_check; `about`: experiment, promise, level, command."""
    shown = table["goal"].notna() | (table["quantity"] == "Dmean") | (table["sentence"] != "")
    figures = {"intervals": draw_intervals(table), "dvhs": draw_dvhs(case, members_gy)}
    figures["slices"] = draw_slices(case, members_gy, answer)
    values = {"tables": [table[shown], table[~shown]], "answer": answer, "about": about}
    values["pictures"] = {name: picture(figure) for name, figure in figures.items()}
    values |= {"stands_out": stands_out, "cautions": cautions}
    return TEMPLATES.get_template("plan_page.html.jinja").render(values, case=case)


def picture(figure: Figure) -> Markup:
    """A figure as the source of an <img>."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    plt.close(figure)  # a notebook would show it once more
    return Markup(webp_uri(Image.open(buffer)))


def draw_intervals(table: pd.DataFrame) -> Figure:
    """What plans of such anatomies reach, as bars, and what is planned, as dots: the quantities in Gy."""
    rows = table[table["unit"] == "Gy"].iloc[::-1].reset_index(drop=True)
    figure, (ax,) = panels(1)
    figure.set_size_inches(HALF_IN, 0.16 * len(rows) + 0.6)
    ax.hlines(rows.index, rows["low"], rows["high"], color="#9CC3E0", linewidth=6)
    ax.plot(rows["middle"], rows.index, "|", color="#0072B2", markersize=7)
    outside = rows["sentence"] != ""
    for part, ink in ((rows[~outside], INSIDE), (rows[outside], OUTSIDE)):
        ax.plot(part["planned"], part.index, "o", color=ink, markersize=4.5)
    names = rows["structure"].str.replace("_", " ") + " " + rows["quantity"]
    ax.set_yticks(rows.index, names, fontsize=7.5)
    ax.set(xlabel="dose / Gy", ylim=(-0.7, len(rows) - 0.3))
    return figure


def draw_dvhs(case: Case, members_gy: np.ndarray) -> Figure:
    """Planned dose-volume histograms as lines, the mean prediction dashed; bands: the members' range."""
    figure, (ax,) = panels(1)
    figure.set_size_inches(HALF_IN, 4.0)
    views.draw_dvhs(ax, case, [members_gy.mean(axis=0)], tuple(case.masks))
    if len(members_gy) > 1:
        views.draw_dvh_bands(ax, case, members_gy, opacity=0.25)
    ax.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    return figure


def draw_slices(case: Case, members_gy: np.ndarray, answer: str) -> Figure:
    """In each plane the slice in which plan and mean prediction differ most: both, and their difference."""
    dose = views.dose_of(case, answer, members_gy.mean(axis=0))
    rows = []
    for plane, axis in PLANES.items():
        off_gy = np.abs(dose.error_gy).sum(axis=tuple({0, 1, 2} - {axis}))
        look = {"index": int(off_gy.argmax()), "layers": ("difference",), "size_px": PICTURE_PX}
        look["box"] = slice_box(case, plane, look["index"])
        rows += views.render_view(views.close_view(case, [dose], plane)._replace(**look)).values()
    return picture_grid(rows, ["planned", "predicted", "predicted - planned"], 3)[0]
