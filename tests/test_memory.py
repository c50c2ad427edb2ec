"""Memory is foretold: counted exactly, growing as it must, and too little of it is said in a sentence."""

import dataclasses

import pytest
import torch
from test_training import config_for
from toys import toy_case

from lib import memory
from lib.errors import UserError
from lib.features.samples import make_sample

SHAPE = (16, 24, 24)


@pytest.fixture(scope="module")
def sample():
    return make_sample(toy_case(), 1)


def test_what_is_alive_is_counted_and_what_is_gone_is_not():
    with memory.Peak() as peak:
        a = torch.ones(1000)
        b = a.view(10, 100) + 1
        del b
        for _ in range(5):
            a + 1
    assert peak.now == 4000 and peak.peak == 8000


@pytest.mark.parametrize("method", ["baseline", "ddpm_v"])
def test_memory_grows_with_patients_and_voxels_and_shrinks_with_half_precision(sample, method):
    """Beside copies of the weights all is activations: twice as many for twice the patients or volume."""
    config = config_for([sample], method=method)
    one, two, larger = (
        memory.predicted_gb(config, shape, n) for shape, n in ((SHAPE, 1), (SHAPE, 2), ((32, 24, 24), 1))
    )
    four = memory.predicted_gb(config, SHAPE, 4)
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
    assert (
        larger == pytest.approx(two, rel=0.05)
        and memory.predicted_gb(dataclasses.replace(config, precision="bf16"), SHAPE, 4) < 0.75 * four
    )


def test_too_little_memory_is_told_with_what_would_fit(sample, monkeypatch):
    config = config_for([sample], batch_size=8)
    monkeypatch.setattr(memory, "free_gb", lambda device: room_gb)
    room_gb = memory.needs_gb(config, SHAPE, 4)
    with pytest.raises(UserError, match="for 8 x 16 x 24 x 24 voxels at once.*train.accumulate=2 would fit"):
        memory.check_memory(config, [sample], torch.device("cpu"), 1)
    memory.check_memory(config, [sample], torch.device("cpu"), 2)
    memory.check_memory(dataclasses.replace(config, accumulate=2), [sample], torch.device("cpu"), 1)
    room_gb = 0.001
    with pytest.raises(UserError, match="take smaller patches"):
        memory.check_memory(config, [sample], torch.device("cpu"), 1)


def test_a_patch_is_what_a_step_sees(sample):
    assert memory.step_shape(config_for([sample]), [sample]) == SHAPE
    assert memory.step_shape(config_for([sample], patch_voxels=[8, 64, 0]), [sample]) == (8, 24, 24)
