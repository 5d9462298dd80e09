"""Size, place, shape and contrast of the predicted structures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from mist_ops.guard.features import AXES, Feature
from mist_ops.imaging.components import components
from mist_ops.imaging.foreground import bounding_box
from mist_ops.types import Box, Channels, LabelMap, Mask, Spacing

_SHELL = 2
"""Voxels around a structure that it is compared with."""

_PAIRS = ((0, 1), (0, 2), (1, 2))


def mask_features(
    image: Channels, channels: Sequence[str], classes: LabelMap, labels: Sequence[int], spacing: Spacing
) -> Iterator[Feature]:
    """Features of a predicted mask; those of absent labels are NaN.

    Args:
        image: The preprocessed channels.
        channels: Their names.
        classes: The class of each voxel.
        labels: The label of each class; the first is the background.
        spacing: In mm.
    """
    everything = classes > 0
    center = _center(everything, spacing)
    yield from _of_all(everything, center, spacing)
    for index, label in enumerate(labels[1:], start=1):
        mask = classes == index
        yield Feature("structures", f"volume of label {label}", _volume(mask, spacing), "ml", log=True, least=0.1)
        if len(labels) > 2:
            for axis, value in zip(AXES, _center(mask, spacing) - center, strict=True):
                yield Feature("orientation", f"offset of label {label} {axis}", float(value), "mm", least=0.5)
        yield from _contrasts(image, channels, mask, everything, label)


def _of_all(mask: Mask, center: np.ndarray, spacing: Spacing) -> Iterator[Feature]:
    """Features of all structures together."""
    middle, moments = np.multiply(np.subtract(mask.shape, 1) / 2, spacing), _Moments.of(mask, spacing)
    for axis, value in zip(AXES, center - middle, strict=True):
        yield Feature("orientation", f"offset of the structures from the middle {axis}", float(value), "mm", least=1.0)
    for axis, value in zip(AXES, moments.deviations, strict=True):
        yield Feature("structures", f"length of the structures {axis}", value, "mm", log=True)
    for (one, other), value in zip(_PAIRS, moments.correlations, strict=True):
        yield Feature("orientation", f"tilt {AXES[one]} against {AXES[other]}", value)
    for axis, value in zip(AXES, moments.skewness, strict=True):
        yield Feature("orientation", f"asymmetry of the structures {axis}", value)
    yield Feature("structures", "separate structures", float(len(components(mask))), log=True, least=0.3)
    yield Feature("structures", "share of the structures at the border of the scan", _at_border(mask), least=0.01)


@dataclass(frozen=True)
class _Moments:
    """Moments of the voxels of a mask: standard deviation in mm and skewness along each axis, and correlations."""

    deviations: tuple[float, ...]
    skewness: tuple[float, ...]
    correlations: tuple[float, ...]

    @classmethod
    def of(cls, mask: Mask, spacing: Spacing) -> _Moments:
        """Compute them from projections, so that no list of all voxels is needed; NaN for an empty mask."""
        count = int(np.count_nonzero(mask))
        if not count:
            return cls((math.nan,) * 3, (math.nan,) * 3, (math.nan,) * 3)
        planes = {pair: mask.sum(axis=3 - sum(pair), dtype=np.int64) for pair in _PAIRS}
        lines = [planes[0, 1].sum(axis=1), planes[0, 1].sum(axis=0), planes[0, 2].sum(axis=0)]
        along = [np.arange(len(line)) - float(np.arange(len(line)) @ line) / count for line in lines]
        deviations = [
            max(math.sqrt(float(line @ place**2) / count), 1e-3) for line, place in zip(lines, along, strict=True)
        ]
        return cls(
            tuple(deviation * length for deviation, length in zip(deviations, spacing, strict=True)),
            tuple(
                float(line @ place**3) / count / deviation**3
                for line, place, deviation in zip(lines, along, deviations, strict=True)
            ),
            tuple(
                float(along[one] @ planes[one, other] @ along[other]) / count / (deviations[one] * deviations[other])
                for one, other in _PAIRS
            ),
        )


def _volume(mask: Mask, spacing: Spacing) -> float:
    voxels = int(np.count_nonzero(mask))
    return voxels * math.prod(spacing) / 1000 if voxels else math.nan


def _center(mask: Mask, spacing: Spacing) -> np.ndarray:
    count = int(np.count_nonzero(mask))
    if not count:
        return np.full(3, math.nan)
    plane = mask.sum(axis=2, dtype=np.int64)
    lines = (plane.sum(axis=1), plane.sum(axis=0), mask.sum(axis=(0, 1), dtype=np.int64))
    return np.array([float(np.arange(len(line)) @ line) / count for line in lines]) * spacing


def _at_border(mask: Mask) -> float:
    voxels = int(np.count_nonzero(mask))
    inner = int(np.count_nonzero(mask[1:-1, 1:-1, 1:-1]))
    return (voxels - inner) / voxels if voxels else math.nan


def _contrasts(image: Channels, channels: Sequence[str], mask: Mask, everything: Mask, label: int) -> Iterator[Feature]:
    """Mean intensity of a structure, and how much brighter it is than the background next to it."""
    box = bounding_box(mask)
    part = _grown(box, mask.shape).slices if box else None
    shell = scipy.ndimage.binary_dilation(mask[part], iterations=_SHELL) & ~everything[part] if part else None
    for index, name in enumerate(channels):
        inside = around = math.nan
        if part is not None and shell is not None:
            channel = image[..., index][part]
            inside = float(channel[mask[part]].mean())
            around = float(channel[shell].mean()) if shell.any() else math.nan
        yield Feature("structures", f"{name}: intensity of label {label}", inside)
        yield Feature("structures", f"{name}: contrast of label {label} and its surroundings", inside - around)


def _grown(box: Box, size: tuple[int, ...]) -> Box:
    start = [max(0, first - _SHELL) for first in box.start]
    stop = [min(most, last + _SHELL) for last, most in zip(box.stop, size, strict=True)]
    (x, y, z), (i, j, k) = start, stop
    return Box((x, y, z), (i, j, k))
