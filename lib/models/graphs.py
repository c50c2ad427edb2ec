"""A network's calls as CUDA graphs: hundreds of launches of small kernels are replayed by one.

A training step of a patient took 38 ms on an H200, and its kernels 5 ms of them; most of the rest is
launching. Only with DOSE_CUDA_GRAPHS=1 in the environment, for no card has run them yet: tests/test_gpu.py
says whether a card gives what it gives without.
"""

import os
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

CAPTURED_AT = 10  # call of a sampling: capturing takes as long as a few calls


def uses_graphs(device: torch.device) -> bool:
    return device.type == "cuda" and os.environ.get("DOSE_CUDA_GRAPHS") == "1"


class Call(nn.Module):
    """A network, to be captured for inputs of one size."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


class TrainingGraphs:
    """The network with its gradient, by a graph for each size of its inputs, captured when it comes again.

    What it returns, and the gradients, lie where the next call writes: they must be used before, and
    gradients of several calls cannot be summed. No loss of an earlier step may be kept: a capture needs them
    gone.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.visits: Counter = Counter()
        self.graphs: dict[tuple, Callable] = {}
        self.pool = None  # of memory: one for all sizes, which are never computed at once

    def __call__(self, *inputs: Tensor) -> Tensor:
        size = tuple(tuple(tensor.shape) for tensor in inputs)
        self.visits[size] += 1
        if self.visits[size] == 2:
            self.graphs[size] = self.capture(tuple(tensor.clone() for tensor in inputs))
        return self.graphs.get(size, self.network)(*inputs)

    def capture(self, inputs: tuple[Tensor, ...]) -> Callable:
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        return torch.cuda.make_graphed_callables(Call(self.network), inputs, pool=self.pool)


class SamplingGraph:
    """`call` of (x_t, t), always of one size and without gradients, by a graph from its tenth time on."""

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
        """Record a call; what other threads do on the card meanwhile, as the explorer's, is allowed."""
        self.inputs, self.graph = inputs, torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = self.call(*inputs)
