"""The mirror images over which a prediction is averaged."""

from __future__ import annotations

from itertools import combinations

from jaxtyping import Float
from torch import Tensor

from mist_ops.config import TtaConfig

Axes = tuple[int, ...]
"""Spatial axes that are mirrored, counted from the end, so that they fit tensors with and without batch or channel."""

ALL_FLIPS: tuple[Axes, ...] = tuple(axes for count in range(4) for axes in combinations((-3, -2, -1), count))


def flips(tta: TtaConfig) -> tuple[Axes, ...]:
    """The flips that a study asks for: all eight, or the identity alone."""
    return ALL_FLIPS if tta.enabled and tta.strategy == "all_flips" else ((),)


def flip(image: Float[Tensor, "*any x y z"], axes: Axes) -> Float[Tensor, "*any x y z"]:
    """Mirror along some axes. Doing it twice undoes it; no axes give the tensor itself, not a copy."""
    return image.flip(axes) if axes else image
