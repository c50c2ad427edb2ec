"""A network's calls as CUDA graphs: a thousand launches of small kernels are replayed by one.

At the sizes of patients the kernels of a training step take 5 ms on an H200, and to launch them one by one
takes 38 ms. The environment variable DOSE_CUDA_GRAPHS=0 leaves it at that.
"""

import os
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

CAPTURED_AT = 3  # call of a sampling; its first ones are done before, and fewer are not worth a graph


def uses_graphs(device: torch.device) -> bool:
    return device.type == "cuda" and os.environ.get("DOSE_CUDA_GRAPHS") != "0"


class Call(nn.Module):
    """A network, to be captured for inputs of one size."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


class TrainingGraphs:
    """The network with its gradient, by a graph for each size of its inputs, captured when it comes again.

    What it returns, and the gradients, lie where the next call of that size writes: they must be used before,
    and gradients of several calls cannot be summed.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.visits: Counter = Counter()
        self.graphs: dict[tuple, Callable] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        size = tuple(tuple(tensor.shape) for tensor in inputs)
        self.visits[size] += 1
        if self.visits[size] == 2:
            alike = tuple(tensor.clone() for tensor in inputs)
            self.graphs[size] = torch.cuda.make_graphed_callables(Call(self.network), alike)
        return self.graphs.get(size, self.network)(*inputs)


class SamplingGraph:
    """`call` of (x_t, t), always of one size and without gradients, by a graph from its third time on."""

    def __init__(self, call: Callable):
        self.call, self.calls = call, 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if self.calls < CAPTURED_AT:
            return self.call(x_t, t)
        if self.calls == CAPTURED_AT:
            self.capture(x_t.clone(), t.clone())
        for place, tensor in zip(self.inputs, (x_t, t)):
            place.copy_(tensor)
        self.graph.replay()
        return self.output.clone()

    def capture(self, *inputs: Tensor) -> None:
        self.inputs, self.graph = inputs, torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self.call(*inputs)
