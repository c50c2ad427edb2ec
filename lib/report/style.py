"""The one visual language: colours by method, sizes, typeface; every figure is drawn under it."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from lib.models.methods import kind
from lib.report.pictures import smaller

# Okabe & Ito's colour-blind-safe palette, orange and sky blue darker, so that all can be told from paper and
# from a dark page; a method keeps its colour everywhere
COLOURS = {
    "baseline": "#0072B2",
    "gradient": "#009E73",
    "ddpm": "#D55E00",
    "control": "#777777",
    "ddpm_v": "#CC79A7",
    "ddpm_dose": "#C28500",
    "flow": "#3397D3",
    "refine": "#8C6D31",
    "gradient_vgg": "#004D40",
    "gaussian": "#5B4B8A",
    "cascade": "#882255",
}
RAMP = "crest"  # for ordered quantities in one panel
WIDTH_IN = 8.0  # of a full-width figure
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}  # where a legend stands right of the axes
MARKERS = "os^DvPX"
NO_PICTURE = np.empty((0, 0, 3), np.uint8)


def use_style() -> None:
    plt.style.use(Path(__file__).with_name("figures.mplstyle"))


def colour(training: str) -> str:
    """The colour of a training is that of its method."""
    return COLOURS.get(kind(training), "#333333")


def look(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """seaborn's hue and style by a column: a method's variants have its colour, pale, dashed, other marks."""
    import seaborn as sns  # here: it takes a second, for which the explorer need not wait

    palette, markers, dashed = {}, {}, {}
    for method, labels in frame.groupby("method", sort=False)[column].unique().items():
        shades = sns.light_palette(colour(method), 7, reverse=True)
        for number, label in enumerate(labels):
            palette[label], markers[label] = shades[min(number, 3)], MARKERS[number % len(MARKERS)]
            dashed[label] = (4, 1.5) if number else ""
    return {"hue": column, "style": column, "palette": palette, "markers": markers, "dashes": dashed}


def legend_above(figure: Figure, axes: Sequence[Axes], columns: int = 5) -> Figure:
    """The figure with one legend of all that the axes show, above them, where it covers nothing."""
    handles = {}
    for ax in axes:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1]))
        if ax.get_legend():
            ax.get_legend().remove()
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=columns, fontsize=7.5)
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write figures/<name>.png and .pdf in the experiment's folder, undated, so that reruns are equal."""
    target = Path(folder) / "figures"
    target.mkdir(parents=True, exist_ok=True)
    figure.savefig(target / f"{name}.png", metadata={"Software": None})
    smaller(Image.open(target / f"{name}.png")).save(target / f"{name}.png", optimize=True)
    figure.savefig(target / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def panels(columns: int, rows: int = 1, height_in: float = 2.9, **options) -> tuple[Figure, list[Axes]]:
    """A figure of panels lettered A, B, ...; its axes as a flat list."""
    use_style()
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH_IN, height_in * rows), squeeze=False, **options)
    axes = list(axes.flat)
    if len(axes) > 1:
        for letter, ax in zip("ABCDEFGHIJ", axes):
            ax.set_title(letter)
    return figure, axes


def small_panels(count: int, columns: int, height_in: float) -> tuple[Figure, list[Axes]]:
    """So many panels of one scale row by row; where the last row ends, the one above has the ticks."""
    rows = -(-count // columns)
    figure, axes = panels(columns, rows, height_in, sharex=True, sharey=True)
    for above, ax in zip(axes[max(0, count - columns) :], axes[count:]):
        above.tick_params(labelbottom=True)
        ax.remove()
    return figure, axes[:count]


def picture_grid(
    pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int
) -> tuple[Figure, list[Axes]]:
    """Pictures uint8 [H,W,3] row by row, with titles over the first; an empty one leaves its place free."""
    sides = [rgb.shape[0] / max(1, rgb.shape[1]) for rgb in pictures]
    heights = [max(sides[first : first + columns]) for first in range(0, len(sides), columns)]
    height_in = WIDTH_IN / columns * np.mean(heights) + 0.15
    figure, axes = panels(columns, len(heights), height_in, height_ratios=heights)
    for ax, rgb, title in zip_longest(axes, pictures, titles):
        ax.set_title(title or "", fontsize=8)
        ax.set_axis_off()
        ax.set_anchor("N")  # of pictures of several heights, the titles stand in line
        if rgb is not None and rgb.size:
            ax.imshow(rgb)
    return put_on_black(figure), axes


def put_on_black(figure: Figure) -> Figure:
    """The figure with white text on black, as pictures of patients are looked at, by day and in the dark."""
    figure.set_facecolor("black")
    for ax in figure.axes:
        ax.tick_params(colors="white")
    for text in figure.findobj(Text):
        text.set_color("white")
    return figure


def plain_ticks(axis: Axis) -> None:
    """Numbers as a person writes them on a logarithmic axis."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high > 12 * low else (1, 1.5, 2, 3, 4, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs) if high > 2 * low else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def tick_steps(ax: Axes, steps: Sequence[int]) -> None:
    """Plain numbers at the steps or calls that were tried, on a logarithmic axis."""
    ax.set_xticks(steps, [str(n) for n in steps])
    ax.xaxis.set_minor_locator(NullLocator())
