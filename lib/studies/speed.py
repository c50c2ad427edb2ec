"""How fast, against what: each part beside the straightforward way of doing it, as ratios of one run, and
against the machine's limits.

The straightforward way is what a reader would write first and what the reference study does: the network in
float32 and contiguous memory, one patient at a time, the case's whole volume cut to windows that are sampled
one by one.
"""

import time
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import affine_transform, distance_transform_edt
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lib.features.grid import coarsened
from lib.features.samples import (
    CLIP_MM,
    augment,
    background,
    condition_channels,
    load_samples,
    make_batch,
    make_sample,
    signed_distance_mm,
)
from lib.metrics.dose import grid_dose_score_gy
from lib.prediction.predict import network_of, predict, ready, usual_sampler
from lib.training.loop import Run, make_config, one_step

PEAK_EDGE, PEAK_MIB = 2048, 256  # the matrix product and the copy that the machine is measured by


class Pair(NamedTuple):
    """Seconds of the straightforward way and of ours, taken in turn."""

    plain_s: list
    ours_s: list


def in_turn(plain, ours, repeats):
    """Each once to warm up, then in turn, so that what disturbs the machine disturbs both."""
    plain(), ours()
    times = [(seconds_of(plain), seconds_of(ours)) for _ in range(repeats)]
    return Pair(*map(list, zip(*times)))


def seconds_of(work):
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def row(part, against, pair, note=""):
    """Median times, the median ratio, and the least and largest ratio of neighbours in time."""
    ratios = [plain / ours for plain, ours in zip(*pair)]
    return {
        "part": part,
        "against": against,
        "plain_s": float(np.median(pair.plain_s)),
        "ours_s": float(np.median(pair.ours_s)),
        "ratio": float(np.median(ratios)),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "note": note,
    }


def config_to_time(run, samples, method, base_channels, batch_size):
    """A configuration as in a full training; of its numbers only those given change the time of a step."""
    return make_config(
        run,
        samples,
        method=method,
        standardise="auto",
        terminal_snr="auto",
        base_channels=base_channels,
        epochs=1000,
        batch_size=batch_size,
        accumulate=1,
        patches_per_case=1,
        patch_voxels=[0, 0, 0],
        learning_rate=1e-3,
        ema_decay=0.99,
        region="dose mask",
        weighting="none",
        dose_error="squared",
        dvh_weight=0.0,
        gradient_weight=1.0,
        gradient_units="per mm",
        vgg_weight=0.0,
        vgg_file="",
        augment="rotated",
        validate_every=1000,
        validation_steps=1,
        patience=0,
        keep="last",
        snapshots_pct=[],
    )


# --- training and sampling ---


def training_rows(config, samples, device, repeats):
    """A step of one batch: in float32, contiguous, AdamW one tensor after another; against ours in float32,
    and as configured."""
    plain_config = replace(config, precision="32")
    plain = Run(plain_config, device)
    plain.optimizer = torch.optim.AdamW(plain.network.parameters(), config.learning_rate, foreach=False)
    rows = []
    for precision in dict.fromkeys(("32", config.precision)):
        own = replace(config, precision=precision)
        ours = Run(own, device)
        pair = in_turn(
            partial(one_step, plain, plain_config, samples, device),
            partial(one_step, ours, own, samples, device),
            repeats,
        )
        rows.append(row(f"training step, {precision}", "float32, contiguous, AdamW tensor by tensor", pair))
    return rows


def sampling_rows(run, config, case_ids, steps, window, device, repeats):
    """A patient sampled: by windows of the whole case, one by one, in float32; against ours. Then each of its
    two gains alone."""
    network = Run(config, device).network
    plain, ours = (ready(network, config, device, precision) for precision in ("32", config.precision))
    cases = [run.load_case(case_id) for case_id in case_ids]
    samples, whole = (
        [make_sample(case, run.coarsen) for case in cases],
        [whole_sample(case, run.coarsen) for case in cases[:1]],
    )
    sampler = usual_sampler(config, steps)

    def by_windows():
        predict(plain, whole, sampler, window=window, window_noise="own")

    pair = in_turn(by_windows, lambda: predict(ours, samples, sampler), repeats)
    pair = Pair(pair.plain_s, [seconds / len(samples) for seconds in pair.ours_s])
    rows = [
        row(
            f"sampling a patient, {config.precision}",
            f"windows of {window} one by one, float32, {len(samples)} patients at a time here",
            pair,
        )
    ]
    one = samples[:1]
    pair = in_turn(by_windows, lambda: predict(plain, one, sampler), repeats)
    rows.append(row("of it: windows", "the box around the patient at once, both in float32", pair))
    pair = in_turn(lambda: predict(plain, one, sampler), lambda: predict(ours, one, sampler), repeats)
    rows.append(row(f"of it: network in {config.precision}", "the same volume, float32 and contiguous", pair))
    return rows


def whole_sample(case, coarsen):
    """A sample of the case's whole volume, air and all."""

    def coarse(array):
        return coarsened(torch.from_numpy(array.astype(np.float32))[None], coarsen)

    return replace(
        make_sample(case, coarsen),
        cond=coarsened(condition_channels(case), coarsen),
        dose=coarse(case.dose_gy / case.rx_gy),
        mask=coarse(case.dose_mask),
    )


def precision_difference_gy(run, config, case_ids, steps, train_steps, device):
    """By how much the MAE differs between float32 and the configured precision, from one noise, by a network
    trained a little."""
    samples = [make_sample(run.load_case(case_id), run.coarsen) for case_id in case_ids]
    state = Run(config, device)
    for _ in range(train_steps):
        one_step(state, config, samples, device)
    errors = []
    for precision in ("32", config.precision):
        predictor = ready(state.network, config, device, precision)
        doses = predict(predictor, samples, usual_sampler(config, steps))
        errors.append(
            float(np.mean([grid_dose_score_gy(sample, dose) for sample, dose in zip(samples, doses)]))
        )
    return errors[1] - errors[0]


# --- the rest of the way ---


def data_rows(run, case_ids, repeats):
    """Features, their cache, distances and augmentation."""
    cohort, case = run.open_cohort(), run.load_case(case_ids[0])
    load_samples(cohort, case_ids, run.coarsen, run.beams_deg)
    pair = in_turn(
        lambda: [make_sample(cohort.load(case_id), run.coarsen, run.beams_deg) for case_id in case_ids],
        lambda: load_samples(cohort, case_ids, run.coarsen, run.beams_deg),
        repeats,
    )
    rows = [row("reading patients", "features made again from the case", pair)]
    mask = max(case.masks.values(), key=lambda mask: -mask.sum())
    pair = in_turn(
        lambda: plain_distance_mm(mask, case.spacing_mm),
        lambda: signed_distance_mm(mask, case.spacing_mm),
        repeats,
    )
    rows.append(row("signed distance of a structure", "both transforms of the whole volume", pair))
    batch = make_batch(load_samples(cohort, case_ids[:2], run.coarsen, run.beams_deg))
    pair = in_turn(
        lambda: plain_augment(batch),
        lambda: augment(batch, "rotated", torch.Generator().manual_seed(0)),
        repeats,
    )
    rows.append(row("augmentation of a batch", "scipy, channel by channel", pair))
    return rows


def plain_distance_mm(mask, spacing_mm):
    signed = distance_transform_edt(~mask, spacing_mm) - distance_transform_edt(mask, spacing_mm)
    return np.clip(signed, -CLIP_MM, CLIP_MM)


def plain_augment(batch):
    """Each channel turned by 5 degrees and shifted by a voxel, linearly interpolated."""
    cos, sin = np.cos(np.radians(5)), np.sin(np.radians(5))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    air = background(batch.site, batch.cond.shape[1]).tolist() + [0.0, 0.0]
    for volumes in torch.cat([batch.cond, batch.dose, batch.mask], dim=1).numpy():
        for volume, outside in zip(volumes, air):
            affine_transform(volume, turn, offset=1.0, order=1, cval=outside)


def gamma_rows(case, repeats):
    """Against pymedphys, where it is installed, on the case's dose and a smooth error of 3 %."""
    try:
        import pymedphys
    except ImportError:
        return []
    from lib.metrics.gamma import gamma_index

    wrong_gy = case.dose_gy * (1 + 0.03 * np.sin(np.arange(case.shape[2]) / 3)).astype(np.float32)
    axes = tuple(np.arange(n) * s for n, s in zip(case.shape, case.spacing_mm))
    ask = {"dose_pct": 3, "distance_mm": 3, "global_gy": case.rx_gy, "interp_fraction": 10, "max_gamma": 1.1}
    threads = torch.get_num_threads()

    def theirs():
        pymedphys.gamma(
            axes,
            case.dose_gy,
            axes,
            wrong_gy,
            3,
            3,
            lower_percent_dose_cutoff=10,
            interp_fraction=10,
            max_gamma=1.1,
            global_normalisation=case.rx_gy,
        )
        torch.set_num_threads(threads)  # numba, which it uses, sets them for the whole process

    pair = in_turn(theirs, lambda: gamma_index(case.dose_gy, wrong_gy, case.spacing_mm, **ask), repeats)
    return [row("gamma index", "pymedphys, same lattice and limits", pair)]


def slice_rows(case, draw, repeats):
    """A slice with dose, isodoses and structures by `draw` (case, index), against the same by matplotlib."""
    index = case.shape[0] // 2
    pair = in_turn(lambda: plain_slice(case, index), lambda: draw(case, index), repeats)
    return [row("drawing a slice", "matplotlib's imshow and contour", pair)]


def plain_slice(case, index):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100)
    ax = figure.add_subplot()
    ax.imshow(case.ct_hu[index], cmap="gray")
    ax.imshow(case.dose_gy[index], alpha=0.5, cmap="turbo")
    ax.contour(case.dose_gy[index], levels=[0.5 * case.rx_gy, 0.95 * case.rx_gy])
    for mask in case.masks.values():
        if mask[index].any():
            ax.contour(mask[index], levels=[0.5])
    FigureCanvasAgg(figure).draw()


# --- the machine's limits ---


class BytesCounter(TorchDispatchMode):
    """Bytes that operations read and write, each once: what a machine without caches would move."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.total += sum(
                t.numel() * t.element_size()
                for t in tree_leaves((args, result))
                if isinstance(t, torch.Tensor)
            )
        return result


def peaks(device, precision):
    """FLOP/s of a large matrix product in the precision and bytes/s of a large copy, the best of five."""
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(PEAK_EDGE, PEAK_EDGE, device=device).to(dtype) for _ in range(2))
    source = torch.empty(PEAK_MIB * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    product_s = min(seconds_of(lambda: a @ b) for _ in range(5))
    copy_s = min(seconds_of(lambda: target.copy_(source)) for _ in range(5))
    return 2 * PEAK_EDGE**3 / product_s, 2 * source.numel() * 4 / copy_s


def ceiling_rows(config, samples, device, repeats):
    """Counted work of a training step and a network call over its time, against the same device's peaks."""
    rows = []
    for precision in dict.fromkeys(("32", config.precision)):
        own = replace(config, precision=precision)
        state = Run(own, device)
        predictor = ready(state.averaged, own, device, precision)
        batch, t = (
            make_batch(samples[: config.batch_size]),
            torch.zeros(config.batch_size, dtype=torch.long, device=device),
        )
        works = {
            "training step": partial(one_step, state, own, samples, device),
            "network call": no_grad_call(predictor, batch, t),
        }
        flop_rate, byte_rate = peaks(device, precision)
        rows += [
            ceiling_row(f"{name}, {precision}", work, flop_rate, byte_rate, repeats)
            for name, work in works.items()
        ]
    return rows


def no_grad_call(predictor, batch, t):
    x_t = batch.dose if predictor.method.timed else None

    def call():
        with torch.no_grad():
            network_of(predictor, batch)(x_t, t if predictor.method.timed else None)

    return call


def ceiling_row(name, work, flop_rate, byte_rate, repeats):
    work()
    with FlopCounterMode(display=False) as flops, BytesCounter() as moved:
        work()
    seconds = float(np.median([seconds_of(work) for _ in range(repeats)]))
    flop = flops.get_total_flops()
    return {
        "part": name,
        "seconds": seconds,
        "gflop": flop / 1e9,
        "gbyte": moved.total / 1e9,
        "peak_gflop_s": flop_rate / 1e9,
        "peak_gbyte_s": byte_rate / 1e9,
        "of_peak_flop_pct": 100 * flop / seconds / flop_rate,
        "of_peak_byte_pct": 100 * moved.total / seconds / byte_rate,
    }


# --- what it costs to grow ---


def scaling_rows(config, sample, device, edges, counts, repeats):
    """Seconds against voxels a volume, patients a batch, sampling steps and patients: one row per size."""
    predictor = ready(Run(config, device).averaged, config, device, config.precision)
    rows = []
    for axis, sizes in {
        "edge": edges,
        "patients a batch": counts,
        "sampling steps": counts,
        "patients": counts,
    }.items():
        for size in sizes:
            work = scaled_work(predictor, sample, axis, size)
            work()
            seconds = float(np.median([seconds_of(work) for _ in range(repeats)]))
            rows.append(
                {
                    "axis": "voxels" if axis == "edge" else axis,
                    "size": size**3 if axis == "edge" else size,
                    "seconds": seconds,
                }
            )
    return rows


def scaled_work(predictor, sample, axis, size):
    sampler = usual_sampler(predictor.config, size if axis == "sampling steps" else 1)
    count = size if axis in ("patients a batch", "patients") else 1
    edge = size if axis == "edge" else 32
    samples = [cube_of(sample, edge, str(number)) for number in range(count)]
    return lambda: predict(predictor, samples, sampler, batch_size=count if axis == "patients a batch" else 2)


def cube_of(sample, edge, name):
    """A sample of the same channels on edge^3 voxels."""
    volumes = {
        n: torch.nn.functional.interpolate(getattr(sample, n)[None], size=(edge,) * 3)[0]
        for n in ("cond", "dose", "mask")
    }
    return replace(sample, case_id=name, **volumes)


def exponents(rows):
    """axis -> power of the size by which time grows: least squares of logarithms (Cost = c size^p)."""
    found = {}
    for axis in dict.fromkeys(r["axis"] for r in rows):
        own = [r for r in rows if r["axis"] == axis]
        found[axis] = float(
            np.polyfit(np.log([r["size"] for r in own]), np.log([r["seconds"] for r in own]), 1)[0]
        )
    return found


def notebook_times(folder):
    """Minutes that each executed notebook of an experiment took, as papermill noted: a row per notebook."""
    import nbformat

    rows = []
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        noted = nbformat.read(path, as_version=4).metadata.get("papermill", {})
        if noted.get("duration"):
            rows.append({"notebook": path.stem, "minutes": noted["duration"] / 60})
    return rows
