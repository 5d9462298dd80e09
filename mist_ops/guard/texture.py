"""Noise, sharpness and shading of an image."""

from __future__ import annotations

import numpy as np

from mist_ops.types import Volume

_MAD = 0.6745
"""Median absolute deviation of a standard normal distribution."""


_ENOUGH = 2_000_000
"""Voxels for the noise of an image."""


def noise(image: Volume) -> float:
    """Standard deviation of the noise, from the median absolute second difference along every axis.

    Structures of the image hardly contribute, as the median ignores their borders. Voxels of the lowest value do not
    count: the air around a patient is often set to zero. (After Immerkaer, Computer Vision and Image Understanding
    1996, in three dimensions.) Of a large image, planes in the middle are used.
    """
    planes = max(3, _ENOUGH * len(image) // image.size)
    first = max(0, (len(image) - planes) // 2)
    image = image[first : first + planes]
    found, inside, variance = image.astype(np.float64), image > image.min(), 1.0
    for axis, size in enumerate(image.shape):
        if size > 2:
            found, variance = np.diff(found, 2, axis), 6 * variance
            inside = np.take(inside, range(1, size - 1), axis)
    values = found[inside]
    return float(np.median(np.abs(values)) / _MAD / variance**0.5) if values.size else 0.0


def edges(image: Volume) -> tuple[float, float, float]:
    """Mean absolute difference of neighboring voxels along each axis."""
    x, y, z = (float(np.abs(np.diff(image, axis=axis)).mean()) if image.shape[axis] > 1 else 0.0 for axis in range(3))
    return x, y, z


def shading(image: Volume) -> tuple[float, float, float]:
    """How much brighter the image becomes from one end of each axis to the other: a slope fitted to all voxels."""
    x, y, z = (_slope(image.mean(tuple(other for other in range(3) if other != axis))) for axis in range(3))
    return x, y, z


def _slope(profile: np.ndarray) -> float:
    along = np.linspace(-0.5, 0.5, len(profile)) if len(profile) > 1 else np.zeros(1)
    square = float(np.square(along).sum())
    return float(along @ profile) / square if square else 0.0
