from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.morphology import skeletonize

from mist_ops.analysis.shapes import (
    compactness,
    measure_shape,
    principal_variances,
    shape_class,
    surface_area,
)
from mist_ops.types import Mask, Spacing

CUBIC = (1.0, 1.0, 1.0)


def block(*size: int) -> Mask:
    return np.ones(size, dtype=bool)


def ball(radius: int) -> Mask:
    return np.square(np.indices((2 * radius + 3,) * 3) - radius - 1).sum(axis=0) <= radius**2


def blobs(seed: int) -> Mask:
    """A random, branching structure that touches the border."""
    mask = np.random.default_rng(seed).random((14, 12, 10)) < 0.6
    mask[2:6, 2:9, 3:7] = True
    return mask


@pytest.mark.parametrize(
    "mask, spacing, shares, quotient, skeleton",
    [
        (ball(15), CUBIC, (0, 0, 1), 0.294028, 0.000141),
        (block(10, 10, 10), CUBIC, (0, 0, 1), math.pi / 6, 0.0),
        (block(50, 1, 1), CUBIC, (1, 0, 0), 0.034303, 1.0),
        (block(20, 20, 1), CUBIC, (0, 1, 0), 0.026554, 0.005),
        (block(1, 20, 20), (1.0, 1.0, 3.0), (0.8889, 0.1111, 0), 0.009707, 0.005),
        (block(4, 1, 1), CUBIC, (1, 0, 0), 0.310281, 1.0),
        (block(5, 6, 7), CUBIC, (0.2708, 0.2292, 0.5), 0.508920, 0.0142857),
    ],
)
def test_simple_bodies_have_the_descriptors_of_mist(
    mask: Mask, spacing: Spacing, shares: tuple[float, float, float], quotient: float, skeleton: float
):
    shape = measure_shape(mask, spacing)
    assert shape is not None
    assert (shape.linearity, shape.planarity, shape.sphericity) == pytest.approx(shares, abs=5e-5)
    assert shape.compactness == pytest.approx(quotient, abs=5e-7)
    assert shape.skeleton_ratio == pytest.approx(skeleton, abs=5e-7)


@pytest.mark.parametrize("mask", [block(3, 1, 1), np.zeros((4, 4, 4), dtype=bool)])
def test_fewer_than_four_voxels_have_no_shape(mask: Mask):
    assert measure_shape(mask, CUBIC) is None


def test_four_voxels_within_a_hundredth_of_a_micron_have_no_shape():
    assert measure_shape(block(4, 1, 1), (1e-5, 1.0, 1.0)) is None


@pytest.mark.parametrize("spacing", [CUBIC, (0.5, 0.8, 3.0)])
def test_variances_are_those_of_the_coordinates_of_all_voxels(spacing: Spacing):
    mask = blobs(0)
    coordinates = np.argwhere(mask) * spacing
    expected = np.linalg.eigvalsh(np.cov(coordinates.T))[::-1]
    np.testing.assert_allclose(principal_variances(mask, spacing), expected, rtol=1e-12)


def test_variances_of_a_large_body_are_exact():
    size = 4000
    expected = (size**2 - 1) / 12 * size / (size - 1)
    assert principal_variances(block(size, 1, 1), CUBIC)[0] == pytest.approx(expected, rel=1e-15)


def test_the_surface_of_a_box_includes_that_of_a_hole():
    assert surface_area(block(2, 3, 4), (0.5, 1.0, 2.0)) == pytest.approx(2 * (1 * 3 + 1 * 8 + 3 * 8))
    hollow = block(5, 5, 5)
    hollow[2, 2, 2] = False
    assert surface_area(hollow, CUBIC) == 6 * 25 + 6


@pytest.mark.parametrize("seed", range(3))
def test_cropping_to_the_bounding_box_does_not_change_the_shape(seed: int):
    inside = blobs(seed)
    whole = np.zeros((30, 31, 32), dtype=bool)
    whole[9:23, 7:19, 15:25] = inside
    assert measure_shape(inside, (0.7, 1.0, 1.3)) == measure_shape(whole, (0.7, 1.0, 1.3))
    np.testing.assert_array_equal(
        skeletonize(whole, method="lee")[9:23, 7:19, 15:25], skeletonize(inside, method="lee")
    )


def test_a_shape_does_not_depend_on_the_orientation_of_the_file():
    mask, spacing = blobs(4), (0.7, 1.0, 1.3)
    turned = measure_shape(np.flip(mask.transpose(2, 0, 1), 1), (1.3, 0.7, 1.0))
    straight = measure_shape(mask, spacing)
    assert turned is not None
    assert straight is not None
    assert turned.linearity == pytest.approx(straight.linearity, abs=1e-12)
    assert turned.compactness == pytest.approx(straight.compactness, abs=1e-12)


def test_a_smooth_ball_has_the_maximum_compactness():
    assert compactness(4 / 3 * math.pi * 2.0**3, 4 * math.pi * 2.0**2) == pytest.approx(1.0)
    assert compactness(10.0, 0.1) == 1.0
    assert compactness(0.0, 0.0) == 0.0


def test_the_largest_descriptor_names_the_shape_and_the_first_of_equal_ones():
    assert shape_class(0.2, 0.3, 0.5) == "blob"
    assert shape_class(0.2, 0.4, 0.4) == "planar"
    assert shape_class(0.5, 0.5, 0.0) == "tubular"


def test_a_structure_too_large_for_a_skeleton_keeps_its_other_descriptors():
    shape = measure_shape(block(216, 216, 216), CUBIC)
    assert shape is not None
    assert (shape.skeleton_ratio, shape.sphericity) == (None, 1.0)
    assert shape.compactness == pytest.approx(math.pi / 6)
