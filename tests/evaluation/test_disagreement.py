"""Disagreement of several predictions, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mist_ops.evaluation.disagreement import Disagreement, disagreement
from mist_ops.imaging.geometry import Geometry
from mist_ops.types import LabelMap

# Voxel (i, j, k) lies at (-2i, -j, 1.5k) RAS mm; a voxel has 3 mm³.
GRID = Geometry((20, 30, 24), (2.0, 1.0, 1.5))
STRUCTURES = {"one": (1,), "both": (1, 2), "none": (3,)}


def prediction(stop: int) -> LabelMap:
    labels = np.zeros(GRID.size, dtype=np.uint8)
    labels[2:stop, 3:13, 4:14] = 1
    return labels


def test_dice_is_the_mean_over_all_pairs_and_volumes_are_those_of_each() -> None:
    found = disagreement([prediction(4), prediction(6), prediction(8)], STRUCTURES, GRID)
    assert found.dice == {"one": pytest.approx((4 / 6 + 4 / 8 + 8 / 10) / 3), "both": pytest.approx(found.dice["one"])}
    assert found.volumes_ml["one"] == pytest.approx((0.6, 1.2, 1.8))
    assert found.score == pytest.approx(1 - found.dice["one"])


def test_the_place_is_the_middle_of_the_thickest_part_that_differs() -> None:
    odd = prediction(6)
    odd[10:15, 20:29, 10:17] = 2
    found = disagreement([prediction(6), odd, prediction(6)], STRUCTURES, GRID)
    x, y, z = found.place or (0, 0, 0)
    assert -x / 2 == 12
    assert 23 <= -y <= 25
    assert 12 <= z / 1.5 <= 14


def test_a_structure_that_some_predict_counts_and_equal_predictions_agree() -> None:
    empty = np.zeros(GRID.size, dtype=np.uint8)
    assert disagreement([prediction(6), empty, empty], STRUCTURES, GRID).dice["one"] == 0
    assert disagreement([empty, empty], STRUCTURES, GRID) == Disagreement({}, {}, None)
    assert disagreement([prediction(5), prediction(5)], STRUCTURES, GRID).score == 0
