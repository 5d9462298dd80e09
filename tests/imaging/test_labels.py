"""Dataset labels and class indices."""

from __future__ import annotations

import numpy as np
import pytest
from expect import refuses

from mist_ops.errors import ImageError
from mist_ops.imaging.labels import count_voxels, to_indices, to_labels


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


@pytest.mark.parametrize("highest", [0, 1, 4, 255, 40_000])
@pytest.mark.parametrize("dense", [True, False])
def test_voxels_are_counted_by_label(highest: int, dense: bool) -> None:
    generator = np.random.default_rng(highest)
    labels = generator.integers(0, highest + 1, (9, 10, 11)).astype(np.uint16)
    labels[generator.random(labels.shape) < (0.0 if dense else 0.99)] = 0
    for seen in (labels, labels[::-1, 1:].transpose(1, 2, 0), np.asfortranarray(labels)):
        found, counts = np.unique(seen, return_counts=True)
        assert list(count_voxels(seen).items()) == list(zip(found.tolist(), counts.tolist(), strict=True))


def test_no_voxels_have_no_labels() -> None:
    assert count_voxels(np.zeros((0, 3, 3), dtype=np.uint8)) == {}
