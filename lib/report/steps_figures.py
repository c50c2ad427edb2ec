"""Figures of the ablation of sampling."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.diffusion.schedule import T
from lib.prediction.store import Steps
from lib.report import frames
from lib.report.figures import BAND, draw_differences, draw_regression
from lib.report.style import RAMP, legend_above, look, panels, plain_ticks, put_on_black, tick_steps
from lib.report.teaching import show
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.results import Results, select


def sampling_steps(steps: pd.DataFrame) -> Figure:
    """fig2: Error against the number of steps: A by where sampling starts, B by what the network predicts, if
    there is more than one."""
    rows = select(steps, measure="mae_gy")
    starts, others = select(rows, switch="start"), select(rows, switch="prediction")
    parts = [starts]
    if len(others):
        parts.append(pd.concat([select(starts, setting=REFERENCE_GRID), others]))
    figure, axes = panels(len(parts), height_in=3.6)
    for ax, shown in zip(axes, parts):
        options, further = look(shown, "setting"), shown["setting"].unique()[1:]
        if ax is axes[0]:
            options["palette"] |= dict(zip(further, sns.color_palette(RAMP, len(further))))
            options["dashes"] = False  # only the regression is dashed there
        sns.lineplot(shown, x="n_steps", y="value", ax=ax, **BAND, **options)
        ax.set(xlabel="sampling steps", ylabel="", xscale="log", yscale="log")
        tick_steps(ax, sorted(shown["n_steps"].astype(int).unique()))
        plain_ticks(ax.yaxis)
    if len(parts) > 1:
        lowest = shown.groupby(["setting", "n_steps"])["value"].mean().groupby("setting").min()
        axes[1].set_ylim(top=2 * lowest.max())  # the reference's few steps would squeeze the rest
    draw_regression(axes, select(rows, switch="regression"))
    axes[0].set_ylabel("MAE in the dose mask / Gy")
    return legend_above(figure, axes, 4)


def switches(results: Results) -> Figure:
    """fig8: By how much the error of each setting changes from the best number of steps to the most."""
    about = results.frames["02_steps"].drop_duplicates("setting").set_index("setting")
    curves, parts = frames.curves(results), []
    for name, curve in curves.items():
        usual = curve if about["switch"][name] == "prediction" else curves[REFERENCE_GRID]
        low, high = frames.steps_between(curve, usual.mean().idxmin())
        columns = {"label": f"{name} ({low:.0f} to {high:.0f})", **about.loc[name, ["method", "switch"]]}
        parts.append((curve[high] - curve[low]).to_frame("value").assign(**columns))
    rows, text = pd.concat(parts), "change of the MAE with more steps (from, to) / Gy"
    figure, ax = draw_differences(rows, frames.setting(results, "margin_gy"), text)
    groups = rows.drop_duplicates("label")["switch"].to_numpy()
    for edge in np.flatnonzero(groups[1:] != groups[:-1]):
        ax.axhline(edge + 0.5, color="#cccccc", linewidth=0.7)
    return figure


def noise_levels(results: Results) -> Figure:
    """fig9: What the networks see of the dose at each noise level: error of one call on truly noised dose."""
    figure, (ax,) = panels(1, height_in=3.4)
    rows = results.frames["02_levels"].assign(left=lambda rows: T - rows["t"])
    sns.lineplot(rows, x="left", y="value", ax=ax, **BAND, **look(rows, "training"))
    draw_regression([ax], select(results.frames["02_steps"], measure="mae_gy", switch="regression"))
    ax.set(xlabel="noise level t of the dose that is shown", ylabel="MAE of the dose estimate / Gy")
    ax.set(xscale="log", yscale="log", xlim=(1.1 * T, 0.9))
    tick_steps(ax, [T, *(step * power for power in (100, 10, 1) for step in (5, 2, 1))])
    ax.xaxis.set_major_formatter(lambda left, _: f"{T - left:.0f}")
    plain_ticks(ax.yaxis)
    return legend_above(figure, [ax])


def bias_and_spread(results: Results) -> Figure:
    """fig10: Squared error of one sample as floor (no averaging removes it) and spread, by steps."""
    rows = results.frames["02_decomposition"].astype({"n_steps": int})
    figure, axes = panels(rows["setting"].nunique(), height_in=2.9)
    for ax, (setting, of_setting) in zip(axes, rows.groupby("setting", sort=False)):
        parts = of_setting.pivot_table("value", ["n_steps", "case_id"], "measure")
        options = {"data": parts.assign(total=parts.sum(axis=1)), "x": "n_steps", "errorbar": None, "ax": ax}
        sns.barplot(y="total", color="#B8B8B8", label="spread", **options)
        sns.barplot(y="floor_gy2", color="#555555", label="floor", **options)
        ax.set_title(setting, fontsize=8)
        ax.set(xlabel="sampling steps", ylabel="")
    axes[0].set_ylabel("mean squared error / Gy$^2$")
    draw_regression(axes, select(results.frames["02_steps"], measure="rmse_gy", switch="regression"), 2)
    return legend_above(figure, axes)


def trajectories(steps: Steps) -> Figure:
    """fig11: The dose estimate after so many network calls, a row a setting."""
    names, count = list(steps.estimates), min(map(len, steps.labels.values()))
    calls = sorted({round(i) for i in np.linspace(0, count - 1, 5)})
    figure, axes = panels(len(calls) + 1, rows=len(names), height_in=1.5)
    for name, line in zip(names, np.reshape(axes, (len(names), -1))):
        line[0].set_ylabel(name, fontsize=8)
        for ax, i in zip(line, calls):
            show(ax, steps.labels[name][i].replace(", ", "\n"), steps.estimates[name][i])
        image = show(line[-1], "planned", steps.planned)
    figure.colorbar(image, ax=list(axes), shrink=0.7, pad=0.01, label="fraction of the prescription")
    return put_on_black(figure)
