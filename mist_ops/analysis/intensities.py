"""Intensity statistics in bounded memory: exact moments, and percentiles from a histogram.

The histogram rounds values to 16 significant bits. Integers up to 65536 (every CT, most MR) stay exact; other values
change by at most one part in 65536. It has one bin per value that occurs: some thousands for a scanner's integers, and
at most 65536 per doubling of the magnitude (sign included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from mist_ops.analysis.dump import PERCENTILE_NAMES, ChannelIntensity

PERCENTILES = tuple(int(name[1:]) for name in PERCENTILE_NAMES)

_DROPPED_BITS = 8
"""Bits to round away, of the 24 significant bits of a float32."""

_DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Intensities:
    """Intensities of one channel.

    Attributes:
        values: Values of the bins, ascending.
        counts: Voxels in each bin.
        mean: Mean of the unrounded intensities; 0 without voxels.
        m2: Sum of squared deviations of the unrounded intensities from the mean.
    """

    values: Float32[np.ndarray, " bin"]
    counts: Int64[np.ndarray, " bin"]
    mean: float
    m2: float

    @property
    def count(self) -> int:
        """Number of voxels."""
        return int(self.counts.sum())


def measure_intensities(samples: Float32[np.ndarray, " voxel"]) -> Intensities:
    """Compute the statistics of some voxels; there may be none."""
    exact = samples.astype(np.float64)
    mean = float(exact.mean()) if exact.size else 0.0
    values, counts = np.unique(_rounded(samples), return_counts=True)
    return Intensities(values, counts.astype(np.int64), mean, float(np.square(exact - mean).sum()))


def pooled(first: Intensities, second: Intensities) -> Intensities:
    """Pool two sets of voxels."""
    total = first.count + second.count
    if not total:
        return first
    gap = second.mean - first.mean
    values, counts = _merged(
        np.concatenate([first.values, second.values]), np.concatenate([first.counts, second.counts])
    )
    mean = first.mean + gap * (second.count / total)
    return Intensities(values, counts, mean, first.m2 + second.m2 + gap**2 * (first.count * second.count / total))


def summary(intensities: Intensities) -> ChannelIntensity:
    """Mean, standard deviation and percentiles, rounded to four decimals, of at least one voxel."""
    spread = (intensities.m2 / intensities.count) ** 0.5
    numbers = [intensities.mean, spread, *percentiles(intensities, PERCENTILES)]
    fields = ChannelIntensity.model_fields
    return ChannelIntensity(**{name: round(number, _DECIMALS) for name, number in zip(fields, numbers, strict=True)})


def percentiles(intensities: Intensities, percents: Sequence[int]) -> list[float]:
    """Percentiles of at least one voxel, interpolated linearly as in NumPy."""
    upto = np.cumsum(intensities.counts)
    places = np.asarray(percents, dtype=np.float64) / 100.0 * (upto[-1] - 1)
    below = np.floor(places)
    low, high = (
        intensities.values[np.searchsorted(upto, place, side="right")].astype(np.float64)
        for place in (below, np.ceil(places))
    )
    found: list[float] = (low + (high - low) * (places - below)).tolist()
    return found


def _rounded(samples: Float32[np.ndarray, " voxel"]) -> Float32[np.ndarray, " voxel"]:
    """Round to 16 significant bits."""
    half, kept = 1 << (_DROPPED_BITS - 1), 0xFFFFFFFF >> _DROPPED_BITS << _DROPPED_BITS
    bits = np.ascontiguousarray(samples).view(np.uint32)
    return ((bits + np.uint32(half)) & np.uint32(kept)).view(np.float32)


def _merged(
    values: Float32[np.ndarray, " entry"], counts: Int64[np.ndarray, " entry"]
) -> tuple[Float32[np.ndarray, " bin"], Int64[np.ndarray, " bin"]]:
    # A stable sort of two ascending runs takes linear time.
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first], np.add.reduceat(counts, first)
