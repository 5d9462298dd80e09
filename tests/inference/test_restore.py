from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.settings import settings
from scipy import ndimage

from mist_ops.config import StudyConfig, override
from mist_ops.dataset import Case
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.imaging.nifti import write_image, write_labels
from mist_ops.inference.restore import resample_onto, restore
from mist_ops.preprocessing.case import preprocess
from mist_ops.types import Box, LabelMap, Spacing

Flipped = tuple[int, ...]


def one_hot(classes: LabelMap, count: int) -> np.ndarray:
    return np.stack([classes == index for index in range(count)]).astype(np.float32)


def grid(spacing: Spacing, flipped: Flipped, extent: float = 50.4) -> Geometry:
    x, y, z = (round(extent / voxel) for voxel in spacing)
    towards = np.diag([-1.0 if axis in flipped else 1.0 for axis in range(3)])
    return Geometry((x, y, z), spacing, (11.0, -7.0, 3.0), tuple(towards.ravel().tolist()))


def ball(geometry: Geometry, radius: float = 15.0) -> LabelMap:
    center = np.array(geometry.size) // 2
    distances = (np.indices(geometry.size) - center[:, None, None, None]) * np.reshape(geometry.spacing, (3, 1, 1, 1))
    return (np.linalg.norm(distances, axis=0) <= radius).astype(np.uint8)


def round_trip(folder: Path, labels: LabelMap, geometry: Geometry, config: StudyConfig) -> LabelMap:
    """The preprocessed label as the prediction of a perfect network, restored."""
    write_image(folder / "image.nii.gz", labels.astype(np.float32) * 100 + 1, geometry)
    write_labels(folder / "mask.nii.gz", labels, geometry)
    made = preprocess(Case("a", {"mri": folder / "image.nii.gz"}, folder / "mask.nii.gz"), config, None)
    assert made.classes is not None
    listed = config.dataset_info.labels
    return restore(one_hot(made.classes, len(listed)), made.geometry, listed)


def dice(one: LabelMap, other: LabelMap) -> float:
    return float(2 * ((one > 0) & (other > 0)).sum() / ((one > 0).sum() + (other > 0).sum()))


@pytest.mark.parametrize("rules", ["reference", "accurate"])
@pytest.mark.parametrize(
    "spacing, target, flipped, least",
    [
        ((1.0, 1.0, 3.0), (1.0, 1.0, 1.0), (), 1.0),
        ((1.0, 1.0, 3.0), (1.0, 1.0, 1.0), (2,), 1.0),
        ((1.0, 1.0, 2.5), (1.0, 1.0, 1.0), (2,), 1.0),
        ((1.0, 1.0, 5.0), (1.0, 1.0, 2.5), (2,), 1.0),
        ((1.6, 1.6, 1.6), (1.0, 1.0, 1.0), (0, 1), 1.0),
        # The coarser grid itself loses some voxels; the position of the ball on it changes Dice by 0.001.
        ((0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (), 0.9861),
        ((0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (0, 1), 0.9854),
        ((0.9, 0.9, 1.2), (1.0, 1.0, 1.0), (0, 1, 2), 0.99),
    ],
)
def test_a_perfect_prediction_is_restored_in_place(
    tmp_path: Path, spacing: Spacing, target: Spacing, flipped: Flipped, least: float, rules: str
) -> None:
    config = override(settings(), {"spatial_config.target_spacing": target, "preprocessing.resampling": rules})
    geometry = grid(spacing, flipped)
    truth = ball(geometry)
    assert dice(round_trip(tmp_path, truth, geometry, config), truth) >= least


def test_a_cropped_rotated_case_is_restored_with_its_labels(tmp_path: Path) -> None:
    changes = {"dataset_info.labels": [0, 7, 300], "preprocessing.crop_to_foreground": True}
    geometry = Geometry((20, 24, 28), (1.0, 1.0, 1.0), (5.0, 5.0, 5.0), (0.0, 0.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    truth = np.zeros(geometry.size, dtype=np.uint16)
    truth[5:12, 3:9, 10:20], truth[6, 4, 11] = 7, 300
    assert np.array_equal(round_trip(tmp_path, truth, geometry, override(settings(), changes)), truth)


def test_a_case_without_preprocessing_keeps_its_grid(tmp_path: Path) -> None:
    geometry = grid((0.8, 0.8, 4.0), (0, 2))
    truth = ball(geometry)
    config = override(settings(), {"preprocessing.skip": True})
    assert np.array_equal(round_trip(tmp_path, truth, geometry, config), truth)


def test_probabilities_and_not_labels_are_interpolated() -> None:
    # Halfway between 0.9 and 0.2 the class still wins with 0.55, although one of the two neighbors has another label.
    coarse, fine = Geometry((2, 1, 1), (2.0, 1.0, 1.0)), Geometry((3, 1, 1), (1.0, 1.0, 1.0))
    certain = np.array([0.9, 0.2], dtype=np.float32).reshape(1, 2, 1, 1)
    found = restore(np.concatenate([1 - certain, certain]), CaseGeometry(fine, None, coarse), [0, 5])
    assert found.ravel().tolist() == [5, 5, 0]


def test_a_tie_goes_to_the_earlier_class_and_the_cropped_part_to_label_zero() -> None:
    whole = Geometry((3, 1, 1), (1.0, 1.0, 1.0))
    box = Box((1, 0, 0), (3, 1, 1))
    undecided = np.full((2, 2, 1, 1), 0.5, dtype=np.float32)
    found = restore(undecided, CaseGeometry(whole, box, whole.cropped(box)), [4, 5])
    assert found.ravel().tolist() == [0, 4, 4]


def test_probabilities_of_another_shape_are_refused() -> None:
    whole = Geometry((3, 1, 1), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"shape \(3, 3, 1, 1\) and not \(2, 3, 1, 1\)"):
        restore(np.zeros((3, 3, 1, 1), dtype=np.float32), CaseGeometry(whole, None, whole), [0, 1])


def test_probabilities_respect_the_origin() -> None:
    source = Geometry((4, 1, 1), (2.0, 1.0, 1.0), (10.0, 0.0, 0.0))
    target = Geometry((4, 1, 1), (1.0, 1.0, 1.0), (13.0, 0.0, 0.0))
    ramp = torch.arange(4.0).reshape(4, 1, 1)
    assert resample_onto(ramp, source, target).ravel().tolist() == [1.5, 2.0, 2.5, 3.0]
    assert resample_onto(ramp, source, replace(target, origin=(0.0, 0.0, 0.0))).ravel().tolist() == [0, 0, 0, 0]


def test_grids_with_different_directions_are_refused() -> None:
    source = Geometry((2, 2, 2), (1.0, 1.0, 1.0))
    flipped = replace(source, direction=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="different directions"):
        resample_onto(torch.zeros((2, 2, 2)), source, flipped)


def test_interpolation_is_that_of_matrices_in_double_precision() -> None:
    source = Geometry((20, 15, 11), (1.0, 1.5, 2.0), (0.2, -0.3, 0.4))
    target = Geometry((37, 40, 19), (0.6, 0.55, 1.3), (-0.5, 0.0, 0.1))
    values = np.random.default_rng(0).random(source.size, dtype=np.float32)
    positions = [
        ((end - begin + np.arange(count) * step) / spacing).clip(0, voxels - 1)
        for begin, end, count, step, spacing, voxels in zip(
            source.origin, target.origin, target.size, target.spacing, source.spacing, source.size, strict=True
        )
    ]
    expected = ndimage.map_coordinates(values.astype(np.float64), np.meshgrid(*positions, indexing="ij"), order=1)
    found = resample_onto(torch.from_numpy(values), source, target)
    np.testing.assert_allclose(found.numpy(), expected, atol=3e-7)
