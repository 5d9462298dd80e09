"""Segmentation metrics: functions of a ``MaskPair``, which caches what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mist_ops.metrics.lesions.rules import Rules


@dataclass(frozen=True)
class Metric:
    """An entry of ``METRICS``.

    The parameters of ``function`` after the pair can be set in config.json; their annotations, with pydantic's
    ``Field`` for ranges, validate them.

    Attributes:
        function: ``function(pair, **params) -> float`` for two masks that are not empty.
        best: Value if both masks are empty.
        worst: Value if exactly one mask is empty; infinity means the diagonal of the whole image in mm.
        unit: ``"mm"``, ``"ml"``, ``"%"``, or empty for a ratio.
        higher_is_better: Direction, for rankings.
        takes_one_empty: Whether ``function`` also handles one empty mask; its value then replaces ``worst``.
        rules: For lesion-wise metrics, ``rules(**params)`` returns the settings of lesion matching.
    """

    function: Callable[..., float]
    best: float
    worst: float
    unit: str
    higher_is_better: bool
    takes_one_empty: bool = False
    rules: Callable[..., Rules] | None = None
