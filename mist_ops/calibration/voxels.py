"""A sample of the voxels of patients that stands for those near the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Integer, UInt8

from mist_ops.imaging.foreground import bounding_box
from mist_ops.types import Box, LabelMap, Spacing

MARGIN = 5.0
"""Millimeters around the box of all true and predicted labels. A whole scan is mostly air or other organs, whose
probabilities are right, and how much of them is in it would decide every number."""

_SURE = 0.999
"""Background above this probability, and where both masks have background, is sampled apart."""

_MOST_VALUES = 10_000_000
"""Probabilities of all patients in a stratum."""

_MOST, _LEAST = 10_000, 200
"""Voxels of a patient in a stratum."""


@dataclass(frozen=True)
class Voxels:
    """Voxels with their probabilities and true classes.

    Attributes:
        probabilities: Of each class.
        truth: Index of the true class.
        weights: Share of the whole that each voxel stands for.
    """

    probabilities: Float[np.ndarray, "class voxel"]
    truth: Integer[np.ndarray, " voxel"]
    weights: Float64[np.ndarray, " voxel"]

    @classmethod
    def joined(cls, patients: Sequence[Voxels]) -> Voxels:
        """The voxels of several patients; each patient counts the same."""
        return cls(
            np.concatenate([voxels.probabilities for voxels in patients], axis=1),
            np.concatenate([voxels.truth for voxels in patients]),
            np.concatenate([voxels.weights / voxels.weights.sum() for voxels in patients]),
        )


def most_voxels(n_classes: int, patients: int) -> int:
    """Voxels to sample from a stratum of a patient, so that those of all patients fit into memory."""
    return max(_LEAST, min(_MOST, _MOST_VALUES // (n_classes * max(1, patients))))


def sample(
    probabilities: Float[np.ndarray, "class x y z"],
    truth: UInt8[np.ndarray, "x y z"],
    predicted: UInt8[np.ndarray, "x y z"],
    spacing: Spacing,
    most: int,
    generator: np.random.Generator,
) -> Voxels | None:
    """Sample the box around all true and predicted labels.

    Voxels are drawn from two strata: those with a label or a doubtful background, and the rest. Each has a weight such
    that the sample stands for the whole box.

    Args:
        probabilities: Of each class; may be an array in a file.
        truth: True class indices; 0 is background.
        predicted: Predicted class indices.
        spacing: In mm.
        most: Voxels to draw from a stratum.
        generator: Decides which.

    Returns:
        The sample; None if neither mask has a label.
    """
    box = _around(truth, predicted, spacing)
    if box is None:
        return None
    inside, true = probabilities[(slice(None), *box.slices)], truth[box.slices]
    doubtful = (true > 0) | (predicted[box.slices] > 0) | (inside[0] < _SURE)
    chosen, weights = [], []
    for stratum in (doubtful, ~doubtful):
        voxels = np.flatnonzero(stratum)
        drawn = voxels if len(voxels) <= most else np.sort(generator.choice(voxels, most, replace=False))
        chosen.append(drawn)
        weights.append(np.full(len(drawn), len(voxels) / (max(1, len(drawn)) * stratum.size)))
    at = np.concatenate(chosen)
    values = np.stack([volume.reshape(-1)[at] for volume in map(np.asarray, inside)])
    return Voxels(values, true.reshape(-1)[at], np.concatenate(weights))


def _around(truth: LabelMap, predicted: LabelMap, spacing: Spacing) -> Box | None:
    box = bounding_box((truth > 0) | (predicted > 0))
    if box is None:
        return None
    margins = [int(np.ceil(MARGIN / length)) for length in spacing]
    x, y, z = (max(0, start - margin) for start, margin in zip(box.start, margins, strict=True))
    i, j, k = (min(size, stop + margin) for size, stop, margin in zip(truth.shape, box.stop, margins, strict=True))
    return Box((x, y, z), (i, j, k))
