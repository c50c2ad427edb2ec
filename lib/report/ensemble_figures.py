"""Figures of ensembles: the law of averages, and whether the spread is calibrated."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.report import frames
from lib.report.figures import draw_regression
from lib.report.style import legend_above, look, panels, plain_ticks, tick_steps
from lib.studies.results import Results, select


def label_sources(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of answers that are averaged, labelled by their source."""
    keys, sources = ["training", "source"], frames.sources(results)
    labels = [rows[keys].iloc[:1].assign(label=name) for name, rows in sources.items()]
    return rows.merge(pd.concat(labels), on=keys)


def ensemble(results: Results) -> Figure:
    """fig3: A error of a mean of n members; B squared error against 1 / n, the law of averages; C and D the
    same near the lowest, where one source squeezes the rest."""
    rows = select(results.frames["03_ensemble"], region="dose mask")
    regressed, sources = select(rows, source="none"), label_sources(results, rows)
    errors, squared = select(sources, measure="mae_gy"), squared_errors(sources)
    means = errors.groupby(["label", "members"])["value"].mean()
    figure, axes = panels(2, rows=2 if means.max() > 2 * means.min() else 1, height_in=3.0)
    options = look(sources, "label") | {"y": "value", "errorbar": None}
    for left, right in zip(axes[::2], axes[1::2]):
        sns.lineplot(errors, x="members", ax=left, **options)
        sns.lineplot(squared, x="share", legend=False, ax=right, **options | {"markers": False})
        draw_regression([left], select(regressed, measure="mae_gy"))
        draw_regression([right], select(regressed, measure="rmse_gy"), 2)
        left.set(xlabel="members averaged, n", ylabel="MAE in the dose mask / Gy", yscale="log")
        right.set(xlabel="1 / n", ylabel="mean squared error / Gy$^2$", yscale="log")
        if left is not axes[0]:
            left.set_ylim(0.95 * means.min(), 1.5 * means.min())
            least = squared.groupby(["label", "share"])["value"].mean().min()
            right.set_ylim(0.9 * least, 2.2 * least)
        tick_steps(left, sorted(errors["members"].astype(int).unique()))
        plain_ticks(left.yaxis), plain_ticks(right.yaxis)
    return legend_above(figure, axes)


def squared_errors(sources: pd.DataFrame) -> pd.DataFrame:
    """The expected squared error of a mean of n members by 1 / n from 0 to 1 (`share`)."""
    laws = sources.pivot_table("value", ["label", "case_id"], "measure", sort=False).reset_index()
    shares = np.linspace(0, 1, 9)
    return pd.concat(laws.assign(share=s, value=laws["floor_gy2"] + s * laws["b_gy2"]) for s in shares)


def calibration(results: Results) -> Figure:
    """fig12: A error against spread, bins of voxels over patients; B share of voxels inside intervals."""
    figure, (left, right) = panels(2, height_in=3.4)
    covered = label_sources(results, select(results.frames["03_ensemble"], measure="coverage_pct"))
    covered["spread"] = np.where(covered["factor"] == 1, "as sampled", "with one factor")
    binned = bins(label_sources(results, select(results.frames["03_spread_skill"], factor=1)))
    options = look(covered, "label")
    sns.lineplot(binned, x="spread_gy", y="error_gy", estimator=None, sort=False, ax=left, **options)
    options |= {"style": "spread", "markers": ["o", "X"], "dashes": ["", (4, 1.5)]}
    sns.lineplot(covered, x="level_pct", y="value", errorbar=None, ax=right, **options)
    left.axline((1, 1), (2, 2), color="#888888", linewidth=1)
    right.axline((50, 50), (95, 95), color="#888888", linewidth=1)
    left.set(xlabel="spread of the members / Gy", ylabel="root mean squared error / Gy")
    left.set(xscale="log", yscale="log")
    plain_ticks(left.xaxis), plain_ticks(left.yaxis)
    right.set(xlabel="central interval / %", ylabel="voxels whose planned dose it holds / %")
    right.set(xlim=(45, 100), ylim=(0, 100), xticks=covered["level_pct"].unique())
    right.legend(*[part[-2:] for part in right.get_legend_handles_labels()], loc="lower right")
    return legend_above(figure, [left])


def bins(rows: pd.DataFrame) -> pd.DataFrame:
    """Spread and error / Gy of each source by bins of the spread, those that hold a share of the voxels."""
    sums = rows.pivot_table("value", ["label", "bin_gy"], "measure", "sum", sort=False).reset_index()
    sums = sums.sort_values("bin_gy")  # a bin that the first patient lacks would come last
    sums = sums[sums["voxels"] >= 0.002 * sums.groupby("label")["voxels"].transform("sum")]
    spread, error = (np.sqrt(sums[name] / sums["voxels"]) for name in ("spread_gy2", "error_gy2"))
    return sums.assign(spread_gy=spread, error_gy=error)
