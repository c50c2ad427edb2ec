"""How much memory a training will take, foretold: one that will not fit ends with a sentence before it
starts, not with a kill."""

import math
from pathlib import Path
from weakref import finalize

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib.device import autocast
from lib.errors import UserError
from lib.models.methods import find_method
from lib.models.unet import CONSTRAINTS

GB = 1e9
MARGIN = 1.2  # for what convolutions need for a moment; measured on a CPU at 96^3 and 128^3: 1.16 to 1.2
# bytes for each voxel and channel of the first level, twice what was measured in float32:
# far below what is free, nothing need be traced
AT_MOST = 200
# copies of every weight that a training keeps in float32 beside itself and its gradient:
# AdamW's two moments, the average
BESIDE = 3


class Peak(TorchDispatchMode):
    """Counts the bytes of live tensors made while it is entered, and their `peak`; each storage once."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return result

    def note(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            finalize(storage, self.gone, key, size)

    def gone(self, key, size):
        self.alive.discard(key)
        self.now -= size


def predicted_gb(config, shape, patients):
    """Memory in GB of a training step of so many patients at once, each a volume [D,H,W] of `shape`.

    The network runs forward and backward on tensors without contents (FakeTensorMode), and the bytes alive
    are counted.
    """
    with FakeTensorMode(), Peak() as memory:
        network = find_method(config.method).make_network(config)
        weights = sum(p.numel() for p in network.parameters())
        cond, x_t = torch.empty(patients, config.cond_channels, *shape), torch.empty(patients, 1, *shape)
        timed = (x_t, torch.zeros(patients, dtype=torch.long)) if network.timed else ()
        with autocast(torch.device("cpu"), half(config.precision)):
            network(cond, torch.empty(patients, CONSTRAINTS), *timed).square().mean().backward()
    return (memory.peak + 4 * BESIDE * weights) / GB


def half(precision):
    """The precision whose bytes are counted: on a CPU autocast has no float16, bfloat16 is as large."""
    return "bf16" if precision == "16" else precision


def free_gb(device):
    """Memory in GB that the device has left; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GB
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    available = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    return available[0] * 1024 / GB if available else None


def check_memory(config, samples, device, processes):
    """A UserError if a training step will not fit into what the device has left; it says what would."""
    room_gb, shape = free_gb(device), step_shape(config, samples)
    patients = math.ceil(config.batch_size / (processes * config.accumulate))
    if room_gb is None or AT_MOST * math.prod(shape) * patients * config.base_channels / GB < room_gb:
        return
    needed_gb = needs_gb(config, shape, patients)
    if needed_gb > room_gb:
        raise UserError(
            f"a training step of {config.method} needs about {needed_gb:.1f} GB "
            f"for {patients} x {' x '.join(map(str, shape))} voxels at once, "
            f"and {room_gb:.1f} GB are free; {advice(config, shape, patients, room_gb)}"
        )


def step_shape(config, samples):
    """Size [D,H,W] of what a step sees of a patient: the patch, or on axes without one the largest sample."""
    largest = [max(sample.dose.shape[axis] for sample in samples) for axis in (1, 2, 3)]
    return tuple(min(p, n) if p else n for p, n in zip(config.patch_voxels, largest))


def needs_gb(config, shape, patients):
    return MARGIN * predicted_gb(config, shape, patients)


def advice(config, shape, patients, room_gb):
    """What would fit: fewer patients at once if one does."""
    for parts in range(2, patients + 1):
        if needs_gb(config, shape, math.ceil(patients / parts)) <= room_gb:
            return f"train.accumulate={parts * config.accumulate} would fit"
    return "take smaller patches (train.patch_voxels) or a narrower network (train.base_channels)"
