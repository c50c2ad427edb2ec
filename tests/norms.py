"""How far each GroupNorm of a network is from that of float32, on what it gets while a patient is predicted.

    python tests/norms.py phantom-quick [training ...]    prints it for trained networks, layer by layer

On a CPU PyTorch takes the variance of bfloat16 in channels last as a difference of sums (torch 2.13): wrong
where a group's mean is many times its standard deviation, the more so the more voxels it has.
"""

import sys
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import nn


class Norm(NamedTuple):
    """The worst of a layer's calls: |mean| / SD of a group, error in SDs of the normalised values."""

    ratio: float
    mean_error: float
    largest_error: float


def compare(norm, x):
    """The Norm of one call: PyTorch of `x` [B,C,d,h,w] as it is against float32, contiguous."""
    groups = x.double().reshape(len(x), norm.num_groups, -1)
    ratio = (groups.mean(-1).abs() / groups.std(-1)).max()
    as_is, exact = (F.group_norm(y, norm.num_groups) for y in (x, x.float().contiguous()))
    error = (as_is.float() - exact).abs()
    return Norm(float(ratio), float(error.mean()), float(error.max()))


@contextmanager
def watch_norms(network):
    """A dict: name of layer -> Norm, filled by the network's calls in the block."""
    worst, hooks = {}, []

    def see(name, norm, inputs, _):
        calls = [compare(norm, inputs[0].detach()), worst.get(name, Norm(0, 0, 0))]
        worst[name] = Norm(*map(max, zip(*calls)))

    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm):
            hooks.append(module.register_forward_hook(partial(see, name)))
    yield worst
    for hook in hooks:
        hook.remove()


def main(experiment, *trainings):
    from lib.prediction.predict import predict, usual_sampler
    from lib.studies.experiment import find_experiment

    run = find_experiment(experiment, "cpu", "bf16")
    samples = run.load_samples("test", 1)
    for training in trainings or sorted(path.name for path in (run.folder / "weights").iterdir()):
        predictor = run.load_predictor(training)
        with watch_norms(predictor.network) as worst:
            predict(predictor, samples, usual_sampler(predictor.config, 4), label="")
        for name, norm in worst.items():
            print(
                f"{training:12} {name:16} |mean| / SD {norm.ratio:5.2f}, error {norm.mean_error:.4f} SD, ",
                end="",
            )
            print(f"at most {norm.largest_error:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
