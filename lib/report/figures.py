"""Figures of the comparison of methods, and what all figures of results share; every axis says its unit.

All of them draw tables of results (lib.studies.results.FRAMES) by seaborn, with the mean over patients and its
95 % interval by Student's t. seaborn averages in the scale that an axis has, so that logarithms come last.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.metrics.statistics import mean_interval
from lib.report.style import MARKERS, colour, panels, plain_ticks, tick_steps
from lib.studies.results import add_labels, by_patient, select

NEAR = 1.12  # times the lowest error: what the closer panel of accuracy and cost shows


def interval(values: Sequence[float]) -> tuple[float, float]:
    """seaborn's `errorbar`: the 95 % interval of the mean, or nothing of fewer than 4 patients."""
    return mean_interval(values) or (np.nan, np.nan)


MEAN = {"errorbar": interval, "linestyle": "none", "marker": "D", "markersize": 5}  # of a pointplot
BAND = {"errorbar": interval, "err_kws": {"alpha": 0.12, "linewidth": 0}}  # of a lineplot


def look(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """seaborn's hue and style by a column: a method keeps its colour, its variants are paler, dashed, other marks."""
    palette, markers, dashes = {}, {}, {}
    for method, labels in frame.groupby("method", sort=False)[column].unique().items():
        shades = sns.light_palette(colour(method), 5, reverse=True)
        for number, label in enumerate(labels):
            palette[label], markers[label] = shades[min(number, 3)], MARKERS[number % len(MARKERS)]
            dashes[label] = (4, 1.5) if number else ""
    return {"hue": column, "style": column, "palette": palette, "markers": markers, "dashes": dashes}


def legend_above(figure: Figure, axes: Sequence[Axes], columns: int = 5) -> None:
    """One legend of all that the axes show, above them, where it covers nothing."""
    handles = {}
    for ax in axes:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1]))
        if ax.get_legend():
            ax.get_legend().remove()
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=columns, fontsize=7.5)


def draw_regression(axes: Sequence[Axes], rows: pd.DataFrame, power: int = 1) -> None:
    """The mean of a regression's values, or of their squares, as a dashed line."""
    name = rows["training"].iloc[0]
    for ax in axes:
        ax.axhline((rows["value"] ** power).mean(), color=colour(name), linestyle="--", linewidth=1.2, label=name)


def differences(rows: pd.DataFrame, margin_gy: float, xlabel: str) -> tuple[Figure, Axes]:
    """Mean and interval of each label's values; logarithmic beyond the margin, so that one squeezes no other."""
    figure, (ax,) = panels(1, height_in=0.27 * rows["label"].nunique() + 1.0)
    palette = dict(zip(rows["label"], rows["method"].map(colour)))
    ax.axvspan(-margin_gy, margin_gy, color="#dddddd", linewidth=0)
    ax.axvline(0, color="#888888", linewidth=1)
    sns.pointplot(rows, x="value", y="label", hue="label", palette=palette, legend=False, ax=ax, **MEAN)
    ax.set_xscale("symlog", linthresh=margin_gy, linscale=0.6, subs=(3,))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("{x:g}")
    ax.set(xlabel=xlabel, ylabel="")
    return figure, ax


def training_curves(history: pd.DataFrame) -> Figure:
    """fig1: A the loss, B the error on validation patients."""
    figure, (left, right) = panels(2, height_in=3.3)
    options = look(history, "training") | {"x": "epoch", "estimator": None}
    sns.lineplot(history, y="loss", ax=left, **options | {"markers": False})
    sns.lineplot(history.dropna(subset="validation_mae_gy"), y="validation_mae_gy", ax=right, **options)
    negative = (history["loss"] <= 0).any()  # a likelihood's may be
    left.set_yscale("symlog" if negative else "log", **{"linthresh": 0.01} if negative else {})
    left.set(ylabel="training loss")
    right.set(ylabel="validation MAE / Gy", yscale="log")
    plain_ticks(right.yaxis)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(figure, [left, right])
    return figure


def model_comparison(comparison: pd.DataFrame) -> Figure:
    """fig4: Error of every method, a dot per patient; A in the dose mask, B in the whole volume with air."""
    rows = add_labels(select(comparison, measure="mae_gy", structure=""))
    means = select(rows, region="dose mask").groupby("label")["value"].mean()
    order = sorted(means.index, key=lambda label: (label == "control", means[label]))
    palette = dict(zip(rows["label"], rows["method"].map(colour)))
    figure, axes = panels(2, height_in=0.26 * len(order) + 1.0, sharey=True)
    for ax, region in zip(axes, ("dose mask", "whole volume")):
        options = {"data": select(rows, region=region), "x": "value", "y": "label", "order": order, "ax": ax}
        options |= {"hue": "label", "palette": palette, "legend": False}
        sns.stripplot(size=3.5, alpha=0.35, jitter=0.18, **options)
        sns.pointplot(**MEAN, **options)
        ax.set(xlabel=f"MAE in the {region} / Gy", ylabel="", xscale="log")
        plain_ticks(ax.xaxis)
    return figure


def over_seeds(comparison: pd.DataFrame) -> pd.DataFrame:
    """MAE in the dose mask by patient and label, a method's seeds averaged."""
    rows = select(comparison, measure="mae_gy", region="dose mask")
    keys = ["group", "method", "averaged_over", "members", "case_id"]
    means = rows.groupby(keys, sort=False).agg({"value": "mean", "nfe": "max"}).reset_index()
    return add_labels(means.rename(columns={"group": "training"}))


def key_finding(comparison: pd.DataFrame, margin_gy: float) -> Figure:
    """fig5: Difference of every method to the U-Net with its 95 % interval; the band is the margin."""
    rows = over_seeds(comparison)
    errors = by_patient(rows)
    rows["value"] -= rows["case_id"].map(errors["baseline"])
    order = errors.drop(columns=["baseline", "control"]).mean().sort_values().index
    rows = rows.set_index("label").loc[order].reset_index()
    text = f"difference to the U-Net in MAE / Gy, n = {len(errors)} patients (left is better)"
    return differences(rows, margin_gy, text)[0]


def accuracy_and_cost(comparison: pd.DataFrame) -> Figure:
    """fig13: Error against network calls per patient, seeds averaged; a line leads from one answer to the mean of
    several (diamond). A all methods, B those near the best."""
    rows = select(comparison, measure="mae_gy").query("method != 'control'")
    keys = ["training", "method", "nfe", "members"]
    points = over_seeds(rows).groupby(keys, sort=False)["value"].mean().reset_index()
    figure, axes = panels(2, height_in=3.6)
    near = points[points["value"] <= points["value"].min() * NEAR]
    options = {"x": "nfe", "y": "value", "hue": "training"}
    options["palette"] = dict(zip(points["training"], points["method"].map(colour)))
    for ax, shown in zip(axes, (points, near)):
        sns.lineplot(shown, estimator=None, marker="o", linewidth=1, ax=ax, **options)
        sns.scatterplot(shown[shown["members"] > 1], marker="D", s=45, zorder=3, legend=False, ax=ax, **options)
        ax.set(xlabel="network calls per patient", ylabel="", xscale="log", yscale="log")
        tick_steps(ax, sorted(shown["nfe"].astype(int).unique()))
        plain_ticks(ax.yaxis)
    axes[0].set_ylabel("MAE in the dose mask / Gy")
    legend_above(figure, axes)
    return figure
