"""Several predictions of the same patient to one mask: functions of arrays, and the files they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from mist_ops.types import Image, LabelMap

LabelEnsembler: TypeAlias = Callable[[Sequence[LabelMap]], LabelMap]
"""From the masks of two or more raters, on one grid, to one mask."""

ProbabilityEnsembler: TypeAlias = Callable[[Iterable[Image]], Image]
"""From the probabilities that each model gives to one class to the probability of that class."""
