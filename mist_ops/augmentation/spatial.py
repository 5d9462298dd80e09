"""Spatial augmentations, applied to image, label and distance maps together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, interpolate

from mist_ops.augmentation import AXES, Augmentation, Patch, uniform
from mist_ops.registry import AUGMENTATIONS

Angles: TypeAlias = tuple[float, float, float]
"""Radians about x, y and z; positive angles rotate y to z, z to x and x to y."""

_LARGEST_ANGLE = math.radians(30.0)


def rotation(patch: Patch, generator: Generator) -> Patch:
    """Rotate by up to 30 degrees about each axis, within planes of fine axes only.

    The range is that of nnU-Net (Isensee et al., Nature Methods 18, 2021).
    """
    x, y, z = patch.fine
    a, b, c = (uniform(generator, -_LARGEST_ANGLE, _LARGEST_ANGLE) for _ in patch.fine)
    return rotate(patch, (a if y and z else 0.0, b if x and z else 0.0, c if x and y else 0.0))


def rotate(patch: Patch, angles: Angles) -> Patch:
    """Rotate about the center of the patch: about x, then y, then z, with angles in physical space.

    Images and distance maps are interpolated linearly, labels by nearest neighbor, all with edge padding. Distances are
    in voxels, so they remain valid if the axes of the rotation have the same spacing.
    """
    source = _source(patch, angles)
    # grid_sample takes coordinates from -1 to 1 between the outer edges, z first.
    size = patch.label.shape[1:]
    grid = torch.stack([at * (2 / n) + (1 / n - 1) for at, n in zip(source, size, strict=True)][::-1])
    # Stacking along the last dimension takes 12 ms longer.
    grid = grid.movedim(0, -1)[None]

    def linear(tensor: Float32[Tensor, "channel x y z"]) -> Float32[Tensor, "channel x y z"]:
        return grid_sample(tensor[None], grid, padding_mode="border", align_corners=False)[0]

    dtm = None if patch.dtm is None else linear(patch.dtm)
    return replace(patch, image=linear(patch.image), label=_nearest(patch.label, source), dtm=dtm)


def _source(patch: Patch, angles: Angles) -> tuple[Float32[Tensor, "x y z"], ...]:
    """Fractional source index along x, y and z of each voxel of the rotated patch."""
    size, inverse = patch.label.shape[1:], _matrix(angles).T.tolist()
    x, y, z = ((torch.arange(n) - (n - 1) / 2) * width for n, width in zip(size, patch.spacing, strict=True))
    return tuple(
        (a / width * x + (n - 1) / 2)[:, None, None] + (b / width * y)[:, None] + c / width * z
        for (a, b, c), width, n in zip(inverse, patch.spacing, size, strict=True)
    )


def _matrix(angles: Angles) -> Float32[Tensor, "3 3"]:
    (cx, cy, cz), (sx, sy, sz) = map(math.cos, angles), map(math.sin, angles)
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _nearest(label: UInt8[Tensor, "1 x y z"], source: tuple[Float32[Tensor, "x y z"], ...]) -> UInt8[Tensor, "1 x y z"]:
    """Nearest-neighbor labels by indexing, which takes 10 ms instead of the 53 ms of grid_sample."""
    index = torch.zeros(label.shape[1:], dtype=torch.int32)
    for at, n in zip(source, label.shape[1:], strict=True):
        index.mul_(n).add_(at.round().clamp_(0, n - 1).int())
    return label.flatten().index_select(0, index.flatten()).reshape(label.shape)


def zoom(patch: Patch, generator: Generator) -> Patch:
    """Zoom into the center of the patch by up to 1/0.7, equally along all fine axes.

    Images are interpolated linearly, which does not overshoot; a cubic spline over 128 voxels cubed takes 50 times as
    long (0.5 s) and needs clipping.
    """
    size = patch.image.shape[1:]
    scale = uniform(generator, 0.7, 1.0)
    kept = [round(scale * n) if fine else n for n, fine in zip(size, patch.fine, strict=True)]
    center = [slice((n - width) // 2, (n - width) // 2 + width) for n, width in zip(size, kept, strict=True)]

    def magnify(tensor: Shaped[Tensor, "channel x y z"], mode: str) -> Shaped[Tensor, "channel x y z"]:
        return interpolate(tensor[:, *center][None], size=size, mode=mode)[0]

    return replace(patch, image=magnify(patch.image, "trilinear"), label=magnify(patch.label, "nearest-exact"))


def flips(patch: Patch, generator: Generator) -> Patch:
    """Flip along each axis of ``flip_axes``, independently with probability 0.5."""
    drawn = [dim for axis, dim in AXES.items() if axis in patch.flip_axes and uniform(generator, 0.0, 1.0) < 0.5]
    return patch.map(lambda tensor: torch.flip(tensor, drawn))


AUGMENTATIONS.register("rotation")(Augmentation(rotation, order=5, probability=0.2))
AUGMENTATIONS.register("zoom")(Augmentation(zoom, order=10, probability=0.15, keeps_distances=False))
AUGMENTATIONS.register("flips")(Augmentation(flips, order=20, probability=1.0))
