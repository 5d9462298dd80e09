from __future__ import annotations

import math

import numpy as np
import pytest

from mist_ops.metrics.overlap import dice, iou, precision, recall, relative_volume_difference, volume_difference
from mist_ops.metrics.pair import MaskPair

SPACING = (1.0, 2.0, 5.0)


def pair() -> MaskPair:
    """Truth of 40 voxels and a prediction of 60, 30 of them shared."""
    truth, prediction = np.zeros((12, 5, 2), dtype=bool), np.zeros((12, 5, 2), dtype=bool)
    truth[1:5], prediction[2:8] = True, True
    return MaskPair(truth, prediction, SPACING)


def test_ratios_count_voxels() -> None:
    assert dice(pair()) == 2 * 30 / 100
    assert iou(pair()) == 30 / 70
    assert precision(pair()) == 30 / 60
    assert recall(pair()) == 30 / 40


def test_volume_differences_in_ml_and_in_percent_of_the_truth() -> None:
    assert volume_difference(pair()) == pytest.approx(20 * 10 / 1000)
    assert relative_volume_difference(pair()) == pytest.approx(50.0)


def test_iou_follows_from_dice() -> None:
    rng = np.random.default_rng(0)
    both = MaskPair(rng.random((9, 8, 7)) < 0.4, rng.random((9, 8, 7)) < 0.5, SPACING)
    assert iou(both) == pytest.approx(dice(both) / (2 - dice(both)))
    assert dice(both) == pytest.approx(2 / (1 / precision(both) + 1 / recall(both)))


def test_ratios_of_empty_masks_are_nan() -> None:
    empty = np.zeros((2, 2, 2), dtype=bool)
    nothing = MaskPair(empty, empty, SPACING)
    assert all(math.isnan(metric(nothing)) for metric in (dice, iou, precision, recall, relative_volume_difference))
    assert volume_difference(nothing) == 0.0
