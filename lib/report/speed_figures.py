"""Figures of the speed study."""

import numpy as np
from matplotlib.ticker import NullLocator

from lib.report.style import colour, panels, plain_ticks
from lib.studies.speed import exponents

OURS, LIMIT = colour("baseline"), "#bbbbbb"


def ratios(rows):
    """fig14: How many times as fast as the straightforward way, median and range of repeated pairs."""
    figure, (ax,) = panels(1, height_in=0.32 * len(rows) + 0.9)
    for position, r in enumerate(rows[::-1]):
        ax.plot([r["ratio_low"], r["ratio_high"]], [position, position], color=OURS, linewidth=2.2)
        ax.plot(r["ratio"], position, "o", color=OURS)
        ax.annotate(
            f"{r['ratio']:.1f}",
            (r["ratio_high"], position),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.axvline(1, color="#888888", linewidth=1)
    ax.set_yticks(range(len(rows)), [r["part"] for r in rows[::-1]])
    ax.set(xscale="log", xlabel="times as fast as the straightforward way", ylim=(-0.6, len(rows) - 0.4))
    plain_ticks(ax.xaxis)
    return figure


def ceilings(rows):
    """fig15: Achieved arithmetic against its intensity, under the measured roof (Williams et al. 2009)."""
    figure, (ax,) = panels(1, height_in=3.4)
    intensities = [r["gflop"] / r["gbyte"] for r in rows]
    x = np.geomspace(min(intensities) / 4, max(intensities) * 8, 200)
    precisions = dict.fromkeys(r["part"].split(", ")[1] for r in rows)
    for precision, line in zip(precisions, ("-", "--")):
        own = next(r for r in rows if r["part"].endswith(precision))
        ax.plot(
            x,
            np.minimum(own["peak_gflop_s"], x * own["peak_gbyte_s"]),
            line,
            color=LIMIT,
            label=f"measured roof, {precision}",
        )
    for r, intensity in zip(rows, intensities):
        achieved = r["gflop"] / r["seconds"]
        ax.plot(intensity, achieved, "o", color=OURS)
        ax.annotate(
            f"{r['part']}: {r['of_peak_flop_pct']:.0f} %",
            (intensity, achieved),
            (6, -3),
            textcoords="offset points",
            fontsize=7.5,
        )
    ax.set(xscale="log", yscale="log", xlabel="counted FLOP a byte moved", ylabel="GFLOP/s")
    ax.legend()
    for axis in (ax.xaxis, ax.yaxis):
        plain_ticks(axis)
    return figure


def costs(rows):
    """fig16: Seconds against the size of what is predicted, with the exponent that fits."""
    powers = exponents(rows)
    figure, axes = panels(len(powers), height_in=2.6)
    for ax, (axis, power) in zip(axes, powers.items()):
        own = [r for r in rows if r["axis"] == axis]
        sizes, seconds = np.array([r["size"] for r in own]), np.array([r["seconds"] for r in own])
        fitted = np.exp(np.mean(np.log(seconds) - power * np.log(sizes))) * sizes**power
        ax.plot(sizes, fitted, color=LIMIT)
        ax.plot(sizes, seconds, "o", color=OURS)
        ax.set(xscale="log", yscale="log", xlabel=axis)
        ax.annotate(f"size^{power:.2f}", (0.06, 0.9), xycoords="axes fraction", fontsize=8.5)
        ax.set_xticks(sizes, [f"{round(s ** (1 / 3))}³" if axis == "voxels" else str(s) for s in sizes])
        ax.xaxis.set_minor_locator(NullLocator())
        plain_ticks(ax.yaxis)
    axes[0].set_ylabel("seconds")
    return figure
