"""Conversion between dataset labels (the values of a mask) and class indices (positions in the list of labels)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from mist_ops.errors import ImageError, few
from mist_ops.types import LabelMap


def to_indices(labels_map: LabelMap, labels: Sequence[int]) -> UInt8[np.ndarray, "x y z"]:
    """Class indices of a mask: index k where the mask is ``labels[k]``.

    Args:
        labels_map: Dataset labels, not negative.
        labels: The labels of the dataset, at most 256.

    Raises:
        ImageError: The mask holds labels that are not in ``labels``.
    """
    highest = max(int(labels_map.max(initial=0)), *labels)
    indices = np.zeros(highest + 1, dtype=np.uint8)
    indices[list(labels)] = np.arange(len(labels))
    known = np.zeros(highest + 1, dtype=bool)
    known[list(labels)] = True
    if not np.take(known, labels_map).all():
        check_labels(np.unique(labels_map).tolist(), labels)
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
