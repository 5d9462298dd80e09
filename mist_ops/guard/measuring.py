"""Measuring a scan and its predicted mask.

Everything is measured on the preprocessed grid in canonical orientation, as the networks see it, except the spacing and
extent of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from mist_ops.guard.features import AXES, Feature, Layout, Measured
from mist_ops.guard.structures import mask_features
from mist_ops.guard.texture import edges, noise, shading
from mist_ops.imaging.geometry import CaseGeometry
from mist_ops.imaging.percentiles import percentiles
from mist_ops.types import Channels, LabelMap

CELLS = 8
"""Cells along each axis of the coarse picture of a channel."""

_QUANTILES = (5.0, 25.0, 50.0, 75.0, 95.0)

_ENOUGH = 1_000_000
"""Voxels for the percentiles of a channel: of a larger one, every other plane or fewer are used."""


def measure(
    image: Channels,
    geometry: CaseGeometry,
    channels: Sequence[str],
    classes: LabelMap,
    labels: Sequence[int],
    certainty: Mapping[int, float],
) -> Measured:
    """Measure a preprocessed scan and the mask that was predicted of it.

    Args:
        image: The preprocessed channels.
        geometry: The grids of the case.
        channels: Names of the channels.
        classes: The predicted class of each voxel of ``image``.
        labels: The label of each class; the first is the background.
        certainty: How certain the networks are of each class but the first, from 0 to 1; NaN for absent classes.
    """
    grid, reorientation = geometry.preprocessed.canonical()
    array, mask = reorientation.apply(image), reorientation.apply(classes)
    layout = coarse(array)
    found = [
        *_grid(geometry),
        *_intensities(array, channels),
        *mask_features(array, channels, mask, labels, grid.spacing),
        *(
            Feature("certainty", f"uncertainty of label {labels[index]}", 1 - value, log=True, least=0.1)
            for index, value in certainty.items()
        ),
    ]
    return Measured({feature.name: feature for feature in found}, layout)


def _grid(geometry: CaseGeometry) -> Iterator[Feature]:
    grid, _ = geometry.original.canonical()
    for axis, spacing, size in zip(AXES, grid.spacing, grid.size, strict=True):
        yield Feature("grid", f"spacing {axis}", spacing, "mm", log=True)
        yield Feature("grid", f"extent {axis}", spacing * size, "mm", log=True)


def _intensities(image: Channels, channels: Sequence[str]) -> Iterator[Feature]:
    for index, name in enumerate(channels):
        channel = image[..., index]
        for percent, value in zip(
            _QUANTILES, percentiles(channel[:: channel.size // _ENOUGH + 1], _QUANTILES), strict=True
        ):
            yield Feature("intensities", f"{name}: percentile {percent:g} of the normalized intensities", float(value))
        yield Feature("intensities", f"{name}: noise", noise(channel), log=True, least=0.1)
        for axis, value in zip(AXES, edges(channel), strict=True):
            yield Feature("intensities", f"{name}: contrast of neighbors {axis}", value, log=True, least=0.1)
        for axis, value in zip(AXES, shading(channel), strict=True):
            yield Feature("intensities", f"{name}: shading {axis}", value)
    for (first, one), (second, other) in combinations(enumerate(channels), 2):
        value = _correlation(image[..., first], image[..., second])
        yield Feature("intensities", f"correlation of {one} and {other}", value)


def coarse(image: Channels) -> Layout:
    """The mean intensity of each of ``CELLS`` cells along each axis, channel first."""
    cells: np.ndarray = image
    for axis in range(3):
        starts = np.linspace(0, cells.shape[axis], CELLS + 1).astype(int)
        widths = np.maximum(np.diff(starts), 1)  # of an axis with fewer voxels than cells, some are repeated
        sums = np.add.reduceat(cells, np.minimum(starts[:-1], cells.shape[axis] - 1), axis=axis, dtype=np.float64)
        cells = sums / widths.reshape([-1 if dim == axis else 1 for dim in range(cells.ndim)])
    return np.moveaxis(cells, -1, 0)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    spread = float(one.std() * other.std())
    return float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread else 0.0
