"""The one fast renderer of slices: CT in grey, dose over it in colour, structures and isodoses as lines.

Pure functions of arrays, for figures, the page and the explorer. Volumes are [D,H,W], z foot-head, y
front-back, x patient's right-left. Planes are shown as radiologists look at them: axial rows y, columns x;
coronal rows z with the head up, columns x; sagittal rows z with the head up, columns y.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from contourpy import contour_generator
from matplotlib import colormaps
from matplotlib.colors import Colormap
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from lib.cases.case import Case

Box = tuple[slice, slice, slice]  # a part of a volume
Contour = tuple[np.ndarray, float, str | tuple]  # values [rows, columns], level and colour of a line

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # and the axis that the slices follow
LETTERS = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}  # at the left, right, top and bottom
DOSE_MAP, ERROR_MAP, SPREAD_MAP = "turbo", "RdBu_r", "viridis"  # matplotlib's names
ISODOSE_SHARES = (0.95, 0.5)  # of the prescription
WARM = ("#FF2D2D", "#FF9500", "#FFE033")  # of targets
COOL = ("#56B4E9", "#00E0C0", "#FF9FD6", "#B48CFF", "#C49A6C", "#3D7DFF", "#DADADA")  # of organs
ABOVE = "#FF00FF"  # the colour of values beyond the upper end of the colours
BELOW = {DOSE_MAP: "#8C8C8C", ERROR_MAP: "#00E5FF", SPREAD_MAP: "#8C8C8C"}  # and beyond the lower end
AIR_HU = -400  # less is air around the patient
SMOOTH = 2  # lines are drawn this much larger, then averaged
font = lru_cache(ImageFont.load_default)


class Overlay(NamedTuple):
    """A quantity over the CT, in Gy or `unit`; below the magnitude `hidden_below_gy` only the CT is seen."""

    volume_gy: np.ndarray  # [D,H,W]
    range_gy: tuple[float, float]  # (low, high) of the colours
    colours: str = DOSE_MAP  # a name of matplotlib's colour maps
    hidden_below_gy: float = 2.0
    full_from_gy: float = 0.0  # below this magnitude the opacity falls in proportion
    isodoses_gy: tuple[float, ...] = ()  # drawn as lines in the colours of their values
    unit: str = "Gy"


def structure_colour(case: Case, name: str) -> str:
    """By the place among the protocol's targets or organs; where there are many, colours come again."""
    for names, colours in ((list(case.protocol.targets), WARM), (case.protocol.organs, COOL)):
        if name in names:
            return colours[names.index(name) % len(colours)]
    return "#C8C8C8"


def take_slice(volume: np.ndarray, plane: str, index: int, box: Box | None = None) -> np.ndarray:
    """Slice `index` of volume [D,H,W] as the plane shows it, [rows, columns], cut to `box` if given."""
    axis = PLANES[plane]
    values = np.take(volume, index, axis=axis)
    if box is not None:
        values = values[tuple(b for a, b in enumerate(box) if a != axis)]
    return values if plane == "axial" else values[::-1]


def central_index(mask: np.ndarray, plane: str) -> int:
    """The slice that halves the voxels of mask [D,H,W]: always one that holds some of it."""
    indices = np.sort(np.nonzero(mask)[PLANES[plane]])
    return int(indices[len(indices) // 2]) if len(indices) else mask.shape[PLANES[plane]] // 2


def target_index(case: Case, plane: str) -> int:
    """The slice that halves the primary target."""
    return central_index(case.masks[case.primary_target], plane)


def mask_box(mask: np.ndarray, spacing_mm: Sequence[float]) -> Box:
    """Three slices around mask [D,H,W] with a margin of 10 mm; the whole volume if the mask is empty."""
    if not mask.any():
        return (slice(None),) * 3
    ends = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    margins = [int(10 / s) for s in spacing_mm]
    return tuple(slice(max(0, int(a) - m), int(b) + 1 + m) for (a, b), m in zip(ends, margins))


def body_box(case: Case) -> Box:
    """Three slices around the patient and the dose, so that the picture is not mostly air."""
    return mask_box((case.ct_hu > AIR_HU) | case.dose_mask, case.spacing_mm)


def slice_box(case: Case, plane: str, index: int) -> Box:
    """Three slices around the dose mask within one slice: shoulders do not shrink a neck."""
    here = np.zeros(case.shape, bool)
    np.moveaxis(here, PLANES[plane], 0)[index] = np.moveaxis(case.dose_mask, PLANES[plane], 0)[index]
    return mask_box(here, case.spacing_mm) if here.any() else body_box(case)


def slice_size_px(shape: Sequence[int], spacing_mm: Sequence[float], plane: str, size_px: int) -> tuple:
    """(height, width) of the picture of a slice [rows, columns]: proportions in mm, longer side `size_px`."""
    in_plane_mm = [s for axis, s in enumerate(spacing_mm) if axis != PLANES[plane]]
    sides_mm = [n * s for n, s in zip(shape, in_plane_mm)]
    return tuple(max(1, round(side_mm * size_px / max(sides_mm))) for side_mm in sides_mm)


@lru_cache(maxsize=16)
def colour_map(name: str) -> Colormap:
    """One of matplotlib's colour maps with colours of their own for what lies beyond its range."""
    return colormaps[name].with_extremes(under=BELOW.get(name), over=ABOVE)


@lru_cache(maxsize=16)
def colour_lut(name: str) -> np.ndarray:
    """uint8 [256,3] of a colour map; the first and the last row are for what lies beyond its range."""
    return (colour_map(name)(np.linspace(-1 / 253, 254 / 253, 256))[:, :3] * 255 + 0.5).astype(np.uint8)


def colour_index(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Row of the look-up table for each value."""
    low, high = limits
    return np.clip((values - low) * (253.0 / max(high - low, 1e-6)) + 1.5, 0, 255).astype(np.uint8)


def enlarge(values: np.ndarray, size_px: tuple) -> Image.Image:
    """[rows, columns] as a picture of (height, width), interpolated; uint8 stays uint8, else float32."""
    values = values if values.dtype == np.uint8 else values.astype(np.float32)
    return Image.fromarray(np.ascontiguousarray(values)).resize(size_px[::-1], Image.Resampling.BILINEAR)


def put_overlay(image: Image.Image, values_gy: np.ndarray, overlay: Overlay, opacity: float) -> None:
    """Lay the colours of values_gy [H,W] over the RGB picture."""
    # a palette and a mask let Pillow do what costs numpy ten times as long
    colours = Image.fromarray(colour_index(values_gy, overlay.range_gy))
    colours.putpalette(colour_lut(overlay.colours).tobytes())
    size_gy = np.abs(values_gy)
    share = np.minimum(size_gy / max(overlay.full_from_gy, 1e-6), 1)
    mask = np.where(size_gy >= overlay.hidden_below_gy, 255 * opacity * share, 0).astype(np.uint8)
    image.paste(colours.convert("RGB"), mask=Image.fromarray(mask))


def contour_lines(values: np.ndarray, level: float, size_px: tuple) -> list[list[float]]:
    """Lines of values [rows, columns] at `level`, each x, y, x, y, ... in pixels of `size_px`."""
    # a rim of zeros closes what touches the border, and gives a single row its neighbours
    padded = np.pad(values.astype(np.float32), 1)
    scale = np.array([size_px[1] / values.shape[1], size_px[0] / values.shape[0]])
    lines = contour_generator(z=padded).lines(level) if values.any() else []
    return [((line - 0.5) * scale).ravel().tolist() for line in lines]


def line_layer(contours: Iterable[Contour], size_px: tuple, letters: str = "") -> Image.Image:
    """A transparent picture of lines with a dark rim, and of the letters that say where left and up are."""
    height, width = size = tuple(n * SMOOTH for n in size_px)
    draw = ImageDraw.Draw(layer := Image.new("RGBA", (width, height)))
    paths = [(line, ink) for values, level, ink in contours for line in contour_lines(values, level, size)]
    for path, _ in paths:
        draw.line(path, fill=(0, 0, 0, 150), width=2 * SMOOTH + 1)
    for path, ink in paths:
        draw.line(path, fill=ink, width=SMOOTH + 1)
    places = [(8, height // 2), (width - 8, height // 2), (width // 2, 16), (width // 2, height - 18)]
    for letter, place, anchor in zip(letters, places, ("lm", "rm", "mm", "mm")):
        draw.text(place, letter, fill=(200, 200, 200, 255), font=font(11 * SMOOTH), anchor=anchor)
    return layer.reduce(SMOOTH)


def render_slices(
    case: Case,
    plane: str,
    index: int,
    overlays: Iterable[Overlay | None],
    *,
    opacity: float = 0.5,
    structures: Sequence[str] = (),
    box: Box | None = None,
    ct_hu: tuple[float, float] = (-160, 240),
    size_px: int = 320,
) -> list[np.ndarray]:
    """One picture uint8 [H,W,3] for each overlay (None: CT alone), with CT and structures drawn only once;
    `ct_hu` are black and white."""
    hu = take_slice(case.ct_hu, plane, index, box)
    size = slice_size_px(hu.shape, case.spacing_mm, plane, size_px)
    ct = enlarge(colour_index(hu.astype(np.float32), ct_hu), size).convert("RGB")
    names = [name for name in reversed(structures) if name in case.masks]  # the first on top
    outlines = [(take_slice(case.masks[n], plane, index, box), 0.5, structure_colour(case, n)) for n in names]
    front = line_layer(outlines, size, LETTERS[plane])
    pictures = []
    for overlay in overlays:
        image = ct.copy()
        if overlay is not None:
            values_gy = take_slice(overlay.volume_gy, plane, index, box)
            put_overlay(image, np.asarray(enlarge(values_gy, size)), overlay, opacity)
            if overlay.isodoses_gy:
                rows = colour_index(np.float32(overlay.isodoses_gy), overlay.range_gy)
                colours = map(tuple, colour_lut(overlay.colours)[rows].tolist())
                lines = [(values_gy, level, ink) for level, ink in zip(overlay.isodoses_gy, colours)]
                layer = line_layer(lines, size)
                image.paste(layer, mask=layer)
        image.paste(front, mask=front)
        pictures.append(np.asarray(image))
    return pictures


@lru_cache(maxsize=64)
def colour_bar(colours: str, limits: tuple, width_px: int = 320, unit: str = "Gy") -> np.ndarray:
    """A strip uint8 [34,width_px,3] of the colours with ticks in `unit`, and beside it those beyond its ends
    with what they mean, as ">77"."""
    low, high = limits
    left, right = 14, width_px - 24 - 8 * len(unit)
    strip, lut = np.zeros((34, width_px, 3), np.uint8), colour_lut(colours)
    strip[4:14, left:right] = lut[np.linspace(1, 254, right - left).astype(int)]
    strip[4:14, right + 2 : right + 10] = lut[255]
    draw = ImageDraw.Draw(image := Image.fromarray(strip))
    draw.text((right + 1, 25), f">{high:g}", fill="white", font=font(12), anchor="lm")
    first = 0.0
    if low < 0:
        draw.rectangle([left - 10, 4, left - 3, 13], fill=tuple(lut[0].tolist()))
        draw.text((1, 25), below := f"<{low:g}", fill="white", font=font(12), anchor="lm")
        first = 5 + font(12).getlength(below)
    for tick in MaxNLocator(max(2, (right - left) // 45)).tick_values(low, high):
        x = left + (tick - low) / max(high - low, 1e-6) * (right - left - 1)
        half = font(12).getlength(f"{tick:g}") / 2
        if low <= tick <= high and first <= x - half and x + half <= right - 5:
            draw.line([x, 14, x, 17], fill="white")
            draw.text((x, 25), f"{tick:g}", fill="white", font=font(12), anchor="mm")
    draw.text((width_px - 4, 9), unit, fill="white", font=font(12), anchor="rm")
    return np.asarray(image)


def put_bar(rgb: np.ndarray, overlay: Overlay) -> np.ndarray:
    """The picture with its colour bar below."""
    width_px = max(150, rgb.shape[1])  # what the bar needs
    bar = colour_bar(overlay.colours, overlay.range_gy, width_px, overlay.unit)
    return np.vstack([np.pad(rgb, ((0, 0), (0, width_px - rgb.shape[1]), (0, 0))), bar])
