"""The one visual language: colours by method, sizes, typeface; every figure is drawn under it."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from lib.models.methods import kind
from lib.report.pictures import smaller

# Okabe & Ito's colour-blind-safe palette; a method keeps its colour everywhere
COLOURS = {
    "baseline": "#0072B2",
    "gradient": "#009E73",
    "ddpm": "#D55E00",
    "control": "#777777",
    "ddpm_v": "#CC79A7",
    "ddpm_dose": "#E69F00",
    "flow": "#56B4E9",
    "refine": "#8C6D31",
    "gradient_vgg": "#004D40",
    "gaussian": "#5B4B8A",
    "cascade": "#882255",
}
RAMP = "crest"  # for ordered quantities in one panel
SPREAD_MAP, ERROR_MAP = "viridis", "RdBu_r"
WIDTH_IN = 8.0  # of a full-width figure

INK = ".15"  # of lines and text that hold no data
SETTINGS = {
    "figure.dpi": 95,
    "savefig.dpi": 140,
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
    "axes.axisbelow": True,
    "axes.linewidth": 1.25,
    "grid.color": ".8",
    "grid.linewidth": 1.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 6,
    "ytick.major.size": 6,
    "xtick.minor.size": 4,
    "ytick.minor.size": 4,
    "xtick.major.width": 1.25,
    "ytick.major.width": 1.25,
    "patch.force_edgecolor": True,
    "patch.edgecolor": "white",
    "legend.title_fontsize": 12,
}
MARKERS = "os^DvPX"


def use_style():
    plt.rcParams.update(SETTINGS)


def colour(method):
    return COLOURS.get(kind(method), "#333333")


def dashes(method):
    """Line style: a method trained once more with something else ("ddpm_v-minsnr") is dashed."""
    return "--" if kind(method) in COLOURS and method.split(",")[0] != kind(method) else "-"


def marker(ax, line):
    """The marker of the next line of a colour: a method's variants share its colour."""
    return MARKERS[sum(drawn.get_color() == line for drawn in ax.get_lines()) % len(MARKERS)]


def save_figure(figure, folder, name):
    """Write figures/<name>.png and .pdf in the experiment's folder, undated, so that reruns are equal."""
    target = Path(folder) / "figures"
    target.mkdir(parents=True, exist_ok=True)
    figure.savefig(target / f"{name}.png", metadata={"Software": None})
    smaller(Image.open(target / f"{name}.png")).save(target / f"{name}.png", optimize=True)
    figure.savefig(target / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def panels(columns, rows=1, height_in=2.9, **options):
    """A figure of panels lettered A, B, ...; returns it and its axes as a flat list."""
    use_style()
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH_IN, height_in * rows), squeeze=False, **options)
    axes = list(axes.flat)
    if len(axes) > 1:
        for letter, ax in zip("ABCDEFGHIJ", axes):
            ax.set_title(letter)
    return figure, axes


def plain_ticks(axis):
    """Numbers as a person writes them on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def tick_steps(ax, steps):
    """Plain numbers at the steps or calls that were tried, on a logarithmic axis."""
    ax.set_xticks(steps, [str(n) for n in steps])
    ax.xaxis.set_minor_locator(NullLocator())
