"""Figures of ensembles: the law of averages, and whether the spread is calibrated."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from lib.report.steps_figures import draw_curve
from lib.report.style import colour, panels
from lib.studies.rows import sizes_of


def ensemble(rows, regression_rows, regression):
    """fig3: A error of a mean of n members; B squared error against 1 / n, the law of averages; a colour per
    source."""
    figure, (left, right) = panels(2, height_in=3.4)
    inverse = np.linspace(0, 1, 50)
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source]
        sizes = [int(n) for n in sizes_of(own)]
        line = source_colour(source)
        draw_curve(left, sizes, [[row["mae_gy"][str(n)] for row in own] for n in sizes], line, source)
        singles = np.mean([row["single_mae_gy"] for row in own], axis=0)
        left.plot(np.ones(len(singles)), singles, "_", color=line, markersize=9, alpha=0.6)
        floor, b = np.mean([row["floor_gy2"] for row in own]), np.mean([row["b_gy2"] for row in own])
        right.plot(inverse, floor + b * inverse, color=line)
        right.plot(1 / np.array(sizes), floor + b / np.array(sizes), "o", color=line)
    left.axhline(
        np.mean([row["mae_gy"] for row in regression_rows]),
        color=colour(regression),
        linestyle="--",
        linewidth=1.2,
        label=f"{regression}, one pass",
    )
    right.axhline(
        np.mean([row["rmse_gy"] ** 2 for row in regression_rows]),
        color=colour(regression),
        linestyle="--",
        linewidth=1.2,
    )
    left.set(xlabel="members averaged, n", ylabel="MAE in the dose mask / Gy", ylim=(0, None))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7.5)
    right.set(xlabel="1 / n", ylabel="mean squared error / Gy$^2$", ylim=(0, None), xlim=(0, 1.02))
    return figure


def source_colour(source):
    """A method's own colour; the rivals made of several regressions get one each."""
    rivals = {"several seeds": "#004488", "its mirror image": "#88AACC"}
    return next((own for ending, own in rivals.items() if source.endswith(ending)), colour(source))


def calibration(found):
    """fig12: A error against spread, bins of voxels over patients; B share of voxels inside intervals."""
    figure, (left, right) = panels(2, height_in=3.4)
    for source in found["factors"]:
        line = source_colour(source)
        own = [row for row in found["rows"] if row["source"] == source]
        sums = {
            key: np.sum([row["spread_skill"][key] for row in own], axis=0)
            for key in ("voxels", "spread_gy2", "error_gy2")
        }
        filled = sums["voxels"] >= 0.002 * sums["voxels"].sum()
        spread, error = (
            np.sqrt(sums[key][filled] / sums["voxels"][filled]) for key in ("spread_gy2", "error_gy2")
        )
        left.plot(spread, error, "o-", color=line, label=source)
        levels = list(own[0]["coverage_pct"])
        for judged, style, face in ((own, "o-", line), ([row["recalibrated"] for row in own], "o:", "white")):
            covered = [np.mean([row["coverage_pct"][n] for row in judged]) for n in levels]
            right.plot([float(n) for n in levels], covered, style, color=line, markerfacecolor=face)
    end = max(*left.get_xlim(), 1)
    left.plot([0, end], [0, end], color="#888888", linewidth=1)
    right.plot([40, 100], [40, 100], color="#888888", linewidth=1)
    left.set(
        xlabel="spread of the members / Gy",
        ylabel="root mean squared error / Gy",
        xlim=(0, None),
        ylim=(0, None),
    )
    right.set(
        xlabel="central interval / %",
        ylabel="voxels whose planned dose it holds / %",
        ylim=(0, 100),
        xlim=(45, 100),
    )
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7.5)
    return figure
