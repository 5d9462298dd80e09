"""From probabilities on the preprocessed grid to a label map on the grid of the files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.labels import to_labels
from mist_ops.imaging.resample import resample_onto
from mist_ops.preprocessing.case import CaseGeometry
from mist_ops.types import LabelMap

Probabilities: TypeAlias = Float32[np.ndarray, "class i j k"]
"""On the preprocessed grid, whose size is not that of the files."""

# Interpolation weights are float32: probabilities closer than this are a tie, which the earlier class wins.
_TIE = 1e-6


def restore(probabilities: Probabilities, geometry: CaseGeometry, labels: Sequence[int]) -> LabelMap:
    """The dataset labels of a prediction on the original grid, in the orientation of the files.

    Probabilities are interpolated, rather than the labels of the coarser grid, and the grids keep their true places, so
    that nothing is shifted. Only two classes at a time are held at full resolution. What the crop cut off gets label 0.

    Args:
        probabilities: Of each class, on ``geometry.preprocessed``.
        geometry: The grids of the case.
        labels: The dataset label of each class.

    Raises:
        ValueError: The probabilities do not have the shape that geometry and labels tell.
    """
    expected = (len(labels), *geometry.preprocessed.size)
    if probabilities.shape != expected:
        raise ValueError(f"the probabilities have the shape {probabilities.shape} and not {expected}")
    if geometry.preprocessed == geometry.original:
        return to_labels(_likeliest(probabilities, geometry.original, geometry.original), labels)
    grid, reorientation = geometry.canonical()
    restored = reorientation.undo(to_labels(_likeliest(probabilities, geometry.preprocessed, grid), labels))
    whole = np.zeros(geometry.original.size, dtype=restored.dtype)
    whole[geometry.box.slices if geometry.box else ...] = restored
    return whole


def _likeliest(probabilities: Probabilities, source: Geometry, target: Geometry) -> LabelMap:
    """Index of the most probable class at each voxel of ``target``."""
    best = resample_onto(probabilities[:1], source, target)[0].copy()
    indices = np.zeros(target.size, dtype=np.uint8)
    for index in range(1, len(probabilities)):
        candidate = resample_onto(probabilities[index : index + 1], source, target)[0]
        indices[candidate > best + _TIE] = index
        np.maximum(best, candidate, out=best)
    return indices
