"""Mistakes that are planted in masks, to see whether a review finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Returns a damaged copy of a label map; axis 0 is left to right."""


def eroded(voxels: int) -> Damage:
    """Take away the outermost voxels of all labels together."""

    def damage(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return labels * ndimage.binary_erosion(labels > 0, iterations=voxels)

    return damage


def shifted(voxels: int) -> Damage:
    """Move along an axis; what leaves the image is lost."""

    def damage(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        axis, sign = random.integers(3), random.choice((-1, 1))
        moved = np.roll(labels, sign * voxels, axis)
        edge = [slice(None)] * 3
        edge[axis] = slice(0, voxels) if sign > 0 else slice(-voxels, None)
        moved[tuple(edge)] = 0
        return moved

    return damage


def swapped(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Swap two labels."""
    found = np.unique(labels)[1:]
    if len(found) < 2:
        return labels.copy()
    first, second = random.choice(found, 2, replace=False)
    return np.where(labels == first, second, np.where(labels == second, first, labels)).astype(labels.dtype)


def missing(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Remove a label."""
    return np.where(labels == random.choice(np.unique(labels)[1:]), 0, labels).astype(labels.dtype)


def flipped(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mirror left to right."""
    return labels[::-1].copy()


DAMAGES: Mapping[str, Damage] = {
    "eroded": eroded(1),
    "shifted": shifted(3),
    "swapped": swapped,
    "missing": missing,
    "flipped": flipped,
}
"""The kinds that a review must find, by name."""
