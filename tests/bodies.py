"""Analytic bodies: where they are, their volume, their exact contours in any axial plane, as DICOM too."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from dicom_toys import item
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from lib.importers.dicom_grid import ImageGrid
from lib.importers.dicom_structures import Roi

ANGLES = np.linspace(0, 2 * np.pi, 90, endpoint=False)
CONTOUR_DATA = Tag("ContourData")


class Body(NamedTuple):
    """inside(z, y, x) and outlines(z) -> [(y, x) [N,2]], in mm from the centre; the exact volume in mm3."""

    inside: Callable
    outlines: Callable
    volume_mm3: float


def circle(radius_mm, centre=(0.0, 0.0), stretch=(1.0, 1.0)):
    if radius_mm <= 0:
        return []
    radius_mm = radius_mm * (1 + (2 * np.pi / len(ANGLES)) ** 2 / 12)  # the polygon's area is the circle's
    return [np.stack([np.sin(ANGLES) * stretch[0], np.cos(ANGLES) * stretch[1]], 1) * radius_mm + centre]


def root(square):
    return np.sqrt(np.maximum(square, 0))


def sphere(r):
    return Body(
        lambda z, y, x: z**2 + y**2 + x**2 <= r**2,
        lambda z: circle(root(r**2 - z**2)),
        4 / 3 * np.pi * r**3,
    )


def ellipsoid(a, b, c):
    return Body(
        lambda z, y, x: (z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2 <= 1,
        lambda z: circle(root(1 - (z / a) ** 2), stretch=(b, c)),
        4 / 3 * np.pi * a * b * c,
    )


def cube(half):
    square = np.array([(-half, -half), (-half, half), (half, half), (half, -half)])
    return Body(
        lambda z, y, x: np.maximum(np.maximum(abs(z), abs(y)), abs(x)) <= half,
        lambda z: [square] if abs(z) <= half else [],
        8 * half**3,
    )


def cylinder(r, half):
    return Body(
        lambda z, y, x: (y**2 + x**2 <= r**2) & (abs(z) <= half),
        lambda z: circle(r) if abs(z) <= half else [],
        2 * np.pi * r**2 * half,
    )


def torus(ring, r):
    def outlines(z):
        width = root(r**2 - z**2)
        return circle(ring + width) + circle(ring - width) if width > 0 else []

    return Body(
        lambda z, y, x: (np.hypot(y, x) - ring) ** 2 + z**2 <= r**2, outlines, 2 * np.pi**2 * ring * r**2
    )


def hollow_sphere(r, hole):
    return Body(
        lambda z, y, x: (z**2 + y**2 + x**2 <= r**2) & (z**2 + y**2 + x**2 > hole**2),
        lambda z: circle(root(r**2 - z**2)) + circle(root(hole**2 - z**2)),
        4 / 3 * np.pi * (r**3 - hole**3),
    )


def tube(r, half, lean):
    """A thin tube whose centre moves by `lean` mm in x for each mm in z."""
    return Body(
        lambda z, y, x: (y**2 + (x - lean * z) ** 2 <= r**2) & (abs(z) <= half),
        lambda z: circle(r, (0, lean * z)) if abs(z) <= half else [],
        2 * np.pi * r**2 * half,
    )


BODIES = {
    "sphere": sphere(40.0),
    "cube": cube(35.2),
    "cylinder": cylinder(30.2, 35.2),
    "ellipsoid": ellipsoid(45.0, 25.0, 35.0),
    "torus": torus(35.0, 15.0),
    "hollow sphere": hollow_sphere(45.0, 25.0),
    "thin tube": tube(5.0, 40.0, 0.5),
}


def contour(points_mm, z_mm, kind="CLOSED_PLANAR"):
    """An item of a ContourSequence as it is read from a file; points (y, x) in mm."""
    y, x = np.transpose(points_mm)
    data = "\\".join(f"{v:.4f}" for v in np.column_stack([x, y, np.full(len(x), z_mm)]).ravel()).encode()
    ds = item(ContourGeometricType=kind, NumberOfContourPoints=len(x))
    ds._dict[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, "DS", len(data), data, 0, False, True, True)
    return ds


def roi_of(contours, name="A", kind="", in_ct_frame=True):
    return Roi(1, name, kind, contours, in_ct_frame)


def body_roi(body, grid, centre_mm):
    """The body's contours in every slice of the CT's grid."""
    contours = []
    for k in range(grid.shape[0]):
        z_mm = grid.origin_mm[0] + k * grid.spacing_mm[0]
        lines = body.outlines(z_mm - centre_mm[0])
        contours += [contour(line + centre_mm[1:], z_mm) for line in lines]
    return roi_of(contours)


def body_mask(body, grid, centre_mm):
    """bool [D,H,W]: the voxels whose centre is inside the body."""
    axes_mm = [
        o + s * np.arange(n) - c for o, s, n, c in zip(grid.origin_mm, grid.spacing_mm, grid.shape, centre_mm)
    ]
    return body.inside(*np.meshgrid(*axes_mm, indexing="ij"))


def field(spacing_mm, size_mm):
    """A grid round the origin of at least `size_mm` each way."""
    shape = tuple(int(np.ceil(size_mm / s)) + 1 for s in spacing_mm)
    return ImageGrid(tuple(-s * (n - 1) / 2 for s, n in zip(spacing_mm, shape)), tuple(spacing_mm), shape)
