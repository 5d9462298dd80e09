"""Data augmentation of training patches: spatial and intensity transforms.

An augmentation draws only from the generator that it is given, so that a patch does not depend on the process that
creates it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float32, UInt8
from torch import Generator, Tensor

from mist_ops.registry import AUGMENTATIONS
from mist_ops.types import Spacing

AXES: Mapping[str, int] = {"x": 1, "y": 2, "z": 3}
"""The spatial dimensions of a patch's tensors."""

_ANISOTROPY = 3.0
"""An axis is coarse if its spacing is more than this times the smallest one."""


@dataclass(frozen=True)
class Patch:
    """A patch of a case: image channels, class indices and, if the loss needs them, distance maps.

    Attributes:
        image: Normalized intensities.
        label: Class indices.
        dtm: Signed distance map of each class.
        spacing: In mm.
        flip_axes: Those of x, y and z that may be flipped, for labels that do not distinguish left from right.
    """

    image: Float32[Tensor, "channel x y z"]
    label: UInt8[Tensor, "1 x y z"]
    dtm: Float32[Tensor, "class x y z"] | None = None
    spacing: Spacing = (1.0, 1.0, 1.0)
    flip_axes: tuple[str, ...] = ("x", "y", "z")

    @property
    def fine(self) -> tuple[bool, bool, bool]:
        """Whether each of x, y, z is fine enough for interpolation, unlike the axis across thick slices."""
        x, y, z = (width <= _ANISOTROPY * min(self.spacing) for width in self.spacing)
        return x, y, z

    def map(self, change: Callable[[Tensor], Tensor]) -> Patch:
        """Apply the same spatial change to image, label and distance maps."""
        return replace(
            self, image=change(self.image), label=change(self.label), dtm=None if self.dtm is None else change(self.dtm)
        )


Change: TypeAlias = Callable[[Patch, Generator], Patch]


@dataclass(frozen=True)
class Augmentation:
    """An entry of ``AUGMENTATIONS``.

    Attributes:
        change: Returns an augmented copy of a patch.
        order: Augmentations are applied in ascending order of this number.
        probability: Probability of being applied to a patch.
        keeps_distances: False if it scales the grid, which would make distances in voxels wrong; it is then skipped for
            patches with distance maps.
    """

    change: Change
    order: int
    probability: float
    keeps_distances: bool = True


def augment(patch: Patch, names: Iterable[str], generator: Generator) -> Patch:
    """Apply augmentations by name, each with its probability, in ascending ``order``.

    Raises:
        UnknownName: A name is not in ``AUGMENTATIONS``.
    """
    for augmentation in sorted((AUGMENTATIONS[name] for name in names), key=lambda augmentation: augmentation.order):
        applicable = augmentation.keeps_distances or patch.dtm is None
        if applicable and uniform(generator, 0.0, 1.0) < augmentation.probability:
            patch = augmentation.change(patch, generator)
    return patch


def uniform(generator: Generator, low: float, high: float) -> float:
    """Draw a number from ``[low, high)``."""
    return low + (high - low) * float(torch.rand((), generator=generator))
