"""The one fast renderer of slices: CT in grey, dose over it in colour, structures and isodoses sharp lines.

Pure functions of arrays, used by figures, the HTML report and the explorer. Volumes are [D,H,W], z foot-head,
y front-back, x patient's right-left. Planes are shown as radiologists look at them: axial rows y, columns x;
coronal rows z with the head up, columns x; sagittal rows z with the head up, columns y.
"""

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from contourpy import contour_generator
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}  # and the axis that the slices follow
LETTERS = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}  # at the left, right, top and bottom
DOSE_MAP = "turbo"
COLOURS = {  # targets warm, organs cool or pale, neighbours far apart in lightness
    "PTV70": "#FF2D2D",
    "PTV63": "#FF9500",
    "PTV56": "#FFE033",
    "Brainstem": "#56B4E9",
    "SpinalCord": "#00E0C0",
    "RightParotid": "#FF9FD6",
    "LeftParotid": "#B48CFF",
    "Esophagus": "#C49A6C",
    "Larynx": "#3D7DFF",
    "Mandible": "#DADADA",
    "Prostate": "#FF9FD6",
    "Rectum": "#C49A6C",
    "Bladder": "#56B4E9",
    "Femur_L": "#B48CFF",
    "Femur_R": "#3D7DFF",
    "Bowel": "#00E0C0",
}
AIR_HU = -400  # less is air around the patient
SMOOTH = 2  # lines are drawn this much larger, then averaged
font = lru_cache(ImageFont.load_default)


class Overlay(NamedTuple):
    """A quantity over the CT, in Gy or `unit`; below the magnitude `hidden_below_gy` only the CT is seen."""

    volume_gy: np.ndarray  # [D,H,W]
    range_gy: tuple  # (low, high) of the colours
    colours: str = DOSE_MAP  # a name of matplotlib's colour maps
    hidden_below_gy: float = 2.0
    full_from_gy: float = 0.0  # below this magnitude the opacity falls in proportion
    isodoses_gy: tuple = ()  # drawn as lines in the colours of their values
    unit: str = "Gy"


def structure_colour(name):
    return COLOURS.get(name, "#C8C8C8")


def take_slice(volume, plane, index, box=None):
    """Slice `index` of volume [D,H,W] as the plane shows it, [rows, columns], cut to `box`
    (three slices) if given."""
    axis = PLANES[plane]
    shown = np.take(volume, index, axis=axis)
    if box is not None:
        shown = shown[tuple(b for a, b in enumerate(box) if a != axis)]
    return shown if plane == "axial" else shown[::-1]


def central_index(mask, plane):
    """The slice that halves the voxels of mask [D,H,W]: always one that holds some of it."""
    found = np.sort(np.nonzero(mask)[PLANES[plane]])
    return int(found[len(found) // 2]) if len(found) else mask.shape[PLANES[plane]] // 2


def body_box(case, margin_mm=10.0):
    """Three slices around the patient and his dose, so that the picture is not mostly air."""
    inside = (case.ct_hu > AIR_HU) | case.dose_mask
    found = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    margins = [int(margin_mm / s) for s in case.spacing_mm]
    return tuple(slice(max(0, f[0] - m), f[-1] + 1 + m) for f, m in zip(found, margins))


def slice_size_px(shape, spacing_mm, plane, size_px):
    """(height, width) of the picture of a slice [rows, columns]: proportions in mm, longer side `size_px`."""
    sides_mm = [
        n * s for n, s in zip(shape, (s for axis, s in enumerate(spacing_mm) if axis != PLANES[plane]))
    ]
    return tuple(max(1, round(side_mm * size_px / max(sides_mm))) for side_mm in sides_mm)


def window_ct(ct_hu, window_hu=400.0, level_hu=40.0):
    """HU as uint8 grey: black at level - window / 2 and below, white at level + window / 2 and above."""
    return colour_index(ct_hu.astype(np.float32), (level_hu - window_hu / 2, level_hu + window_hu / 2))


@lru_cache(maxsize=16)
def colour_lut(name):
    """uint8 [256,3] of one of matplotlib's colour maps."""
    return (colormaps[name](np.arange(256))[:, :3] * 255 + 0.5).astype(np.uint8)


def colour_index(values, range_gy):
    """Row of the look-up table for each value; values beyond the range take its ends."""
    low, high = range_gy
    return np.clip((values - low) * (255.0 / max(high - low, 1e-6)) + 0.5, 0, 255).astype(np.uint8)


def enlarged(values, size_px):
    """[rows, columns] as a picture of (height, width), interpolated; uint8 stays uint8, else float32."""
    image = Image.fromarray(
        np.ascontiguousarray(values if values.dtype == np.uint8 else values.astype(np.float32))
    )
    return image.resize(size_px[::-1], Image.Resampling.BILINEAR)


def put_overlay(image, values_gy, overlay, opacity):
    """Lay the colours of values_gy [H,W] over the RGB picture."""
    # a palette and a mask let Pillow do what costs numpy ten times as long
    colours = Image.fromarray(colour_index(values_gy, overlay.range_gy))
    colours.putpalette(colour_lut(overlay.colours).tobytes())
    size_gy = np.abs(values_gy)
    share = np.minimum(size_gy / max(overlay.full_from_gy, 1e-6), 1)
    mask = np.where(size_gy >= overlay.hidden_below_gy, 255 * opacity * share, 0).astype(np.uint8)
    image.paste(colours.convert("RGB"), mask=Image.fromarray(mask))


def contour_lines(values, level, size_px):
    """Lines of values [rows, columns] at `level`, each [n,2], (x, y) in pixels of a picture of `size_px`."""
    # a rim of zeros closes what touches the border, and gives a single row its neighbours
    padded = np.pad(values.astype(np.float32), 1)
    scale = np.array([size_px[1] / values.shape[1], size_px[0] / values.shape[0]])
    lines = contour_generator(z=padded).lines(level) if values.any() else []
    return [(line - 0.5) * scale for line in lines]


def structure_lines(case, plane, index, structures, box, size_px):
    """(line, colour) of the named structures that the case has, the first on top."""
    present = [name for name in reversed(structures) if name in case.masks]
    return [
        (line, structure_colour(name))
        for name in present
        for line in contour_lines(take_slice(case.masks[name], plane, index, box), 0.5, size_px)
    ]


def isodose_lines(values_gy, overlay, size_px):
    """(line, colour) of the isodoses, in the colours of their values."""
    colours = colour_lut(overlay.colours)[colour_index(np.float32(overlay.isodoses_gy), overlay.range_gy)]
    return [
        (line, tuple(colour))
        for level, colour in zip(overlay.isodoses_gy, colours.tolist())
        for line in contour_lines(values_gy, level, size_px)
    ]


def line_layer(lines, size_px, letters=""):
    """A transparent picture of lines with a dark rim, and of the letters that say where left and up are."""
    height, width = (n * SMOOTH for n in size_px)
    draw = ImageDraw.Draw(layer := Image.new("RGBA", (width, height)))
    paths = [((line * SMOOTH).ravel().tolist(), colour) for line, colour in lines]
    for path, _ in paths:
        draw.line(path, fill=(0, 0, 0, 150), width=2 * SMOOTH + 1)
    for path, colour in paths:
        draw.line(path, fill=colour, width=SMOOTH + 1)
    places = [(8, height // 2), (width - 8, height // 2), (width // 2, 16), (width // 2, height - 18)]
    for letter, place, anchor in zip(letters, places, ("lm", "rm", "mm", "mm")):
        draw.text(place, letter, fill=(200, 200, 200, 255), font=font(11 * SMOOTH), anchor=anchor)
    return layer.reduce(SMOOTH)


def render_slices(
    case,
    plane,
    index,
    overlays,
    *,
    opacity=0.5,
    structures=(),
    box=None,
    window_hu=400.0,
    level_hu=40.0,
    size_px=320,
):
    """One picture uint8 [H,W,3] for each overlay (None: CT alone); CT and structures are drawn only once."""
    ct_hu = take_slice(case.ct_hu, plane, index, box)
    size = slice_size_px(ct_hu.shape, case.spacing_mm, plane, size_px)
    ct = enlarged(window_ct(ct_hu, window_hu, level_hu), size).convert("RGB")
    front = line_layer(structure_lines(case, plane, index, structures, box, size), size, LETTERS[plane])
    pictures = []
    for overlay in overlays:
        image, layers = ct.copy(), []
        if overlay is not None:
            values_gy = take_slice(overlay.volume_gy, plane, index, box)
            put_overlay(image, np.asarray(enlarged(values_gy, size)), overlay, opacity)
            layers = (
                [line_layer(isodose_lines(values_gy, overlay, size), size)] if overlay.isodoses_gy else []
            )
        for layer in (*layers, front):
            image.paste(layer, mask=layer)
        pictures.append(np.asarray(image))
    return pictures


def render_slice(case, plane, index, overlay=None, **look):
    """One picture uint8 [H,W,3]; `look` as in render_slices."""
    return render_slices(case, plane, index, [overlay], **look)[0]


@lru_cache(maxsize=64)
def colour_bar(colours, range_gy, width_px=320, unit="Gy"):
    """A strip uint8 [34,width_px,3] of the colours with ticks in `unit`."""
    low, high = range_gy
    left, right = 12, width_px - 14 - 8 * len(unit)
    strip = np.zeros((34, width_px, 3), np.uint8)
    strip[4:14, left:right] = colour_lut(colours)[np.linspace(0, 255, right - left).astype(int)]
    draw = ImageDraw.Draw(image := Image.fromarray(strip))
    for tick in MaxNLocator(5).tick_values(low, high):
        if low <= tick <= high:
            x = left + (tick - low) / max(high - low, 1e-6) * (right - left - 1)
            draw.line([x, 14, x, 17], fill="white")
            draw.text((x, 25), f"{tick:g}", fill="white", font=font(12), anchor="mm")
    draw.text((width_px - 4, 9), unit, fill="white", font=font(12), anchor="rm")
    return np.asarray(image)


def to_png(rgb):
    """uint8 [H,W,3] as PNG bytes, exact."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def to_jpeg(rgb):
    """uint8 [H,W,3] as JPEG bytes, in a small part of PNG's time: for pictures that follow a slider."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def draw_axial(case, index):
    """An axial slice of the planned dose with two isodoses and every structure, uint8 [H,W,3]."""
    isodoses_gy = tuple(case.rx_gy * share for share in (0.5, 0.95))
    overlay = Overlay(case.dose_gy, (0, case.rx_gy), isodoses_gy=isodoses_gy)
    return render_slice(case, "axial", index, overlay, structures=tuple(case.masks))
