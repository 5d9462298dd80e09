"""Conversion between dataset labels (the values of a mask) and class indices (positions in the list of labels)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from mist_ops.errors import ImageError, few
from mist_ops.imaging.components import label_boxes
from mist_ops.types import LabelMap

_MOST_COMPARED = 16
"""Comparisons per voxel that take as long as counting all values of an array with ``bincount``."""


def count_voxels(labels: LabelMap) -> dict[int, int]:
    """Number of voxels by label, in ascending order; absent labels are excluded.

    Each label is counted inside its box, and the background is the rest: ``bincount`` of 240x240x155 voxels takes 86 ms
    and this 5 ms, with four labels.
    """
    boxes = label_boxes(labels)
    if sum(math.prod(box.size) for box in boxes.values()) > _MOST_COMPARED * labels.size:
        counts = np.bincount(np.ravel(labels, order="K"))
        return {label: int(counts[label]) for label in np.flatnonzero(counts).tolist()}
    found = {label: int(np.count_nonzero(labels[box.slices] == label)) for label, box in boxes.items()}
    background = labels.size - sum(found.values())
    return {**({0: background} if background else {}), **found}


def to_indices(labels_map: LabelMap, labels: Sequence[int]) -> UInt8[np.ndarray, "x y z"]:
    """Class indices of a mask: index k where the mask is ``labels[k]``.

    Args:
        labels_map: Dataset labels, not negative.
        labels: The labels of the dataset, at most 256.

    Raises:
        ImageError: The mask holds labels that are not in ``labels``.
    """
    check_labels(count_voxels(labels_map), labels)
    if list(labels) == list(range(len(labels))):
        return labels_map.astype(np.uint8)
    indices = np.zeros(max(labels) + 1, dtype=np.uint8)
    indices[list(labels)] = np.arange(len(labels))
    return np.take(indices, labels_map)


def check_labels(found: Iterable[int], labels: Sequence[int]) -> None:
    """Check that the dataset lists all labels of a mask.

    Raises:
        ImageError: It does not.
    """
    unknown = sorted(set(found) - set(labels))
    if unknown:
        raise ImageError(
            f"the mask holds the {'label' if len(unknown) == 1 else 'labels'} {few(unknown)}, which 'labels' "
            f"({few(sorted(labels), 20)}) does not list. Correct the mask or 'labels'.",
            code="unknown-label",
            found=unknown,
            expected=sorted(labels),
        )


def to_labels(indices: LabelMap, labels: Sequence[int]) -> LabelMap:
    """Dataset labels of class indices, as the smallest unsigned integers: the inverse of ``to_indices``."""
    return np.take(np.array(labels, dtype=np.min_scalar_type(max(labels))), indices)
