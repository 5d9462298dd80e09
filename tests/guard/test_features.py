from __future__ import annotations

import math

import numpy as np
import pytest
from guard.scans import GRID, SIZE, measured, scan

from mist_ops.guard.features import AXES
from mist_ops.guard.measuring import CELLS, coarse, measure
from mist_ops.guard.texture import edges, noise, shading
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.types import Image

BRIGHT = 3.0


def ramp(axis: int) -> Image:
    along = np.linspace(0, BRIGHT, SIZE[axis], dtype=np.float32)
    return np.broadcast_to(along.reshape([-1 if dim == axis else 1 for dim in range(3)]), SIZE).copy()


@pytest.mark.parametrize("deviation", [0.1, 2.0])
def test_noise_is_its_standard_deviation_whatever_the_image_below(deviation: float) -> None:
    generator = np.random.default_rng(0)
    steps = np.where(np.arange(40)[:, None, None] < 20, 0, 10) + np.zeros((40, 40, 40))
    image = (steps + generator.normal(0, deviation, steps.shape)).astype(np.float32)
    assert noise(image) == pytest.approx(deviation, rel=0.15)  # the border of the step raises it
    assert noise(steps.astype(np.float32)) == 0


def test_air_that_is_set_to_zero_does_not_hide_the_noise() -> None:
    generator = np.random.default_rng(0)
    image = np.zeros((40, 40, 40), dtype=np.float32)
    image[14:26, 14:26, 14:26] = 100 + generator.normal(0, 2, (12, 12, 12))
    assert noise(image) > 1


@pytest.mark.parametrize("axis", range(3))
def test_shading_is_how_much_brighter_the_other_end_is(axis: int) -> None:
    expected = [BRIGHT if each == axis else 0 for each in range(3)]
    assert shading(ramp(axis)) == pytest.approx(expected, abs=1e-5)
    assert edges(ramp(axis))[axis] == pytest.approx(BRIGHT / (SIZE[axis] - 1), rel=1e-4)


def test_a_coarse_picture_holds_the_means_of_cells() -> None:
    image = np.random.default_rng(0).normal(size=(16, 32, 24, 2)).astype(np.float32)
    cells = coarse(image)
    assert cells.shape == (2, CELLS, CELLS, CELLS)
    assert cells[1, 0, 0, 0] == pytest.approx(float(image[:2, :4, :3, 1].mean()), abs=1e-6)
    assert cells[0, -1, -1, -1] == pytest.approx(float(image[-2:, -4:, -3:, 0].mean()), abs=1e-6)


@pytest.mark.parametrize("size", [(1, 5, 9), (3, 200, 8)])
def test_a_coarse_picture_of_few_voxels_repeats_them(size: tuple[int, int, int]) -> None:
    cells = coarse(np.full((*size, 1), 7.0, dtype=np.float32))
    assert cells.shape == (1, CELLS, CELLS, CELLS)
    assert np.allclose(cells, 7)


@pytest.mark.parametrize("axis", range(3))
def test_a_mirrored_scan_has_mirrored_offsets_and_the_same_volumes(axis: int) -> None:
    image, labels = scan(0)
    before = measured(image, labels).features
    after = measured(np.flip(image, axis).copy(), np.flip(labels, axis).copy()).features
    for each, name in enumerate(AXES):
        sign = -1 if each == axis else 1
        for feature in (f"offset of label 1 {name}", f"asymmetry of the structures {name}", f"mri: shading {name}"):
            assert after[feature].value == pytest.approx(sign * before[feature].value, abs=1e-3)
    for feature in ("volume of label 2", "mri: noise", "mri: contrast of label 1 and its surroundings"):
        assert after[feature].value == pytest.approx(before[feature].value, rel=1e-3)


def test_features_by_hand() -> None:
    image, labels = np.zeros(SIZE, dtype=np.float32), np.zeros(SIZE, dtype=np.uint8)
    labels[0:4, 4:8, 4:8], labels[10:14, 4:8, 4:8] = 1, 2
    image[labels == 1] = 1
    geometry = CaseGeometry(GRID, None, GRID)
    found = measure(image[..., None], geometry, ["mri"], labels, (0, 1, 2), {1: 0.9}).features
    assert found["volume of label 1"].value == pytest.approx(64 * 1.5 / 1000)
    assert found["offset of label 2 left-right"].value == pytest.approx(5)
    assert found["spacing bottom-top"].value == 1.5
    assert found["extent bottom-top"].value == 30
    assert found["separate structures"].value == 2
    assert found["share of the structures at the border of the scan"].value == pytest.approx(16 / 128)
    assert found["mri: intensity of label 1"].value == 1
    assert found["mri: contrast of label 1 and its surroundings"].value == 1
    assert found["uncertainty of label 1"].value == pytest.approx(0.1)


def test_a_label_that_is_absent_has_no_features() -> None:
    image, labels = scan(0)
    found = measured(image, np.where(labels == 2, 0, labels).astype(np.uint8)).features
    for name in ("volume of label 2", "offset of label 2 left-right", "mri: intensity of label 2"):
        assert math.isnan(found[name].value)
    assert not math.isnan(found["volume of label 1"].value)
    empty = measured(image, np.zeros_like(labels)).features
    assert math.isnan(empty["tilt left-right against front-back"].value)
    assert empty.keys() == found.keys()


def test_files_in_another_orientation_have_the_same_features() -> None:
    image, labels = scan(0)
    expected = measured(image, labels).features
    grid = Geometry(
        (SIZE[2], SIZE[0], SIZE[1]), (1.5, 1.0, 1.0), direction=(0.0, 1.0, 0.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0)
    )
    turned = [np.ascontiguousarray(np.flip(np.transpose(each, (2, 0, 1)), 0)) for each in (image, labels)]
    found = measured(turned[0], turned[1], grid).features
    for name, feature in expected.items():
        assert found[name].value == pytest.approx(feature.value, rel=1e-3, abs=1e-3), name


def test_the_grid_of_the_scans_is_measured() -> None:
    assert GRID.canonical()[0] == GRID
