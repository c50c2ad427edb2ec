"""Figures of the comparison of methods, drawn from results; every axis says its unit."""
import numpy as np
from matplotlib.ticker import MaxNLocator

from lib.evaluation.compare import interval, paired_difference
from lib.report.style import colour, dashes, panels, plain_ticks
from lib.report.verdicts import over_seeds, ranked
from lib.studies.rows import by_method


def training_curves(histories):
    """Figure 1. A the loss, B the error on validation patients; `histories` is method -> rows of `train`."""
    figure, (left, right) = panels(2)
    for method, rows in histories.items():
        validated = [row for row in rows if row["validation_mae_gy"] is not None]
        left.plot([r["epoch"] for r in rows], [r["loss"] for r in rows], dashes(method), color=colour(method), label=method)
        right.plot([r["epoch"] for r in validated], [r["validation_mae_gy"] for r in validated], f"o{dashes(method)}", color=colour(method), label=method)
    positive = all(row["loss"] > 0 for rows in histories.values() for row in rows)  # a likelihood's may be below 0
    left.set(xlabel="epoch", ylabel="training loss")
    left.set_yscale("log" if positive else "symlog", **({} if positive else {"linthresh": 0.1}))
    right.set(xlabel="epoch", ylabel="validation MAE / Gy", ylim=(0, None))
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(histories) > 1:
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5)
    return figure


def model_comparison(rows):
    """Figure 4. Error of every method, a dot per patient; A in the dose mask, B over the whole volume, air included."""
    order = ["control", *reversed(ranked(rows))]
    figure, axes = panels(2, height_in=0.3 * len(order) + 1.0, sharey=True)
    for ax, key, name in zip(axes, ("mae_gy", "whole_volume_mae_gy"), ("MAE in the dose mask / Gy", "MAE over the whole volume / Gy")):
        for position, method in enumerate(order):
            draw_dots(ax, position, by_method(rows, key)[method], colour(method))
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
    values = {method: of_patients for method, (of_patients, _) in over_seeds(rows).items()}
    order = sorted((m for m in values if m not in ("baseline", "control")), key=lambda m: -np.mean(values[m]))
    figure, (ax,) = panels(1, height_in=0.3 * len(order) + 1.0)
    ax.axvspan(-margin_gy, margin_gy, color="#dddddd", linewidth=0)
    ax.axvline(0, color="#888888", linewidth=1)
    for position, method in enumerate(order):
        d = paired_difference(values[method], values["baseline"])
        ax.plot(d.mean, position, "D", color=colour(method), markersize=6)
        if d.low is not None:
            ax.plot([d.low, d.high], [position, position], color=colour(method), linewidth=2.5)
    ax.set_yticks(range(len(order)), order)
    n = len(values["baseline"])
    ax.set(xlabel=f"difference to the baseline in MAE / Gy, n = {n} (left is better)", ylim=(-0.6, len(order) - 0.4))
    return figure


def accuracy_and_cost(rows, samplings):
    """Figure 13. Error against network calls per patient, a point a method; of sampled ones also the mean of N."""
    figure, (ax,) = panels(1, height_in=3.6)
    points = []
    for method, errors in by_method(rows).items():
        name, _, mean_of = method.partition(", mean of ")
        if name in samplings:
            points.append((samplings[name]["nfe"] * int(mean_of.split()[0] if mean_of else 1), float(np.mean(errors)), method))
    gap, below = (max(p[1] for p in points) / min(p[1] for p in points)) ** 0.045, {}
    for calls, error, method in sorted(points):
        ax.plot(calls, error, "D" if ", mean of " in method else "o", color=colour(method), markersize=4.5)
        below[calls] = max(error, below.get(calls, 0) * gap)  # labels of one column do not cover each other
        ax.annotate(method, (calls, below[calls]), xytext=(6, -2.5), textcoords="offset points", fontsize=7, color=colour(method))
    ax.set(xlabel="network calls per patient", ylabel="MAE in the dose mask / Gy", xscale="log", yscale="log")
    plain_ticks(ax.yaxis)
    ax.set_xlim(None, 4 * ax.get_xlim()[1])
    return figure
