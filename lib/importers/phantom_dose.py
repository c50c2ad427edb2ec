"""A planned dose for a phantom: modulated fluence from many gantry angles, chosen to meet the clinical goals.

pydosert computes the dose (10 MV, pencil beams). The fluence is found on a ray model, dose = open-field dose
of the angle x fluence on the ray, which is corrected by pydosert's dose of the fluence found so far, several
times over. It stands for modulated arcs, not for one deliverable arc. Fields are [D,H,W]; lengths in mm, dose
in Gy.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.sparse import csr_matrix

from lib.cases.case import Triple
from lib.errors import UserError
from lib.parallel import with_one_thread

ANGLES, OPEN_EVERY = 60, 5  # open-field doses are interpolated between every fifth angle
FIELD_MM, SOURCE_MM, LEAF_MM = 200, 1000.0, 5.0  # pydosert's fluence map has one pixel per mm
PIXELS = int(FIELD_MM / LEAF_MM)  # our fluence [ANGLES,PIXELS,PIXELS] has one pixel per leaf width
PENUMBRA_MM, SCATTER_MM = 6.0, 3.0  # deviations of the blur: in the head, and on the way through the body
MARGIN_MM, WIDE_MM = 7.0, 25.0  # the field opens this far beyond the target; so does the one that probes
KERNEL_VOXELS = 23
ROUNDS = (70, 40)  # iterations before each dose calculation
SMOOTH = 0.1  # against fluence that jumps from angle to angle, which leaves spokes
# outside the targets: dose in Gy from which an organ is spared, and how hard
PRESS = {"Rectum": (46, 0.8), "Bladder": (44, 0.8), "Femur_L": (40, 3), "Femur_R": (40, 3), "Bowel": (42, 2)}
NO_PYDOSERT = "making phantoms needs pydosert; install it with: pip install -e '.[phantom]'"
Array, Rng = np.ndarray, np.random.Generator
Engine = Callable[[Array, Array], Array]  # (fluence, angles) -> dose


class PlanGoals(NamedTuple):
    """Penalties per judged voxel [N]: under (low - dose)+^2 + over (dose - high)+^2 + pull dose^2."""

    voxels: Array  # flat indices
    low_gy: Array
    high_gy: Array
    under: Array
    over: Array
    pull: Array


def plan_dose(ct_hu: Array, masks: dict[str, Array], body: Array, spacing_mm: Triple, seed: int) -> Array:
    """The planned dose float32 [D,H,W] in Gy, 0 outside the body; 95 % of PTV70 receive 70 Gy or more."""
    make = partial(make_plan, ct_hu, masks, body, spacing_mm)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # pydosert's autocast is idle on a CPU
        # a sum depends on its order, and that on the number of threads
        return with_one_thread(make, np.random.default_rng([seed, 1]))


def make_plan(ct_hu: Array, masks: dict[str, Array], body: Array, spacing_mm: Triple, rng: Rng) -> Array:
    """As plan_dose, on whatever number of threads torch has."""
    dose_of = dose_engine(ct_hu, masks["PTV56"], spacing_mm)
    angles = (np.arange(ANGLES) + rng.uniform()) * 2 * np.pi / ANGLES
    goals = plan_goals(masks, body, spacing_mm, rng)
    rays = ray_model(dose_of, angles, goals.voxels, masks["PTV56"], spacing_mm)
    aperture = open_pixels(masks["PTV56"], angles, spacing_mm, MARGIN_MM)
    fluence = aperture * (60 / ray_dose(rays, aperture)[goals.under > 0].mean())
    deficit = np.zeros(len(goals.voxels))
    for iterations in ROUNDS:
        fluence = solve_fluence(rays, goals, aperture, fluence, deficit, iterations)
        dose = dose_of(fluence, angles)
        deficit = dose.ravel()[goals.voxels] - ray_dose(rays, fluence)
    return normalise(dose * body, masks["PTV70"])


# ---------------------------------------------------------------- beams


def isocentre_mm(ptv: Array, spacing_mm: Triple) -> Triple:
    """(z, y, x) from the centre of voxel 0: mid-grid, as pydosert's rotation needs, and mid-PTV."""
    heights = np.flatnonzero(ptv.any((1, 2)))
    middle = (heights[0] + heights[-1]) / 2, (ptv.shape[1] - 1) / 2, (ptv.shape[2] - 1) / 2
    return tuple(float(m * s) for m, s in zip(middle, spacing_mm))


def dose_engine(ct_hu: Array, ptv: Array, spacing_mm: Triple) -> Engine:
    """A function (fluence [G,PIXELS,PIXELS], angles [G] in radians) -> dose [D,H,W] in arbitrary units."""
    try:
        from pydosert.data import BeamSequence, MachineConfig
        from pydosert.engine.pencil_depth_engine import PencilDepthEngine
        from pydosert.physics.attenuation.hu_density_conversion import convert_HU_to_density
    except ImportError:
        raise UserError(NO_PYDOSERT) from None
    machine = MachineConfig(preset="varian_10MV", number_of_leaf_pairs=PIXELS, leaf_widths=[LEAF_MM] * PIXELS)
    density = convert_HU_to_density(torch.from_numpy(ct_hu.astype(np.float32)))

    def dose_of(fluence: Array, angles: Array) -> Array:
        starts = range(0, len(angles), 12)  # a dozen angles at a time keep the memory small
        return sum(part_of(fluence[i : i + 12], angles[i : i + 12]) for i in starts)

    def part_of(fluence: Array, angles: Array) -> Array:
        g = len(angles)
        beams = BeamSequence(
            mus=torch.ones(g),
            leaf_positions=torch.zeros(g, PIXELS, 2),
            jaw_positions=torch.zeros(g, 2),
            field_size=(FIELD_MM, FIELD_MM),
            iso_center=isocentre_mm(ptv, spacing_mm),
            sid=SOURCE_MM,
            gantry_angles=torch.as_tensor(angles, dtype=torch.float32),
            collimator_angles=torch.zeros(g),
        )
        maps = torch.from_numpy(blur(fluence, PENUMBRA_MM).astype(np.float32))[None]
        maps = torch.nn.functional.interpolate(maps, scale_factor=LEAF_MM, mode="bilinear")
        nodes_mm, volume = PencilDepthEngine.DEPTH_NODES_MM[::2], (spacing_mm, ct_hu.shape)
        engine = PencilDepthEngine(
            machine, KERNEL_VOXELS, *volume, beam_template=beams, device="cpu", depth_nodes_mm=nodes_mm
        )
        return engine.compute_dose(beams, density_image=density, fluence_maps=maps)[0].numpy()

    return dose_of


def blur(fluence: Array, sigma_mm: float) -> Array:
    """Each map of [G,PIXELS,PIXELS] after a Gaussian; its own adjoint, so gradients pass too."""
    sigma = sigma_mm / LEAF_MM
    return gaussian_filter(fluence, (0, sigma, sigma), mode="constant")


def project(points_mm: Array, angle: float) -> Array:
    """Where points [N,3] (z, y, x from the isocentre) fall on the fluence map: pixels [2,N] (row, column)."""
    z, y, x = points_mm.T
    enlarge = SOURCE_MM / (SOURCE_MM + y * np.cos(angle) - x * np.sin(angle)) / LEAF_MM
    return np.stack([z, y * np.sin(angle) + x * np.cos(angle)]) * enlarge + (PIXELS - 1) / 2


def open_pixels(ptv: Array, angles: Array, spacing_mm: Triple, margin_mm: float) -> Array:
    """The pixels [G,PIXELS,PIXELS] that see the target, or come within the margin of it; float 0 or 1."""
    corners = np.stack(np.meshgrid(*[[-0.25, 0.25]] * 3, indexing="ij"), -1).reshape(-1, 3)
    voxels = (np.argwhere(ptv)[:, None] + corners).reshape(-1, 3)
    points = voxels * spacing_mm - isocentre_mm(ptv, spacing_mm)
    aperture = np.zeros((len(angles), PIXELS, PIXELS))
    for image, angle in zip(aperture, angles):
        rows, columns = np.clip(np.rint(project(points, angle)).astype(int), 0, PIXELS - 1)
        image[rows, columns] = 1
        image[:] = distance_transform_edt(image == 0) * LEAF_MM <= margin_mm
    return aperture


def ray_model(dose_of: Engine, angles: Array, voxels: Array, ptv: Array, spacing_mm: Triple) -> csr_matrix:
    """A sparse matrix [N, ANGLES * PIXELS^2]: open-field dose of the angle x bilinear weight of the pixel."""
    points = np.stack(np.unravel_index(voxels, ptv.shape), -1) * spacing_mm - isocentre_mm(ptv, spacing_mm)
    rows, columns, values = [], [], []
    probes = angles[::OPEN_EVERY]
    wide = open_pixels(ptv, probes, spacing_mm, WIDE_MM)  # a field of the plan's size, for its scatter
    doses = [dose_of(field[None], [angle]).ravel()[voxels] for field, angle in zip(wide, probes)]
    sampled = np.stack(doses * 2)
    for number, angle in enumerate(angles):
        before, share_after = divmod(number, OPEN_EVERY)
        share_after /= OPEN_EVERY
        strength = sampled[before] * (1 - share_after) + sampled[before + 1] * share_after
        at = project(points, angle)
        corner = np.floor(at).astype(int)
        part = at - corner
        for down, right in np.ndindex(2, 2):
            r, c = corner[0] + down, corner[1] + right
            share = np.abs(1 - down - part[0]) * np.abs(1 - right - part[1]) * strength
            hit = (r >= 0) & (r < PIXELS) & (c >= 0) & (c < PIXELS) & (share > 0)
            rows.append(np.flatnonzero(hit))
            columns.append(((number * PIXELS + r) * PIXELS + c)[hit])
            values.append(share[hit])
    cells = np.concatenate(values).astype(np.float32), (np.concatenate(rows), np.concatenate(columns))
    return csr_matrix(cells, shape=(len(voxels), len(angles) * PIXELS**2))


def ray_dose(rays: csr_matrix, fluence: Array) -> Array:
    """The ray model's dose [N] of a fluence [ANGLES,PIXELS,PIXELS], blurred as the head and the body do."""
    return rays @ blur(fluence, np.hypot(PENUMBRA_MM, SCATTER_MM)).astype(np.float32).ravel()


# ---------------------------------------------------------------- the plan


def plan_goals(masks: dict[str, Array], body: Array, spacing_mm: Triple, rng: Rng) -> PlanGoals:
    """What the planner asks of each judged voxel; how much an organ matters differs between patients."""
    far70, far56 = (distance_transform_edt(~masks[name], spacing_mm) for name in ("PTV70", "PTV56"))
    shell, outside = masks["PTV56"] & ~masks["PTV70"], body & ~masks["PTV56"]
    fall_mm = rng.uniform(28, 44)
    top_gy = rng.uniform(72.5, 74.0)  # some planners accept a hotter middle
    low = np.where(masks["PTV70"], 71.0, np.where(shell, 57.0, 0.0))
    high = 20 + np.maximum(35 * np.exp(-far56 / fall_mm), 50 * np.exp(-far70 / fall_mm))
    high = np.where(masks["PTV70"], top_gy, np.where(shell, np.clip(72 - 1.4 * far70, 58.0, 72), high))
    under, over, pull = (np.zeros(body.shape) for _ in range(3))
    for part, lift, press in ((masks["PTV70"], 100, 40), (shell, 80, 40), (outside, 0, 25)):
        under[part], over[part] = lift / part.sum(), press / part.sum()
    care = dict(zip(PRESS, np.exp(rng.normal(0, 0.5, len(PRESS)))))
    for name, (limit_gy, press) in PRESS.items():
        part = masks[name] & outside
        high[part] = np.minimum(high[part], limit_gy)
        over[part] += care[name] * press / max(part.sum(), 1)
        pull[part] += 0.02 * care[name] * press / max(part.sum(), 1)
    every_third = np.indices(body.shape).sum(0) % 3 == 0  # enough where the dose is smooth
    voxels = np.flatnonzero(body & (every_third | masks["PTV56"] | masks["Rectum"] | masks["Bladder"]))
    return PlanGoals(voxels, *(field.ravel()[voxels] for field in (low, high, under, over, pull)))


def solve_fluence(
    rays: csr_matrix, goals: PlanGoals, aperture: Array, start: Array, deficit_gy: Array, iterations: int
) -> Array:
    """The fluence >= 0 [ANGLES,PIXELS,PIXELS] in the open pixels with the least penalty: L-BFGS on its root.

    deficit_gy [N] is what the ray model lacked against pydosert at `start`; it is held while the fluence
    changes. torch's L-BFGS and not scipy's, whose sums depend on the number of BLAS threads.
    """
    inside = aperture > 0
    root = torch.from_numpy(np.sqrt(np.maximum(start[inside], 1e-4 * start[inside].mean())))
    solver = torch.optim.LBFGS([root], max_iter=iterations, history_size=12, line_search_fn="strong_wolfe")

    def fluence_now():
        fluence = np.zeros(aperture.shape)
        fluence[inside] = root.numpy() ** 2
        return fluence

    def closure():
        value, slope = penalty(rays, goals, fluence_now(), deficit_gy)
        root.grad = 2 * root * torch.from_numpy(slope[inside])
        return value

    solver.step(closure)
    return fluence_now()


def penalty(rays: csr_matrix, goals: PlanGoals, fluence: Array, deficit_gy: Array) -> tuple[float, Array]:
    """The penalty of a fluence and its gradient [ANGLES,PIXELS,PIXELS]."""
    dose = ray_dose(rays, fluence) + deficit_gy
    short, much = np.maximum(goals.low_gy - dose, 0), np.maximum(dose - goals.high_gy, 0)
    step = fluence - np.roll(fluence, 1, 0)
    value = (goals.under * short**2 + goals.over * much**2 + goals.pull * dose**2).sum()
    slope = 2 * (goals.over * much - goals.under * short + goals.pull * dose).astype(np.float32)
    slope = blur((rays.T @ slope).reshape(fluence.shape), np.hypot(PENUMBRA_MM, SCATTER_MM))
    return value + SMOOTH * (step**2).sum(), slope + 2 * SMOOTH * (step - np.roll(step, -1, 0))


def normalise(dose: Array, ptv70: Array) -> Array:
    """The dose in steps of 0.01 Gy: 95 % of PTV70 receive 70 Gy; 0.005 Gy more outlast the rounding."""
    values = np.sort(dose[ptv70])
    reference = values[int(np.floor(0.05 * len(values)))]
    return (np.rint(np.maximum(dose, 0) * (70.005 / reference) * 100) / 100).astype(np.float32)
