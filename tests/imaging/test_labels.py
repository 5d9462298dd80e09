"""Dataset labels and class indices."""

from __future__ import annotations

import numpy as np
import pytest

from mist_ops.errors import ImageError
from mist_ops.imaging.labels import to_indices, to_labels


def test_a_label_becomes_its_position_and_comes_back() -> None:
    mask = np.array([[[0, 4, 2, 4]]], dtype=np.uint8)
    indices = to_indices(mask, [0, 2, 4])
    assert indices.tolist() == [[[0, 2, 1, 2]]]
    assert indices.dtype == np.uint8
    np.testing.assert_array_equal(to_labels(indices, [0, 2, 4]), mask)


def test_a_label_that_is_not_listed_is_named() -> None:
    with pytest.raises(ImageError, match=r"labels \[3, 7\]; listed are \[0, 1\]"):
        to_indices(np.array([[[0, 7, 3, 1]]], dtype=np.uint16), [0, 1])


def test_labels_above_255_come_back_whole() -> None:
    assert to_labels(np.array([[[1]]], dtype=np.uint8), [0, 1000]).item() == 1000
