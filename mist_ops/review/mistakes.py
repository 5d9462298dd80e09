"""Simple mistakes that would explain a mask: two labels swapped, shifted, flipped, too small or too large.

A label map is compared with a prediction by the number of voxels that each pair of labels shares. From these numbers
follows the Dice coefficient after any exchange of labels, without looking at the voxels again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from jaxtyping import Bool, Int, UInt8

from mist_ops.imaging.foreground import bounding_box, union_box
from mist_ops.imaging.geometry import Geometry
from mist_ops.types import LabelMap, Size

Indices = UInt8[np.ndarray, "x y z"]
Wider = UInt8[np.ndarray, "i j k"]  # not the grid of the files, so other letters
Shared = Int[np.ndarray, "label label"]
Members = Bool[np.ndarray, "structure label"]

_SIDES = {
    **dict.fromkeys("LR", "left to right"),
    **dict.fromkeys("PA", "front to back"),
    **dict.fromkeys("SI", "upside down"),
}
_TOWARDS = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "S": "superior", "I": "inferior"}
_OPPOSITE = dict(zip("LRPASI", "RLAPIS", strict=True))


Kind = Literal["swapped", "shifted", "flipped", "shrunk", "grown"]


@dataclass(frozen=True)
class Mistake:
    """A simple mistake that a mask may have.

    Attributes:
        text: What was done to the mask, in words that follow "seems".
        agreement: Mean Dice of mask and prediction without it.
        gain: How much that is above their mean Dice; negative if the mask is better as it is.
    """

    text: str
    agreement: float
    gain: float


def mistakes(
    truth: LabelMap, predicted: LabelMap, structures: Sequence[Sequence[int]], geometry: Geometry
) -> dict[Kind, Mistake]:
    """The mistake of each kind without which a mask agrees best with a prediction."""
    labels = sorted({label for structure in structures for label in structure})
    members = np.array([[False, *(label in structure for label in labels)] for structure in structures])
    first, second = _indices(truth, labels), _indices(predicted, labels)
    before = _agreement(_shared(first, second, len(labels) + 1), members)
    found: dict[Kind, Mistake] = {}
    for kind, text, after in _tried(first, second, members, labels, geometry):
        # Of equal ones the first, which is the simpler.
        if kind not in found or after > found[kind].agreement:
            found[kind] = Mistake(text, after, after - before)
    return found


def _tried(
    truth: Indices, predicted: Indices, members: Members, labels: Sequence[int], geometry: Geometry
) -> Iterator[tuple[Kind, str, float]]:
    """Kind and text of each mistake, and the mean Dice without it."""
    pairs = list(itertools.combinations(range(1, len(labels) + 1), 2))
    swapped = {pair: f"swapped labels {labels[pair[0] - 1]} and {labels[pair[1] - 1]}" for pair in pairs}
    number = len(labels) + 1

    def agreement(changed: Wider, other: Wider, pair: tuple[int, int] | None = None) -> float:
        return _agreement(_shared(changed, other, number), members, pair)

    shared = _shared(truth, predicted, number)
    yield from (("swapped", f"to have {swapped[pair]}", _agreement(shared, members, pair)) for pair in pairs)
    steps = _shift(truth, predicted)
    if any(steps):
        yield "shifted", _shift_in_words(steps, geometry), agreement(*_moved(truth, predicted, steps))
    for axis, code in enumerate(geometry.axis_codes):
        shared, text = _shared(np.flip(truth, axis), predicted, number), f"flipped {_SIDES[code]}"
        yield "flipped", text, _agreement(shared, members)
        yield from (("flipped", f"{text}, with {swapped[pair]}", _agreement(shared, members, pair)) for pair in pairs)
    yield "shrunk", "a voxel too small on all sides", agreement(_dilated(truth), predicted)
    yield "grown", "a voxel too large on all sides", agreement(_eroded(truth), predicted)


_FACES = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0) <= 1


def _dilated(labels: Indices) -> Indices:
    """Labels with one voxel more on the outside of all of them together."""
    more: Indices = scipy.ndimage.grey_dilation(labels, footprint=_FACES)
    return np.where(labels, labels, more)


def _eroded(labels: Indices) -> Indices:
    """Labels with one voxel less on the outside of all of them together."""
    return np.where(scipy.ndimage.binary_erosion(labels > 0, _FACES), labels, 0).astype(labels.dtype)


def _indices(found: LabelMap, labels: Sequence[int]) -> Indices:
    """Places of the labels in their list, from 1; 0 for all others."""
    table = np.zeros(max(int(found.max(initial=0)), *labels) + 1, dtype=np.uint8)
    table[list(labels)] = np.arange(1, len(labels) + 1)
    return np.take(table, found)


def _shared(truth: Wider, predicted: Wider, number: int) -> Shared:
    """Number of voxels of each pair of labels within the box of all of them."""
    boxes = [box for box in (bounding_box(truth > 0), bounding_box(predicted > 0)) if box]
    if not boxes:
        return np.zeros((number, number), dtype=np.int64)
    inside = (boxes[0] if len(boxes) == 1 else union_box(*boxes)).slices
    pairs = truth[inside].astype(np.intp) * number + predicted[inside]
    return np.bincount(pairs.ravel(), minlength=number**2).reshape(number, number)


def _agreement(shared: Shared, members: Members, swapped: tuple[int, int] | None = None) -> float:
    """Mean Dice over the structures that one of two label maps has, after swapping two labels of the first."""
    counts = shared.copy()
    if swapped:
        counts[list(swapped)] = counts[list(swapped)[::-1]]
    both = np.einsum("sl,lm,sm->s", members, counts, members)
    total = members @ counts.sum(axis=1) + members @ counts.sum(axis=0)
    return float(np.mean(2 * both[total > 0] / total[total > 0])) if total.any() else 1.0


def _shift(truth: Indices, predicted: Indices) -> Size:
    """The step in voxels from the mask to the prediction: the mean over the labels that both have."""
    common = sorted(set(np.unique(truth).tolist()) & set(np.unique(predicted).tolist()) - {0})
    if not common:
        return 0, 0, 0
    centers = (np.array(scipy.ndimage.center_of_mass(found > 0, found, common)) for found in (predicted, truth))
    x, y, z = np.rint(np.subtract(*centers).mean(axis=0)).astype(int).tolist()
    return x, y, z


def _moved(truth: Indices, predicted: Indices, steps: Size) -> tuple[Wider, Wider]:
    """Both label maps with a margin, in which the first is moved."""
    margin = [(abs(step), abs(step)) for step in steps]
    return np.roll(np.pad(truth, margin), steps, (0, 1, 2)), np.pad(predicted, margin)


def _shift_in_words(steps: Size, geometry: Geometry) -> str:
    """Where the mask was shifted to: the opposite of the step back."""
    moved = [
        f"{abs(step) * mm:.3g} mm {_TOWARDS[_OPPOSITE[code] if step > 0 else code]}"
        for step, mm, code in zip(steps, geometry.spacing, geometry.axis_codes, strict=True)
        if step
    ]
    return f"shifted {' and '.join(moved)}"
