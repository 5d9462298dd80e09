"""Percentiles of many voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, Num

_SAMPLES, _FEW = 20_000, 200_000
"""Values that bracket a percentile, and number below which all are sorted out at once."""

_MARGIN = 0.01
"""Distance of the bracket from a percentile, as a share of all values."""

Values = Num[np.ndarray, " _"]


def percentiles(values: Num[np.ndarray, "*any"], percents: Sequence[float]) -> Float64[np.ndarray, " percent"]:
    """The same numbers as ``np.percentile``, to the last digit.

    A sample brackets each percentile, so that only a few values are sorted: for 9 million this takes 14 ms, and
    ``np.percentile``, which partitions all, 60 to 130 ms.

    Args:
        values: Finite, at least one, in any order.
        percents: From 0 to 100.
    """
    flat = values.reshape(-1, order="A")  # which is no copy in either order
    if flat.size < _FEW:
        return np.asarray(np.percentile(flat, percents), dtype=np.float64)
    sample = np.sort(flat[:: flat.size // _SAMPLES | 1])
    return np.array([_percentile(flat, sample, percent) for percent in percents], dtype=np.float64)


def _percentile(flat: Values, sample: Values, percent: float) -> float:
    rank = (flat.size - 1) * (percent / 100)
    lower = int(rank)
    ranks = np.array([lower, min(lower + 1, flat.size - 1)])
    # Between two values, ``quantile`` interpolates as it does between these two of all.
    (between,) = np.quantile(_ranked(flat, sample, ranks), [rank - lower])
    return float(between)


def _ranked(flat: Values, sample: Values, ranks: Int64[np.ndarray, " rank"]) -> Values:
    """The values at some ranks in ascending order; in a sample without them, all values are partitioned."""
    low, high = np.clip(ranks / flat.size + (-_MARGIN, _MARGIN), 0, 1) * (sample.size - 1)
    start, stop = sample[int(low)], sample[int(np.ceil(high))]
    # Beyond the ends of the sample there may be others.
    start, stop = start if low else -np.inf, stop if high < sample.size - 1 else np.inf
    places = ranks - np.count_nonzero(flat < start)
    equal = start == stop
    inside = flat[:0] if equal else flat[(flat >= start) & (flat <= stop)]
    if places[0] < 0 or places[-1] >= (np.count_nonzero(flat == start) if equal else inside.size):
        inside, places, equal = flat, ranks, False
    found: Values = np.full(len(ranks), start, flat.dtype) if equal else np.partition(inside, places)[places]
    return found
