"""Reliability curves and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mist_ops.calibration.voxels import Voxels

BINS = 15
"""Bins of equal width, as in Guo et al., 2017."""


@dataclass(frozen=True)
class Curve:
    """How often predictions are right, by how probable they say they are; empty bins are excluded.

    Attributes:
        shares: Share of all voxels in each bin; they sum to 1.
        confidences: Mean probability in each bin.
        accuracies: Share of voxels that are right in each bin.
    """

    shares: tuple[float, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance between confidence and accuracy (Naeini et al., 2015)."""
        rows = zip(self.shares, self.confidences, self.accuracies, strict=True)
        return sum(share * abs(accuracy - confidence) for share, confidence, accuracy in rows)


def curve(
    confidence: Float[np.ndarray, " voxel"],
    right: Bool[np.ndarray, " voxel"],
    weights: Float[np.ndarray, " voxel"],
    bins: int = BINS,
) -> Curve:
    """The curve of weighted predictions; bins are closed at their upper end, the first one at both."""
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    total, sure, correct = (
        np.bincount(place, weights=weights * values, minlength=bins) for values in (1.0, confidence, right)
    )
    filled = total > 0
    return Curve(
        tuple((total[filled] / total.sum()).tolist()),
        tuple((sure[filled] / total[filled]).tolist()),
        tuple((correct[filled] / total[filled]).tolist()),
    )


def top_curve(voxels: Voxels) -> Curve:
    """The curve of the most probable class of each voxel."""
    best = voxels.probabilities.argmax(axis=0)
    confidence = voxels.probabilities[best, np.arange(len(best))]
    return curve(confidence, best == voxels.truth, voxels.weights)


def class_curve(voxels: Voxels, index: int) -> Curve:
    """The curve of the probability of a class."""
    return curve(voxels.probabilities[index], voxels.truth == index, voxels.weights)
