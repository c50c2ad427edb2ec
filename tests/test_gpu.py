"""What is true of a training step on a GPU; skipped where there is none."""

import frozen
import pytest
import torch

from lib.features.batches import make_batch
from lib.models.graphs import CAPTURED_AT, SamplingGraph, TrainingGraphs
from lib.models.training_loss import draw_noise
from lib.models.unet import UNet
from lib.seeds import generator_for, normal
from lib.studies.speed import loss_and_gradient
from lib.training.loop import train_step
from lib.training.state import TrainingState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
METHODS = ["baseline", "ddpm", "ddpm_v", "flow", "refine"]


@pytest.mark.parametrize("graphs", ["0", "1"])
@pytest.mark.parametrize("augment", ["rotated", "whole voxels"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_gpu(method, augment, graphs, monkeypatch):
    """PyTorch raises where a call would wait, as a copy to the GPU without non_blocking does."""
    monkeypatch.setenv("DOSE_CUDA_GRAPHS", graphs)
    samples = frozen.samples_for(method)
    config = frozen.dataclasses.replace(frozen.config_for(method, samples), augment=augment, dvh_weight=0.0)
    state, there = TrainingState(config, GPU), [sample.to(GPU) for sample in samples]
    for _ in range(3):  # a graph is captured at the second
        train_step(state, there)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(state, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.loss_sum.isfinite()


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_and_its_gradient_are_those_of_the_cpu(method, monkeypatch):
    """In float32; with the TF32 that PyTorch convolves in by default a gradient is 1 % off (H100)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    samples = frozen.samples_for(method)
    config, batch = frozen.config_for(method, samples), make_batch(samples[:2])
    draw = draw_noise(config, batch, generator_for("draw"))
    there = draw and tuple(value.to(GPU) for value in draw)
    on_gpu = loss_and_gradient(config, GPU, make_batch([sample.to(GPU) for sample in samples[:2]]), there)
    for ours, plain in zip(on_gpu, loss_and_gradient(config, CPU, batch, draw)):
        assert (ours - plain).norm() <= 1e-3 * plain.norm()


@pytest.mark.parametrize("method", METHODS)
def test_a_step_by_graphs_is_the_step(method, monkeypatch):
    """Batches of two sizes in turn, each seen again after its graph was captured."""
    samples = [sample.to(GPU) for sample in frozen.samples_for(method)]
    config, losses = frozen.dataclasses.replace(frozen.config_for(method, samples), dvh_weight=0.0), {}
    for graphs in ("0", "1"):
        monkeypatch.setenv("DOSE_CUDA_GRAPHS", graphs)
        state, losses[graphs] = TrainingState(config, GPU), []
        for step in range(8):
            train_step(state, samples[: 1 + step % 2])
            losses[graphs].append(state.loss_sum.item())
    assert isinstance(state.call, TrainingGraphs) and len(state.call.graphs) == 2
    assert losses["1"] == pytest.approx(losses["0"], rel=5e-3)  # sums on a GPU have no fixed order


def test_a_gradient_by_a_graph_is_the_gradient():
    """Of inputs that come after the capture, and of another size in between."""
    torch.manual_seed(1)
    network = UNet(9, 8, timed=False).to(GPU)
    calls, weights = TrainingGraphs(network), list(network.parameters())
    for visit in range(4):
        for n in (1, 2):
            inputs = torch.randn(n, 9, 16, 16, 16, device=GPU), torch.randn(n, 13, device=GPU)
            by_graph, plain = (
                [g.clone() for g in torch.autograd.grad((call(*inputs) ** 2).mean(), weights)]
                for call in (calls, network)
            )
            for gradient, expected in zip(by_graph, plain):
                assert torch.allclose(gradient, expected, rtol=1e-2, atol=1e-4), (visit, n)
    assert len(calls.graphs) == 2


def test_a_network_by_a_graph_gives_what_it_gives():
    network = UNet(9, 8, timed=True).to(GPU)
    cond, constraints = torch.randn(1, 9, 16, 16, 16, device=GPU), torch.randn(1, 13, device=GPU)
    graph = SamplingGraph(lambda x_t, t: network(cond, constraints, x_t, t))
    with torch.no_grad():
        for step in range(CAPTURED_AT + 3):
            x_t, t = torch.randn(1, 1, 16, 16, 16, device=GPU), torch.full((1,), 50 * step, device=GPU)
            assert torch.allclose(graph(x_t, t), network(cond, constraints, x_t, t), atol=1e-4)
    assert hasattr(graph, "output")


def test_noise_is_drawn_there_by_the_name_of_its_stream():
    first, again, other = (normal((64, 64, 64), generator_for(name), GPU) for name in ("a", "a", "b"))
    assert first.is_cuda and torch.equal(first, again) and not torch.equal(first, other)
    assert abs(float(first.mean())) < 0.01 and abs(float(first.std()) - 1) < 0.01
