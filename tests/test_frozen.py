"""What decides a training's numbers has not changed unawares: two steps and one sample of every method."""

import json

import frozen
import pytest

KEPT = json.loads(frozen.FILE.read_text())


@pytest.mark.parametrize("method", frozen.NAMES)
def test_two_steps_and_a_sample_are_the_frozen_ones(method):
    """Within what another processor's order of adding changes."""
    found, kept = frozen.numbers(method), KEPT[method]
    assert found["losses"] == pytest.approx(kept["losses"], rel=1e-4)
    assert found["weights"] == pytest.approx(kept["weights"], rel=1e-5)
    assert found["dose"] == pytest.approx(kept["dose"], rel=1e-2 if method == "ddpm" else 1e-3)
