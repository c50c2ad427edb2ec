"""Figures of ensembles: the law of averages, and whether the spread is calibrated."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.report.figures import draw_regression, legend_above, look
from lib.report.style import panels, plain_ticks
from lib.studies.results import add_labels, select

LEAST_PCT = 0.2  # of the voxels, that a bin of the spread must hold to be drawn


def label_sources(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of sources of members, labelled by the source with all of its members."""
    rows = rows[rows["source"] != "none"]
    most = rows.groupby(["training", "source"])["members"].transform("max")
    return add_labels(rows.assign(members=most)).assign(members=rows["members"])


def ensemble(rows: pd.DataFrame) -> Figure:
    """fig3: A error of a mean of n members; B squared error against 1 / n, the law of averages."""
    figure, (left, right) = panels(2, height_in=3.4)
    rows = select(rows, region="dose mask")
    regressed, sources = select(rows, source="none"), label_sources(rows)
    options = look(sources, "label") | {"y": "value", "errorbar": None}
    sns.lineplot(select(sources, measure="mae_gy"), x="members", ax=left, **options)
    laws = sources.pivot_table("value", ["label", "case_id"], "measure", sort=False).reset_index()
    points = [laws.assign(share=s, value=laws["floor_gy2"] + s * laws["b_gy2"]) for s in np.linspace(0, 1, 9)]
    sns.lineplot(pd.concat(points), x="share", legend=False, ax=right, **options | {"markers": False})
    draw_regression([left], select(regressed, measure="mae_gy"))
    draw_regression([right], select(regressed, measure="rmse_gy"), power=2)
    left.set(xlabel="members averaged, n", ylabel="MAE in the dose mask / Gy")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in (left, right):
        ax.set_yscale("log")
        plain_ticks(ax.yaxis)
    right.set(xlabel="1 / n", ylabel="mean squared error / Gy$^2$")
    legend_above(figure, [left])
    return figure


def calibration(rows: pd.DataFrame, spread_skill: pd.DataFrame) -> Figure:
    """fig12: A error against spread, bins of voxels over patients; B share of voxels inside intervals."""
    figure, (left, right) = panels(2, height_in=3.4)
    covered, binned = label_sources(select(rows, measure="coverage_pct")), bins(spread_skill)
    covered["spread"] = np.where(covered["factor"] == 1, "as sampled", "with one factor")
    options = look(covered, "label")
    sns.lineplot(binned, x="spread_gy", y="error_gy", estimator=None, sort=False, ax=left, **options)
    options |= {"style": "spread", "markers": ["o", "X"], "dashes": ["", (4, 1.5)]}
    sns.lineplot(covered, x="level_pct", y="value", errorbar=None, ax=right, **options)
    for ax, end in ((left, binned["spread_gy"].max()), (right, 100)):
        ax.plot([end / 20, end], [end / 20, end], color="#888888", linewidth=1, zorder=0)
    left.set(xlabel="spread of the members / Gy", ylabel="root mean squared error / Gy", xscale="log", yscale="log")
    plain_ticks(left.xaxis), plain_ticks(left.yaxis)
    right.set(xlabel="central interval / %", ylabel="voxels whose planned dose it holds / %")
    right.set(xlim=(45, 100), ylim=(0, 100), xticks=covered["level_pct"].unique())
    right.legend(*[part[-2:] for part in right.get_legend_handles_labels()], loc="lower right")
    legend_above(figure, [left])
    return figure


def bins(spread_skill: pd.DataFrame) -> pd.DataFrame:
    """Spread and error in Gy of each source in bins of the spread over all patients, as sampled."""
    rows = label_sources(select(spread_skill, factor=1))
    sums = rows.pivot_table("value", ["label", "bin_gy"], "measure", "sum", sort=False).reset_index()
    sums = sums[sums["voxels"] >= LEAST_PCT / 100 * sums.groupby("label")["voxels"].transform("sum")]
    spread, error = (np.sqrt(sums[name] / sums["voxels"]) for name in ("spread_gy2", "error_gy2"))
    return sums.assign(spread_gy=spread, error_gy=error)
