"""How the mask of a patient differs from a prediction of it, structure by structure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mist_ops.evaluation.located import Position
from mist_ops.evaluation.score import BoxedLabels, class_box, class_pair, read_masks
from mist_ops.evaluation.structures import Structures
from mist_ops.imaging.components import components
from mist_ops.imaging.distances import depths
from mist_ops.imaging.geometry import Geometry
from mist_ops.metrics.overlap import dice
from mist_ops.metrics.pair import MaskPair
from mist_ops.review.mistakes import Kind, Mistake, mistakes
from mist_ops.types import Mask, Size

_MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Region:
    """The deepest part of the voxels that only one of two masks has.

    Attributes:
        of_mask: Whether only the mask has it, and not the prediction.
        depth: Distance in mm from its innermost voxel to the nearest voxel outside.
        volume_ml: Volume of the connected component.
        place: Innermost voxel, in RAS mm as in NIfTI.
    """

    of_mask: bool
    depth: float
    volume_ml: float
    place: Position


@dataclass(frozen=True)
class Difference:
    """How mask and prediction of a structure differ, which at least one of them has.

    Attributes:
        dice: Dice coefficient.
        mask_ml: Volume of the mask.
        prediction_ml: Volume of the prediction.
        region: The deepest disagreement; None if they are equal.
    """

    dice: float
    mask_ml: float
    prediction_ml: float
    region: Region | None

    @property
    def log_ratio(self) -> float:
        """Logarithm of the ratio of both volumes; infinite if one is empty."""
        if not (self.mask_ml and self.prediction_ml):
            return math.copysign(math.inf, self.mask_ml - self.prediction_ml)
        return math.log(self.mask_ml / self.prediction_ml)


@dataclass(frozen=True)
class Measured:
    """A patient's mask compared with its prediction.

    Attributes:
        differences: By structure, without those that neither has.
        agreement: Mean Dice over these structures; 1 if there are none.
        mistakes: The simple mistake of each kind without which the mask would agree best.
    """

    differences: Mapping[str, Difference]
    agreement: float
    mistakes: Mapping[Kind, Mistake]

    @property
    def region(self) -> Region | None:
        """The deepest disagreement of all structures."""
        found = [difference.region for difference in self.differences.values() if difference.region]
        return max(found, key=lambda region: region.depth, default=None)


def measure(mask: Path, prediction: Path, structures: Structures) -> Measured:
    """Compare a mask with a prediction.

    Raises:
        ImageError: A file cannot be used, or the grids differ.
    """
    truth, predicted, geometry, _ = read_masks(mask, prediction)
    return measure_labels(truth, predicted, geometry, structures)


def measure_labels(truth: BoxedLabels, predicted: BoxedLabels, geometry: Geometry, structures: Structures) -> Measured:
    """Compare two label maps on a grid; see ``measure``."""
    differences = {}
    for name, labels in structures.items():
        box, pair = class_box(truth, predicted, labels), class_pair(truth, predicted, labels, geometry)
        if box and pair:
            differences[name] = _difference(pair, box.start, geometry)
    agreement = float(np.mean([found.dice for found in differences.values()])) if differences else 1.0
    tried = mistakes(truth.map, predicted.map, list(structures.values()), geometry) if differences else {}
    return Measured(differences, agreement, tried)


def _difference(pair: MaskPair, start: Size, geometry: Geometry) -> Difference:
    voxel_ml = pair.voxel_volume / _MM3_PER_ML
    regions = (
        _region(pair.truth & ~pair.prediction, start, geometry, of_mask=True),
        _region(pair.prediction & ~pair.truth, start, geometry, of_mask=False),
    )
    return Difference(
        dice=dice(pair),
        mask_ml=pair.truth_voxels * voxel_ml,
        prediction_ml=pair.prediction_voxels * voxel_ml,
        region=max(filter(None, regions), key=lambda region: region.depth, default=None),
    )


def _region(only: Mask, start: Size, geometry: Geometry, *, of_mask: bool) -> Region | None:
    if not only.any():
        return None
    depth = depths(only, geometry.spacing)
    at = np.unravel_index(int(depth.argmax()), depth.shape)
    found = components(only)
    x, y, z = (geometry.ras_affine @ (*np.add(at, start), 1.0))[:3].tolist()
    return Region(
        of_mask=of_mask,
        depth=float(depth[at]),
        volume_ml=float(found.voxels[found.map[at] - 1]) * float(np.prod(geometry.spacing)) / _MM3_PER_ML,
        place=(x, y, z),
    )
