from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surface import haus95

SPACING = (1.0, 1.5, 3.0)


def cube() -> np.ndarray:
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[6:14, 6:14, 6:14] = True
    return mask


@pytest.mark.parametrize("axis, expected", [(0, 1.0), (1, 1.5), (2, 3.0)])
def test_a_cube_shifted_by_one_voxel_has_that_voxels_width(axis: int, expected: float) -> None:
    assert haus95(MaskPair(cube(), np.roll(cube(), 1, axis=axis), SPACING)) == expected


def test_a_perfect_prediction_is_at_zero() -> None:
    assert haus95(MaskPair(cube(), cube(), SPACING)) == 0.0


def test_both_directions_count() -> None:
    larger = cube()
    larger[20, 20, 20] = True
    larger[6:14, 6:14, 14:20] = True
    there, back = (haus95(MaskPair(*masks, SPACING)) for masks in ((cube(), larger), (larger, cube())))
    assert there == back > 3.0


def test_flipping_both_masks_changes_nothing() -> None:
    prediction = np.roll(cube(), (1, 2, 1), axis=(0, 1, 2))
    expected = haus95(MaskPair(cube(), prediction, SPACING))
    assert haus95(MaskPair(np.flip(cube(), 0), np.flip(prediction, 0), SPACING)) == expected


def test_a_speck_below_five_percent_of_the_area_is_forgiven() -> None:
    speck = cube()
    speck[22, 22, 22] = True
    assert haus95(MaskPair(cube(), speck, (1.0, 1.0, 1.0))) == 0.0


def test_the_distance_to_an_empty_mask_is_infinite() -> None:
    assert haus95(MaskPair(cube(), np.zeros_like(cube()), SPACING)) == math.inf


def test_metrics_need_no_torch() -> None:
    program = "import sys; from mist_ops.registry import METRICS; list(METRICS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
