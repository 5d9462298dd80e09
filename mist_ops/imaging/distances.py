"""Signed distance maps, which boundary losses weigh their errors with."""

from __future__ import annotations

import edt
import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from mist_ops.types import Image, LabelMap, Mask


def distance_maps(indices: LabelMap, n_classes: int, normalize: bool) -> Float32[np.ndarray, "x y z class"]:
    """The signed distance to the boundary of each class, background included: negative inside, positive outside.

    Distances are in voxels, whatever the spacing. The boundary is the voxels of the class, distance 0, that touch
    another class by a face, edge or corner. A class that is absent is farther away than anything, by the diagonal of
    the volume; in one that fills the volume every voxel is as far inside.

    Args:
        indices: Class indices.
        n_classes: Number of classes, background included.
        normalize: Divide what is inside by its depth and what is outside by its height, for values in [-1, 1].
    """
    maps = np.empty((*indices.shape, n_classes), dtype=np.float32)
    for index in range(n_classes):
        distances = _signed(indices == index)
        maps[..., index] = _normalized(distances) if normalize else distances
    return maps


def _signed(mask: Mask) -> Image:
    boundary = mask & ~ndimage.minimum_filter(mask, size=3, mode="nearest")
    if not boundary.any():
        diagonal = np.float32(np.linalg.norm(mask.shape))
        return np.where(mask, -diagonal, diagonal)
    distances: Image = edt.edt(~boundary, black_border=False)
    distances[mask] *= -1.0
    return distances


def _normalized(distances: Image) -> Image:
    depth, height = -distances.min(), distances.max()
    scaled = np.where(distances < 0, distances / (depth or 1), distances / (height or 1))
    result: Image = scaled.astype(np.float32, copy=False)
    return result
