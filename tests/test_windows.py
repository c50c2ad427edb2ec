"""Windows cover a volume, and blending what agrees changes nothing."""

import pytest
import torch

from lib.errors import UserError
from lib.prediction.windows import blend, window_boxes


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 40, 8), (5, 33, 64)])
def test_windows_cover_every_voxel_and_stay_inside(size):
    seen = torch.zeros(size)
    for box in window_boxes(size, 16):
        assert all(a.start >= 0 and (a.stop <= n or a.start == 0) for a, n in zip(box[1:], size))
        seen[box] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("channels", [1, 2])
def test_windows_of_one_volume_blend_back_to_it(channels):
    volume = torch.randn(2, channels, 20, 33, 12)
    parts = ((box, volume[box]) for box in window_boxes(volume.shape[2:], 16))
    assert torch.allclose(blend(parts, volume.shape[2:], 16), volume, atol=1e-5)


def test_in_an_overlap_the_nearer_window_weighs_more():
    boxes = window_boxes((16, 16, 24), 16)
    parts = zip(boxes, (torch.zeros(1, 1, 16, 16, 16), torch.ones(1, 1, 16, 16, 16)), strict=True)
    line = blend(parts, (16, 16, 24), 16)[0, 0, 8, 8]
    assert (
        line[7] == 0
        and line[16] == 1
        and (line[8:16].diff() > 0).all()
        and float(line[11] + line[12]) == pytest.approx(1)
    )


def test_a_window_of_one_voxel_is_refused():
    with pytest.raises(UserError, match="at least 2 voxels"):
        window_boxes((8, 8, 8), 1)
