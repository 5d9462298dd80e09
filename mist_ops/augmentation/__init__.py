"""Data augmentation of training patches: spatial and intensity transforms of whole batches, on any device.

Parameters (angles, factors, seeds of noise) are drawn per patch on the CPU, from a generator of that patch. The
voxels are changed where the batch is. So the draws do not depend on devices, processes or the other patches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float32, UInt8
from torch import Generator, Tensor

from mist_ops.augmentation.resampling import Coordinates, linear, nearest
from mist_ops.registry import AUGMENTATIONS
from mist_ops.types import Size, Spacing

_ANISOTROPY = 3.0
"""An axis is coarse if its spacing is more than this times the smallest one."""


@dataclass(frozen=True)
class PatchInfo:
    """What is known of a patch before its voxels are read.

    Attributes:
        channels: Number of channels of the image.
        size: In voxels.
        spacing: In mm.
        flip_axes: Those of x, y and z that may be flipped, for labels that do not distinguish left from right.
        distances: Whether it has distance maps.
    """

    channels: int
    size: Size
    spacing: Spacing = (1.0, 1.0, 1.0)
    flip_axes: tuple[str, ...] = ("x", "y", "z")
    distances: bool = False

    @property
    def fine(self) -> tuple[bool, bool, bool]:
        """Whether each of x, y, z is fine enough for interpolation, unlike the axis across thick slices."""
        x, y, z = (width <= _ANISOTROPY * min(self.spacing) for width in self.spacing)
        return x, y, z


@dataclass(frozen=True)
class Patches:
    """A batch of patches: image channels, class indices and, if the loss needs them, distance maps.

    Attributes:
        image: Normalized intensities.
        label: Class indices.
        dtm: Signed distance map of each class.
        info: The same for all patches.
    """

    image: Float32[Tensor, "patch channel x y z"]
    label: UInt8[Tensor, "patch 1 x y z"]
    dtm: Float32[Tensor, "patch class x y z"] | None
    info: PatchInfo

    def part(self, which: slice) -> Patches:
        """Return consecutive patches as views; changing them in place changes these."""
        dtm = None if self.dtm is None else self.dtm[which]
        return replace(self, image=self.image[which], label=self.label[which], dtm=dtm)

    def column(self, values: Sequence[Sequence[float]]) -> Float32[Tensor, "patch number 1 1 1"]:
        """Return numbers of each patch, one for all channels or one for each, where the patches are."""
        return upload(torch.tensor(values), self.image.device)[..., None, None, None]


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy small tensors to a device, through pinned memory, so that the CPU does not wait for a GPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


Parameters: TypeAlias = tuple[float, ...]
"""What an augmentation draws for a patch. Integers among them are below 2**53."""

Drawn: TypeAlias = dict[str, Parameters]
"""The augmentations that apply to a patch, by name in ascending ``order``, with their parameters."""


@dataclass(frozen=True)
class Augmentation:
    """An entry of ``AUGMENTATIONS``.

    Attributes:
        draw: Returns the parameters for a patch.
        change: Changes patches in place, given the parameters of each.
        order: Augmentations are applied in ascending order of this number.
        probability: Probability of being applied to a patch.
        keeps_distances: False if it scales the grid, which would make distances in voxels wrong; it is then skipped for
            patches with distance maps.
    """

    draw: Callable[[PatchInfo, Generator], Parameters]
    change: Callable[[Patches, Sequence[Parameters]], None]
    order: int
    probability: float
    keeps_distances: bool = True


@dataclass(frozen=True)
class SpatialAugmentation:
    """An entry of ``AUGMENTATIONS`` that interpolates. All that apply to a patch are one interpolation, before others.

    Images and distance maps are interpolated linearly, labels by nearest neighbor, with edge padding.

    Attributes:
        draw: Returns the parameters for a patch.
        source: Maps coordinates after the augmentation to coordinates before it, given the parameters of each patch.
        order: Augmentations are applied in ascending order of this number.
        probability: Probability of being applied to a patch.
        keeps_distances: As in ``Augmentation``.
    """

    draw: Callable[[PatchInfo, Generator], Parameters]
    source: Callable[[Coordinates, Sequence[Parameters], PatchInfo], Coordinates]
    order: int
    probability: float
    keeps_distances: bool = True


def draw(names: Iterable[str], info: PatchInfo, generator: Generator) -> Drawn:
    """Draw which augmentations apply to a patch, each with its probability, and their parameters.

    Raises:
        UnknownName: A name is not in ``AUGMENTATIONS``.
    """
    drawn: Drawn = {}
    for name in sorted(names, key=_order):
        augmentation = AUGMENTATIONS[name]
        applicable = augmentation.keeps_distances or not info.distances
        if applicable and uniform(generator, 0.0, 1.0) < augmentation.probability:
            drawn[name] = augmentation.draw(info, generator)
    return drawn


@torch.no_grad()
def augment(patches: Patches, drawn: Sequence[Drawn]) -> None:
    """Change patches in place as drawn for each of them."""
    spatial = [tuple(name for name in patch if _is_spatial(name)) for patch in drawn]
    for names, part in _runs(spatial):
        if names:
            _resample(patches.part(part), names, drawn[part])
    others = {name for patch in drawn for name in patch if not _is_spatial(name)}
    for name in sorted(others, key=_order):
        augmentation = AUGMENTATIONS[name]
        assert isinstance(augmentation, Augmentation)
        for applies, part in _runs([name in patch for patch in drawn]):
            if applies:
                augmentation.change(patches.part(part), [patch[name] for patch in drawn[part]])


def uniform(generator: Generator, low: float, high: float) -> float:
    """Draw a number from ``[low, high)``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def _resample(patches: Patches, names: Sequence[str], drawn: Sequence[Drawn]) -> None:
    """Apply spatial augmentations as one interpolation."""
    device, size = patches.image.device, patches.info.size
    x, y, z = (torch.arange(n, device=device) - (n - 1) / 2 for n in size)
    coordinates: Coordinates = (x[None, :, None, None], y[None, None, :, None], z[None, None, None])
    for name in reversed(names):
        augmentation = AUGMENTATIONS[name]
        assert isinstance(augmentation, SpatialAugmentation)
        coordinates = augmentation.source(coordinates, [patch[name] for patch in drawn], patches.info)
    patches.image.copy_(linear(patches.image, coordinates))
    patches.label.copy_(nearest(patches.label, coordinates))
    if patches.dtm is not None:
        patches.dtm.copy_(linear(patches.dtm, coordinates))


def _is_spatial(name: str) -> bool:
    return isinstance(AUGMENTATIONS[name], SpatialAugmentation)


def _order(name: str) -> tuple[int, str]:
    return AUGMENTATIONS[name].order, name


Key = TypeVar("Key", bound=Hashable)


def _runs(keys: Sequence[Key]) -> Iterator[tuple[Key, slice]]:
    """Group consecutive patches with equal keys. Such a run is a view of the batch, which is changed without copies."""
    start = 0
    for key, run in groupby(keys):
        stop = start + len(list(run))
        yield key, slice(start, stop)
        start = stop
