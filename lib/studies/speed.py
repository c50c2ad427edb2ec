"""How fast: each part beside the straightforward way of doing it, and against the machine's limits.

The straightforward way is the reference study's: float32 and contiguous memory, one patient at a time, the
case's whole volume cut to windows that are sampled one by one.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import affine_transform
from torch.autograd import DeviceType
from torch.nn.functional import interpolate
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lib.device import autocast
from lib.features.augmentation import augment
from lib.features.batches import Batch, make_batch
from lib.features.samples import Sample, load_samples, make_sample
from lib.files import read_json
from lib.metrics.dose import grid_dose_score_gy
from lib.models.config import TrainConfig
from lib.models.training_loss import Draw, draw_noise, training_loss
from lib.prediction.predict import Predictor, network_of, predict, ready, usual_sampler
from lib.seeds import generator_for
from lib.studies.experiment import Experiment
from lib.training.loop import train_step
from lib.training.state import TrainingState

# the matrix product and the copy that a device is measured by: edge, MiB
PEAKS = {"cpu": (2048, 256), "cuda": (8192, 2048)}
KERNELS, STEPS = 10, 5  # listed, those of most time in so many training steps
CPU, CUDA = DeviceType.CPU, DeviceType.CUDA
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

    @cached_property
    def there(self) -> list[Sample]:
        """The patients on the device."""
        return [sample.to(self.device) for sample in self.samples]

    @property
    def batches(self) -> list[Batch]:
        """The first two patients, on the CPU and on the device."""
        return [make_batch(samples[:2]) for samples in (self.samples, self.there)]

    @property
    def configs(self) -> list[TrainConfig]:
        """The configuration in float32, and as it is."""
        return [replace(self.config, precision=p) for p in dict.fromkeys(("32", self.config.precision))]

    def predictors(self, train_steps: int = 0) -> list[Predictor]:
        """A network after a few steps of training, in float32 and in the configured precision."""
        state = TrainingState(self.config, self.device)
        for _ in range(train_steps):
            train_step(state, self.there)
        precisions = ("32", self.config.precision)
        return [ready(deepcopy(state.network), self.config, self.device, p) for p in precisions]

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


def training_rows(bench: Bench) -> list[Row]:
    """A step for a patient: in float32, contiguous, one at a time, AdamW tensor by tensor; against ours."""
    plain, rows = TrainingState(replace(bench.configs[0], batch_size=1), bench.device), []
    plain.network.to(memory_format=torch.contiguous_format)
    plain.call = plain.network  # launched kernel by kernel
    plain.optimizer = torch.optim.AdamW(plain.network.parameters(), bench.config.learning_rate, foreach=False)
    for config in bench.configs:
        steps = [partial(train_step, s, bench.there) for s in (plain, TrainingState(config, bench.device))]
        against = "float32, contiguous, a patient at a time, AdamW tensor by tensor"
        rows.append(bench.row(f"training step, {config.precision}", against, *steps, config.batch_size))
    return rows


def sampling_rows(bench: Bench, n_steps: int, window: int) -> list[Row]:
    """A patient sampled: by windows of the whole case, one by one, in float32; ours; each gain alone."""
    samples, precision, n = bench.samples, bench.config.precision, len(bench.samples)
    plain, ours = bench.predictors()
    sample = partial(predict, sampler=usual_sampler(bench.config, n_steps))
    case = bench.run.load_case(samples[0].case_id)
    # air and all; without the open fields of beams
    whole = make_sample(replace(case, dose_mask=np.ones(case.shape, bool)), bench.run.grid)
    by_windows = partial(sample, plain, [whole], window=window, window_noise="own")
    one_plain, one_ours = partial(sample, plain, samples[:1]), partial(sample, ours, samples[:1])
    against = f"windows of {window} one by one, float32, {n} patients at a time here"
    same = "the same volume, float32 and contiguous"
    return [
        bench.row(f"sampling a patient, {precision}", against, by_windows, partial(sample, ours, samples), n),
        bench.row("of it: windows", "the box around the patient at once, float32", by_windows, one_plain),
        bench.row(f"of it: network in {precision}", same, one_plain, one_ours),
    ]


def precision_difference_gy(bench: Bench, n_steps: int, train_steps: int) -> float:
    """The MAE in the configured precision less that in float32, of one noise after a few training steps."""
    errors_gy, sampler = [], usual_sampler(bench.config, n_steps)
    for predictor in bench.predictors(train_steps):
        doses = zip(bench.samples, predict(predictor, bench.samples, sampler))
        errors_gy.append(np.mean([grid_dose_score_gy(sample, dose) for sample, dose in doses]))
    return float(errors_gy[1] - errors_gy[0])


def data_rows(bench: Bench) -> list[Row]:
    """Features and their cache, and augmentation."""
    cohort, grid = bench.run.open_cohort(), (bench.run.grid, bench.run.beams_deg)
    case_ids, (here, there) = [sample.case_id for sample in bench.samples], bench.batches

    def make_all():
        return [make_sample(cohort.load(case_id), *grid) for case_id in case_ids]

    from_disk = partial(load_samples, cohort, case_ids, *grid)
    ways = partial(plain_augment, here), partial(augment, there, "rotated", torch.Generator())
    return [
        bench.row("reading patients", "features made again from the case", make_all, from_disk),
        bench.row("augmentation of a batch", "scipy, channel by channel", *ways),
    ]


def plain_augment(batch: Batch) -> None:
    """Each channel turned by 5 degrees and shifted by a voxel, linearly interpolated."""
    cos, sin = np.cos(np.radians(5)), np.sin(np.radians(5))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    air = [*batch.channels.background().tolist(), 0.0, 0.0]
    for patient in zip(batch.cond, batch.dose, batch.mask):
        for volume, outside in zip((volume.numpy() for part in patient for volume in part), air):
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
    edge, mib = PEAKS[device.type]
    a, b = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    source = torch.randn(mib * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    product_s = min(seconds_of(lambda: a @ b) for _ in range(5))
    copy_s = min(seconds_of(lambda: target.copy_(source)) for _ in range(5))
    return 2 * edge**3 / product_s, 2 * source.numel() * 4 / copy_s


def ceiling_rows(bench: Bench) -> list[Row]:
    """Counted work of a training step and a network call over its time, against the same device's peaks."""
    rows, batch = [], make_batch(bench.there[: bench.config.batch_size])
    for config, predictor in zip(bench.configs, bench.predictors()):
        rates, state = peaks(bench.device, config.precision), TrainingState(config, bench.device)
        works = {"training step": partial(train_step, state, bench.there)}
        works["network call"] = partial(call_network, predictor, batch)
        for name, work in works.items():
            rows.append(ceiling_row(f"{name}, {config.precision}", work, *rates, bench.repeats))
    return rows


@torch.no_grad()
def call_network(predictor: Predictor, batch: Batch) -> None:
    level = torch.zeros(len(batch.dose), dtype=torch.long, device=batch.dose.device)
    with predictor.autocast():
        network_of(predictor, batch)(*((batch.dose, level) if predictor.method.timed else ()))


def ceiling_row(name: str, work: Work, flop_rate: float, byte_rate: float, repeats: int) -> Row:
    work()
    with FlopCounterMode(display=False) as flops, BytesCounter() as moved:
        work()
    seconds, flop, byte = median_seconds(work, repeats), flops.get_total_flops(), moved.total
    row = {"part": name, "seconds": seconds, "gflop": flop / 1e9, "gbyte": byte / 1e9}
    row |= {"peak_gflop_s": flop_rate / 1e9, "peak_gbyte_s": byte_rate / 1e9}
    shares = {"flop": flop / seconds / flop_rate, "byte": byte / seconds / byte_rate}
    return row | {f"of_peak_{what}_pct": 100 * share for what, share in shares.items()}


def kernel_rows(bench: Bench) -> tuple[list[Row], dict[str, float]]:
    """The kernels (on a CPU the operations) in which training steps spend most time, and by how much of the
    wall time the device is busy, in %, with the most memory that it held, in GB."""
    state = TrainingState(bench.config, bench.device)
    work = partial(train_step, state, bench.there)
    work(), work()
    kernels, total_s, seconds = kernel_times(lambda: [work() for _ in range(STEPS)], bench.device)
    rows = [
        {"kernel": name[:90], "calls": calls / STEPS, "ms": 1e3 * s / STEPS, "share_pct": 100 * s / total_s}
        for name, calls, s in kernels[:KERNELS]
    ]
    on_gpu = bench.device.type == "cuda"
    memory = {"memory_gb": torch.cuda.max_memory_allocated() / 1e9} if on_gpu else {}
    return rows, {"busy_pct": 100 * total_s / seconds} | memory


def kernel_times(work: Work, device: torch.device) -> tuple[list[tuple[str, int, float]], float, float]:
    """(name, calls, seconds) of each kernel, on a CPU of each operation, the longest first; their seconds
    together; those of the work by the clock."""
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as profiler:
        seconds = seconds_of(work)
    there, name = (CUDA, "self_device_time_total") if on_gpu else (CPU, "self_cpu_time_total")
    events, time_of = profiler.key_averages(), attrgetter(name)
    events = sorted((e for e in events if e.device_type == there), key=time_of, reverse=True)
    kernels = [(event.key, event.count, time_of(event) / 1e6) for event in events]
    return kernels, sum(kernel_s for *_, kernel_s in kernels), seconds


def device_differences(bench: Bench) -> list[Row]:
    """One batch's loss and gradient on the device against the same in float32 on the CPU: the differences
    over the size of what they differ from, in float32 and in the configured precision."""
    (here, there), config = bench.batches, bench.config
    draw = draw_noise(config, here, generator_for(config.seed, "difference"))
    rows, first = [], loss_and_gradient(bench.configs[0], torch.device("cpu"), here, draw)
    draw = draw and tuple(value.to(bench.device) for value in draw)
    for other in bench.configs:
        values = loss_and_gradient(other, bench.device, there, draw)
        for name, value, at_first in zip(("loss", "gradient"), values, first):
            off = (value - at_first).norm() / at_first.norm()
            rows.append({"part": f"{name}, {other.precision}", "relative_difference": float(off)})
    return rows


def loss_and_gradient(
    config: TrainConfig, device: torch.device, batch: Batch, draw: Draw | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of an untrained network; both as doubles on the CPU."""
    state = TrainingState(config, device)
    with autocast(device, config.precision):
        loss = training_loss(state.network, batch, draw, config)
    loss.backward()
    gradient = torch.cat([p.grad.flatten().double().cpu() for p in state.network.parameters()])
    return loss.detach().double().cpu(), gradient


def scaling_rows(bench: Bench, edges: list[int], counts: list[int]) -> list[Row]:
    """Seconds against voxels a volume, patients a batch, sampling steps and patients: one row per size."""
    predictor, sample = bench.predictors()[1], bench.samples[0]
    volumes = {name: getattr(sample, name)[None].float() for name in ("cond", "dose", "mask", "prior")}

    def seconds(n_steps=1, patients=1, edge=32, batch_size=2):
        grid = sample.grid
        sizes = dict.fromkeys(volumes, edge * grid.answer) | {"cond": edge * grid.condition}
        cube = {name: interpolate(volumes[name], size=(size,) * 3)[0] for name, size in sizes.items()}
        samples = [replace(sample, case_id=str(number), **cube) for number in range(patients)]
        sampler = usual_sampler(bench.config, n_steps)
        work = partial(predict, predictor, samples, sampler, batch_size=batch_size)
        return median_seconds(work, bench.repeats)

    sizes = [("voxels", edge**3, {"edge": edge}) for edge in edges]
    sizes += [("patients a batch", n, {"patients": n, "batch_size": n}) for n in counts]
    sizes += [("sampling steps", n, {"n_steps": n}) for n in counts]
    sizes += [("patients", n, {"patients": n}) for n in counts]
    return [{"axis": axis, "size": size, "seconds": seconds(**options)} for axis, size, options in sizes]


def exponents(scaling: pd.DataFrame) -> dict[str, float]:
    """axis -> power of the size by which time grows: least squares of logarithms (Cost = c size^p)."""
    logs = np.log(scaling.set_index("axis")[["size", "seconds"]])
    parts = logs.groupby("axis", sort=False)
    return {axis: float(np.polyfit(rows["size"], rows["seconds"], 1)[0]) for axis, rows in parts}


def notebook_times(folder: Path) -> list[Row]:
    """Minutes that each executed notebook of an experiment took, as papermill noted: a row per notebook."""
    paths = sorted(folder.glob("[0-9]*.ipynb"))
    notes = {path.stem: read_json(path)["metadata"].get("papermill", {}) for path in paths}
    seconds = {name: note["duration"] for name, note in notes.items() if note.get("duration")}
    return [{"notebook": name, "minutes": duration / 60} for name, duration in seconds.items()]
