"""Random changes to training patches: a function each, filed with what must be known about it.

What moves voxels is in ``spatial``, what changes their values in ``intensity``. An augmentation draws from the
generator it is given and from nothing else, so that a patch is the same in whichever process it is made.
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
"""An axis is coarse if its spacing is more than this times the narrowest one."""


@dataclass(frozen=True)
class Patch:
    """A piece of a case: image channels, class indices and, where the loss needs them, distance maps.

    Attributes:
        image: Normalized intensities.
        label: Class indices.
        dtm: Signed distances to each class.
        spacing: In mm.
        flip_axes: Those of x, y and z that may be mirrored without making a left side a right one.
    """

    image: Float32[Tensor, "channel x y z"]
    label: UInt8[Tensor, "1 x y z"]
    dtm: Float32[Tensor, "class x y z"] | None = None
    spacing: Spacing = (1.0, 1.0, 1.0)
    flip_axes: tuple[str, ...] = ("x", "y", "z")

    @property
    def fine(self) -> tuple[bool, bool, bool]:
        """Whether each of x, y, z is fine enough to interpolate along: thick slices are far from one another."""
        x, y, z = (width <= _ANISOTROPY * min(self.spacing) for width in self.spacing)
        return x, y, z

    def map(self, change: Callable[[Tensor], Tensor]) -> Patch:
        """The same change of the grid made to image, label and distance maps alike."""
        return replace(
            self, image=change(self.image), label=change(self.label), dtm=None if self.dtm is None else change(self.dtm)
        )


Change: TypeAlias = Callable[[Patch, Generator], Patch]


@dataclass(frozen=True)
class Augmentation:
    """An entry of ``AUGMENTATIONS``.

    Attributes:
        change: Makes a changed copy of a patch.
        place: Augmentations are applied in ascending order of this, whatever order they are named in.
        probability: How often it is applied at all.
        keeps_distances: False if it scales the grid, so that distances in voxels would no longer be true; such an
            augmentation is left out for patches with distance maps.
    """

    change: Change
    place: int
    probability: float
    keeps_distances: bool = True


def augment(patch: Patch, names: Iterable[str], generator: Generator) -> Patch:
    """Apply the named augmentations, each with its probability, in the order of their ``place``.

    Raises:
        UnknownName: A name is in no registry; all there are is listed.
    """
    for augmentation in sorted((AUGMENTATIONS[name] for name in names), key=lambda augmentation: augmentation.place):
        possible = augmentation.keeps_distances or patch.dtm is None
        if possible and uniform(generator, 0.0, 1.0) < augmentation.probability:
            patch = augmentation.change(patch, generator)
    return patch


def uniform(generator: Generator, low: float, high: float) -> float:
    """One draw from ``[low, high)``."""
    return low + (high - low) * float(torch.rand((), generator=generator))
