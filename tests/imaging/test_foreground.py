"""Foreground boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mist_ops.imaging.foreground import bounding_box, foreground_box, union_box
from mist_ops.imaging.nifti import read_image
from mist_ops.types import Box


def test_a_bright_block_is_found() -> None:
    image = np.random.default_rng(0).normal(10, 0.1, (20, 21, 22)).astype(np.float32)
    image[4:12, 5:20, 6:7] += 500
    assert foreground_box(image) == Box((4, 5, 6), (12, 20, 7))


def test_a_constant_image_is_all_foreground() -> None:
    assert foreground_box(np.full((3, 4, 5), 7, np.float32)) == Box.whole((3, 4, 5))


def test_an_empty_mask_has_no_box() -> None:
    assert bounding_box(np.zeros((3, 4, 5), dtype=bool)) is None


def test_the_union_contains_both_boxes() -> None:
    assert union_box(Box((1, 5, 2), (3, 6, 9)), Box((2, 4, 2), (8, 5, 3))) == Box((1, 4, 2), (8, 6, 9))


def test_boxes_of_real_scans_equal_the_reference(shared: Path) -> None:
    brain, _ = read_image(shared / "data/Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz")
    thorax, _ = read_image(shared / "data/ct/example_ct_sm.nii.gz")
    assert foreground_box(brain) == Box((0, 0, 0), (35, 51, 35))
    assert foreground_box(thorax[..., 8:22]) == Box((0, 0, 0), (121, 95, 14))
    assert foreground_box(thorax[..., 16:]) == Box((0, 0, 0), (121, 94, 14))


@pytest.mark.parametrize("slices", [1, 3, 4])
def test_few_slices_are_no_colors(slices: int) -> None:
    image = np.zeros((12, 10, slices), dtype=np.float32)
    image[3:8, 2:7] = 100.0
    assert foreground_box(image) == Box((3, 2, 0), (8, 7, slices))
