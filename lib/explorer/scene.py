"""The pictures of the explorer, and what is said of them: the plan in the three planes through a point, and a
row for each method."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from scipy import ndimage

from lib.cases.case import Case
from lib.explorer import dvhs
from lib.explorer.sight import Voxel, in_plane, pixel_of, sides_mm
from lib.report import slices, views
from lib.report.pictures import to_file
from lib.report.slices import PLANES, Overlay
from lib.report.style import WIDTH_IN, use_style
from lib.report.views import View

AXES = dict(zip(PLANES, "zyx"))
FADE = 0.15  # of the colours' upper end: below it a dose pales, so that next to no dose has no colour
TURN_DEG = 75.0  # from one isodose's label to the next one's, so that they do not meet


@dataclass(frozen=True)
class Panel:
    """A picture uint8 [H,W,3] with its colour bar, of what `view` says; `title` is its name in its row."""

    name: str
    title: str
    rgb: np.ndarray
    view: View

    @cached_property
    def jpeg(self) -> bytes:
        return to_file(Image.fromarray(self.rgb), "JPEG", quality=92, subsampling=0)  # PNG takes much longer

    def about(self, point: Voxel | None) -> dict:
        """What the browser is told of it; lines cross at the point."""
        height, width = in_plane(self.view)[2]
        cross = [*pixel_of(self.view, point), width, height] if point else None
        return {"title": self.title, "name": self.name, "cross": cross}


def render(view: View) -> list[list[Panel]]:
    """The slice: the planned dose, and a row of panels for each method."""
    rows = overlays_of(view)
    every = [overlay for row in rows for overlay in row.values()]
    look = {name: getattr(view, name) for name in ("opacity", "structures", "box", "ct_hu", "size_px")}
    pictures = iter(slices.render_slices(view.case, view.plane, view.index, every, **look))
    place = f"{view.plane}, {place_text(view.case, view.plane, view.index)}"

    def panel(name: str, overlay: Overlay) -> Panel:
        title = name.partition(": ")[2] or place
        return Panel(name, title, finish(next(pictures), overlay, view), view)

    return [[panel(*item) for item in row.items()] for row in rows]


def other_plane(view: View, plane: str, point: Voxel) -> View:
    """The plan alone in another plane through a point, at the same scale if there is room."""
    other = view._replace(plane=plane, index=point[PLANES[plane]], doses=())
    size_px = view.size_px * max(sides_mm(other)) / max(sides_mm(view))
    return other._replace(size_px=min(view.size_px, round(size_px)))


def overlays_of(view: View) -> list[dict[str, Overlay]]:
    """name -> Overlay, of the plan and of each method; low doses pale."""
    overlays, pale = views.overlays(view), {"full_from_gy": FADE * view.top_gy}
    overlays = {n: o._replace(**pale) if o.colours == slices.DOSE_MAP else o for n, o in overlays.items()}
    starts = ("planned", *(f"{dose.method}: " for dose in view.doses))
    return [{n: o for n, o in overlays.items() if n.startswith(start)} for start in starts]


def finish(rgb: np.ndarray, overlay: Overlay, view: View) -> np.ndarray:
    """The picture with the isodoses' values and its colour bar."""
    if overlay.isodoses_gy:
        rgb = label_isodoses(rgb, overlay, view)
    return slices.put_bar(rgb, overlay)


def label_isodoses(rgb: np.ndarray, overlay: Overlay, view: View) -> np.ndarray:
    """Each isodose's value in Gy where its largest part reaches farthest, each in another direction."""
    values_gy = slices.take_slice(overlay.volume_gy, view.plane, view.index, view.box)
    image, scale = Image.fromarray(rgb), np.divide(rgb.shape[:2], values_gy.shape)
    for number, level_gy in enumerate(overlay.isodoses_gy):
        parts, angle = ndimage.label(values_gy >= level_gy)[0], math.radians(TURN_DEG * number - 30)
        if parts.any():
            inside = np.argwhere(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
            farthest = inside[np.argmax(inside @ (math.sin(angle), math.cos(angle)))]
            label = stamp(f"{level_gy:g}")
            room = np.subtract(rgb.shape[:2], label.size[::-1])
            y, x = np.clip((farthest + 0.5) * scale - np.divide(label.size[::-1], 2), 0, room).astype(int)
            image.paste(label, (int(x), int(y)), label)
    return np.asarray(image)


@lru_cache(maxsize=64)  # to draw text takes many times as long as to paste it
def stamp(text: str) -> Image.Image:
    """White words with a dark rim on a transparent ground."""
    left, top, right, bottom = slices.font(11).getbbox(text, stroke_width=2)
    image = Image.new("RGBA", (int(right - left), int(bottom - top)))
    ink = {"fill": "white", "stroke_width": 2, "stroke_fill": "black"}
    ImageDraw.Draw(image).text((-left, -top), text, font=slices.font(11), **ink)
    return image


def place_text(case: Case, plane: str, index: int) -> str:
    """Where a slice lies, in mm."""
    return f"{AXES[plane]} {case.origin_mm[PLANES[plane]] + index * case.spacing_mm[PLANES[plane]]:.1f} mm"


def headings(view: View) -> list[str]:
    """What stands over the row of the plan and over that of each method: which slice, and how wrong."""
    case, mask = view.case, slices.take_slice(view.case.dose_mask, view.plane, view.index)
    count = case.shape[PLANES[view.plane]]
    texts = [f"{case.case_id}: planned dose, {view.plane} slice {view.index} of 0 to {count - 1}"]
    for dose in view.doses:
        wrong_gy = np.abs(slices.take_slice(dose.error_gy, view.plane, view.index)[mask])
        here = f"{wrong_gy.mean():.2f} Gy in this slice" if mask.any() else "no dose mask in this slice"
        texts.append(f"{dose.method}: MAE {here}, {dose.mae_gy:.2f} Gy in the patient")
    return texts


def beyond_text(view: View) -> str:
    """A sentence on what lies beyond the ends of the colours in this slice, or nothing."""
    overlays = [overlay for row in overlays_of(view) for overlay in row.values()]
    seen = [(slices.take_slice(o.volume_gy, view.plane, view.index), *o.range_gy) for o in overlays]
    parts = ["Magenta lies above the scale. "] * any(values.max() > high for values, _, high in seen)
    parts += ["Cyan lies below the scale. "] * any(values.min() < low for values, low, _ in seen)
    return "".join(parts)


def point_text(view: View, voxel: Voxel) -> str:
    """What lies in a voxel: its place, HU, Gy planned and predicted, and the structures it belongs to."""
    case = view.case
    parts = [", ".join(place_text(case, plane, voxel[axis]) for plane, axis in reversed(PLANES.items()))]
    parts += [f"CT {case.ct_hu[voxel]:.0f} HU", f"planned {case.dose_gy[voxel]:.2f} Gy"]
    for dose in view.doses:
        parts.append(f"{dose.method} {dose.dose_gy[voxel]:.2f} Gy ({dose.error_gy[voxel]:+.2f})")
        parts += [f"spread {dose.spread_gy[voxel]:.2f} Gy"] if dose.spread_gy is not None else []
        parts += [f"gamma {dose.gamma[voxel]:.2f}"] if dose.gamma is not None else []
    inside = ", ".join(name for name, mask in case.masks.items() if mask[voxel])
    return " · ".join([*parts, inside.replace("_", " ")] if inside else parts)


def draw_figure(view: View, rows: Sequence[Sequence[Panel]]) -> Figure:
    """Rows of panels under their headings, and the DVHs below them."""
    use_style()
    columns, width_px = max(map(len, rows)), max(panel.rgb.shape[1] for row in rows for panel in row)
    heights_px = [max(panel.rgb.shape[0] for panel in row) for row in rows]
    heights_in = [WIDTH_IN / columns * height_px / width_px + 0.55 for height_px in heights_px]
    figure = Figure((WIDTH_IN, sum(heights_in) + 3.2), layout="constrained")
    *parts, last = figure.subfigures(len(rows) + 1, height_ratios=[*heights_in, 3.2])
    for part, row, height_px, text in zip(parts, rows, heights_px, headings(view)):
        part.suptitle(textwrap.fill(text, 110), x=0.01, ha="left", fontsize=9, fontweight="bold")
        for ax, panel in zip(part.subplots(1, columns, squeeze=False).flat, [*row, *[None] * columns]):
            ax.set_axis_off()
            if panel:
                height, width = panel.rgb.shape[:2]
                room = ((0, height_px - height), (0, width_px - width), (0, 0))  # one scale for all
                ax.imshow(np.pad(panel.rgb, room, constant_values=255))
                ax.set_title(textwrap.fill(panel.title, 150 // columns), fontsize=8, fontweight="normal")
    dvhs.draw(last, view)
    return figure
