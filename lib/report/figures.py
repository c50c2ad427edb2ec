"""Figures 1 to 5 of the report, drawn from results; every axis says its unit."""
import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator

from lib.evaluation.compare import interval, paired_difference
from lib.report.sentences import ranked
from lib.report.style import RAMP, colour, panels, sns
from lib.studies import by_method, sizes_of


def training_curves(histories):
    """Figure 1. A the loss, B the error on validation patients; `histories` is method -> rows of `train`."""
    figure, (left, right) = panels(2)
    for method, rows in histories.items():
        validated = [row for row in rows if row["validation_mae_gy"] is not None]
        left.plot([r["epoch"] for r in rows], [r["loss"] for r in rows], color=colour(method), label=method)
        right.plot([r["epoch"] for r in validated], [r["validation_mae_gy"] for r in validated], "o-", color=colour(method), label=method)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel="validation MAE / Gy", ylim=(0, None))
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(histories) > 1:
        right.legend()
    return figure


def sampling_steps(rows, regression_rows, method, regression):
    """Figure 2. A error against the number of steps, one curve per setting; B seconds per patient."""
    figure, (left, right) = panels(2, height_in=3.2)
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    held = iter(sns.color_palette(RAMP, max(1, len(settings) - 1)))
    for setting in settings:
        of_setting = [row for row in rows if row["setting"] == setting]
        steps = sorted({row["n_steps"] for row in of_setting})
        errors = [[row["mae_gy"] for row in of_setting if row["n_steps"] == n] for n in steps]
        line = colour(method) if setting == "reference's grid" else next(held)
        draw_curve(left, steps, errors, line, setting)
        seconds = [np.mean([row["seconds"] for row in of_setting if row["n_steps"] == n]) for n in steps]
        right.plot(steps, seconds, "o-", color=line)
    regressed = np.mean([row["mae_gy"] for row in regression_rows])
    left.axhline(regressed, color=colour(regression), linestyle="--", linewidth=1.2, label=regression)
    left.set(xlabel="sampling steps", ylabel="MAE in the dose mask / Gy", xscale="log", ylim=(0, None))
    left.legend()
    right.set(xlabel="sampling steps", ylabel="seconds per patient", xscale="log", yscale="log")
    for ax in (left, right):
        tick_steps(ax, sorted({row["n_steps"] for row in rows}))
    return figure


def tick_steps(ax, steps):
    """Plain numbers at the steps that were tried, on a logarithmic axis."""
    ax.set_xticks(steps, [str(n) for n in steps])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_curve(ax, x, groups, line, label):
    """Means of groups of values with the 95 % interval over patients as a band."""
    ax.plot(x, [np.mean(values) for values in groups], "o-", color=line, label=label)
    if len(groups[0]) >= 3:
        bounds = np.array([interval(values) for values in groups])
        ax.fill_between(x, bounds[:, 0], bounds[:, 1], color=line, alpha=0.15, linewidth=0)


def ensemble(rows, regression_rows, method, regression):
    """Figure 3. A error of a mean of n samples; B squared error against 1 / n, the law of averages."""
    figure, (left, right) = panels(2, height_in=3.2)
    sizes = [int(n) for n in sizes_of(rows)]
    draw_curve(left, sizes, [[row["mae_gy"][str(n)] for row in rows] for n in sizes], colour(method), f"mean of n samples of {method}")
    singles = np.mean([row["single_mae_gy"] for row in rows], axis=0)
    left.plot(np.ones(len(singles)), singles, "_", color=colour(method), markersize=9, alpha=0.7, label="one member each")
    left.axhline(np.mean([row["mae_gy"] for row in regression_rows]), color=colour(regression), linestyle="--", linewidth=1.2, label=regression)
    left.set(xlabel="samples averaged, n", ylabel="MAE in the dose mask / Gy", ylim=(0, None), xticks=sizes)
    left.legend(loc="best")
    floor, b = np.mean([row["floor_gy2"] for row in rows]), np.mean([row["b_gy2"] for row in rows])
    inverse = np.linspace(0, 1, 50)
    right.plot(inverse, floor + b * inverse, color=colour(method), label="floor + b / n")
    right.plot(1 / np.array(sizes), floor + b / np.array(sizes), "o", color=colour(method))
    right.axhline(np.mean([row["rmse_gy"] ** 2 for row in regression_rows]), color=colour(regression), linestyle="--", linewidth=1.2, label=regression)
    right.set(xlabel="1 / n", ylabel="mean squared error / Gy$^2$", ylim=(0, None))
    right.legend(loc="best")
    return figure


def model_comparison(rows):
    """Figure 4. Error of every method, a dot per patient; A in the dose mask, B over the whole volume, air included."""
    order = ["control", *reversed(ranked(rows))]
    figure, axes = panels(2, height_in=0.45 * len(order) + 1.0, sharey=True)
    for ax, key, name in zip(axes, ("mae_gy", "whole_volume_mae_gy"), ("MAE in the dose mask / Gy", "MAE over the whole volume / Gy")):
        for position, method in enumerate(order):
            draw_dots(ax, position, by_method(rows, key)[method], colour(method.split(",")[0]))
        ax.set(xlabel=name, xlim=(0, None))
    axes[0].set_yticks(range(len(order)), order)
    return figure


def draw_dots(ax, position, values, line):
    """One row of a dot plot: patients faint, the mean with its interval strong."""
    offsets = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0]
    ax.plot(values, position + np.asarray(offsets), "o", color=line, alpha=0.35, markersize=3.5)
    ax.plot(np.mean(values), position, "D", color=line, markersize=6)
    if len(values) >= 3:
        ax.plot(interval(values), [position, position], color=line, linewidth=2.5)


def key_finding(rows, margin_gy):
    """Figure 5. Difference of every method to the baseline with its 95 % interval; the band is the margin."""
    values = by_method(rows)
    order = [m for m in reversed(ranked(rows)) if m != "baseline"]
    figure, (ax,) = panels(1, height_in=0.5 * len(order) + 1.0)
    ax.axvspan(-margin_gy, margin_gy, color="#dddddd", linewidth=0)
    ax.axvline(0, color="#888888", linewidth=1)
    for position, method in enumerate(order):
        d = paired_difference(values[method], values["baseline"])
        ax.plot(d.mean, position, "D", color=colour(method.split(",")[0]), markersize=6)
        if d.low is not None:
            ax.plot([d.low, d.high], [position, position], color=colour(method.split(",")[0]), linewidth=2.5)
    ax.set_yticks(range(len(order)), order)
    n = len(values["baseline"])
    ax.set(xlabel=f"difference to the baseline in MAE / Gy, n = {n} (left is better)", ylim=(-0.6, len(order) - 0.4))
    return figure
