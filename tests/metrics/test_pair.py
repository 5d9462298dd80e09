from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from mist_ops.metrics.pair import MaskPair

SPACING = (1.0, 1.5, 2.0)


def cube(start: tuple[int, int, int], edge: int = 6) -> np.ndarray:
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[tuple(slice(at, at + edge) for at in start)] = True
    return mask


def test_masks_are_cropped_to_the_box_of_both() -> None:
    pair = MaskPair(cube((4, 5, 6)), cube((6, 5, 6)), SPACING)
    assert pair.truth.shape == pair.prediction.shape == (8, 6, 6)
    assert (pair.truth_voxels, pair.prediction_voxels, pair.shared_voxels) == (216, 216, 144)


def test_the_diagonal_is_that_of_the_whole_image() -> None:
    mask = cube((4, 5, 6))
    assert MaskPair(mask, mask, SPACING).diagonal == pytest.approx(math.hypot(30, 45, 60))
    assert MaskPair(mask, mask, SPACING, diagonal=500.0).diagonal == 500.0


def test_distances_are_those_of_a_distance_transform() -> None:
    rng = np.random.default_rng(0)
    pair = MaskPair(cube((2, 3, 4), 12) & (rng.random((30,) * 3) < 0.9), cube((10, 9, 8), 15), SPACING)
    free = np.ones(np.add(pair.prediction.shape, 1), dtype=bool)
    free[tuple(pair.prediction_surface.corners.T)] = False
    expected = distance_transform_edt(free, sampling=SPACING)[tuple(pair.truth_surface.corners.T)]
    np.testing.assert_allclose(pair.truth_distances, expected, rtol=1e-12)


def test_distances_to_an_empty_mask_are_infinite() -> None:
    pair = MaskPair(cube((4, 5, 6)), np.zeros((30, 30, 30), dtype=bool), SPACING)
    assert np.isinf(pair.truth_distances).all()
    assert len(pair.prediction_distances) == 0


def test_two_empty_masks_make_an_empty_pair() -> None:
    empty = np.zeros((3, 4, 5), dtype=bool)
    pair = MaskPair(empty, empty, SPACING)
    assert (pair.truth_voxels, len(pair.truth_distances)) == (0, 0)
