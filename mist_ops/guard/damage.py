"""Damages planted on scans, to find out what the guard of a study notices, and what a damage costs in Dice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from mist_ops.imaging.geometry import Geometry
from mist_ops.types import Box, Image, LabelMap


@dataclass(frozen=True, eq=False)
class Scan:
    """The channels of a scan, and its mask, on one grid."""

    channels: Mapping[str, Image]
    labels: LabelMap
    grid: Geometry


Damage: TypeAlias = Callable[[Scan, np.random.Generator], Scan]
"""Returns a damaged scan with the mask that belongs to it. What is damaged, and how much, is drawn."""


def inverted(scan: Scan, generator: np.random.Generator) -> Scan:
    """A channel with bright and dark exchanged."""

    def change(image: Image) -> Image:
        low, high = np.percentile(image, [0.5, 99.5])
        return np.asarray(low + high - image, dtype=np.float32)

    return _one_channel(scan, generator, change)


_T2 = ([0.0, 0.15, 0.5, 0.75, 1.0], [1.0, 0.95, 0.6, 0.35, 0.3])
"""From intensities of T1 to those of T2: fluid becomes bright, gray matter stays, white matter becomes dark."""


def other_contrast(scan: Scan, generator: np.random.Generator) -> Scan:
    """A channel with the contrast of T2 instead of T1; air stays black."""

    def change(image: Image) -> Image:
        low, high = np.percentile(image, [1, 99])
        span = max(float(high - low), 1e-6)
        changed = low + span * np.interp((image - low) / span, *_T2)
        return np.where((image == image.min()) & (image == 0), image, changed).astype(np.float32)

    return _one_channel(scan, generator, change)


def wrong_spacing(scan: Scan, generator: np.random.Generator, factor: float | None = None) -> Scan:
    """A wrong spacing in the header, of one axis or of all: half, two thirds, 1.5 times or twice the true one."""
    chosen = float(generator.choice([0.5, 2 / 3, 1.5, 2.0])) if factor is None else factor
    axis = int(generator.integers(4))
    x, y, z = (length * (chosen if axis in (index, 3) else 1.0) for index, length in enumerate(scan.grid.spacing))
    return replace(scan, grid=replace(scan.grid, spacing=(x, y, z), header=None))


def mirrored(scan: Scan, generator: np.random.Generator, axis: int) -> Scan:
    """Voxels in reverse order along an axis of the patient, under the header as it was."""
    _, reorientation = scan.grid.canonical()
    own = reorientation.axes[axis]
    channels = {name: np.ascontiguousarray(np.flip(image, own)) for name, image in scan.channels.items()}
    return replace(scan, channels=channels, labels=np.ascontiguousarray(np.flip(scan.labels, own)))


def cropped(scan: Scan, generator: np.random.Generator, share: float | None = None) -> Scan:
    """A scan cut off on one side: a quarter to a half of an axis is missing."""
    missing = float(generator.uniform(0.25, 0.5)) if share is None else share
    axis, last = int(generator.integers(3)), bool(generator.integers(2))
    size = scan.grid.size
    kept = max(1, round(size[axis] * (1 - missing)))
    start, stop = [0, 0, 0], list(size)
    start[axis], stop[axis] = (0, kept) if last else (size[axis] - kept, size[axis])
    (x, y, z), (i, j, k) = start, stop
    box = Box((x, y, z), (i, j, k))
    channels = {name: np.ascontiguousarray(image[box.slices]) for name, image in scan.channels.items()}
    return Scan(channels, np.ascontiguousarray(scan.labels[box.slices]), scan.grid.cropped(box))


def noisy(scan: Scan, generator: np.random.Generator, level: float | None = None) -> Scan:
    """Gaussian noise: its standard deviation is 10 to 30 % of the range of intensities (1st to 99th percentile)."""
    chosen = float(generator.uniform(0.1, 0.3)) if level is None else level

    def change(image: Image) -> Image:
        low, high = np.percentile(image, [1, 99])
        changed = image + chosen * (high - low) * generator.standard_normal(image.shape)
        return np.asarray(changed, dtype=np.float32)

    return replace(scan, channels={name: change(image) for name, image in scan.channels.items()})


def biased(scan: Scan, generator: np.random.Generator, ratio: float | None = None) -> Scan:
    """A smooth shading: one end of the scan is two to four times as bright as the other, in any direction."""
    chosen = float(generator.uniform(2, 4)) if ratio is None else ratio
    direction = generator.standard_normal(3)
    direction /= np.abs(direction).sum()
    x, y, z = (slope * np.linspace(-0.5, 0.5, size) for slope, size in zip(direction, scan.grid.size, strict=True))
    field = np.exp(np.log(chosen) * (x[:, None, None] + y[None, :, None] + z[None, None, :]))
    channels = {name: (image * field).astype(np.float32) for name, image in scan.channels.items()}
    return replace(scan, channels=channels)


def swapped(scan: Scan, generator: np.random.Generator) -> Scan:
    """Two channels exchanged."""
    names = list(scan.channels)
    one, other = generator.choice(len(names), 2, replace=False).tolist()
    names[one], names[other] = names[other], names[one]
    return replace(scan, channels=dict(zip(names, scan.channels.values(), strict=True)))


DAMAGES: Mapping[str, Damage] = {
    "inverted contrast": inverted,
    "T2-like contrast": other_contrast,
    "wrong spacing": wrong_spacing,
    "flipped left-right": partial(mirrored, axis=0),
    "flipped front-back": partial(mirrored, axis=1),
    "flipped bottom-top": partial(mirrored, axis=2),
    "cropped": cropped,
    "noise": noisy,
    "shading": biased,
}
"""What is planted, by name."""


def damages(channels: int) -> Mapping[str, Damage]:
    """What can be planted on scans with so many channels."""
    return {**DAMAGES, "swapped channels": swapped} if channels > 1 else DAMAGES


def _one_channel(scan: Scan, generator: np.random.Generator, change: Callable[[Image], Image]) -> Scan:
    chosen = list(scan.channels)[int(generator.integers(len(scan.channels)))]
    return replace(scan, channels={**scan.channels, chosen: change(scan.channels[chosen])})
