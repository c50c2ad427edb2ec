"""Where one looks: the point that the three planes have in common, and the part of the patient around it."""

from collections.abc import Sequence
from typing import NamedTuple

from lib.report.slices import PLANES, Box, slice_size_px
from lib.report.views import View

Voxel = tuple[int, int, int]  # z, y, x
MOST_ZOOM = 8.0


class Sight(NamedTuple):
    """`point` lies in all three planes; what is seen of `whole` is a `zoom`-th of it along each axis, around
    `centre` (z, y, x in voxels), which may be anywhere: `box` stays inside."""

    whole: Box
    point: Voxel
    centre: tuple[float, float, float]
    zoom: float = 1.0

    @property
    def box(self) -> Box:
        return tuple(self.span(axis) for axis in range(3))

    def span(self, axis: int) -> slice:
        """The voxels that are seen along an axis."""
        low, high = self.whole[axis].start, self.whole[axis].stop
        size = max(1, round((high - low) / self.zoom))
        start = min(max(low, round(self.centre[axis] - size / 2)), high - size)
        return slice(start, start + size)

    def go(self, point: Voxel) -> "Sight":
        """Another point; what is seen moves along where it would lie outside."""
        here = [span.start <= p < span.stop for span, p in zip(self.box, point)]
        centre = (c if inside else p + 0.5 for inside, c, p in zip(here, self.middle, point))
        return self._replace(point=tuple(point), centre=tuple(centre))

    def turn(self, plane: str, index: int) -> "Sight":
        """Another slice of a plane."""
        return self.go([index if axis == PLANES[plane] else p for axis, p in enumerate(self.point)])

    def enlarge(self, factor: float, fixed: Voxel) -> "Sight":
        """Closer, or farther with a factor below 1; the voxel `fixed` stays where it is on the screen."""
        zoom = min(max(1.0, self.zoom * factor), MOST_ZOOM)
        centre = (f + 0.5 + (m - f - 0.5) * self.zoom / zoom for m, f in zip(self.middle, fixed))
        return self._replace(zoom=zoom, centre=tuple(centre))

    def shift(self, by: Sequence[float]) -> "Sight":
        """The part that is seen moves by (z, y, x) voxels."""
        moved = self._replace(centre=tuple(c + d for c, d in zip(self.centre, by)))
        ends = zip(moved.centre, moved.middle)  # it does not run away beyond the patient
        return moved._replace(centre=tuple(c if abs(c - m) <= 1 else m for c, m in ends))

    @property
    def middle(self) -> tuple[float, float, float]:
        """Of the part that is seen, in voxels."""
        return tuple((span.start + span.stop) / 2 for span in self.box)


def in_plane(view: View) -> tuple[list[int], list[range], tuple[int, int]]:
    """Axes, voxels and pixels of a picture's rows, from the top, and of its columns, from the left."""
    axes = [axis for axis in range(3) if axis != PLANES[view.plane]]
    rows, columns = (range(view.case.shape[axis])[view.box[axis]] for axis in axes)
    size_px = slice_size_px((len(rows), len(columns)), view.case.spacing_mm, view.plane, view.size_px)
    return axes, [rows if view.plane == "axial" else rows[::-1], columns], size_px  # the head is up


def sides_mm(view: View) -> list[float]:
    """Height and width of a picture's part of the patient."""
    axes, voxels, _ = in_plane(view)
    return [len(v) * view.case.spacing_mm[axis] for axis, v in zip(axes, voxels)]


def voxel_at(view: View, x_px: float, y_px: float) -> Voxel | None:
    """The voxel under a point of a picture, in pixels from its top left; None beyond the slice."""
    axes, voxels, size_px = in_plane(view)
    places = [int(px * len(v) // size) for px, v, size in zip((y_px, x_px), voxels, size_px)]
    if not all(0 <= place < len(v) for place, v in zip(places, voxels)):
        return None
    voxel = [view.index] * 3
    for axis, place, v in zip(axes, places, voxels):
        voxel[axis] = v[place]
    return tuple(voxel)


def pixel_of(view: View, voxel: Sequence[int]) -> tuple[float, float]:
    """(x, y) of a voxel's centre in a picture, in pixels from its top left; beyond it if it is not seen."""
    axes, voxels, size_px = in_plane(view)
    places = ((voxel[axis] - v.start) * v.step + 0.5 for axis, v in zip(axes, voxels))
    y, x = (place / len(v) * size for place, v, size in zip(places, voxels, size_px))
    return x, y


def voxels_along(view: View, dx_px: float, dy_px: float) -> list[float]:
    """A way across a picture in pixels as (z, y, x) in voxels."""
    axes, voxels, size_px = in_plane(view)
    way = [0.0, 0.0, 0.0]
    for axis, px, v, size in zip(axes, (dy_px, dx_px), voxels, size_px):
        way[axis] = px * v.step * len(v) / size
    return way
