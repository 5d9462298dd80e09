"""Scores of a prediction against the truth: functions of a ``MaskPair`` that share what is costly to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """An entry of ``METRICS``.

    Attributes:
        function: ``function(pair, **params) -> float`` for two masks that are not empty.
        best: Value when both masks are empty.
        worst: Value when exactly one is; infinity stands for the diagonal of the whole image in mm.
        unit: ``"mm"``, ``"ml"``, or empty for a ratio.
        higher_is_better: Direction, for rankings.
    """

    function: Callable[..., float]
    best: float
    worst: float
    unit: str
    higher_is_better: bool
