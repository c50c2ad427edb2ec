"""Figures of the comparison of methods, by seaborn from tables of results, and what several figures share.

seaborn averages in the scale that an axis has, so that logarithms come last.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.metrics.statistics import NO_BOUNDS, mean_interval
from lib.report import frames
from lib.report.statements import patients
from lib.report.style import colour, legend_above, look, panels, plain_ticks, tick_steps
from lib.studies.results import Results, add_labels, select


def interval(values: Sequence[float], bounds: tuple[float, float] = NO_BOUNDS) -> tuple[float, float]:
    """seaborn's `errorbar`: the 95 % interval of the mean, or nothing of fewer than 4 patients."""
    return mean_interval(values, bounds) or (np.nan, np.nan)


MEAN = {"errorbar": interval, "linestyle": "none", "marker": "D", "markersize": 5}  # of a pointplot
BAND = {"errorbar": interval, "err_kws": {"alpha": 0.12, "linewidth": 0}}  # of a lineplot


def by_colour(rows: pd.DataFrame) -> dict:
    """seaborn's hue by label, each in its method's colour."""
    return {"hue": "label", "palette": dict(zip(rows["label"], rows["method"].map(colour)))}


def draw_regression(axes: Sequence[Axes], rows: pd.DataFrame, power: int = 1) -> None:
    """The mean of a regression's values, or of their squares, as a dashed line."""
    name, mean = rows["training"].iloc[0], (rows["value"] ** power).mean()
    for ax in axes:
        ax.axhline(mean, color=colour(name), linestyle="--", linewidth=1.2, label=name)


def draw_differences(rows: pd.DataFrame, margin_gy: float, xlabel: str) -> tuple[Figure, Axes]:
    """Means of each label's values; logarithmic beyond the margin, so that one label squeezes no other."""
    figure, (ax,) = panels(1, height_in=0.27 * rows["label"].nunique() + 1.0)
    ax.axvspan(-margin_gy, margin_gy, color="#dddddd", linewidth=0)
    ax.axvline(0, color="#888888", linewidth=1)
    sns.pointplot(rows, x="value", y="label", legend=False, ax=ax, **by_colour(rows), **MEAN)
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
        ax.xaxis.get_major_locator().set_params(integer=True)
    return legend_above(figure, [left, right])


def model_comparison(comparison: pd.DataFrame) -> Figure:
    """fig4: Error of every method, a dot per patient; A in the dose mask, B in the whole volume with air."""
    rows = add_labels(select(comparison, measure="mae_gy", structure=""))
    means = select(rows, region="dose mask").groupby("label")["value"].mean()
    order = sorted(means.index, key=lambda label: (label == "control", means[label]))
    figure, axes = panels(2, height_in=0.26 * len(order) + 1.0, sharey=True)
    np.random.seed(0)  # of seaborn's jitter, so that reruns are equal
    options = {"x": "value", "y": "label", "order": order, "legend": False, **by_colour(rows)}
    for ax, region in zip(axes, ("dose mask", "whole volume")):
        shown = select(rows, region=region)
        sns.stripplot(shown, size=3.5, alpha=0.35, jitter=0.18, ax=ax, **options)
        sns.pointplot(shown, ax=ax, **MEAN, **options)
        ax.set(xlabel=f"MAE in the {region} / Gy", ylabel="", xscale="log")
        plain_ticks(ax.xaxis)
    return figure


def key_finding(results: Results) -> Figure:
    """fig5: Difference of every method to the U-Net, seeds averaged; the band is the margin."""
    values, about = frames.answers(frames.average(frames.rows_of(results.frames["04_comparison"])))
    others = [name for name in values if name not in ("baseline", "control")] or ["control"]
    differences = values[others].sub(values["baseline"], axis=0)
    rows = differences.melt(var_name="label").assign(method=lambda rows: rows["label"].map(about["method"]))
    text = f"difference to the U-Net in MAE / Gy, {patients(len(values))} (left is better)"
    return draw_differences(rows, frames.setting(results, "margin_gy"), text)[0]


def accuracy_and_cost(comparison: pd.DataFrame) -> Figure:
    """fig13: Error against network calls, from one answer to the mean of several; B near the best."""
    rows = frames.rows_of(comparison).query("method != 'control'")
    points = frames.average(rows, ["case_id"]).pipe(add_labels)
    points["nfe"] = points["label"].map(add_labels(rows).groupby("label")["nfe"].max())
    figure, axes = panels(2, height_in=3.6)
    options = {"x": "nfe", "y": "value", "hue": "training", "palette": look(points, "training")["palette"]}
    for ax, shown in zip(axes, (points, points[points["value"] <= 1.12 * points["value"].min()])):
        sns.lineplot(shown, estimator=None, marker="o", linewidth=1, ax=ax, **options)
        several = {"data": shown[shown["members"] > 1], "marker": "D", "s": 45, "zorder": 3, "legend": False}
        if len(several["data"]):  # of none seaborn says that it leaves out the colours
            sns.scatterplot(ax=ax, **several, **options)
        ax.set(xlabel="network calls per patient", ylabel="", xscale="log", yscale="log")
        tick_steps(ax, sorted(shown["nfe"].astype(int).unique()))
        plain_ticks(ax.yaxis)
    axes[0].set_ylabel("MAE in the dose mask / Gy")
    return legend_above(figure, axes)
