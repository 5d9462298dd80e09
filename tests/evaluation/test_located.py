"""Positions of lesions, by hand on a grid with a known affine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mist_ops.config import EvaluationClass
from mist_ops.errors import ImageError
from mist_ops.evaluation.located import located_lesions
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import write_labels
from mist_ops.types import LabelMap

# Voxel (i, j, k) lies at (2i - 10, 5 - j, 1.5k) RAS mm; a voxel has 3 mm³.
GRID = Geometry.from_ras_affine(
    np.array([[2.0, 0, 0, -10], [0, -1.0, 0, 5], [0, 0, 1.5, 0], [0, 0, 0, 1]]), size=(20, 30, 24)
)
CLASSES = {"lesion": EvaluationClass(labels=[1, 2], metrics={"dice": {}})}


def written(folder: Path, truth: LabelMap, prediction: LabelMap) -> tuple[Path, Path]:
    paths = folder / "truth.nii.gz", folder / "prediction.nii.gz"
    for path, labels in zip(paths, (truth, prediction), strict=True):
        write_labels(path, labels, GRID)
    return paths


def empty() -> LabelMap:
    return np.zeros(GRID.size, dtype=np.uint8)


def test_a_detected_a_missed_and_a_false_positive_lesion_have_status_volume_and_place(tmp_path: Path) -> None:
    truth, prediction = empty(), empty()
    truth[2:5, 3:6, 1:4] = 1  # 27 voxels around (3, 4, 2)
    truth[3, 4, 2] = 2  # one lesion, whatever its labels
    prediction[2:5, 3:6, 1:3] = 1
    truth[15, 20, 10:16] = 2  # 6 voxels; the middle lies between two voxels
    prediction[8:10, 25:29, 20] = 2  # 8 voxels around (8.5, 26.5, 20)
    detected, false_positive, missed = located_lesions(*written(tmp_path, truth, prediction), CLASSES)
    assert (detected.class_name, detected.status, detected.volume_ml) == ("lesion", "TP", pytest.approx(27 * 3 / 1000))
    assert detected.center == detected.inside == pytest.approx((2 * 3 - 10, 5 - 4, 1.5 * 2))
    assert (missed.status, missed.volume_ml) == ("FN", pytest.approx(6 * 3 / 1000))
    assert missed.center == pytest.approx((2 * 15 - 10, 5 - 20, 1.5 * 12.5))
    assert missed.inside in [pytest.approx((20, -15, 1.5 * k)) for k in (12, 13)]
    assert (false_positive.status, false_positive.volume_ml) == ("FP", pytest.approx(8 * 3 / 1000))
    assert false_positive.center == pytest.approx((2 * 8.5 - 10, 5 - 26.5, 1.5 * 20))


def test_the_place_to_look_at_a_ring_is_on_the_ring(tmp_path: Path) -> None:
    truth = empty()
    truth[5:12, 5:12, 7] = 1
    truth[6:11, 6:11, 7] = 0
    (ring,) = located_lesions(*written(tmp_path, truth, empty()), CLASSES)
    x, y, z = ring.inside
    assert ring.center == pytest.approx((2 * 8 - 10, 5 - 8, 1.5 * 7))
    assert truth[round((x + 10) / 2), round(5 - y), round(z / 1.5)] == 1


def test_the_rules_are_those_of_the_lesion_wise_metric_of_the_class(tmp_path: Path) -> None:
    truth = empty()
    truth[4, 4, 4:8] = 1  # 12 mm³
    for least, status in ((5.0, "FN"), (15.0, "ignored")):
        scored = EvaluationClass(labels=[1], metrics={"dice": {}, "lesion_wise_dice": {"min_lesion_volume": least}})
        (lesion,) = located_lesions(*written(tmp_path, truth, empty()), {"lesion": scored})
        assert lesion.status == status


def test_masks_on_different_grids_are_refused(tmp_path: Path) -> None:
    truth, prediction = written(tmp_path, empty(), empty())
    write_labels(
        prediction, np.zeros((20, 30, 23), dtype=np.uint8), Geometry(size=(20, 30, 23), spacing=(2.0, 1.0, 1.5))
    )
    with pytest.raises(ImageError) as caught:
        located_lesions(truth, prediction, CLASSES)
    assert caught.value.code == "grid-mismatch"
