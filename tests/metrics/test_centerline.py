from __future__ import annotations

import math

import numpy as np
import pytest

from mist_ops.metrics.centerline import centerlines, cldice
from mist_ops.metrics.pair import MaskPair

SPACING = (1.0, 1.0, 1.0)


def tube(length: int, width: int = 3) -> np.ndarray:
    mask = np.zeros((40, 12, 12), dtype=bool)
    mask[4 : 4 + length, 4 : 4 + width, 4 : 4 + width] = True
    return mask


def test_a_vessel_with_the_same_centerline_and_another_width_scores_nearly_1() -> None:
    thin = np.zeros((40, 12, 12), dtype=bool)
    thin[5:29, 5, 5] = True
    assert cldice(MaskPair(tube(26), thin, SPACING)) > 0.95  # the line bends off at its ends


def test_half_a_vessel_has_full_precision_and_half_the_recall() -> None:
    line = tube(30, width=1)
    assert cldice(MaskPair(line, line & tube(15, width=1), SPACING)) == pytest.approx(2 * 1.0 * 0.5 / 1.5)


def test_vessels_side_by_side_score_0() -> None:
    line = tube(30, width=1)
    assert cldice(MaskPair(line, np.roll(line, 3, axis=1), SPACING)) == 0.0


@pytest.mark.parametrize("width", [1, 2, 3, 4, 6])
def test_a_vessel_of_any_width_has_a_centerline(width: int) -> None:
    assert 18 <= np.count_nonzero(centerlines(tube(26, width))) <= 30


def test_each_component_has_a_centerline() -> None:
    mask = tube(20) | np.roll(tube(6, width=2), (26, 5, 5), axis=(0, 1, 2))
    lines = centerlines(mask)
    assert lines[:26].any()
    assert lines[28:].any()
    assert not (lines & ~mask).any()


def test_a_component_that_thinning_removes_is_its_own_centerline() -> None:
    speck = np.zeros((6, 6, 6), dtype=bool)
    speck[2:4, 2:4, 2:4] = True
    assert cldice(MaskPair(speck, speck, SPACING)) == 1.0


def test_an_empty_mask_scores_nan() -> None:
    assert math.isnan(cldice(MaskPair(tube(9), np.zeros_like(tube(9)), SPACING)))
