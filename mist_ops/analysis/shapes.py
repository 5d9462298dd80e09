"""Shape descriptors of a structure: linearity, planarity, sphericity, compactness and skeleton ratio.

They are computed from all voxels of the structure, without sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import skimage
from jaxtyping import Float

from mist_ops.types import Mask, Spacing

ShapeClass: TypeAlias = Literal["tubular", "planar", "blob"]

MIN_VOXELS = 4
"""Fewer voxels do not span a volume."""

MAX_SKELETON_VOXELS = 10_000_000
"""Larger structures are not thin, and their skeletons take more than 7 s."""

_MIN_VARIANCE = 1e-8


@dataclass(frozen=True)
class Shape:
    """The shape of one structure in one patient.

    ``v1 >= v2 >= v3`` are the variances of its voxels along its principal axes, in mm squared. The first three
    descriptors add up to 1.

    Attributes:
        linearity: ``(v1 - v2) / v1``; 1 for a line.
        planarity: ``(v2 - v3) / v1``; 1 for a disc or a square plate.
        sphericity: ``v3 / v1``; 1 for a ball and for a cube.
        compactness: ``36 pi V^2 / S^3`` of its volume and voxel surface, at most 1.
        skeleton_ratio: Fraction of voxels on the skeleton; None above ``MAX_SKELETON_VOXELS``.
    """

    linearity: float
    planarity: float
    sphericity: float
    compactness: float
    skeleton_ratio: float | None


def measure_shape(mask: Mask, spacing: Spacing) -> Shape | None:
    """Measure the shape of a structure; None for fewer than ``MIN_VOXELS`` voxels or without extent.

    Args:
        mask: The structure; its bounding box suffices.
        spacing: In mm.
    """
    voxels = int(np.count_nonzero(mask))
    if voxels < MIN_VOXELS:
        return None
    first, second, third = principal_variances(mask, spacing)
    if first < _MIN_VARIANCE:
        return None
    return Shape(
        linearity=(first - second) / first,
        planarity=(second - third) / first,
        sphericity=third / first,
        compactness=compactness(voxels * math.prod(spacing), surface_area(mask, spacing)),
        skeleton_ratio=_skeleton_voxels(mask) / voxels if voxels <= MAX_SKELETON_VOXELS else None,
    )


def principal_variances(mask: Mask, spacing: Spacing) -> tuple[float, float, float]:
    """Variances of the voxel centers along the principal axes in mm squared, in descending order.

    They are the eigenvalues of the unbiased covariance. At least two voxels are required.
    """
    eigenvalues = np.linalg.eigvalsh(_covariance(mask) * np.outer(spacing, spacing))
    third, second, first = np.clip(eigenvalues, 0.0, None).tolist()
    return first, second, third


def surface_area(mask: Mask, spacing: Spacing) -> float:
    """Area in mm squared of all voxel faces on the border of the mask; outside the array counts as outside.

    For a finely sampled ball it is 1.5 times the area of the smooth ball.
    """
    area = 0.0
    for axis in range(3):
        along = np.moveaxis(mask, axis, 0)
        inner = np.count_nonzero(along[1:] != along[:-1])
        faces = inner + np.count_nonzero(along[0]) + np.count_nonzero(along[-1])
        area += float(faces) * math.prod(spacing) / spacing[axis]
    return area


def compactness(volume: float, surface: float) -> float:
    """Isoperimetric quotient ``36 pi V^2 / S^3``, at most 1; 0 without a surface.

    It is 1 for a smooth ball. With voxel surfaces, it is pi/6 for a cube and 8/27 for a ball in the limit.
    """
    return min(1.0, 36.0 * math.pi * volume**2 / surface**3) if surface > 0 else 0.0


def shape_class(linearity: float, planarity: float, sphericity: float) -> ShapeClass:
    """Name of the largest descriptor; the first of equal ones."""
    shares = (linearity, planarity, sphericity)
    names: tuple[ShapeClass, ...] = get_args(ShapeClass)
    return names[shares.index(max(shares))]


def _covariance(mask: Mask) -> Float[np.ndarray, "3 3"]:
    """Covariance of the voxel indices, from exact integer sums."""
    count = int(np.count_nonzero(mask))
    planes = {pair: mask.sum(axis=3 - sum(pair), dtype=np.int64) for pair in ((0, 1), (0, 2), (1, 2))}
    index = [np.arange(size, dtype=np.int64) for size in mask.shape]
    lines = [planes[0, 1].sum(axis=1), planes[0, 1].sum(axis=0), planes[0, 2].sum(axis=0)]
    sums = [int(line @ along) for line, along in zip(lines, index, strict=True)]
    covariance = np.empty((3, 3))
    for a in range(3):
        for b in range(a, 3):
            product = int(lines[a] @ index[a] ** 2) if a == b else int(index[a] @ planes[a, b] @ index[b])
            covariance[a, b] = covariance[b, a] = (count * product - sums[a] * sums[b]) / (count * (count - 1))
    return covariance


def _skeleton_voxels(mask: Mask) -> int:
    """Number of voxels of the skeleton by Lee, Kashyap and Chu (CVGIP 1994)."""
    return int(np.count_nonzero(skimage.morphology.skeletonize(mask, method="lee")))
