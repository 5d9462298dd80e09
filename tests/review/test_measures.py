"""Differences of a mask and a prediction, by hand on a grid with a known affine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from training.small_study import small_config

from mist_ops.config import EvaluationClass, override
from mist_ops.errors import ImageError
from mist_ops.evaluation.score import BoxedLabels
from mist_ops.evaluation.structures import structures_of
from mist_ops.imaging.components import label_boxes
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_labels
from mist_ops.review.measures import Measured, measure, measure_labels
from mist_ops.types import LabelMap

# Voxel (i, j, k) lies at (2i - 10, 5 - j, 1.5k) RAS mm; a voxel has 3 mm³.
GRID = Geometry.from_ras_affine(
    np.array([[2.0, 0, 0, -10], [0, -1.0, 0, 5], [0, 0, 1.5, 0], [0, 0, 0, 1]]), size=(20, 30, 24)
)
STRUCTURES = {"one": (1,), "two": (2,)}


def empty() -> LabelMap:
    return np.zeros(GRID.size, dtype=np.uint8)


def measured(truth: LabelMap, prediction: LabelMap) -> Measured:
    first, second = (BoxedLabels(labels, label_boxes(labels)) for labels in (truth, prediction))
    return measure_labels(first, second, GRID, STRUCTURES)


def test_the_deepest_disagreement_has_a_place_a_depth_and_a_volume() -> None:
    truth, prediction = empty(), empty()
    truth[2:12, 3:13, 4:14] = prediction[2:12, 3:13, 4:14] = 1
    truth[2, 3, 4] = 0  # a voxel that only the prediction has
    truth[12:15, 6:13, 6:11] = 1  # a part of 105 voxels that only the mask has, deepest at (13, 9, 8)
    found = measured(truth, prediction)
    assert list(found.differences) == ["one"]  # no patient is judged by what neither has
    difference = found.differences["one"]
    region = difference.region
    assert region
    assert region == found.region
    assert region.of_mask
    assert region.depth == pytest.approx(4.0)  # two voxels along x, four along y; 4.5 mm along z
    assert region.place == pytest.approx((2 * 13 - 10, 5 - 9, 1.5 * 8))
    assert region.volume_ml == pytest.approx(105 * 3 / 1000)
    assert difference.log_ratio == pytest.approx(math.log(1104 / 1000))


def test_equal_masks_have_no_region_and_no_mistake() -> None:
    truth = empty()
    truth[2:6, 3:9, 4:10] = 1
    truth[6:9, 3:9, 4:10] = 2
    found = measured(truth, truth.copy())
    assert found.agreement == 1
    assert found.region is None
    assert all(mistake.gain < 0 for mistake in found.mistakes.values())


def test_a_structure_that_only_one_of_them_has_differs_by_all_of_it() -> None:
    truth, prediction = empty(), empty()
    truth[2:6, 3:9, 4:10] = prediction[2:6, 3:9, 4:10] = 1
    prediction[10:13, 3:6, 4:7] = 2
    found = measured(truth, prediction).differences["two"]
    assert (found.dice, found.mask_ml) == (0, 0)
    assert found.log_ratio == -math.inf
    assert found.region
    assert not found.region.of_mask
    assert found.region.volume_ml == found.prediction_ml == pytest.approx(27 * 3 / 1000)


def test_two_empty_masks_agree() -> None:
    assert measured(empty(), empty()) == Measured({}, 1.0, {})


def test_grids_that_differ_are_refused(tmp_path: Path) -> None:
    write_labels(tmp_path / "mask.nii.gz", empty(), GRID)
    write_labels(tmp_path / "other.nii.gz", empty()[:-1], GRID.__class__.from_ras_affine(GRID.ras_affine, (19, 30, 24)))
    with pytest.raises(ImageError):
        measure(tmp_path / "mask.nii.gz", tmp_path / "other.nii.gz", STRUCTURES)


def test_labels_that_are_no_class_by_themselves_are_structures_as_well() -> None:
    dice: dict[str, dict[str, float]] = {"dice": {}}
    classes = {
        "whole": EvaluationClass(labels=[1, 2, 4], metrics=dice),
        "core": EvaluationClass(labels=[4], metrics=dice),
    }
    changes = {"dataset_info.labels": [0, 1, 2, 4], "evaluation": classes}
    config = override(small_config(), changes)
    assert structures_of(config) == {"whole": (1, 2, 4), "core": (4,), "label 1": (1,), "label 2": (2,)}
