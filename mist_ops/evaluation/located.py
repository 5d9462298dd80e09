"""Where the lesions of a patient are: the rows of the table of lesions with positions, to look at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Num

from mist_ops.config import EvaluationClass
from mist_ops.evaluation.score import Classes, checked_parameters, class_box, class_pair, read_masks
from mist_ops.imaging.components import components
from mist_ops.imaging.geometry import Geometry
from mist_ops.metrics.lesions.matching import Status, find_lesions, lesion_components
from mist_ops.metrics.lesions.protocols import rules_of
from mist_ops.metrics.lesions.rules import Rules
from mist_ops.registry import METRICS
from mist_ops.types import Box, Mask

Position = tuple[float, float, float]


@dataclass(frozen=True)
class LocatedLesion:
    """A lesion of the truth, or a component of the prediction that matches no lesion that counts.

    Attributes:
        class_name: The scored class.
        status: ``TP`` (detected), ``FN`` (missed), ``FP`` (false positive) or ``ignored``.
        volume_ml: Volume in ml.
        center: Mean position of its voxels, in RAS mm as in NIfTI.
        inside: Position of the voxel that is nearest to the center, in RAS mm.
    """

    class_name: str
    status: Status
    volume_ml: float
    center: Position
    inside: Position


def located_lesions(mask: Path, prediction: Path, classes: Classes) -> list[LocatedLesion]:
    """Lesions and false positives of all classes, the largest first.

    They are matched by the rules of the first lesion-wise metric of their class, as in the table of lesions, or by the
    default rules.

    Args:
        mask: The truth.
        prediction: The prediction, on the same grid.
        classes: As checked by ``check_classes``.

    Raises:
        ImageError: A file cannot be used, or the grids differ.
    """
    truth, predicted, geometry, _ = read_masks(mask, prediction)
    found: list[LocatedLesion] = []
    for name, scored in classes.items():
        box = class_box(truth, predicted, scored.labels)
        pair = class_pair(truth, predicted, scored.labels, geometry)
        if box is None or pair is None:
            continue
        rules = _rules(scored)
        maps = lesion_components(pair.truth, rules), components(pair.prediction, rules.connectivity)
        for lesion in find_lesions(pair, rules):
            source = maps[lesion.predicted]
            within = source.boxes[lesion.index - 1]
            center, inside = _positions(source.map[within.slices] == lesion.index, within, box, geometry)
            found.append(LocatedLesion(name, lesion.status, lesion.volume / 1000, center, inside))
    return sorted(found, key=lambda lesion: -lesion.volume_ml)


def _rules(scored: EvaluationClass) -> Rules:
    used: Iterator[Rules] = (
        entry.rules(**checked_parameters(name, params))
        for name, params in scored.metrics.items()
        if (entry := METRICS[name]).rules is not None
    )
    return next(used, rules_of())


def _positions(lesion: Mask, within: Box, box: Box, geometry: Geometry) -> tuple[Position, Position]:
    """Center of a mask, and its voxel nearest to that; the mask is of a box within the box of its class."""
    voxels = np.argwhere(lesion)
    center = voxels.mean(axis=0)
    distances = np.square((voxels - center) * geometry.spacing).sum(axis=1)
    start = np.add(within.start, box.start)
    return _in_mm(center + start, geometry), _in_mm(voxels[distances.argmin()] + start, geometry)


def _in_mm(voxel: Num[np.ndarray, " axis"], geometry: Geometry) -> Position:
    x, y, z = (geometry.ras_affine @ (*voxel, 1.0))[:3].tolist()
    return x, y, z
