"""Truth and prediction of one class: everything that several metrics need of them, computed once."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree

from mist_ops.imaging.foreground import bounding_box
from mist_ops.metrics.surfels import Surface, surface
from mist_ops.types import Box, Mask, Spacing

Distances = Float64[np.ndarray, " element"]


class MaskPair:
    """Two masks on one grid, cropped to the box of their union.

    Attributes:
        truth: The true mask within the box.
        prediction: The predicted mask within the box.
        spacing: Voxel spacing in mm.
        diagonal: Diagonal of the whole image in mm, voxels counted with their full width: the largest distance that
            an error can have.
    """

    def __init__(self, truth: Mask, prediction: Mask, spacing: Spacing, diagonal: float | None = None) -> None:
        """Crop both masks.

        Args:
            truth: The true mask.
            prediction: The predicted mask, of the same shape.
            spacing: Voxel spacing in mm.
            diagonal: That of the whole image in mm, where the masks are a part of it.
        """
        size = np.multiply(truth.shape, spacing)
        self.diagonal = float(np.linalg.norm(size)) if diagonal is None else diagonal
        box = (bounding_box(truth | prediction) or Box((0, 0, 0), (0, 0, 0))).slices
        self.truth: Mask = truth[box]
        self.prediction: Mask = prediction[box]
        self.spacing = spacing

    @cached_property
    def truth_voxels(self) -> int:
        """Number of true voxels."""
        return int(np.count_nonzero(self.truth))

    @cached_property
    def prediction_voxels(self) -> int:
        """Number of predicted voxels."""
        return int(np.count_nonzero(self.prediction))

    @cached_property
    def shared_voxels(self) -> int:
        """Number of voxels in both masks."""
        return int(np.count_nonzero(self.truth & self.prediction))

    @cached_property
    def truth_surface(self) -> Surface:
        """Surface elements of the truth."""
        return surface(self.truth, self.spacing)

    @cached_property
    def prediction_surface(self) -> Surface:
        """Surface elements of the prediction."""
        return surface(self.prediction, self.spacing)

    @cached_property
    def truth_distances(self) -> Distances:
        """Distance in mm from each element of the truth to the nearest of the prediction; infinite if that is empty."""
        return _distances(self.truth_surface, self.prediction_surface, self.spacing)

    @cached_property
    def prediction_distances(self) -> Distances:
        """Distance in mm from each element of the prediction to the nearest of the truth; infinite if that is empty."""
        return _distances(self.prediction_surface, self.truth_surface, self.spacing)


def _distances(elements: Surface, targets: Surface, spacing: Spacing) -> Distances:
    """Distance in mm from each element to the nearest of the targets."""
    if not len(targets.corners):
        return np.full(len(elements.corners), np.inf)
    distances = np.zeros(len(elements.corners))
    apart = ~_coincident(elements, targets)
    corners = elements.corners[apart]
    # Balancing makes trees of concentric surfaces four times slower; as it is, no distance transform was found faster
    # on any surfaces but noise.
    tree = cKDTree(targets.corners * np.array(spacing), balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(corners * np.array(spacing))
    # From differences of indices, so that equal distances are equal to the last bit.
    distances[apart] = np.linalg.norm((corners - targets.corners[nearest]) * np.array(spacing), axis=1)
    return distances


def _coincident(elements: Surface, targets: Surface) -> Bool[np.ndarray, " element"]:
    """Whether each element's corner is that of a target too."""
    size = np.maximum(elements.corners.max(axis=0, initial=0), targets.corners.max(axis=0, initial=0)) + 1
    taken = np.zeros(size, dtype=bool)
    taken[tuple(targets.corners.T)] = True
    found: Bool[np.ndarray, " element"] = taken[tuple(elements.corners.T)]
    return found
