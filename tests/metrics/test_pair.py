from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from mist_ops.metrics.pair import MaskPair

SPACING = (1.0, 1.5, 2.0)


def cube(start: tuple[int, int, int], edge: int = 6) -> np.ndarray:
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[tuple(slice(at, at + edge) for at in start)] = True
    return mask


def test_masks_are_cropped_to_the_box_of_their_union() -> None:
    pair = MaskPair(cube((4, 5, 6)), cube((6, 5, 6)), SPACING)
    assert pair.truth.shape == pair.prediction.shape == (8, 6, 6)
    assert (pair.truth_voxels, pair.prediction_voxels, pair.shared_voxels) == (216, 216, 144)


def test_the_diagonal_is_that_of_the_whole_image() -> None:
    mask = cube((4, 5, 6))
    assert MaskPair(mask, mask, SPACING).diagonal == pytest.approx(math.hypot(30, 45, 60))
    assert MaskPair(mask, mask, SPACING, diagonal=500.0).diagonal == 500.0


def test_distances_equal_a_distance_transform() -> None:
    rng = np.random.default_rng(0)
    pair = MaskPair(cube((2, 3, 4), 12) & (rng.random((30,) * 3) < 0.9), cube((10, 9, 8), 15), SPACING)
    free = np.ones(np.add(pair.prediction.shape, 1), dtype=bool)
    free[tuple(pair.prediction_surface.corners.T)] = False
    expected = distance_transform_edt(free, sampling=SPACING)[tuple(pair.truth_surface.corners.T)]
    np.testing.assert_allclose(pair.truth_distances, expected, rtol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.0, 1.0, 1.5)])
@pytest.mark.parametrize("shift", [1, 3])
def test_distances_of_large_surfaces_equal_a_distance_transform(
    spacing: tuple[float, float, float], shift: int
) -> None:
    rng = np.random.default_rng(shift)
    blob = gaussian_filter(rng.standard_normal((44, 40, 36)), 2) > 0.05
    pair = MaskPair(blob, np.roll(blob, (shift, -shift, 0), axis=(0, 1, 2)), spacing)
    free = np.ones(np.add(pair.truth.shape, 1), dtype=bool)
    free[tuple(pair.truth_surface.corners.T)] = False
    expected = distance_transform_edt(free, sampling=spacing)[tuple(pair.prediction_surface.corners.T)]
    assert np.count_nonzero(expected) > 1000  # enough for the look-up of neighbors
    np.testing.assert_allclose(pair.prediction_distances, expected, rtol=1e-12)


def test_a_value_is_computed_once_per_key() -> None:
    pair, calls = MaskPair(cube((4, 5, 6)), cube((6, 5, 6)), SPACING), []
    for _ in range(2):
        assert pair.once("key", lambda pair: calls.append(pair) or len(calls)) == 1


def test_distances_to_an_empty_mask_are_infinite() -> None:
    pair = MaskPair(cube((4, 5, 6)), np.zeros((30, 30, 30), dtype=bool), SPACING)
    assert np.isinf(pair.truth_distances).all()
    assert len(pair.prediction_distances) == 0


def test_two_empty_masks_make_an_empty_pair() -> None:
    empty = np.zeros((3, 4, 5), dtype=bool)
    pair = MaskPair(empty, empty, SPACING)
    assert (pair.truth_voxels, len(pair.truth_distances)) == (0, 0)
