"""How fast: each part beside the straightforward way of doing it, and against the machine's limits.

The straightforward way is the reference study's: float32 and contiguous memory, one patient at a time, the
case's whole volume cut to windows that are sampled one by one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import affine_transform
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lib.cases.case import Case
from lib.features.augmentation import augment
from lib.features.batches import Batch, make_batch
from lib.features.channels import condition_channels
from lib.features.grid import mean_of_blocks
from lib.features.samples import Sample, load_samples, make_sample, no_prior
from lib.metrics.dose import grid_dose_score_gy
from lib.models.config import TrainConfig
from lib.prediction.predict import Predictor, network_of, predict, ready, usual_sampler
from lib.studies.experiment import Experiment
from lib.training.loop import train_step
from lib.training.setup import make_config
from lib.training.state import TrainingState

PEAK_EDGE, PEAK_MIB = 2048, 256  # the matrix product and the copy that the machine is measured by
Work = Callable[[], Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What is timed: an experiment's patients, a training's configuration, where, and how often."""

    run: Experiment
    samples: list[Sample]
    config: TrainConfig
    device: torch.device
    repeats: int

    @property
    def case_ids(self) -> list[str]:
        return [sample.case_id for sample in self.samples]

    @property
    def configs(self) -> list[TrainConfig]:
        """The configuration in float32, and as it is."""
        return [replace(self.config, precision=p) for p in dict.fromkeys(("32", self.config.precision))]

    def row(self, part: str, against: str, plain: Work, ours: Work, patients: int = 1) -> Row:
        """`ratio_row` of both ways; ours is of so many patients at a time."""
        return ratio_row(part, against, in_turn(plain, ours, self.repeats) / [1, patients])


def in_turn(plain: Work, ours: Work, repeats: int) -> np.ndarray:
    """Seconds [repeats,2], both once to warm up, then in turn: what disturbs the machine disturbs both."""
    plain(), ours()
    return np.array([(seconds_of(plain), seconds_of(ours)) for _ in range(repeats)])


def seconds_of(work: Work) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def median_seconds(work: Work, repeats: int) -> float:
    """Of `repeats` after one to warm up."""
    work()
    return float(np.median([seconds_of(work) for _ in range(repeats)]))


def ratio_row(part: str, against: str, seconds: np.ndarray) -> Row:
    """Median times, the median ratio, and the least and largest ratio of neighbours in time."""
    plain_s, ours_s = np.median(seconds, axis=0)
    ratios = seconds[:, 0] / seconds[:, 1]
    limits = {"ratio": np.median(ratios), "ratio_low": ratios.min(), "ratio_high": ratios.max()}
    return {"part": part, "against": against, "plain_s": plain_s, "ours_s": ours_s} | limits


def config_to_time(
    run: Experiment, samples: list[Sample], method: str, base_channels: int, batch_size: int
) -> TrainConfig:
    """A configuration as in a full training; of its numbers only those given change the time of a step."""
    usual = {"standardise": "auto", "terminal_snr": "auto", "epochs": 1000, "learning_rate": 1e-3}
    usual |= {"accumulate": 1, "patches_per_case": 1, "patch_voxels": [0, 0, 0], "ema_decay": 0.99}
    usual |= {"region": "dose mask", "weighting": "none", "dose_error": "squared", "dvh_weight": 0.0}
    usual |= {"gradient_weight": 1.0, "gradient_units": "per mm", "vgg_weight": 0.0, "vgg_file": ""}
    usual |= {"augment": "rotated", "validate_every": 1000, "validation_steps": 1, "patience": 0}
    usual |= {"keep": "last", "snapshots_pct": [], "base_channels": base_channels, "batch_size": batch_size}
    return make_config(run, samples, method=method, **usual)


def training_rows(bench: Bench) -> list[Row]:
    """A step of one batch: in float32, contiguous, AdamW one tensor after another; against ours."""
    config, samples = replace(bench.config, precision="32"), bench.samples
    plain, rows = TrainingState(config, bench.device), []
    plain.optimizer = torch.optim.AdamW(plain.network.parameters(), config.learning_rate, foreach=False)
    for our_config in bench.configs:
        ours = partial(train_step, TrainingState(our_config, bench.device), samples)
        part = f"training step, {our_config.precision}"
        step = partial(train_step, plain, samples)
        rows.append(bench.row(part, "float32, contiguous, AdamW tensor by tensor", step, ours))
    return rows


def sampling_rows(bench: Bench, n_steps: int, window: int) -> list[Row]:
    """A patient sampled: by windows of the whole case, one by one, in float32; against ours. Then each of its
    two gains alone."""
    run, config, n = bench.run, bench.config, len(bench.samples)
    network, sampler = TrainingState(config, bench.device).network, usual_sampler(config, n_steps)
    plain, ours = (ready(network, config, bench.device, precision) for precision in ("32", config.precision))
    whole, first = whole_sample(run.load_case(bench.case_ids[0]), run), bench.samples[:1]
    by_windows = partial(predict, plain, [whole], sampler, window=window, window_noise="own")
    one_plain, one_ours = (partial(predict, predictor, first, sampler) for predictor in (plain, ours))
    all_ours, precision = partial(predict, ours, bench.samples, sampler), config.precision
    against = f"windows of {window} one by one, float32, {n} patients at a time here"
    same = "the same volume, float32 and contiguous"
    return [
        bench.row(f"sampling a patient, {precision}", against, by_windows, all_ours, n),
        bench.row("of it: windows", "the box around the patient at once, float32", by_windows, one_plain),
        bench.row(f"of it: network in {precision}", same, one_plain, one_ours),
    ]


def whole_sample(case: Case, run: Experiment) -> Sample:
    """A sample of the case's whole volume, air and all; without the open fields of beams."""
    arrays = {"dose": case.dose_gy / case.rx_gy, "mask": case.dose_mask}
    volumes = {name: torch.from_numpy(array.astype(np.float32))[None] for name, array in arrays.items()}
    answered = {name: mean_of_blocks(volume, *run.grid) for name, volume in volumes.items()}
    cond = mean_of_blocks(condition_channels(case), run.coarsen)
    return replace(make_sample(case, run.grid), cond=cond, prior=no_prior(answered["dose"]), **answered)


def precision_difference_gy(bench: Bench, n_steps: int, train_steps: int) -> float:
    """By how much the MAE differs between float32 and the configured precision, from one noise, by a network
    trained for a few steps."""
    config, samples = bench.config, bench.samples
    state, errors_gy = TrainingState(config, bench.device), []
    for _ in range(train_steps):
        train_step(state, samples)
    for precision in ("32", config.precision):
        predictor = ready(state.network, config, bench.device, precision)
        doses = predict(predictor, samples, usual_sampler(config, n_steps))
        errors_gy.append(np.mean([grid_dose_score_gy(s, dose) for s, dose in zip(samples, doses)]))
    return float(errors_gy[1] - errors_gy[0])


def data_rows(bench: Bench) -> list[Row]:
    """Features and their cache, and augmentation."""
    run, case_ids = bench.run, bench.case_ids
    cohort, grid, batch = run.open_cohort(), (run.grid, run.beams_deg), make_batch(bench.samples[:2])

    def made():
        return [make_sample(cohort.load(case_id), *grid) for case_id in case_ids]

    kept = partial(load_samples, cohort, case_ids, *grid)
    moved = [partial(plain_augment, batch), partial(augment, batch, "rotated", torch.Generator())]
    return [
        bench.row("reading patients", "features made again from the case", made, kept),
        bench.row("augmentation of a batch", "scipy, channel by channel", *moved),
    ]


def plain_augment(batch: Batch) -> None:
    """Each channel turned by 5 degrees and shifted by a voxel, linearly interpolated."""
    cos, sin = np.cos(np.radians(5)), np.sin(np.radians(5))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    air = [*batch.channels.background().tolist(), 0.0, 0.0]
    for volumes in torch.cat([batch.cond, batch.dose, batch.mask], dim=1).numpy():
        for volume, outside in zip(volumes, air):
            affine_transform(volume, turn, offset=1.0, order=1, cval=outside)


class BytesCounter(TorchDispatchMode):
    """Bytes that operations read and write, each once: what a machine without caches would move."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = (leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor))
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def peaks(device: torch.device, precision: str) -> tuple[float, float]:
    """FLOP/s of a large matrix product in the precision and bytes/s of a large copy, the best of five."""
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(PEAK_EDGE, PEAK_EDGE, device=device).to(dtype) for _ in range(2))
    source = torch.empty(PEAK_MIB * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    product_s = min(seconds_of(lambda: a @ b) for _ in range(5))
    copy_s = min(seconds_of(lambda: target.copy_(source)) for _ in range(5))
    return 2 * PEAK_EDGE**3 / product_s, 2 * source.numel() * 4 / copy_s


def ceiling_rows(bench: Bench) -> list[Row]:
    """Counted work of a training step and a network call over its time, against the same device's peaks."""
    rows, patients = [], bench.samples[: bench.config.batch_size]
    batch = make_batch([sample.to(bench.device) for sample in patients])
    for config in bench.configs:
        state, rates = TrainingState(config, bench.device), peaks(bench.device, config.precision)
        predictor = ready(state.averaged, config, bench.device, config.precision)
        works = {"training step": partial(train_step, state, bench.samples)}
        works |= {"network call": partial(call_network, predictor, batch)}
        for name, work in works.items():
            rows.append(ceiling_row(f"{name}, {config.precision}", work, *rates, bench.repeats))
    return rows


@torch.no_grad()
def call_network(predictor: Predictor, batch: Batch) -> None:
    level = torch.zeros(len(batch.dose), dtype=torch.long, device=batch.dose.device)
    network_of(predictor, batch)(*((batch.dose, level) if predictor.method.timed else ()))


def ceiling_row(name: str, work: Work, flop_rate: float, byte_rate: float, repeats: int) -> Row:
    work()
    with FlopCounterMode(display=False) as flops, BytesCounter() as moved:
        work()
    seconds, gflop, gbyte = median_seconds(work, repeats), flops.get_total_flops() / 1e9, moved.total / 1e9
    peak = {"peak_gflop_s": flop_rate / 1e9, "peak_gbyte_s": byte_rate / 1e9}
    shares = {"flop": gflop / seconds / peak["peak_gflop_s"], "byte": gbyte / seconds / peak["peak_gbyte_s"]}
    counted = {"part": name, "seconds": seconds, "gflop": gflop, "gbyte": gbyte}
    return counted | peak | {f"of_peak_{what}_pct": 100 * share for what, share in shares.items()}


def scaling_rows(bench: Bench, edges: list[int], counts: list[int]) -> list[Row]:
    """Seconds against voxels a volume, patients a batch, sampling steps and patients: one row per size."""
    config = bench.config
    predictor = ready(TrainingState(config, bench.device).averaged, config, bench.device, config.precision)
    work = partial(work_of, predictor, bench.samples[0])
    works = {("voxels", edge**3): work(edge=edge) for edge in edges}
    works |= {("patients a batch", n): work(patients=n, batch_size=n) for n in counts}
    works |= {("sampling steps", n): work(n_steps=n) for n in counts}
    works |= {("patients", n): work(patients=n) for n in counts}
    return [
        {"axis": axis, "size": size, "seconds": median_seconds(work, bench.repeats)}
        for (axis, size), work in works.items()
    ]


def work_of(
    predictor: Predictor, sample: Sample, n_steps: int = 1, patients: int = 1, edge: int = 32, **options: int
) -> Work:
    """The prediction of so many cubes of the sample."""
    samples = [cube_of(sample, edge, str(number)) for number in range(patients)]
    sampler = usual_sampler(predictor.config, n_steps)
    return partial(predict, predictor, samples, sampler, **{"batch_size": 2} | options)


def cube_of(sample: Sample, edge: int, name: str) -> Sample:
    """A sample of the same channels on edge^3 blocks."""
    edges = {"cond": edge} | dict.fromkeys(("dose", "mask", "prior"), edge * sample.grid.answer)
    resized = {n: interpolate(getattr(sample, n)[None], size=(size,) * 3)[0] for n, size in edges.items()}
    return replace(sample, case_id=name, **resized)


def exponents(scaling: pd.DataFrame) -> dict[str, float]:
    """axis -> power of the size by which time grows: least squares of logarithms (Cost = c size^p)."""
    return {
        axis: float(np.polyfit(np.log(rows["size"]), np.log(rows["seconds"]), 1)[0])
        for axis, rows in scaling.groupby("axis", sort=False)
    }


def notebook_times(folder: Path) -> list[Row]:
    """Minutes that each executed notebook of an experiment took, as papermill noted: a row per notebook."""
    import nbformat

    rows = []
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        noted = nbformat.read(path, as_version=4).metadata.get("papermill", {})
        if noted.get("duration"):
            rows.append({"notebook": path.stem, "minutes": noted["duration"] / 60})
    return rows
