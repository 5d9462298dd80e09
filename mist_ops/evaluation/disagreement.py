"""How much several predictions of a patient disagree with one another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mist_ops.evaluation.located import Position
from mist_ops.evaluation.score import BoxedLabels, class_pair
from mist_ops.evaluation.structures import Structures
from mist_ops.imaging.components import label_boxes
from mist_ops.imaging.distances import depths
from mist_ops.imaging.foreground import bounding_box
from mist_ops.imaging.geometry import Geometry
from mist_ops.metrics.overlap import dice
from mist_ops.types import LabelMap


@dataclass(frozen=True)
class Disagreement:
    """How much several predictions of a patient disagree.

    Attributes:
        dice: Mean Dice over all pairs of predictions, by structure; without those that no prediction has.
        volumes_ml: Volumes of each structure, one per prediction.
        place: Innermost voxel of the deepest part in which they differ, in RAS mm; None if they are all equal.
    """

    dice: Mapping[str, float]
    volumes_ml: Mapping[str, tuple[float, ...]]
    place: Position | None

    @property
    def score(self) -> float:
        """One minus the mean over the structures; 0 without any."""
        return 1 - float(np.mean(list(self.dice.values()))) if self.dice else 0.0


def disagreement(predictions: Sequence[LabelMap], structures: Structures, geometry: Geometry) -> Disagreement:
    """Compare at least two predictions on the same grid; a pair in which neither has a structure does not count."""
    boxed = [BoxedLabels(labels, label_boxes(labels)) for labels in predictions]
    mean: dict[str, float] = {}
    volumes: dict[str, tuple[float, ...]] = {}
    voxel_ml = float(np.prod(geometry.spacing)) / 1000
    for name, labels in structures.items():
        pairs = [class_pair(one, other, labels, geometry) for one, other in itertools.combinations(boxed, 2)]
        found = [dice(pair) for pair in pairs if pair]
        if found:
            mean[name] = float(np.mean(found))
            volumes[name] = tuple(np.count_nonzero(np.isin(one, labels)) * voxel_ml for one in predictions)
    return Disagreement(mean, volumes, _place(predictions, geometry))


def _place(predictions: Sequence[LabelMap], geometry: Geometry) -> Position | None:
    differing = np.any([labels != predictions[0] for labels in predictions[1:]], axis=0)
    box = bounding_box(differing)
    if box is None:
        return None
    depth = depths(differing[box.slices], geometry.spacing)
    voxel = np.add(np.unravel_index(int(depth.argmax()), depth.shape), box.start)
    x, y, z = (geometry.ras_affine @ (*voxel, 1.0))[:3].tolist()
    return x, y, z
