"""Grids and their canonical orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mist_ops.imaging.geometry import Geometry
from mist_ops.types import Box

RAS = Geometry((4, 5, 6), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
PIR = Geometry((5, 6, 4), (0.5, 0.5, 3.3), (1.0, 2.0, 3.0), (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))


def rotated(degrees: float) -> Geometry:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    direction = (cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0)
    return replace(RAS, direction=tuple(float(value) for value in direction))


def test_an_affine_survives_a_round_trip_through_a_geometry() -> None:
    affine = rotated(20).ras_affine
    np.testing.assert_allclose(Geometry.from_ras_affine(affine, RAS.size).ras_affine, affine, atol=1e-12)


@pytest.mark.parametrize("affine", [np.diag([1.0, 0.0, 1.0, 1.0]), np.full((4, 4), np.nan)])
def test_an_affine_without_volume_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        Geometry.from_ras_affine(affine, (2, 2, 2))


def test_an_ras_grid_is_flipped_in_x_and_y_and_starts_at_its_last_voxel() -> None:
    canonical, reorientation = RAS.canonical()
    assert (reorientation.axes, reorientation.flipped) == ((0, 1, 2), (0, 1))
    assert canonical == Geometry((4, 5, 6), (1.0, 2.0, 3.0), (7.0, 12.0, 30.0))


def test_a_pir_grid_is_permuted_with_its_spacing() -> None:
    canonical, _ = PIR.canonical()
    assert (canonical.size, canonical.spacing) == ((4, 5, 6), (3.3, 0.5, 0.5))
    np.testing.assert_allclose(canonical.axes, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("grid", [RAS, PIR, rotated(20), rotated(130)])
def test_every_voxel_keeps_its_position_in_the_patient(grid: Geometry) -> None:
    canonical, reorientation = grid.canonical()
    indices = np.indices(grid.size)
    places = np.moveaxis(np.tensordot(grid.lps_affine[:3, :3], indices, axes=1), 0, -1) + grid.origin
    moved = reorientation.apply(places)
    assert moved.shape[:3] == canonical.size
    index = (1, 2, 3)
    np.testing.assert_allclose(canonical.lps_affine @ (*index, 1.0), (*moved[index], 1.0), atol=1e-9)
    np.testing.assert_array_equal(reorientation.undo(moved), places)


def test_oblique_directions_are_kept() -> None:
    canonical, _ = rotated(20).canonical()
    assert canonical.axes[0, 0] == pytest.approx(np.cos(np.radians(20)))


def test_a_crop_moves_the_origin_along_the_axes() -> None:
    cropped = RAS.cropped(Box((1, 2, 3), (3, 4, 6)))
    assert cropped == replace(RAS, size=(2, 2, 3), origin=(9.0, 16.0, 39.0))


def test_sizes_are_rounded_half_to_even_and_at_least_one() -> None:
    grid = Geometry((5, 3, 1), (1.0, 1.0, 1.0))
    assert grid.resampled((2.0, 2.0, 9.0)).size == (2, 2, 1)


def test_a_target_spacing_equal_up_to_rounding_keeps_the_grid() -> None:
    assert RAS.resampled((1.0, 2.000001, 3.0)) is RAS


def test_the_diagonal_counts_whole_voxels() -> None:
    assert Geometry((3, 4, 12), (1.0, 1.0, 1.0)).diagonal == 13.0


def test_rounding_in_headers_is_not_a_difference() -> None:
    assert RAS.differences(replace(RAS, origin=(10.0006, 20.0, 30.0), spacing=(1.0, 2.0005, 3.0))) == []


def test_differences_name_field_and_values() -> None:
    other = replace(RAS, size=(4, 5, 7), origin=(10.0, 20.0, 31.0))
    assert RAS.differences(other) == [
        "size (4, 5, 6) and (4, 5, 7) voxels",
        "origin (10, 20, 30) and (10, 20, 31) mm",
    ]
    assert rotated(180).differences(rotated(175))[0].startswith("direction (")


TRIPLES = st.tuples(*[st.floats(0.1, 9.0)] * 3)
FIELDS = st.tuples(st.tuples(*[st.integers(1, 6)] * 3), TRIPLES, TRIPLES, st.tuples(*[st.floats(-7.0, 7.0)] * 3))


def grid(fields: tuple[tuple[int, int, int], *tuple[tuple[float, float, float], ...]], mirrored: bool) -> Geometry:
    """A grid rotated by a rotation vector, in rad, and optionally mirrored."""
    size, spacing, origin, turn = fields
    axes = Rotation.from_rotvec(turn).as_matrix() * ([-1.0, 1.0, 1.0] if mirrored else 1.0)
    return Geometry(size, spacing, origin, tuple(axes.ravel().tolist()))


def positions(geometry: Geometry) -> np.ndarray:
    """Position of each voxel in mm, as an image with one channel per axis."""
    indices = np.moveaxis(np.indices(geometry.size, dtype=np.float64), 0, -1)
    return indices @ geometry.lps_affine[:3, :3].T + geometry.lps_affine[:3, 3]


@given(FIELDS, st.booleans())
def test_reorientation_keeps_positions_and_is_inverted_by_undo(fields: tuple, mirrored: bool) -> None:
    original = grid(fields, mirrored)
    canonical, reorientation = original.canonical()
    np.testing.assert_allclose(reorientation.apply(positions(original)), positions(canonical), atol=1e-9)
    np.testing.assert_allclose(reorientation.undo(positions(canonical)), positions(original), atol=1e-9)


@given(FIELDS, st.booleans(), st.data())
def test_a_crop_keeps_positions(fields: tuple, mirrored: bool, data: st.DataObject) -> None:
    whole = grid(fields, mirrored)
    start = tuple(data.draw(st.integers(0, size - 1)) for size in whole.size)
    stop = tuple(data.draw(st.integers(first + 1, size)) for first, size in zip(start, whole.size, strict=True))
    box = Box(start, stop)
    np.testing.assert_allclose(positions(whole.cropped(box)), positions(whole)[box.slices], atol=1e-9)


@given(FIELDS, st.booleans(), TRIPLES)
def test_a_resampled_grid_has_the_same_first_voxel_and_covers_the_same_volume(
    fields: tuple, mirrored: bool, target: tuple[float, float, float]
) -> None:
    original = grid(fields, mirrored)
    resampled = original.resampled(target)
    np.testing.assert_array_equal(positions(resampled)[0, 0, 0], positions(original)[0, 0, 0])
    lacking = np.abs(np.multiply(resampled.size, resampled.spacing) - np.multiply(original.size, original.spacing))
    assert (lacking <= np.multiply(resampled.spacing, 0.5) + 1e-9).all() or 1 in resampled.size


@given(FIELDS, st.booleans())
def test_any_grid_survives_a_header(fields: tuple, mirrored: bool) -> None:
    original = grid(fields, mirrored)
    assert Geometry.from_ras_affine(original.ras_affine, original.size).differences(original) == []
