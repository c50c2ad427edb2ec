"""What is true of a training step on a GPU; skipped where there is none."""

import frozen
import pytest
import torch

from lib.features.batches import make_batch
from lib.models.training_loss import draw_noise
from lib.seeds import generator_for, normal
from lib.studies.speed import loss_and_gradient
from lib.training.loop import train_step
from lib.training.state import TrainingState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
METHODS = ["baseline", "ddpm", "ddpm_v", "flow", "refine"]


@pytest.mark.parametrize("augment", ["rotated", "whole voxels"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_gpu(method, augment):
    """PyTorch raises where a call would wait, as a copy to the GPU without non_blocking does."""
    samples = frozen.samples_for(method)
    config = frozen.dataclasses.replace(frozen.config_for(method, samples), augment=augment, dvh_weight=0.0)
    state, there = TrainingState(config, GPU), [sample.to(GPU) for sample in samples]
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


def test_noise_is_drawn_there_by_the_name_of_its_stream():
    first, again, other = (normal((64, 64, 64), generator_for(name), GPU) for name in ("a", "a", "b"))
    assert first.is_cuda and torch.equal(first, again) and not torch.equal(first, other)
    assert abs(float(first.mean())) < 0.01 and abs(float(first.std()) - 1) < 0.01
