from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import marching_cubes, mesh_surface_area

from mist_ops.metrics.surfels import corner_areas, corner_codes, surface


def test_every_code_except_all_inside_and_all_outside_has_an_area() -> None:
    areas = corner_areas((1.0, 1.5, 2.0))
    assert (areas[1:255] > 0).all()
    assert areas[0] == areas[255] == 0.0


@pytest.mark.parametrize(
    "code, area", [(1, 0.2165064), (7, 1.1495191), (27, 1.5731322), (30, 1.3660254), (60, 1.4142136)]
)
def test_areas_at_unit_spacing_equal_the_published_ones(code: int, area: float) -> None:
    assert corner_areas((1.0, 1.0, 1.0))[code] == pytest.approx(area, abs=5e-8)


def test_areas_are_equal_for_the_complement() -> None:
    areas = corner_areas((0.7, 1.5, 3.0))
    np.testing.assert_array_equal(areas, areas[::-1])


def test_a_voxel_is_the_last_of_its_first_corner_and_the_first_of_its_last() -> None:
    codes = corner_codes(np.ones((1, 1, 1), dtype=bool))
    assert (codes[0, 0, 0], codes[0, 0, 1], codes[1, 1, 1]) == (1, 2, 128)


def test_the_surface_of_a_slab_is_its_two_faces_and_their_rim() -> None:
    slab = np.zeros((12, 12, 6), dtype=bool)
    slab[:, :, 2:4] = True
    inner = surface(slab, (1.0, 2.0, 5.0))
    within = ((inner.corners[:, :2] > 0) & (inner.corners[:, :2] < 12)).all(axis=1)
    assert inner.areas[within].sum() == pytest.approx(2 * 11 * 11 * 2.0)


def test_areas_are_invariant_to_rotations_and_reflections() -> None:
    mask = np.random.default_rng(0).random((9, 8, 7)) < 0.4
    area = surface(mask, (1.0, 2.0, 3.0)).areas.sum()
    assert surface(np.flip(mask, 1), (1.0, 2.0, 3.0)).areas.sum() == pytest.approx(area)
    assert surface(mask.transpose(2, 0, 1), (3.0, 1.0, 2.0)).areas.sum() == pytest.approx(area)


def test_the_area_of_a_ball_equals_marching_cubes() -> None:
    x, y, z = np.indices((41, 41, 41)) - 20
    ball = x**2 + y**2 + z**2 <= 15**2
    vertices, faces, _, _ = marching_cubes(ball, 0.5)
    assert surface(ball, (1.0, 1.0, 1.0)).areas.sum() == pytest.approx(mesh_surface_area(vertices, faces), rel=0.01)


def test_an_empty_mask_has_no_surface() -> None:
    assert len(surface(np.zeros((3, 4, 5), dtype=bool), (1.0, 1.0, 1.0)).areas) == 0
