"""Simple mistakes that explain a mask: planted, named in words, and undone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mist_ops.imaging.geometry import Geometry
from mist_ops.review.mistakes import Kind, Mistake, mistakes
from mist_ops.types import LabelMap

# The index grows towards left, posterior and superior; voxels of 2 x 1 x 1.5 mm.
GRID = Geometry((20, 30, 24), (2.0, 1.0, 1.5))
STRUCTURES = [(1,), (7,)]


def patient() -> LabelMap:
    labels = np.zeros(GRID.size, dtype=np.uint8)
    labels[3:8, 5:15, 6:14] = 1
    labels[8:10, 7:12, 6:11] = 7
    return labels


def swapped(labels: LabelMap) -> LabelMap:
    return np.select([labels == 1, labels == 7], [7, 1], 0).astype(np.uint8)


def found(truth: LabelMap, geometry: Geometry = GRID) -> tuple[Kind, Mistake]:
    """The mistake that explains a mask best."""
    tried = mistakes(truth, patient(), STRUCTURES, geometry)
    return max(tried.items(), key=lambda one: one[1].gain)


@pytest.mark.parametrize(
    "axis, words", [(0, "flipped left to right"), (1, "flipped front to back"), (2, "flipped upside down")]
)
def test_a_flipped_mask(axis: int, words: str) -> None:
    kind, mistake = found(np.flip(patient(), axis))
    assert (kind, mistake.text, mistake.agreement) == ("flipped", words, 1.0)


def test_swapped_labels() -> None:
    kind, mistake = found(swapped(patient()))
    assert (kind, mistake.text) == ("swapped", "to have swapped labels 1 and 7")
    assert (mistake.agreement, mistake.gain) == (1.0, 1.0)


def test_a_flipped_mask_with_swapped_labels_as_after_mirroring_left_and_right_organs() -> None:
    assert found(swapped(patient())[::-1])[1].text == "flipped left to right, with swapped labels 1 and 7"


@pytest.mark.parametrize(
    "codes, sign, words",
    [
        ("LPS", 1.0, "shifted 4 mm left and 3 mm anterior and 1.5 mm superior"),
        ("RAI", -1.0, "shifted 4 mm right and 3 mm posterior and 1.5 mm inferior"),
    ],
)
def test_a_shifted_mask_is_described_in_the_directions_of_the_patient(codes: str, sign: float, words: str) -> None:
    geometry = Geometry(GRID.size, GRID.spacing, direction=tuple((sign * np.eye(3)).ravel().tolist()))  # type: ignore[arg-type]
    assert geometry.axis_codes == codes
    kind, mistake = found(np.roll(patient(), (2, -3, 1), (0, 1, 2)), geometry)
    assert (kind, mistake.text, mistake.agreement) == ("shifted", words, 1.0)


@pytest.mark.parametrize("kind, change", [("shrunk", ndimage.binary_erosion), ("grown", ndimage.binary_dilation)])
def test_a_mask_that_is_a_voxel_too_small_or_too_large(kind: str, change: object) -> None:
    shape = change(patient() > 0)  # type: ignore[operator]
    nearest = ndimage.grey_dilation(patient(), footprint=ndimage.generate_binary_structure(3, 1))
    best, mistake = found(np.where(shape, np.where(patient(), patient(), nearest), 0).astype(np.uint8))
    assert best == kind
    assert mistake.gain > 0.1
    assert mistake.agreement > 0.8


def test_a_part_that_leaves_the_box_of_the_other_mask_counts() -> None:
    prediction = patient()
    prediction[15:18, 20:28, 15:20] = 1  # where the mask has nothing
    flipped = mistakes(np.flip(patient(), 0), prediction, STRUCTURES, GRID)["flipped"]
    assert flipped.text == "flipped left to right"
    assert flipped.agreement < 1


def test_nothing_explains_a_mask_that_is_right() -> None:
    assert all(mistake.gain < 0 for mistake in mistakes(patient(), patient(), STRUCTURES, GRID).values())


def test_empty_masks_have_no_explanation() -> None:
    empty = np.zeros(GRID.size, dtype=np.uint8)
    assert all(mistake.gain == 0 for mistake in mistakes(empty, patient(), STRUCTURES, GRID).values())
