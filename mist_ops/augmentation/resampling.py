"""Interpolation of batches of patches at given coordinates, with edge padding."""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample

Along: TypeAlias = Float32[Tensor, "#patch #x #y #z"]
"""Position along one axis of each voxel, in voxels from the center of its patch; it broadcasts to all voxels."""

Coordinates: TypeAlias = tuple[Along, Along, Along]
"""Positions along x, y and z. While every axis depends on itself alone, they are vectors along it."""


def linear(
    patches: Float32[Tensor, "patch channel x y z"], coordinates: Coordinates
) -> Float32[Tensor, "patch channel x y z"]:
    """Interpolate linearly."""
    if _separable(patches, coordinates):
        # Half the time of grid_sample on a CPU, and the rounding of interpolate.
        for dim, at in enumerate(coordinates, start=2):
            patches = _along_axis(patches, at, dim)
        return patches
    size = patches.shape[2:]
    # Stacking along the last dimension takes 12 ms longer for 128 voxels cubed.
    grid = torch.stack([at.expand(len(patches), *size) for at in reversed(coordinates)], dim=1)
    # grid_sample takes coordinates from -1 to 1 between the outer edges, z first.
    for at, n in zip(grid.unbind(1), reversed(size), strict=True):
        at.mul_(2 / n)
    return grid_sample(patches, grid.movedim(1, -1), padding_mode="border", align_corners=False)


def nearest(
    patches: UInt8[Tensor, "patch channel x y z"], coordinates: Coordinates
) -> UInt8[Tensor, "patch channel x y z"]:
    """Interpolate by nearest neighbor."""
    size = patches.shape[2:]
    indices = [(at + n / 2).floor_().clamp_(0, n - 1).int()[:, None] for at, n in zip(coordinates, size, strict=True)]
    if _separable(patches, coordinates):
        for dim, index in enumerate(indices, start=2):
            patches = _picked(patches, index.long(), dim)
        return patches
    # Indexing takes 10 ms for 128 voxels cubed, and grid_sample 53 ms.
    x, y, z = indices
    flat = ((x * size[1] + y) * size[2] + z).long().expand_as(patches)
    return patches.flatten(2).gather(2, flat.flatten(2)).reshape(patches.shape)


def _separable(patches: Tensor, coordinates: Coordinates) -> bool:
    return all(at[0].numel() == n for at, n in zip(coordinates, patches.shape[2:], strict=True))


def _along_axis(patches: Tensor, at: Along, dim: int) -> Tensor:
    n = patches.shape[dim]
    index = (at + (n - 1) / 2).clamp_(0, n - 1)[:, None]
    low = index.floor()
    before, after = low.long(), (low.long() + 1).clamp_(max=n - 1)
    return torch.lerp(_picked(patches, before, dim), _picked(patches, after, dim), index - low)


def _picked(patches: Tensor, index: Tensor, dim: int) -> Tensor:
    """Pick voxels along one axis. Whole rows of a single patch are copied in a third of the time."""
    if len(patches) == 1 and dim < patches.dim() - 1:
        return patches.index_select(dim, index.flatten())
    return patches.gather(dim, index.expand_as(patches))
