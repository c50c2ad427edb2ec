"""A synthetic male pelvis: CT and structures from smooth implicit functions, different in every seed.

Lengths are mm, from the middle of the prostate, in the order (z, y, x): z towards the head, y towards the
back, x towards the patient's left, as in `lib.cases.case`. A field `d_mm` is negative inside a shape and near
enough a distance, so that d_mm < margin is the shape grown by the margin and clip(0.5 - d_mm / width) its
soft edge.
"""

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, label
from scipy.spatial import cKDTree

from lib.cases.case import Triple

Rng, Field, Fields = np.random.Generator, np.ndarray, dict[str, np.ndarray]
Points = np.ndarray | list  # [3] or [N,3]
Layer = tuple[Field, float | Field]  # the share of each voxel that it fills, and its HU
SHAPE = (48, 64, 64)
SPACING_MM = (5.0, 6.0, 6.0)
EDGE_MM = 6.0  # a soft edge of one voxel takes the place of partial volume
REACH_MM = 60.0  # distances to tubes are not followed further
AIR_HU, FAT_HU, MUSCLE_HU = -1000.0, -100.0, 55.0
SIDES = {"R": -1, "L": 1}


def draw_pelvis(seed: int) -> tuple[Field, Fields, Field, Triple]:
    """One patient: ct_hu int16, masks name -> bool, body bool, all [48,64,64]; spacing_mm (dz, dy, dx)."""
    rng = np.random.default_rng(seed)
    p = patient_frame(rng)
    body = body_shape(p, rng)
    bones = bone_shapes(p, rng)
    organs = organ_shapes(p, rng, bones)
    vessels = vessel_shapes(p, rng)
    targets = target_shapes(p, rng, organs, vessels, bones)
    soft = soft_layers(p, rng, body)
    organs["Bowel"] = bowel_shape(p, rng, organs, soft["Cavity"], targets["PTV56"])
    ct_hu = paint(rng, p, body, soft, organs, vessels, bones)
    fields = targets | {name: organs[name] for name in ("Prostate", "Rectum", "Bladder", "Bowel")}
    fields |= {f"Femur_{side}": np.maximum(bones[f"Femur_{side}"], -62 - p[0]) for side in SIDES}
    masks = {name: drop_crumbs((d_mm < 0) & (body < 0)) for name, d_mm in fields.items()}
    return ct_hu, masks, body < 0, SPACING_MM


def drop_crumbs(mask: np.ndarray) -> np.ndarray:
    """The mask without parts of less than a twentieth of it, which no planner would draw."""
    parts, _ = label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= 0.05 * sizes.sum())[parts] & mask


# ---------------------------------------------------------------- building blocks


def smooth_noise(rng: Rng, length_mm: float) -> Field:
    """A random field [D,H,W] of mean 0 and deviation 1 that varies over about `length_mm`."""
    field = gaussian_filter(rng.standard_normal(SHAPE), [length_mm / s for s in SPACING_MM])
    return ((field - field.mean()) / field.std()).astype(np.float32)


def ellipsoid(p: Field, centre_mm: Points, radii_mm: Points) -> Field:
    """d_mm of an ellipsoid, after the usual estimate |p/r| (|p/r| - 1) / |p/r^2|."""
    q = [(axis - c) / r for axis, c, r in zip(p, centre_mm, radii_mm)]
    first = np.sqrt(sum(a * a for a in q)) + 1e-3
    second = np.sqrt(sum((a / r) ** 2 for a, r in zip(q, radii_mm))) + 1e-6
    return first * (first - 1) / second


def tube(p: Field, knots_mm: Points, radii_mm: Points, squash: Triple = (1.0, 1.0, 1.0)) -> Field:
    """d_mm of a tube through knots [K,3] whose radius runs through radii_mm; `squash` widens an axis."""
    knots_mm = np.asarray(knots_mm, float)
    along = np.append(0, np.cumsum(np.linalg.norm(np.diff(knots_mm, axis=0), axis=1)))
    fine = np.linspace(0, along[-1], 80)
    path = PchipInterpolator(along, knots_mm)(fine)
    return surface(p, path, PchipInterpolator(along, np.broadcast_to(radii_mm, along.shape))(fine), squash)


def surface(p: Field, points_mm: Points, radii_mm: Points, squash: Triple = (1.0, 1.0, 1.0)) -> Field:
    """d_mm of the balls of radii_mm [N] around points_mm [N,3]."""
    scale = 1 / np.asarray(squash)
    tree, places = cKDTree(points_mm * scale), np.moveaxis(p, 0, -1) * scale
    distance, nearest = tree.query(places, distance_upper_bound=REACH_MM)
    radius = np.append(radii_mm, 0.0)[nearest]
    return (np.where(np.isinf(distance), REACH_MM, distance) - radius).astype(np.float32)


def smooth_min(a: Field, b: Field, width_mm: float) -> Field:
    """The union of two shapes with a rounded seam."""
    blend = np.clip(0.5 + 0.5 * (b - a) / width_mm, 0, 1)
    return b + (a - b) * blend - width_mm * blend * (1 - blend)


def jitter(rng: Rng, knots_mm: Points, sd_mm: float) -> np.ndarray:
    """Knots [K,3], each moved at random: what makes left differ from right."""
    knots_mm = np.asarray(knots_mm, float)
    return knots_mm + rng.normal(0, sd_mm, knots_mm.shape)


# ---------------------------------------------------------------- anatomy


def patient_frame(rng: Rng) -> Field:
    """Coordinates p [3,D,H,W] of one patient: shifted, turned by a few degrees, scaled and gently warped."""
    grid = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING_MM)], indexing="ij")
    p = np.stack(grid) - rng.normal([-42, 9, 0], [5, 4, 4])[:, None, None, None]
    yaw, roll, pitch = np.deg2rad(rng.normal(0, [2.5, 2.0, 3.0]))
    z, y, x = p
    y, x = y * np.cos(yaw) - x * np.sin(yaw), y * np.sin(yaw) + x * np.cos(yaw)
    z, x = z * np.cos(roll) - x * np.sin(roll), z * np.sin(roll) + x * np.cos(roll)
    z, y = z * np.cos(pitch) - y * np.sin(pitch), z * np.sin(pitch) + y * np.cos(pitch)
    p = np.stack([z, y, x]) / rng.normal(1.0, 0.035)
    return (p + np.stack([rng.uniform(2, 4) * smooth_noise(rng, 35) for _ in range(3)])).astype(np.float32)


def body_shape(p: Field, rng: Rng) -> Field:
    """The skin: an oval trunk, flat on the couch, that parts into two thighs below."""
    z, y, x = p
    wide_mm, deep_mm, belly_mm = rng.uniform(158, 171), rng.uniform(103, 124), rng.uniform(-8, 10)
    rise = np.clip((z + 10) / 130, 0, 1)
    half_x = wide_mm * (1 - rng.uniform(0.02, 0.12) * rise)
    half_y = deep_mm + belly_mm * rise
    across = np.abs(x - rng.normal(0, 3)) / half_x
    q = across**2.5 + (np.abs(y + 8 + 0.5 * belly_mm * rise) / half_y) ** 2.3
    trunk = np.maximum((q**0.42 - 1) * deep_mm, -58 - z)
    thighs = []
    for side in SIDES.values():
        knots = [[-30, 0, side * 78], [-140, 4, side * rng.uniform(84, 90)]]
        thighs.append(tube(p, knots, [72, 66 + rng.uniform(0, 8)]))
    skin = smooth_min(trunk, smooth_min(*thighs, 6), 18) + 2.0 * smooth_noise(rng, 26)
    cleft = np.exp(-((x / 11) ** 2)) * np.clip((y - 40) / 40, 0, 1) * np.clip(0.5 - z / 40, 0, 1)
    skin = skin + rng.uniform(8, 16) * cleft
    couch = y - rng.uniform(0.84, 0.92) * deep_mm + 8
    return -smooth_min(-skin, -couch, 14)


def soft_layers(p: Field, rng: Rng, body: Field) -> Fields:
    """d_mm of Muscle under the fat of the skin, and of the fatty Cavity inside the muscle."""
    z, y, x = p
    behind = np.clip(y / 100, -0.5, 1) * np.clip(np.abs(x) / 60, 0.3, 1)
    fat_mm = rng.uniform(10, 32) * (1 + 0.7 * behind) * (1 + 0.2 * smooth_noise(rng, 25))
    mons_mm = rng.uniform(8, 22) * np.exp(-((x / 42) ** 2)) * np.clip(-y / 60, 0, 1)
    muscle = body + np.maximum(fat_mm, 5) + mons_mm * np.clip(0.9 - z / 50, 0, 1)
    heights = [-60, -35, 0, 40, 90, 180]
    widths = [8, 26, 42, 64, 96, 118], [8, 28, 42, 62, 78, 84], [18, 14, 9, -1, -20, -24]
    half_x, half_y, middle_y = (np.interp(z, heights, width) for width in widths)
    cavity = (np.hypot(x / half_x, (y - middle_y) / half_y) - 1) * half_y + 2 * smooth_noise(rng, 18)
    return {"Muscle": muscle, "Cavity": np.maximum(cavity, muscle + rng.uniform(8, 14))}


def bone_shapes(p: Field, rng: Rng) -> Fields:
    """d_mm of Femur_L, Femur_R and of all other bone ("Pelvis")."""
    shapes, size = {}, rng.normal(1, 0.03)
    bottom_y = rng.normal(0, 3)
    sacrum = jitter(rng, [[165, 18, 0], [110, 46, 0], [75, 65, 0], [40, 70, 0], [12, 58, 0]], 2.5)
    parts = [tube(p, sacrum, [27, 23, 17, 10, 6], (1, 1, 2.0)), tube(p, sacrum, [27, 20, 14, 9, 6])]
    for name, side in SIDES.items():
        mirror = np.array([1, 1, side])
        shapes[f"Femur_{name}"] = femur(p, rng, mirror, size)
        parts.append(hip_bone(p, rng, mirror, size, bottom_y))
    pelvis = np.minimum.reduce(parts) + 1.0 * smooth_noise(rng, 14)
    gap = np.minimum(shapes["Femur_L"], shapes["Femur_R"])
    shapes["Pelvis"] = np.maximum(pelvis, 3.5 - gap)  # a joint space of a few mm
    return shapes


def femur(p: Field, rng: Rng, mirror: np.ndarray, size: float) -> Field:
    """d_mm of one femur: head, neck, greater trochanter and the shaft, whose angle differs by side."""
    head = np.array([22, -2, 86]) * mirror * size + rng.normal(0, 2.5, 3)
    hip = head + (np.array([-28, 12, 28]) + rng.normal(0, 4, 3)) * mirror
    knee = hip + (np.array([-130, -4, -10]) + rng.normal(0, [0, 12, 8])) * mirror
    radius = rng.uniform(22, 26)
    neck = tube(p, [head, hip], [15, 16])
    rest = np.minimum(ellipsoid(p, hip + [6, 6, 2 * mirror[2]], [20, 16, 13]), tube(p, [hip, knee], [17, 14]))
    return smooth_min(ellipsoid(p, head, [radius] * 3), smooth_min(neck, rest, 6), 5)


def hip_bone(p: Field, rng: Rng, mirror: np.ndarray, size: float, bottom_y: float) -> Field:
    """d_mm of one side of the pelvic girdle: ilium, socket, pubis and ischium."""

    def at(*knots):
        return jitter(rng, np.array(knots, float) * mirror * size, 3.0)

    front = at([48, -10, 80], [85, -22, 108], [130, -20, 126])
    back = at([45, 22, 70], [80, 52, 58], [135, 62, 56])
    s, t = (axis.ravel()[:, None] for axis in np.meshgrid(*[np.linspace(0, 1, 24)] * 2))
    row = np.clip((s * 2).astype(int), 0, 1)[:, 0]
    edge = [e[row] + (e[row + 1] - e[row]) * (2 * s - row[:, None]) for e in (front, back)]
    bulge = rng.uniform(9, 18) * np.sin(np.pi * t) * (0.4 + 0.6 * s) * mirror * [0, 0, 1]
    thickness = np.interp(t[:, 0], [0, 0.5, 1], [7.5, 5.0, 8.5])
    wing = surface(p, edge[0] * (1 - t) + edge[1] * t + bulge, thickness)
    socket = ellipsoid(p, np.array([24, 0, 80]) * mirror * size, [36, 34, 30])
    socket = np.maximum(socket, mirror[2] * p[2] - 98 * size)
    front = at([22, -16, 66], [16, -38, 40], [2, -48 + bottom_y, 11], [-14, -44 + bottom_y, 9])
    pubis = tube(p, front, [10, 7, 9, 9])
    ramus = tube(p, at([-14, -42 + bottom_y, 9], [-34, -12, 34], [-46, 18, 52]), [8, 6, 10])
    ischium = tube(p, at([24, 24, 72], [-10, 28, 62], [-46, 20, 54]), [14, 12, 14])
    return np.minimum.reduce([smooth_min(wing, socket, 8), pubis, ramus, ischium])


def organ_shapes(p: Field, rng: Rng, bones: Fields) -> Fields:
    """d_mm of Prostate, Vesicles, Rectum, Bladder and the sigmoid that goes on from the rectum."""
    high, deep, wide = rng.uniform([19, 16, 22], [27, 24, 31])
    tilt = np.stack([p[0], p[1] - rng.uniform(-0.05, 0.25) * p[0], p[2]])
    prostate = ellipsoid(tilt, [0, 0, 0], [high, deep, wide]) + 1.2 * smooth_noise(rng, 12)
    base = [high + 2, 0.55 * deep, 0]
    horns = []
    for side in SIDES.values():
        bends = rng.normal([8, 6, side * 14], 2), rng.normal([14, 9, side * 27], 3)
        horns.append(tube(p, [base, *(np.add(base, bend) for bend in bends)], [6, 6.5, 4.5]))
    vesicles = np.minimum(*horns)
    rectum, sigmoid = rectum_shapes(p, rng, deep)
    rectum = np.maximum(rectum, 1.5 - prostate)
    volume_cc = np.exp(rng.uniform(np.log(110), np.log(430)))
    radius_cm = (3 * volume_cc / (4 * np.pi)) ** (1 / 3)
    radii = np.array([0.86, 0.95, 1.22]) * rng.normal(1, 0.06, 3) * 10 * radius_cm
    centre = [high + radii[0] - 8, -16 + rng.normal(0, 4), rng.normal(0, 5)]
    bladder = ellipsoid(p, centre, radii) + 2.2 * smooth_noise(rng, 20)
    for other, gap_mm in ((prostate, 0.5), (vesicles, 1.0), (rectum, 3.0), (bones["Pelvis"], 5.0)):
        bladder = -smooth_min(-bladder, other - gap_mm, 5)
    rectum, sigmoid = (np.maximum(d_mm, 2 - bones["Pelvis"]) for d_mm in (rectum, sigmoid))
    names = "Prostate", "Vesicles", "Rectum", "Bladder", "Sigmoid"
    return dict(zip(names, (prostate, vesicles, rectum, bladder, sigmoid)))


def rectum_shapes(p: Field, rng: Rng, prostate_depth_mm: float) -> tuple[Field, Field]:
    """d_mm of the rectum, from the anal canal to the bend of the sigmoid, and of the sigmoid beyond it."""
    low, full = rng.uniform(11, 16), rng.uniform(12, 21)
    front = prostate_depth_mm + 1.0
    sway = np.cumsum(rng.normal(0, 4, 8))
    z = np.array([-70, -40, -18, 2, 22, 44, 66, 92])
    y = np.array([16, 20, front + low - 2, front + low, max(front + low, 30), 31, 24, 6])
    y = y + rng.normal(0, 1, 8)
    radii = np.array([8, 11, low, low, 0.5 * (low + full), full, 14, 12]) * rng.normal(1, 0.05, 8)
    knots = np.stack([z, y, sway - sway[3] + rng.normal(0, 2)], axis=1)
    side = rng.uniform(20, 60) * rng.choice([1, 1, -1])
    beyond = np.array([[110, -4, knots[-1, 2] + side], [125, 12, knots[-1, 2] + 1.6 * side]])
    whole = tube(p, np.concatenate([knots, beyond]), np.append(radii, [12, 13])) + 1.2 * smooth_noise(rng, 12)
    top_mm, bottom_mm = rng.uniform(56, 76), rng.uniform(-46, -38)
    return np.maximum(whole, np.maximum(p[0] - top_mm, bottom_mm - p[0])), np.maximum(whole, top_mm - p[0])


def vessel_shapes(p: Field, rng: Rng) -> Fields:
    """d_mm of the vessels along the nodes, by side: external, internal, obturator; and of the psoas."""
    shapes = {}
    for name, side in SIDES.items():
        mirror = np.array([1, 1, side])
        fork = rng.normal([104, 12, 36], 4)
        outer = jitter(rng, [[75, -8, 54], [48, -28, 63], [22, -50, 66]], 3)
        outer = np.concatenate([[fork + [40, -4, -8], fork], outer])
        inner = np.concatenate([[fork], jitter(rng, [[82, 32, 44], [56, 36, 48], [34, 20, 50]], 3)])
        closing = jitter(rng, [[62, -2, 56], [36, -4, 54], [14, 2, 51]], 2)
        shapes[f"external_{name}"] = tube(p, outer * mirror, 6.5)
        shapes[f"internal_{name}"] = tube(p, inner * mirror, 4.5)
        shapes[f"obturator_{name}"] = tube(p, closing * mirror, 2.0)
        psoas = jitter(rng, [[190, 14, 46], [110, -2, 60], [66, -24, 74], [30, -36, 82], [-40, 4, 92]], 3)
        shapes[f"psoas_{name}"] = tube(p, psoas * mirror, [21, 20, 18, 15, 10])
    return shapes


def bowel_shape(p: Field, rng: Rng, organs: Fields, cavity: Field, ptv: Field) -> Field:
    """d_mm of small-bowel loops in the cavity above the bladder, joined with the sigmoid."""
    loops = np.full(SHAPE, REACH_MM)
    for _ in range(rng.integers(4, 8)):
        knots = rng.uniform([55, -75, -80], [185, 12, 80], (9, 3))
        knots[1:-1] = 0.5 * knots[1:-1] + 0.25 * (knots[:-2] + knots[2:])  # loops turn gently
        loops = np.minimum(loops, tube(p, knots, rng.uniform(9, 15, 9)))
    loops = np.minimum(np.maximum(loops, rng.uniform(-6, 22) - ptv), organs["Sigmoid"])
    lift_mm = rng.uniform(2, 9)
    blocked = np.minimum.reduce([organs["Bladder"] - lift_mm, organs["Rectum"] - 2, organs["Vesicles"] - 5])
    return np.maximum.reduce([loops + 1.5 * smooth_noise(rng, 10), -blocked, cavity + 3])


def target_shapes(p: Field, rng: Rng, organs: Fields, vessels: Fields, bones: Fields) -> Fields:
    """d_mm of PTV70 and PTV56: the clinical targets grown by margins that are smaller towards the rectum."""
    margin_mm, back_mm = rng.uniform(6, 9), rng.uniform(4, 6.5)
    towards_back = np.clip(p[1] / 15, 0, 1)
    margin = margin_mm - (margin_mm - back_mm) * towards_back
    roots = np.maximum(organs["Vesicles"], p[0] - rng.uniform(26, 34))  # only the base of the vesicles
    boost = smooth_min(organs["Prostate"], roots, 4) - margin
    reach = rng.uniform(8, 11)  # from the vessel's wall to the edge of the nodal PTV
    top_mm, front_mm = rng.uniform(88, 108), rng.uniform(28, 40)
    outer = np.minimum(vessels["external_R"], vessels["external_L"]) - reach
    rest = np.minimum.reduce([d - reach for name, d in vessels.items() if name[:3] in ("int", "obt")])
    nodes = np.minimum(np.maximum(outer, front_mm - p[0]), rest)
    hips = np.minimum(bones["Femur_L"], bones["Femur_R"])
    nodes = np.maximum.reduce([nodes, p[0] - top_mm, -3 - organs["Bladder"], 10 - hips])
    elective = smooth_min(nodes, organs["Vesicles"] - margin, 8) + 0.8 * smooth_noise(rng, 14)
    return {"PTV70": boost, "PTV56": np.minimum(boost - 0.5, smooth_min(boost, elective, 8))}


# ---------------------------------------------------------------- CT


def fill_share(d_mm: Field) -> Field:
    """The share of each voxel that a shape fills."""
    return np.clip(0.5 - d_mm / EDGE_MM, 0, 1)


def paint(
    rng: Rng, p: Field, body: Field, soft: Fields, organs: Fields, vessels: Fields, bones: Fields
) -> Field:
    """int16 CT [D,H,W] in HU: tissues laid over each other with soft edges, texture and noise."""
    texture = smooth_noise(rng, 9)
    fat = FAT_HU + 6 * texture
    septa = 0.6 * np.exp(-((smooth_noise(rng, 14) / 0.3) ** 2))
    strands = np.clip(0.35 * np.abs(smooth_noise(rng, 7)), 0, 0.6)
    layers = [
        (fill_share(soft["Muscle"]), MUSCLE_HU + 5 * texture - 140 * septa),
        (fill_share(soft["Cavity"]), fat + 45 * strands),
        *((fill_share(d), 58.0) for name, d in vessels.items() if "obturator" not in name),
        *hollow(rng, p, organs["Bowel"], 3, 30 + 20 * texture, rng.uniform(0, 0.35)),
        *hollow(rng, p, organs["Bladder"], 3, 8 + 2 * texture),
        (fill_share(organs["Vesicles"]), 30.0),
        (fill_share(organs["Prostate"]), 45 + 6 * texture),
        *hollow(rng, p, organs["Rectum"], 4, 25 + 25 * texture, rng.choice([0, 1]) * rng.uniform(0.1, 0.5)),
        *(layer for name in bones for layer in bone_layers(rng, bones[name], texture)),
    ]
    ct = fat
    for share, hu in layers:  # later layers lie on top
        ct = ct + share * (hu - ct)
    ct = AIR_HU + fill_share(body) * (ct - AIR_HU) + rng.normal(0, 3, SHAPE) * (body < 3)
    return np.clip(np.rint(np.where(body < 6, ct, AIR_HU)), AIR_HU, 2000).astype(np.int16)


def hollow(
    rng: Rng, p: Field, d_mm: Field, wall_mm: float, content_hu: float | Field, gas_share: float = 0.0
) -> list[Layer]:
    """Layers of a hollow organ: its wall, its content and pockets of gas, which rise to the front."""
    layers = [(fill_share(d_mm), 42.0), (fill_share(d_mm + wall_mm), content_hu)]
    if gas_share > 0:
        pocket = smooth_noise(rng, 13) - p[1] / 20
        level = np.quantile(pocket[d_mm < 0], 1 - gas_share)
        layers.append((fill_share(np.maximum(d_mm + wall_mm + 1, 12 * (level - pocket))), -960.0))
    return layers


def bone_layers(rng: Rng, d_mm: Field, texture: Field) -> list[Layer]:
    """Layers of a bone: cortex of a few mm around marrow."""
    cortex_hu, marrow_hu, thick_mm = rng.uniform(750, 1050), rng.uniform(130, 260), rng.uniform(3.0, 4.5)
    return [(fill_share(d_mm), cortex_hu), (fill_share(d_mm + thick_mm), marrow_hu + 35 * texture)]
