"""Fingerprint of a case: the measurements from which settings are planned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

import numpy as np
from jaxtyping import Int64
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from mist_ops.analysis.ranges import IntensityRange
from mist_ops.analysis.verify import read
from mist_ops.dataset import Case, DatasetDescription
from mist_ops.imaging.foreground import foreground_box
from mist_ops.imaging.geometry import Geometry
from mist_ops.imaging.nifti import read_geometry
from mist_ops.schema import Section
from mist_ops.types import Box, Image, LabelMap, Size, Spacing

HU_MIN, HU_MAX = -1024, 3072
"""Range of the HU histogram, in bins of 1 HU."""

_EVERY = 10

Histogram = Int64[np.ndarray, "bin"]

Number = TypeVar("Number", int, float)


class HuStatistics(Section):
    """Intensities of every tenth labeled voxel of a CT, in HU.

    Attributes:
        count: Number of samples.
        mean: Mean of all samples.
        m2: Sum of squared deviations from the mean.
        first: Lower edge of the first bin of the histogram that is not empty.
        counts: Histogram of the samples from -1024 to 3072 HU, without empty bins at either end.
    """

    count: NonNegativeInt
    mean: float
    m2: NonNegativeFloat
    first: Annotated[int, Field(ge=HU_MIN)]
    counts: list[NonNegativeInt]

    @property
    def histogram(self) -> Histogram:
        """Counts of all bins."""
        whole = np.zeros(HU_MAX - HU_MIN, dtype=np.int64)
        whole[self.first - HU_MIN :][: len(self.counts)] = self.counts
        return whole

    @property
    def outside(self) -> int:
        """Number of samples outside the histogram."""
        return self.count - sum(self.counts)


class CaseFingerprint(Section):
    """Measurements of a case.

    Attributes:
        id: Id of the case.
        size: In voxels, along the file's own axes.
        spacing: In mm, along the file's own axes.
        axes: Axis of the file for each canonical axis.
        box: Foreground, along the file's own axes.
        nonzero_fraction: Fraction of nonzero voxels.
        labels: Number of voxels by label.
        content: SHA-256 of the voxels of the first channel.
        hu: Intensities of a CT.
        form_gap: Distance in mm between the positions that sform and qform give; the largest of all files.
        ranges: Intensities by channel: of the first or, if the analysis verifies, of all.
        shared_forms: What in the headers places the files together, where it is not what is used; empty otherwise.
    """

    id: str
    size: Size
    spacing: Spacing
    axes: tuple[int, int, int]
    box: Box
    nonzero_fraction: Annotated[float, Field(ge=0.0, le=1.0)]
    labels: dict[int, int]
    content: str
    hu: HuStatistics | None = None
    form_gap: NonNegativeFloat = 0.0
    shared_forms: str = ""
    ranges: dict[str, IntensityRange] = Field(default_factory=dict)

    def canonical(self, values: tuple[Number, Number, Number]) -> tuple[Number, Number, Number]:
        """Reorder one value per file axis to LPS order."""
        x, y, z = (values[axis] for axis in self.axes)
        return x, y, z


def measure(case: Case, description: DatasetDescription, thorough: bool = False) -> CaseFingerprint:
    """Measure a training case, reading its first channel and its mask once.

    Args:
        case: With a mask.
        description: With the labels and the modality.
        thorough: Also check what ``verify`` checks, which reads every channel.

    Raises:
        UnusableCase: The case cannot be used; all problems are listed.
    """
    contents = read(case, description, thorough)
    image, grids = contents.image, {path.name: read_geometry(path) for path in case.files}
    shared = _shared_forms(grids)
    # The grid of the images is that of the arrays; where the mask has the same, it is read from the mask, as in MIST.
    grid = next(iter(grids.values())) if shared else contents.grid
    return CaseFingerprint(
        id=case.id,
        size=grid.size,
        spacing=grid.spacing,
        axes=grid.canonical()[1].axes,
        box=foreground_box(image),
        nonzero_fraction=np.count_nonzero(image) / image.size,
        labels=dict(contents.labels),
        content=hashlib.sha256(image.data).hexdigest(),
        hu=hu_statistics(image, contents.mask) if description.modality == "ct" else None,
        form_gap=max(grid.form_gap for grid in grids.values()),
        shared_forms=shared,
        ranges=dict(contents.ranges),
    )


def _shared_forms(grids: Mapping[str, Geometry]) -> str:
    """Name what in the headers of the first and another file is the same grid, if that is not what is used."""
    (first, grid), *others = grids.items()
    for name, other in others:
        shared = grid.shared_forms(other)
        if shared:
            return f"the {shared[1]} of {name} and the {shared[0]} of {first}"
    return ""


def hu_statistics(image: Image, mask: LabelMap) -> HuStatistics:
    """Statistics of every tenth labeled voxel in C order; zeros for an empty mask."""
    samples = image[mask != 0][::_EVERY].astype(np.float64)
    if not samples.size:
        return HuStatistics(count=0, mean=0.0, m2=0.0, first=HU_MIN, counts=[])
    mean = float(samples.mean())
    histogram, _ = np.histogram(samples, bins=HU_MAX - HU_MIN, range=(HU_MIN, HU_MAX))
    return _statistics(samples.size, mean, float(np.square(samples - mean).sum()), histogram)


def pooled(statistics: Sequence[HuStatistics]) -> HuStatistics:
    """Pool the statistics of several cases in float64; zeros for none."""
    counts = np.array([part.count for part in statistics], dtype=np.float64)
    means = np.array([part.mean for part in statistics])
    total = int(counts.sum())
    mean = float(counts @ means / total) if total else 0.0
    m2 = sum(part.m2 for part in statistics) + float(counts @ np.square(means - mean))
    histogram = sum((part.histogram for part in statistics), np.zeros(HU_MAX - HU_MIN, dtype=np.int64))
    return _statistics(total, mean, m2, histogram)


def _statistics(count: int, mean: float, m2: float, histogram: Histogram) -> HuStatistics:
    filled = np.flatnonzero(histogram)
    start, stop = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    return HuStatistics(count=count, mean=mean, m2=m2, first=HU_MIN + start, counts=histogram[start:stop].tolist())
