"""Figures of the ablation of sampling."""

import numpy as np
import seaborn as sns

from lib.metrics.statistics import interval
from lib.report.slices import colour_lut
from lib.report.style import RAMP, colour, dashes, marker, panels, plain_ticks, tick_steps
from lib.report.verdicts import change, compared_steps, curve, settings_of, switched, with_reach
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.rows import grouped

GROUPS = {
    "start": "where sampling starts",
    "sampler": "clamp, noise, order",
    "windows": "windows",
    "training": "training",
    "prediction": "what is predicted",
}


def sampling_steps(rows, regression_rows, method, regression):
    """fig2: Error against the number of steps: A by where sampling starts, B by what the network predicts."""
    figure, (left, right) = panels(2, height_in=3.6, sharey=True)
    starts = settings_of(rows, "start")
    held = dict(zip(starts[1:], sns.color_palette(RAMP, max(1, len(starts) - 1))))
    for ax, settings in ((left, starts), (right, [REFERENCE_GRID, *settings_of(rows, "prediction")])):
        for setting in settings:
            errors = curve(rows, setting)
            line = colour(method) if setting == REFERENCE_GRID else held.get(setting) or colour(setting)
            draw_curve(
                ax,
                list(errors),
                list(errors.values()),
                line,
                f"{method}, {setting}" if setting == REFERENCE_GRID else setting,
            )
        ax.axhline(
            np.mean([row["mae_gy"] for row in regression_rows]),
            color=colour(regression),
            linestyle="--",
            linewidth=1.2,
            label=regression,
        )
        ax.set(xlabel="sampling steps", xscale="log", yscale="log")
        ax.legend(fontsize=7.5)
        tick_steps(ax, sorted({row["n_steps"] for row in rows if row["setting"] in settings}))
    left.set_ylabel("MAE in the dose mask / Gy")
    plain_ticks(left.yaxis)
    return figure


def draw_curve(ax, x, groups, line, label):
    """Means of groups of values with the 95 % interval over patients as a band; `label` decides whether it is
    dashed, the lines before it its marker."""
    ax.plot(
        x,
        [np.mean(values) for values in groups],
        f"{marker(ax, line)}{dashes(label)}",
        color=line,
        label=label,
    )
    if len(groups[0]) >= 3:
        bounds = np.array([interval(values) for values in groups])
        ax.fill_between(x, bounds[:, 0], bounds[:, 1], color=line, alpha=0.15, linewidth=0)


def switches(rows, margin_gy):
    """fig8: One switch at a time: by how much the error changes between two numbers of steps all have."""
    low, high = compared_steps(rows)
    names = [(group, setting) for group in GROUPS for setting in switched(rows, group)][::-1]
    figure, (ax,) = panels(1, height_in=0.26 * len(names) + 0.9)
    ax.axvspan(-margin_gy, margin_gy, color="#dddddd", linewidth=0)
    ax.axvline(0, color="#888888", linewidth=1)
    for position, (group, setting) in enumerate(names):
        d = change(rows, setting, low, high)
        line = (
            colour(setting)
            if group == "prediction"
            else colour("ddpm")
            if setting == REFERENCE_GRID
            else "#333333"
        )
        ax.plot(d.mean, position, "D", color=line, markersize=5)
        if d.low is not None:
            ax.plot([d.low, d.high], [position, position], color=line, linewidth=2.2)
    ax.set_yticks(range(len(names)), [with_reach(rows, setting, high) for _, setting in names])
    for edge in (i for i in range(1, len(names)) if names[i][0] != names[i - 1][0]):
        ax.axhline(edge - 0.5, color="#cccccc", linewidth=0.7)
    ax.set(xlabel=f"change of the MAE from {low} to {high} steps / Gy", ylim=(-0.6, len(names) - 0.4))
    return figure


def noise_levels(level_rows, regression_rows, regression):
    """fig9: What the networks see of the dose at each noise level: error of one call on truly noised dose."""
    figure, (ax,) = panels(1, height_in=3.2)
    for name, own in grouped([row | {"self": row} for row in level_rows], "training", "self").items():
        errors = grouped(own, "t")
        draw_curve(ax, list(errors), list(errors.values()), colour(name), name)
    ax.axhline(
        np.mean([row["mae_gy"] for row in regression_rows]),
        color=colour(regression),
        linestyle="--",
        linewidth=1.2,
        label=f"{regression}, on the cohort's grid",
    )
    ax.set(
        xlabel="noise level t of the dose that is shown", ylabel="MAE of the dose estimate / Gy", yscale="log"
    )
    plain_ticks(ax.yaxis)
    ax.legend(fontsize=7.5)
    return figure


def shade_of(dose):
    """Row of a colour map of 256 for a fraction of the prescription, -0.3 to 1.1."""
    return ((dose + 0.3) / 1.4 * 255).clip(0, 255).astype(int)


def bias_and_spread(decomposition, regression_rows, regression):
    """fig10: Squared error of one sample as floor (no averaging removes it) and spread, by steps."""
    settings = list(dict.fromkeys(row["setting"] for row in decomposition))
    figure, axes = panels(len(settings), height_in=2.9, sharey=True)
    mse = np.mean([row["rmse_gy"] ** 2 for row in regression_rows])
    for ax, setting in zip(axes, settings):
        own = [row for row in decomposition if row["setting"] == setting]
        steps = sorted({row["n_steps"] for row in own})
        floor, b = (
            [np.mean([row[key] for row in own if row["n_steps"] == n]) for n in steps]
            for key in ("floor_gy2", "b_gy2")
        )
        ax.bar(range(len(steps)), floor, color="#555555", label="floor")
        ax.bar(range(len(steps)), b, bottom=floor, color="#B8B8B8", label="spread")
        ax.axhline(mse, color=colour(regression), linestyle="--", linewidth=1.2, label=regression)
        ax.set_xticks(range(len(steps)), [str(n) for n in steps], fontsize=7)
        ax.set_title(setting, fontsize=8)
        ax.set_xlabel("sampling steps", fontsize=8)
    axes[0].set_ylabel("mean squared error / Gy$^2$")
    axes[0].legend(fontsize=7)
    return figure


def trajectories(found, sample):
    """fig11: The dose estimate after so many network calls, mid-dose slices; `found`: name -> trajectory."""
    index = int(sample.dose[0].sum(dim=(1, 2)).argmax())
    calls = few(list(next(iter(found.values()))), 5)
    figure, axes = panels(len(calls) + 1, rows=len(found), height_in=1.25)
    lut = colour_lut("turbo") / 255
    for row, (name, estimates) in enumerate(found.items()):
        line = axes[row * (len(calls) + 1) : (row + 1) * (len(calls) + 1)]
        for ax, call in zip(line, calls):
            t, dose = estimates[call]
            show_dose(ax, dose[0, index] * (sample.mask[0, index] > 0), lut)
            when = f"t = {t}" if isinstance(t, int) else f"t = {t:.2f}"
            ax.set_title(f"call {call}\n{when}" if row == 0 or when else "", fontsize=7, fontweight="normal")
        show_dose(line[-1], sample.dose[0, index], lut)
        line[-1].set_title("planned", fontsize=7, fontweight="normal")
        line[0].set_ylabel(name, fontsize=8)
    return figure


def few(items, count):
    """At most `count` of the items, evenly, the first and the last among them."""
    return [items[i] for i in sorted({round(i) for i in np.linspace(0, len(items) - 1, count)})]


def show_dose(ax, plane, lut):
    ax.imshow(lut[shade_of(plane.numpy())], interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
