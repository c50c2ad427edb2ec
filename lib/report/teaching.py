"""Pictures of the ideas that the notebooks show by hand; slices are axial, through most of the dose."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from lib.cases.case import Case
from lib.features.samples import Sample
from lib.metrics.uncertainty import EnsembleLaw
from lib.report.slices import ERROR_MAP, colour_map
from lib.report.style import colour, panels, small_panels
from lib.studies.ablation import slice_of_most_dose

SHARES = (0.0, 1.1)  # ends of the colours of a dose estimate, fractions of the prescription


def show(ax: Axes, title: str, plane: np.ndarray | torch.Tensor, limits=SHARES, colours="turbo") -> AxesImage:
    """A slice [h,w] as a picture of sharp voxels."""
    ax.set_title(title, fontsize=7.5, fontweight="normal")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    look = {"cmap": colour_map(colours), "vmin": limits[0], "vmax": limits[1]}
    return ax.imshow(plane, interpolation="nearest", **look)


def input_channels(sample: Sample) -> Figure:
    """All that a network sees of a patient: distances blue inside and red outside, the CT grey."""
    names = sample.channels.names
    index = slice_of_most_dose(sample) * sample.grid.condition // sample.grid.answer
    figure, axes = small_panels(len(names), 6, height_in=1.6)
    looks = dict.fromkeys(sample.channels.protocol.structures, ((-0.5, 0.5), ERROR_MAP))
    looks["ct"] = (-1, 1), "gray"
    for ax, name, volume in zip(axes, names, sample.cond.float()):
        show(ax, name.replace("_", " "), volume[index], *looks.get(name, ((0, 1),)))
    return figure


def noised_doses(sample: Sample, shown: dict[str, torch.Tensor]) -> Figure:
    """The same slice of several volumes [1,d,h,w] of a patient, by their titles."""
    index, (figure, axes) = slice_of_most_dose(sample), panels(len(shown), height_in=1.8)
    for ax, (title, volume) in zip(axes, shown.items()):
        image = show(ax, title, volume[0, index], (-2, 2))
    figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01)
    return figure


def prediction(sample: Sample, dose: torch.Tensor, title: str = "predicted") -> Figure:
    """The planned dose, `dose` [1,d,h,w] (fraction of the prescription), which is called `title`, and their
    difference, in Gy."""
    index, (figure, axes) = slice_of_most_dose(sample), panels(3, height_in=2.4)
    planned, predicted = (volume[0, index] * sample.rx_gy for volume in (sample.dose, dose))
    doses_gy, most_gy = (0, SHARES[1] * sample.rx_gy), float((predicted - planned).abs().max())
    looks = [("planned / Gy", planned, doses_gy), (f"{title} / Gy", predicted, doses_gy)]
    looks += [(f"{title} - planned / Gy", predicted - planned, (-most_gy, most_gy), ERROR_MAP)]
    for ax, look in zip(axes, looks):
        figure.colorbar(show(ax, *look), ax=ax, shrink=0.8, pad=0.02)
    return figure


def gain_curve(gain: torch.Tensor, first_times: dict[int, int]) -> Figure:
    """The gain [T] of an error of the noise, and where the reference's grid starts: steps -> first time."""
    figure, (ax,) = panels(1, height_in=3.0)
    ax.plot(gain.numpy(), color=colour("ddpm"))
    for n_steps, t in first_times.items():
        ax.plot(t, gain[t], "o", color=colour("baseline"))
        ax.annotate(f"{n_steps} ", (t, gain[t]), ha="right", fontsize=8)
    ax.set(xlabel="time t of the first step of so many", ylabel="gain of a noise error", yscale="log")
    return figure


def level_curves(curves: dict[str, torch.Tensor]) -> Figure:
    """What is unknown of a dose at each level [T], a line for each name; the last is dashed."""
    figure, (ax,) = panels(1, height_in=3.0)
    shades = np.linspace(0.8, 0.1, len(curves) - 1)
    looks = [{"color": str(shade)} for shade in shades] + [{"color": colour("ddpm"), "linestyle": "--"}]
    for (name, curve), look in zip(curves.items(), looks):
        ax.plot(curve.numpy(), label=name, **look)
    ax.set(xlabel="noise level t", ylabel="deviation left unknown", ylim=(0, None))
    ax.legend(title="voxels")
    return figure


def averages(sizes: Sequence[int], errors: dict[str, list], laws: dict[str, EnsembleLaw]) -> Figure:
    """Mean squared errors of means of n members against 1 / n, measured (dots) and by the law (lines)."""
    figure, (ax,) = panels(1, height_in=3.0)
    for (name, law), line in zip(laws.items(), (colour("baseline"), colour("ddpm"))):
        ax.plot([0, 1], [law.floor_gy2, law.mse_gy2(1)], color=line, label=name)
        ax.plot(1 / np.array(sizes), errors[name], "o", color=line)
    ax.set(xlabel="1 / n", ylabel="mean squared error", ylim=(0, None))
    ax.legend()
    return figure


def plain_slice(case: Case, index: int) -> None:
    """An axial slice as one would draw it by matplotlib: what lib.report.views is timed against."""
    figure = Figure(figsize=(5, 5), dpi=100)
    ax = figure.add_subplot()
    ax.imshow(case.ct_hu[index], cmap="gray")
    ax.imshow(case.dose_gy[index], alpha=0.5, cmap="turbo")
    ax.contour(case.dose_gy[index], levels=[0.5 * case.rx_gy, 0.95 * case.rx_gy])
    for mask in (mask[index] for mask in case.masks.values() if mask[index].any()):
        ax.contour(mask, levels=[0.5])
    FigureCanvasAgg(figure).draw()
