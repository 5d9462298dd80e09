"""Spatial augmentations, applied to image, label and distance maps together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float32
from torch import Generator, Tensor

from mist_ops.augmentation import (
    Augmentation,
    Parameters,
    Patches,
    PatchInfo,
    SpatialAugmentation,
    uniform,
    upload,
)
from mist_ops.augmentation.resampling import Along, Coordinates
from mist_ops.registry import AUGMENTATIONS

_LARGEST_ANGLE = math.radians(30.0)
_DIMS = {"x": 2, "y": 3, "z": 4}
"""The spatial dimensions of a batch."""


def draw_angles(info: PatchInfo, generator: Generator) -> Parameters:
    """Draw up to 30 degrees about each axis, for planes of fine axes only.

    The range is that of nnU-Net (Isensee et al., Nature Methods 18, 2021).
    """
    x, y, z = info.fine
    a, b, c = (uniform(generator, -_LARGEST_ANGLE, _LARGEST_ANGLE) for _ in info.fine)
    return a if y and z else 0.0, b if x and z else 0.0, c if x and y else 0.0


def before_rotation(coordinates: Coordinates, angles: Sequence[Parameters], info: PatchInfo) -> Coordinates:
    """Rotate about the center of the patch: about x, then y, then z, with angles (radians) in physical space.

    Positive angles rotate y to z, z to x and x to y. Distances are in voxels, so they remain valid if the axes of the
    rotation have the same spacing.
    """
    ratios = torch.tensor([[other / width for other in info.spacing] for width in info.spacing])
    inverse = torch.stack([_matrix(about).T * ratios for about in angles])
    to_x, to_y, to_z = upload(inverse, coordinates[0].device)[..., None, None, None].unbind(1)
    return _combined(coordinates, to_x), _combined(coordinates, to_y), _combined(coordinates, to_z)


def _combined(coordinates: Coordinates, factors: Float32[Tensor, "patch 3 1 1 1"]) -> Along:
    x, y, z = (at * factor for at, factor in zip(coordinates, factors.unbind(1), strict=True))
    return x + y + z


def _matrix(angles: Parameters) -> Float32[Tensor, "3 3"]:
    (cx, cy, cz), (sx, sy, sz) = map(math.cos, angles), map(math.sin, angles)
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def draw_scale(info: PatchInfo, generator: Generator) -> Parameters:
    """Draw a part of the patch to magnify: from 0.7 to 1 of its width."""
    return (uniform(generator, 0.7, 1.0),)


def before_zoom(coordinates: Coordinates, scales: Sequence[Parameters], info: PatchInfo) -> Coordinates:
    """Zoom into the center of the patch, equally along all fine axes."""
    kept = [
        [round(scale * n) if fine else n for n, fine in zip(info.size, info.fine, strict=True)] for (scale,) in scales
    ]
    crops = upload(torch.tensor(kept), coordinates[0].device)[..., None, None, None].unbind(1)
    x, y, z = (_cropped(at, crop, n) for at, crop, n in zip(coordinates, crops, info.size, strict=True))
    return x, y, z


def _cropped(at: Along, crop: Tensor, n: int) -> Along:
    """Map ``n`` voxels to the ``crop`` voxels in the middle; if they cannot be centered, half a voxel before it."""
    shift, reach = (n - crop) % 2 / 2, (crop - 1) / 2
    return torch.minimum(torch.maximum(at * (crop / n) - shift, -reach - shift), reach - shift)


def draw_flips(info: PatchInfo, generator: Generator) -> Parameters:
    """Draw for each of x, y, z whether to flip it: each of ``flip_axes`` with probability 0.5."""
    x, y, z = (float(axis in info.flip_axes and uniform(generator, 0.0, 1.0) < 0.5) for axis in _DIMS)
    return x, y, z


def flip(patches: Patches, flips: Sequence[Parameters]) -> None:
    """Flip axes. As voxels only change places, this is exact, and not part of the interpolation."""
    for index, flipped in enumerate(flips):
        dims = [dim - 1 for dim, yes in zip(_DIMS.values(), flipped, strict=True) if yes]
        for tensor in (patches.image, patches.label, patches.dtm):
            if dims and tensor is not None:
                tensor[index] = tensor[index].flip(dims)


AUGMENTATIONS.register("rotation")(SpatialAugmentation(draw_angles, before_rotation, order=5, probability=0.2))
AUGMENTATIONS.register("zoom")(
    SpatialAugmentation(draw_scale, before_zoom, order=10, probability=0.15, keeps_distances=False)
)
AUGMENTATIONS.register("flips")(Augmentation(draw_flips, flip, order=20, probability=1.0))
