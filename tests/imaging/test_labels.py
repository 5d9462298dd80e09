"""Dataset labels and class indices."""

from __future__ import annotations

import numpy as np
from expect import refuses

from mist_ops.errors import ImageError
from mist_ops.imaging.labels import to_indices, to_labels


def test_labels_survive_a_round_trip_through_indices() -> None:
    mask = np.array([[[0, 4, 2, 4]]], dtype=np.uint8)
    indices = to_indices(mask, [0, 2, 4])
    assert indices.tolist() == [[[0, 2, 1, 2]]]
    assert indices.dtype == np.uint8
    np.testing.assert_array_equal(to_labels(indices, [0, 2, 4]), mask)


def test_unknown_labels_are_refused() -> None:
    with refuses("unknown-label", ImageError, found=[3, 7], expected=[0, 1]):
        to_indices(np.array([[[0, 7, 3, 1]]], dtype=np.uint16), [0, 1])


def test_labels_above_255_are_kept() -> None:
    assert to_labels(np.array([[[1]]], dtype=np.uint8), [0, 1000]).item() == 1000
