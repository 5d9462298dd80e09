"""Signed distance maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mist_ops.imaging.distances import distance_maps
from mist_ops.imaging.nifti import read_geometry, read_labels
from mist_ops.types import LabelMap

HALF = 5e-4
"""Relative rounding error of half precision."""


@pytest.fixture
def point() -> LabelMap:
    classes = np.zeros((6, 7, 8), dtype=np.uint8)
    classes[3, 3, 3] = 1
    return classes


def test_a_single_voxel_is_its_own_boundary(point: LabelMap) -> None:
    plain, scaled = distance_maps(point, 2, False)[..., 1], distance_maps(point, 2, True)[..., 1]
    assert plain[3, 3, 3] == scaled[3, 3, 3] == 0
    assert plain.max() == pytest.approx(5.8309517, rel=HALF)
    assert scaled.max() == 1


def test_the_inside_of_a_cube_is_negative() -> None:
    classes = np.zeros((9, 9, 9), dtype=np.uint8)
    classes[2:7, 2:7, 2:7] = 1
    assert distance_maps(classes, 2, False)[4, 4, :, 1].tolist() == [2, 1, 0, -1, -2, -1, 0, 1, 2]
    scaled = distance_maps(classes, 2, True)[4, 4, :, 1]
    expected = [2, 1, 0, *(np.sqrt(12) * np.array([-0.5, -1, -0.5])), 0, 1, 2]
    np.testing.assert_allclose(scaled * np.sqrt(12), expected, rtol=HALF)


def test_the_edge_of_the_volume_is_not_a_boundary() -> None:
    classes = np.zeros((1, 1, 5), dtype=np.uint8)
    classes[..., 2:] = 1
    assert distance_maps(classes, 2, False)[0, 0, :, 1].tolist() == [2, 1, 0, -1, -2]


def test_distances_of_absent_and_full_classes_are_finite(point: LabelMap) -> None:
    classes = np.zeros_like(point)
    diagonal = np.float16(np.linalg.norm(classes.shape))
    plain, scaled = distance_maps(classes, 2, False), distance_maps(classes, 2, True)
    assert (plain[..., 0] == -diagonal).all()
    assert (plain[..., 1] == diagonal).all()
    assert (scaled[..., 0] == -1).all()
    assert (scaled[..., 1] == 1).all()


def test_distances_of_a_hippocampus_equal_the_reference(shared: Path) -> None:
    path = shared / "data/Task04_Hippocampus/labelsTr/hippocampus_001.nii.gz"
    reorientation = read_geometry(path).canonical()[1]
    maps = distance_maps(reorientation.apply(read_labels(path)[0]), 3, True)
    assert [int((maps[..., index] == 0).sum()) for index in range(3)] == [2699, 856, 1188]
    smallest = [maps[..., index][maps[..., index] > 0].min() for index in range(3)]
    np.testing.assert_allclose(smallest, [0.24253564, 0.026090901, 0.032124627], rtol=HALF)


def test_distances_are_in_mm() -> None:
    classes = np.zeros((5, 5, 5), dtype=np.uint8)
    classes[2, 2, 2] = 1
    maps = distance_maps(classes, 2, False, spacing=(1.0, 1.0, 5.0))[..., 1]
    assert maps[2, 2].tolist() == [10, 5, 0, 5, 10]
    assert maps[:, 2, 2].tolist() == [2, 1, 0, 1, 2]


def test_distances_of_an_absent_class_are_the_diagonal_in_mm() -> None:
    maps = distance_maps(np.zeros((3, 4, 1), dtype=np.uint8), 2, False, spacing=(1.0, 1.0, 12.0))
    assert (maps[..., 1] == 13).all()


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.98])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.0, 2.5)])
def test_maps_are_those_of_an_exact_transform_of_the_whole_volume(
    share: float, spacing: tuple[float, float, float]
) -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        mask = generator.random(generator.integers(1, 14, 3)) < share
        boundary = mask & ~ndimage.minimum_filter(mask, size=3, mode="nearest")
        if boundary.any():
            exact = ndimage.distance_transform_edt(~boundary, sampling=spacing)
            found = distance_maps(mask.astype(np.uint8), 2, False, spacing)[..., 1]
            np.testing.assert_allclose(found, np.where(mask, -exact, exact), rtol=HALF)
