"""Figures of the ablation of sampling."""

import math

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from lib.diffusion.schedule import T
from lib.features.samples import Sample
from lib.report.figures import BAND, differences, draw_regression, legend_above, look
from lib.report.style import RAMP, panels, plain_ticks, tick_steps
from lib.report.teaching import show, slice_of_most_dose
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.results import select


def sampling_steps(steps: pd.DataFrame) -> Figure:
    """fig2: Error against the number of steps: A by where sampling starts, B by what the network predicts."""
    rows = select(steps, measure="mae_gy")
    starts, predictions = select(rows, switch="start"), select(rows, switch="prediction")
    figure, axes = panels(2, height_in=3.6)
    for ax, shown in zip(axes, (starts, pd.concat([select(starts, setting=REFERENCE_GRID), predictions]))):
        options, held = look(shown, "setting"), shown["setting"].unique()[1:]
        if ax is axes[0]:
            options["palette"] |= dict(zip(held, sns.color_palette(RAMP, len(held))))
        sns.lineplot(shown, x="n_steps", y="value", ax=ax, **BAND, **options)
        ax.set(xlabel="sampling steps", ylabel="", xscale="log", yscale="log")
        tick_steps(ax, sorted(shown["n_steps"].astype(int).unique()))
        plain_ticks(ax.yaxis)
    if len(predictions):  # the reference's few steps would squeeze them
        means = rows.groupby(["switch", "setting", "n_steps"])["value"].mean()
        axes[1].set_ylim(top=1.6 * max(means["prediction"].max(), means["start", REFERENCE_GRID].min()))
    draw_regression(axes, select(rows, switch="regression"))
    axes[0].set_ylabel("MAE in the dose mask / Gy")
    legend_above(figure, axes, 4)
    return figure


def compared_steps(errors: pd.DataFrame) -> tuple[int, int]:
    """The two numbers of steps between which changes are judged: the most that all curves [setting, n_steps] have,
    and the one nearest to where the reference's grid is lowest."""
    common, best = errors.dropna(axis=1).columns, errors.loc[REFERENCE_GRID].idxmin()
    return int(min(common[:-1], key=lambda n: abs(math.log(n / best)), default=common[-1])), int(common[-1])


def switches(steps: pd.DataFrame, margin_gy: float) -> Figure:
    """fig8: One switch at a time: by how much the error changes between two numbers of steps all have."""
    rows = select(steps, measure="mae_gy").query("switch != 'regression'").sort_values("n_steps", kind="stable")
    curves = rows.query("switch != 'prediction'").pivot_table("value", "setting", "n_steps")
    low, high = compared_steps(curves)
    keys = ["switch", "setting", "method", "case_id"]  # another method may end before `high`: its last counts
    first, last = (rows[rows["n_steps"] <= n].groupby(keys, sort=False).last() for n in (low, high))
    changes = last.assign(value=last["value"] - first["value"]).reset_index()
    reach = " (to " + changes["n_steps"].astype(int).astype(str) + ")"
    changes["label"] = changes["setting"] + np.where(changes["n_steps"] < high, reach, "")
    figure, ax = differences(changes, margin_gy, f"change of the MAE from {low} to {high} steps / Gy")
    groups = changes.drop_duplicates("label")["switch"].to_numpy()
    for edge in np.flatnonzero(groups[1:] != groups[:-1]):
        ax.axhline(edge + 0.5, color="#cccccc", linewidth=0.7)
    return figure


def noise_levels(levels: pd.DataFrame, steps: pd.DataFrame) -> Figure:
    """fig9: What the networks see of the dose at each noise level: error of one call on truly noised dose."""
    figure, (ax,) = panels(1, height_in=3.4)
    sns.lineplot(levels, x="t", y="value", ax=ax, **BAND, **look(levels, "training"))
    draw_regression([ax], select(steps, measure="mae_gy", switch="regression"))
    ax.set(xlabel="noise level t of the dose that is shown", ylabel="MAE of the dose estimate / Gy")
    ticks = [0, *(T - step * power for power in (100, 10, 1) for step in (5, 2, 1))]
    ax.set(yscale="log", xlim=(-100, T - 0.8))
    ax.set_xscale("function", functions=(lambda t: -np.log(T - t), lambda x: T - np.exp(-x)))
    ax.set_xticks(ticks, [str(t) for t in ticks])
    plain_ticks(ax.yaxis)
    legend_above(figure, [ax])
    return figure


def bias_and_spread(decomposition: pd.DataFrame, steps: pd.DataFrame) -> Figure:
    """fig10: Squared error of one sample as floor (no averaging removes it) and spread, by steps."""
    parts = decomposition.astype({"n_steps": int})
    settings = parts["setting"].unique()
    figure, axes = panels(len(settings), height_in=2.9)
    for ax, setting in zip(axes, settings):
        own = select(parts, setting=setting).pivot_table("value", ["n_steps", "case_id"], "measure")
        own = own.assign(total=own.sum(axis=1)).reset_index()
        options = {"data": own, "x": "n_steps", "errorbar": None, "ax": ax}
        sns.barplot(y="total", color="#B8B8B8", label="spread", **options)
        sns.barplot(y="floor_gy2", color="#555555", label="floor", **options)
        ax.set_title(setting, fontsize=8)
        ax.set(xlabel="sampling steps", ylabel="")
    axes[0].set_ylabel("mean squared error / Gy$^2$")
    draw_regression(axes, select(steps, measure="rmse_gy", switch="regression"), power=2)
    legend_above(figure, axes)
    return figure


def trajectories(paths: dict[str, dict[int, tuple[float, torch.Tensor]]], sample: Sample) -> Figure:
    """fig11: The dose estimate after so many network calls, mid-dose slices; `paths`: name -> call -> (t, dose)."""
    index, calls = slice_of_most_dose(sample), list(next(iter(paths.values())))
    calls = [calls[i] for i in sorted({round(i) for i in np.linspace(0, len(calls) - 1, 5)})]
    figure, axes = panels(len(calls) + 1, rows=len(paths), height_in=1.25)
    for name, estimates in paths.items():
        line, axes = axes[: len(calls) + 1], axes[len(calls) + 1 :]
        line[0].set_ylabel(name, fontsize=8)
        for ax, call in zip(line, calls):
            t, dose = estimates[call]
            show(ax, dose[0, index] * (sample.mask[0, index] > 0), f"call {call}\nt = {t:.4g}")
        show(line[-1], sample.dose[0, index], "planned")
    return figure
