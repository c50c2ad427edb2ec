"""Figures of the speed study."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.style import colour, panels, plain_ticks, tick_steps

OURS, LIMIT = colour("baseline"), "#bbbbbb"
ASIDE = {"textcoords": "offset points", "va": "center", "fontsize": 8}  # of a number right of its point


def ratios(rows: pd.DataFrame) -> Figure:
    """fig14: How many times as fast as the straightforward way, median and range of repeated pairs."""
    figure, (ax,) = panels(1, height_in=0.32 * len(rows) + 0.9)
    reach = rows[["ratio_low", "ratio_high"]].sub(rows["ratio"], axis=0).abs().T
    ax.errorbar(rows["ratio"], rows["part"], xerr=reach, fmt="o", color=OURS, elinewidth=2.2)
    for row in rows.itertuples():
        ax.annotate(f"{row.ratio:.1f}", (row.ratio_high, row.part), (5, 0), **ASIDE)
    ax.axvline(1, color="#888888", linewidth=1)
    ax.set(xscale="log", xlabel="times as fast as the straightforward way", ylim=(len(rows) - 0.4, -0.6))
    plain_ticks(ax.xaxis)
    return figure


def ceilings(rows: pd.DataFrame) -> Figure:
    """fig15: Achieved arithmetic against its intensity, under the measured roof (Williams et al. 2009)."""
    figure, (ax,) = panels(1, height_in=3.4)
    intensity, achieved = rows["gflop"] / rows["gbyte"], rows["gflop"] / rows["seconds"]
    x = np.geomspace(intensity.min() / 4, intensity.max() * 8, 200)
    for roof, line in zip(rows.drop_duplicates("peak_gflop_s").itertuples(), ("-", "--")):
        ax.plot(x, np.minimum(roof.peak_gflop_s, x * roof.peak_gbyte_s), line, color=LIMIT, label=roof.part)
    ax.plot(intensity, achieved, "o", color=OURS)
    for part, share, *place in zip(rows["part"], rows["of_peak_flop_pct"], intensity, achieved):
        ax.annotate(f"{part}: {share:.0f} %", place, (6, 0), **ASIDE)
    ax.set(xscale="log", yscale="log", xlabel="counted FLOP a byte moved", ylabel="GFLOP/s")
    ax.legend(title="measured roof of", title_fontsize=8.5)
    plain_ticks(ax.xaxis), plain_ticks(ax.yaxis)
    return figure


def costs(scaling: pd.DataFrame, exponents: dict[str, float]) -> Figure:
    """fig16: Seconds against the size of what is predicted, with the exponent (by axis) that fits."""
    figure, axes = panels(len(exponents), height_in=2.6)
    for ax, (axis, rows) in zip(axes, scaling.astype({"size": int}).groupby("axis", sort=False)):
        sizes, seconds, power = rows["size"], rows["seconds"], exponents[axis]
        ax.plot(sizes, np.exp(np.log(seconds / sizes**power).mean()) * sizes**power, color=LIMIT)
        ax.plot(sizes, seconds, "o", color=OURS)
        ax.set(xscale="log", yscale="log", xlabel=axis, title=f"time ~ size$^{{{power:.2f}}}$")
        tick_steps(ax, list(sizes))
        if axis == "voxels":
            ax.xaxis.set_major_formatter(lambda voxels, _: f"{voxels ** (1 / 3):.0f}³")
        plain_ticks(ax.yaxis)
    axes[0].set_ylabel("seconds")
    return figure
