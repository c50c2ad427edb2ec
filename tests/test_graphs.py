"""When a CUDA graph is captured, and what it is given; tests/test_gpu.py captures real ones."""

import pytest
import torch
from torch import nn

from lib.models import graphs
from lib.models.graphs import SamplingGraph, TrainingGraphs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_graphs_are_of_a_gpu_and_of_who_asks_for_them(monkeypatch):
    for value, wanted in {None: False, "0": False, "1": True}.items():
        monkeypatch.delenv("DOSE_CUDA_GRAPHS", raising=False)
        if value:
            monkeypatch.setenv("DOSE_CUDA_GRAPHS", value)
        assert graphs.uses_graphs(GPU) == wanted and not graphs.uses_graphs(CPU)


def test_a_training_captures_each_size_once_when_it_comes_again(monkeypatch):
    captured, pools, network = [], set(), nn.Linear(3, 2)

    def capture(call, inputs, pool):
        captured.append(tuple(inputs[0].shape))
        pools.add(pool)
        return call

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    calls = TrainingGraphs(network)
    for n in (1, 2, 1, 1, 2, 2, 4):
        x = torch.randn(n, 3)
        assert torch.equal(calls(x), network(x))
    assert captured == [(1, 3), (2, 3)] and len(pools) == 1
    assert list(calls.graphs[((1, 3),)].parameters()) == list(network.parameters())


class Graph:
    """In place of a CUDA graph: replays a call on the tensors that it was captured with."""

    def replay(self):
        self.output.copy_(self.again())


def test_a_sampling_is_captured_once_and_keeps_its_outputs(monkeypatch):
    made = []

    class Capture:
        def __init__(self, graph, capture_error_mode):
            made.append((graph, torch.is_grad_enabled()))

        __enter__ = __exit__ = lambda *_: None

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    sampling, outputs = SamplingGraph(lambda x_t, t: x_t * t), []
    calls = range(1, graphs.CAPTURED_AT + 3)
    for call in calls:
        if call == graphs.CAPTURED_AT + 1:
            sampling.graph.output, (x, t) = sampling.output, sampling.inputs
            sampling.graph.again = lambda x=x, t=t: x * t
        if call != graphs.CAPTURED_AT:
            outputs.append(sampling(torch.full((2,), float(call)), torch.tensor([10.0, 100.0])))
        else:
            with pytest.raises(AttributeError):  # captured, and not yet replayed
                sampling(torch.full((2,), float(call)), torch.tensor([10.0, 100.0]))
    replayed = [c for c in calls if c != graphs.CAPTURED_AT]
    assert [output.tolist() for output in outputs] == [[10.0 * c, 100.0 * c] for c in replayed]
    assert [with_gradient for _, with_gradient in made] == [False]
