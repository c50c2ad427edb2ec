"""The dose-volume histograms of a view: drawn, asked for what lies under a point, and as numbers."""

import io
import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from lib.metrics.dvh import dose_at_cc_gy, dose_at_volume_gy, goal_values
from lib.report import views
from lib.report.style import use_style
from lib.report.views import View

LINES = ("dashed", "dotted")  # of the methods
GOALS_SAY = "✓ met, ✗ not met; in brackets what the prediction has more than the plan."
STATISTICS_SAY = (
    "In Gy, in brackets what the prediction has more than the plan, and in % of the target's prescription "
    "(organs: of the highest). D0.1 cc: the least dose of the hottest 0.1 cc, of one voxel at least."
)
STATISTICS = ("mean", "D95 %", "D2 %", "D0.1 cc")


def doses_gy(view: View) -> dict[str, np.ndarray]:
    """Who gives a dose -> it."""
    return {"planned": view.case.dose_gy} | {dose.method: dose.dose_gy for dose in view.doses}


def draw(figure: Figure | SubFigure, view: View) -> Axes:
    """The DVHs of the view's structures with their names below."""
    ax, case = figure.add_subplot(), view.case
    views.draw_dvhs(ax, case, [dose.dose_gy for dose in view.doses], view.structures)
    which = "".join(f", {line}: {dose.method}" for line, dose in zip(LINES, view.doses))
    ax.set_title(textwrap.fill(f"lines: planned{which}", 62), fontsize=8.5)
    ax.grid(alpha=0.5, linewidth=0.6)
    if ax.lines:
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, handlelength=1.2, columnspacing=1.2)
    return ax


class DVHs:
    """The histograms as a picture; `text_at` reads them."""

    def __init__(self, view: View):
        use_style()
        self.figure, self.names = Figure((4.6, 4.4), layout="constrained"), list(doses_gy(view))
        self.ax = draw(self.figure, view)
        self.structures = [name for name in view.structures if name in view.case.judged_masks]
        self.dose_axis_gy = self.ax.lines[0].get_xdata() if self.structures else np.zeros(1)
        curves = [line.get_ydata() for line in self.ax.lines]
        self.curves = np.reshape(curves, (len(self.structures), len(self.names), len(self.dose_axis_gy)))
        with io.BytesIO() as buffer:
            self.figure.savefig(buffer, format="png", dpi=180, pil_kwargs={"compress_level": 1})
            self.png = buffer.getvalue()

    def text_at(self, x: float, y: float) -> str:
        """Of a point (shares of the picture's width and height from its top left): dose and volume, and what
        the structure with the nearest line gets, by each dose. Nothing beside the axes."""
        width, height = self.figure.get_size_inches() * self.figure.dpi
        dose_gy, pct = self.ax.transData.inverted().transform((x * width, (1 - y) * height))
        if not (self.structures and 0 <= dose_gy <= self.dose_axis_gy[-1] and 0 <= pct <= 102):
            return ""
        at_dose = np.array([[np.interp(dose_gy, self.dose_axis_gy, c) for c in of] for of in self.curves])
        nearest = int(np.abs(at_dose - pct).min(axis=1).argmin())
        volumes = with_difference(at_dose[nearest], self.names, "%")
        falling = self.curves[nearest, :, ::-1]
        at_volume = [np.interp(pct, curve, self.dose_axis_gy[::-1]) for curve in falling]
        name = self.structures[nearest].replace("_", " ")
        doses = with_difference(at_volume, self.names, "Gy")
        return f"{name} · {dose_gy:.1f} Gy or more: {volumes} · hottest {pct:.0f} %: at least {doses}"


def with_difference(values, names, unit: str) -> str:
    """The planned value, and the others with what they have more."""
    planned, *others = values
    texts = [f"{n} {v:.1f} {unit} ({v - planned:+.1f})" for n, v in zip(names[1:], others)]
    return ", ".join([f"{names[0]} {planned:.1f} {unit}", *texts])


def statistics_gy(dose_gy: np.ndarray, mask: np.ndarray, voxel_cc: float) -> list[float | None]:
    """STATISTICS of a structure's dose; None where it has too few voxels."""
    inside_gy = dose_gy[mask].astype(np.float64)
    by_volume = [dose_at_volume_gy(inside_gy, share) for share in (95, 2)]
    return [float(inside_gy.mean()), *by_volume, dose_at_cc_gy(inside_gy, 0.1, voxel_cc)]


def statistic_table(view: View) -> pd.DataFrame:
    """STATISTICS of each structure by each dose, in Gy and in % of its prescription (organs: of the highest),
    a prediction's with its difference from the plan in Gy."""
    case, rows = view.case, {}
    for name in (name for name in view.structures if name in case.judged_masks):
        title = f"{name}, {case.masks[name].sum() * case.voxel_cc:.1f} cc".replace("_", " ")
        mask, rx_gy = case.judged_masks[name], case.prescription_gy.get(name, case.rx_gy)
        planned = statistics_gy(case.dose_gy, mask, case.voxel_cc)
        for who, dose_gy in doses_gy(view).items():
            values = statistics_gy(dose_gy, mask, case.voxel_cc)
            rows[title, who] = [gy_and_pct(*p, rx_gy, who != "planned") for p in zip(values, planned)]
    index = pd.MultiIndex.from_tuples(rows, names=["structure", "dose"]) if rows else None
    return pd.DataFrame(list(rows.values()), index=index, columns=list(STATISTICS))


def gy_and_pct(value: float | None, planned: float | None, rx_gy: float, differs: bool) -> str:
    """A statistic in Gy and in % of `rx_gy`."""
    if value is None:
        return "too few voxels"
    more = f" ({value - planned:+.1f})" if differs else ""
    return f"{value:.1f} Gy{more}, {100 * value / rx_gy:.0f} %"


def goal_table(view: View) -> pd.DataFrame:
    """The goals that can be judged: value by each dose, whether it is met, and how much more than planned."""
    values = {who: goal_values(view.case, dose_gy) for who, dose_gy in doses_gy(view).items()}
    goals = [goal for goal in view.case.protocol.goals if values["planned"][goal.text][0] is not None]

    def cell(goal, who):
        (value, met), planned = values[who][goal.text], values["planned"][goal.text][0]
        more = "" if who == "planned" else f" ({value - planned:+.1f})"
        return f"{'✓' if met else '✗'} {value:.1f} {goal.unit}{more}"

    cells = {who: [cell(goal, who) for goal in goals] for who in values}
    return pd.DataFrame(cells, index=pd.Index([goal.text for goal in goals], name="goal"))
