"""What decides a training's numbers has not changed unawares: two steps and one sample of every method."""

import json

import frozen
import pytest

from lib.cache import TRAINING_VERSION

KEPT = json.loads(frozen.FILE.read_text())
ADVICE = (
    f"these are not the numbers of TRAINING_VERSION {TRAINING_VERSION}: if that is meant, raise it in "
    "lib/cache.py and run python tests/frozen.py --write"
)


def test_the_frozen_numbers_are_of_this_version():
    assert KEPT["training_version"] == TRAINING_VERSION, ADVICE


@pytest.mark.parametrize("method", frozen.NAMES)
def test_two_steps_and_a_sample_are_the_frozen_ones(method):
    """Within what another processor's order of adding changes."""
    found, kept = frozen.numbers(method), KEPT["methods"][method]
    assert found["losses"] == pytest.approx(kept["losses"], rel=1e-4), ADVICE
    assert found["weights"] == pytest.approx(kept["weights"], rel=1e-5), ADVICE
    assert found["dose"] == pytest.approx(kept["dose"], rel=1e-2 if method == "ddpm" else 1e-3), ADVICE
