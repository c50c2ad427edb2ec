"""Figures of the comparison of methods, drawn from results; every axis says its unit."""

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lib.metrics.statistics import interval, paired_difference
from lib.report.style import colour, dashes, marker, panels, plain_ticks, tick_steps
from lib.report.verdicts import over_seeds, ranked
from lib.studies.rows import answers_in, by_method


def training_curves(histories):
    """fig1: A the loss, B the error on validation patients; `histories` is method -> rows of `train`."""
    figure, (left, right) = panels(2)
    for method, rows in histories.items():
        validated = [row for row in rows if row["validation_mae_gy"] is not None]
        left.plot(
            [r["epoch"] for r in rows],
            [r["loss"] for r in rows],
            dashes(method),
            color=colour(method),
            label=method,
        )
        right.plot(
            [r["epoch"] for r in validated],
            [r["validation_mae_gy"] for r in validated],
            f"{marker(right, colour(method))}{dashes(method)}",
            color=colour(method),
            label=method,
        )
    positive = all(
        row["loss"] > 0 for rows in histories.values() for row in rows
    )  # a likelihood's may be below 0
    left.set(xlabel="epoch", ylabel="training loss")
    left.set_yscale("log" if positive else "symlog", **({} if positive else {"linthresh": 0.1}))
    right.set(xlabel="epoch", ylabel="validation MAE / Gy", ylim=(0, None))
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(histories) > 1:
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5)
    return figure


def model_comparison(rows):
    """fig4: Error of every method, a dot per patient; A in the dose mask, B in the whole volume with air."""
    order = ["control", *reversed(ranked(rows))]
    figure, axes = panels(2, height_in=0.3 * len(order) + 1.0, sharey=True)
    for ax, key, name in zip(
        axes,
        ("mae_gy", "whole_volume_mae_gy"),
        ("MAE in the dose mask / Gy", "MAE over the whole volume / Gy"),
    ):
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
    """fig5: Difference of every method to the baseline with its 95 % interval; the band is the margin."""
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
    ax.set(
        xlabel=f"difference to the baseline in MAE / Gy, n = {n} (left is better)",
        ylim=(-0.6, len(order) - 0.4),
    )
    return figure


def accuracy_and_cost(rows, samplings):
    """fig13: Error against network calls per patient, seeds averaged; a line leads from one answer to the
    mean of several (diamond)."""
    figure, (ax,) = panels(1, height_in=3.6)
    errors, above = (
        {name: float(np.mean(values)) for name, (values, _) in over_seeds(rows).items() if name != "control"},
        {},
    )
    gap = (max(errors.values()) / min(errors.values())) ** 0.05
    for name in sorted((n for n in errors if n in samplings), key=errors.get):
        ends = [(samplings[name]["nfe"], errors[name])]
        ends += [
            (ends[0][0] * answers_in(mean), error)
            for mean, error in errors.items()
            if mean.startswith(f"{name}, mean of ")
        ]
        ax.plot(*zip(*ends), "-", color=colour(name), linewidth=1)
        for (calls, error), shape in zip(ends, "o" + "D" * len(ends)):
            ax.plot(calls, error, shape, color=colour(name), markersize=5)
        calls, error = ends[-1]
        above[calls] = max(error, above.get(calls, 0) * gap)  # labels of one column do not cover each other
        left = len(ends) == 1
        ax.annotate(
            name,
            (calls, above[calls]),
            xytext=(-7 if left else 7, 0),
            textcoords="offset points",
            fontsize=8,
            color=colour(name),
            va="center",
            ha="right" if left else "left",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    ax.set(xlabel="network calls per patient", ylabel="MAE in the dose mask / Gy", xscale="log", yscale="log")
    ax.set_xlim(ax.get_xlim()[0] / 1.6, ax.get_xlim()[1] * 1.6)
    plain_ticks(ax.yaxis)
    tick_steps(ax, sorted({round(x) for line in ax.lines for x in line.get_xdata()}))
    return figure
