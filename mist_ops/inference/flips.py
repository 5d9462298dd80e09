"""The mirror images over which a prediction is averaged."""

from __future__ import annotations

from itertools import combinations

from jaxtyping import Float
from torch import Tensor

from mist_ops.config import TtaConfig

Axes = tuple[int, ...]
"""Spatial axes that are mirrored, counted from the end, so that they fit tensors with and without batch or channel."""

_AXES = {"x": -3, "y": -2, "z": -1}


def flips(tta: TtaConfig) -> tuple[Axes, ...]:
    """The flips that a study asks for, the identity first: every combination of its axes, or the identity alone."""
    wanted = tta.enabled and tta.strategy == "all_flips"
    axes = [dim for name, dim in _AXES.items() if wanted and name in tta.flip_axes]
    return tuple(chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count))


def flip(image: Float[Tensor, "*any x y z"], axes: Axes) -> Float[Tensor, "*any x y z"]:
    """Mirror along some axes. Doing it twice undoes it; no axes give the tensor itself, not a copy."""
    return image.flip(axes) if axes else image
