"""Scans for the tests of the guard: a bright and a dark structure in a shaded volume, which patients vary."""

from __future__ import annotations

import numpy as np

from mist_ops.guard.features import Measured
from mist_ops.guard.measuring import measure
from mist_ops.imaging.geometry import CaseGeometry, Geometry
from mist_ops.preprocessing.normalize import normalize
from mist_ops.types import Image, LabelMap

SIZE = (24, 28, 20)
LABELS = (0, 1, 2)
GRID = Geometry(SIZE, (1.0, 1.0, 1.5))


def scan(seed: int) -> tuple[Image, LabelMap]:
    """A scan whose structures differ in place, size and contrast, and its mask."""
    generator = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.arange(size) for size in SIZE), indexing="ij")
    labels = np.zeros(SIZE, dtype=np.uint8)
    for label, middle in ((1, (8, 8, 6)), (2, (13, 19, 12))):
        center = np.add(middle, generator.uniform(-1, 1, 3))
        radius = generator.uniform(4, 5)
        labels[sum((grid - at) ** 2 for grid, at in zip(grids, center, strict=True)) < radius**2] = label
    values = np.array([100.0, 160.0, 60.0]) + generator.normal(0, 4, 3)
    image = values[labels] + 20 * grids[1] / SIZE[1] + generator.normal(0, 5, SIZE)
    return image.astype(np.float32), labels


def measured(image: Image, labels: LabelMap, grid: Geometry = GRID, certainty: float = 0.9) -> Measured:
    """Measure a scan that needs no resampling, with its own mask."""
    normal = normalize(image, None, None)[..., None]
    return measure(normal, CaseGeometry(grid, None, grid), ["mri"], labels, LABELS, {1: certainty, 2: certainty})


def patients(count: int, first: int = 0) -> list[Measured]:
    """Measurements of some patients."""
    return [measured(*scan(first + index), certainty=0.85 + 0.01 * (index % 7)) for index in range(count)]
