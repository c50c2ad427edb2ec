"""The speed study's arithmetic: ratios, counted work, exponents; and that its notebook runs."""

import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.errors import UserError
from lib.runner.params_file import load_params
from lib.runner.plan import plan
from lib.studies import speed
from lib.studies.results import make_frame


def test_the_ways_are_taken_in_turn_after_a_warm_up():
    order = []
    seconds = speed.in_turn(lambda: order.append("plain"), lambda: order.append("ours"), 3)
    assert order == ["plain", "ours"] * 4 and seconds.shape == (3, 2)


def test_a_ratio_is_that_of_the_times_slept():
    seconds = speed.in_turn(lambda: time.sleep(0.3), lambda: time.sleep(0.1), 3)
    found = speed.ratio_row("sleep", "longer sleep", seconds)
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"] and 2 < found["ratio"] < 4


def test_counted_operations_and_bytes_are_those_of_a_convolution():
    """2 x kernel x channels in x out x voxels operations; input, weights and output once."""
    conv, x = nn.Conv3d(4, 6, 3, padding=1, bias=False), torch.randn(1, 4, 8, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as flops, speed.BytesCounter() as moved:
        conv(x)
    assert flops.get_total_flops() == 2 * 27 * 4 * 6 * 512
    assert moved.total == 4 * (x.numel() + conv.weight.numel() + 6 * 512)


def test_views_move_nothing():
    with speed.BytesCounter() as moved:
        torch.zeros(10).view(2, 5)
    assert moved.total == 40


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_law_is_found(power):
    rows = [{"axis": "voxels", "size": size, "seconds": 0.3 * size**power} for size in (8, 64, 512)]
    assert speed.exponents(make_frame("06_scaling", rows))["voxels"] == pytest.approx(power, abs=1e-9)


def test_the_peaks_are_positive_and_the_shares_add_up():
    flop_rate, byte_rate = speed.peaks(torch.device("cpu"), "32")
    a = torch.randn(256, 256)
    found = speed.ceiling_row("product", lambda: a @ a, flop_rate, byte_rate, 3)
    assert found["gflop"] == pytest.approx(2 * 256**3 / 1e9)
    assert found["of_peak_flop_pct"] == pytest.approx(
        100 * found["gflop"] / found["seconds"] / found["peak_gflop_s"]
    )


def test_an_experiment_with_a_speed_section_runs_that_notebook_alone(tmp_path):
    params = load_params("params/speed.yaml")
    (stage,) = plan(params, "params/speed.yaml")
    assert stage.name == "06_speed" and stage.parameters["coarsen"] == 1
    with pytest.raises(UserError, match="no key 'speed.repeat'"):
        plan(params | {"speed": {"repeat": 3}}, "p.yaml")
    with pytest.raises(UserError, match="no key 'train'"):
        plan(params | {"train": {}}, "p.yaml")
