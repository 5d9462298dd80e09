from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mist_ops.imaging.components import Connectivity, components, grown
from mist_ops.types import Box


def test_components_are_numbered_in_the_order_of_their_first_voxels() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    for corner in ((3, 0, 0), (0, 3, 0), (0, 0, 5), (0, 0, 0)):
        mask[corner] = True
    found = components(mask)
    firsts = [tuple(np.argwhere(found.map == number)[0].tolist()) for number in range(1, len(found) + 1)]
    assert firsts == [(0, 0, 0), (0, 0, 5), (0, 3, 0), (3, 0, 0)]


def test_an_empty_mask_has_no_components() -> None:
    assert len(components(np.zeros((3, 3, 3), dtype=bool))) == 0


@pytest.mark.parametrize("connectivity, pieces", [(6, 3), (18, 2), (26, 1)])
def test_connectivity_across_faces_edges_and_corners(connectivity: Connectivity, pieces: int) -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[:2, :2, :2] = mask[2:4, 2:4, :2] = mask[4:, 4:, 2:4] = True
    found = components(mask, connectivity)
    assert len(found) == pieces
    assert found.voxels.sum() == 24


@given(st.integers(0, 2**31), st.sampled_from([6, 18, 26]))
@settings(max_examples=40, deadline=None)
def test_components_sizes_and_boxes_equal_those_of_scipy(seed: int, connectivity: Connectivity) -> None:
    mask = np.random.default_rng(seed).random((7, 6, 5)) < 0.3
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    labels, number = ndimage.label(mask, structure)
    found = components(mask, connectivity)
    assert len(found) == number
    for index, (voxels, box) in enumerate(zip(found.voxels, found.boxes, strict=True), start=1):
        piece = found.map == index
        [label] = set(labels[piece].tolist())
        assert voxels == np.count_nonzero(labels == label)
        assert box.slices == ndimage.find_objects(labels)[label - 1]


def test_a_grown_box_is_clipped_to_the_array() -> None:
    box = Box((0, 3, 8), (2, 5, 10))
    assert grown(box, 2, (10, 10, 10)) == Box((0, 1, 6), (4, 7, 10))
