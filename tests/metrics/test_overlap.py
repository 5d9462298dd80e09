from __future__ import annotations

import math

import numpy as np

from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair


def test_dice_counts_shared_voxels_twice() -> None:
    truth = np.zeros((4, 4, 4), dtype=bool)
    truth[0, 0, :3] = True
    assert dice(MaskPair(truth, np.roll(truth, 1, axis=2), (1.0, 1.0, 1.0))) == 2 * 2 / 6


def test_dice_of_nothing_is_not_a_number() -> None:
    empty = np.zeros((2, 2, 2), dtype=bool)
    assert math.isnan(dice(MaskPair(empty, empty, (1.0, 1.0, 1.0))))
