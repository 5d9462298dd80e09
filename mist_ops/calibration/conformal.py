"""Prediction intervals of volumes from the errors of held-out predictions.

Split conformal prediction (Papadopoulos et al., 2002; Vovk et al., 2005): if the errors of a new patient and of the
held-out ones are exchangeable, its true volume is in the interval with at least the given probability, whatever their
distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

COVERAGE = 0.9
"""Share of true volumes that intervals are made to contain."""

_OFFSET = 0.01
"""Volume that is added before logarithms are taken, relative to the median of the true ones, so that 0 has one."""


@dataclass(frozen=True)
class Interval:
    """Bounds of true volumes relative to predicted ones.

    The error of a volume is log((true + offset) / (predicted + offset)).

    Attributes:
        low: The smallest error in the interval.
        high: The largest.
        offset: In ml.
    """

    low: float
    high: float
    offset: float

    def around(self, predicted: float) -> tuple[float, float]:
        """The interval of a predicted volume, in ml."""
        base = predicted + self.offset
        return max(0.0, base * math.exp(self.low) - self.offset), max(0.0, base * math.exp(self.high) - self.offset)

    def contains(self, truth: float, predicted: float) -> bool:
        """Whether a true volume is in the interval of its prediction."""
        return self.low <= _error(truth, predicted, self.offset) <= self.high


def ranks(count: int, coverage: float = COVERAGE) -> tuple[int, int] | None:
    """The ranks, from 1, of the errors that bound an interval; None if there are too few of them (19 for 90 %).

    As many errors as possible are outside, half of them on either side, one more above if their number is odd. A new
    error is between those of ranks a and b of n with probability (b - a) / (n + 1), so the interval also corrects a
    bias of the predictions.
    """
    # Exact, for 0.9 * 20 is above 18 in floating point.
    within = math.ceil(Fraction(str(coverage)) * (count + 1))
    outside = count + 1 - within
    low = outside // 2
    return (low, low + within) if low >= 1 and low + within <= count else None


def interval(truths: Sequence[float], predictions: Sequence[float], coverage: float = COVERAGE) -> Interval | None:
    """The interval for new patients from true and predicted volumes in ml; None if there are too few of them."""
    found = ranks(len(truths), coverage)
    if found is None:
        return None
    present = [truth for truth in truths if truth > 0]
    offset = _OFFSET * float(np.median(present)) if present else 0.0
    if not offset:
        return None
    pairs = zip(truths, predictions, strict=True)
    errors = sorted(_error(truth, predicted, offset) for truth, predicted in pairs)
    low, high = found
    return Interval(errors[low - 1], errors[high - 1], offset)


def _error(truth: float, predicted: float, offset: float) -> float:
    return math.log((truth + offset) / (predicted + offset))
