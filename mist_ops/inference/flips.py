"""Test-time augmentation: the flips that a prediction is averaged over."""

from __future__ import annotations

from itertools import combinations

from jaxtyping import Float
from torch import Tensor

from mist_ops.config import TtaConfig

Axes = tuple[int, ...]
"""Spatial dimensions to mirror, counted from the end: valid with and without batch and channel dimensions."""

_AXES = {"x": -3, "y": -2, "z": -1}


def flips(tta: TtaConfig) -> tuple[Axes, ...]:
    """The configured flips: every combination of the axes, the identity first; only the identity if disabled."""
    enabled = tta.enabled and tta.strategy == "all_flips"
    axes = [dim for name, dim in _AXES.items() if enabled and name in tta.flip_axes]
    return tuple(chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count))


def flip(image: Float[Tensor, "*any x y z"], axes: Axes) -> Float[Tensor, "*any x y z"]:
    """Mirror along some axes; without axes, return the tensor itself and not a copy."""
    return image.flip(axes) if axes else image
