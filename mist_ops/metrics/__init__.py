"""Scores of a prediction against the truth: functions of a ``MaskPair`` that share what is costly to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mist_ops.metrics.lesions.rules import Rules


@dataclass(frozen=True)
class Metric:
    """An entry of ``METRICS``.

    The parameters of ``function`` after the pair are those that a configuration may set; their annotations, with
    pydantic's ``Field`` for ranges, are what it is checked against.

    Attributes:
        function: ``function(pair, **params) -> float`` for two masks that are not empty.
        best: Value when both masks are empty.
        worst: Value when exactly one is; infinity stands for the diagonal of the whole image in mm.
        unit: ``"mm"``, ``"ml"``, ``"%"``, or empty for a ratio.
        higher_is_better: Direction, for rankings.
        takes_one_empty: Whether ``function`` has a value of its own when exactly one mask is empty; it then stands
            instead of ``worst``.
        rules: For metrics of single lesions, ``rules(**params)``: what counts as a lesion and as found.
    """

    function: Callable[..., float]
    best: float
    worst: float
    unit: str
    higher_is_better: bool
    takes_one_empty: bool = False
    rules: Callable[..., Rules] | None = None
