"""Ensembling: combine several predictions of the same patient into one mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from mist_ops.types import Image, LabelMap

LabelEnsembler: TypeAlias = Callable[[Sequence[LabelMap]], LabelMap]
"""Combines the masks of two or more raters on the same grid."""

ProbabilityEnsembler: TypeAlias = Callable[[Iterable[Image]], Image]
"""Combines the probabilities of one class from several models."""
