"""Kernels and strides of a U-Net from its patch size and spacing, and the patch sizes that it supports.

This is nnU-Net's rule (Isensee et al., Nature Methods 2021): an axis is halved only while its voxels are not much
longer than those of the finest axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mist_ops.errors import counted
from mist_ops.models import size_text, unsupported_patch_size
from mist_ops.types import Size, Spacing

MAX_HALVINGS = 5
MIN_SIZE_TO_HALVE = 8
MAX_SPACING_RATIO = 2.0
MIN_LEVELS = 4
"""Full resolution, two levels with deep supervision, and the bottleneck."""


@dataclass(frozen=True)
class Topology:
    """Kernels and strides of each level, from the full resolution (stride 1) down to the bottleneck."""

    kernels: tuple[Size, ...]
    strides: tuple[Size, ...]

    @property
    def reduction(self) -> Size:
        """Total stride along each axis; a patch size must be a multiple of it."""
        x, y, z = (math.prod(axis) for axis in zip(*self.strides, strict=True))
        return x, y, z


def topology(patch_size: Size, spacing: Spacing) -> Topology:
    """Return the kernels and strides for a patch size (voxels) and a spacing (mm).

    At each level the kernel is 3 along an axis whose voxels are at most twice as long as those of the finest axis, and
    1 along the others. An axis with kernel 3 is halved if at least 8 voxels are left. The bottleneck is reached after
    five halvings, or when no axis can be halved.
    """
    size, voxel = list(patch_size), list(spacing)
    kernels: list[Size] = []
    strides: list[Size] = [(1, 1, 1)]
    for _ in range(MAX_HALVINGS):
        near = [length / min(voxel) <= MAX_SPACING_RATIO for length in voxel]
        stride = [2 if is_near and n >= MIN_SIZE_TO_HALVE else 1 for is_near, n in zip(near, size, strict=True)]
        if max(stride) == 1:
            break
        kernels.append(_triple([3 if is_near else 1 for is_near in near]))
        strides.append(_triple(stride))
        size = [n // step for n, step in zip(size, stride, strict=True)]
        voxel = [length * step for length, step in zip(voxel, stride, strict=True)]
    return Topology((*kernels, (3, 3, 3)), tuple(strides))


def check_patch_size(patch_size: Size, spacing: Spacing) -> None:
    """Raise ``ConfigError`` for a patch size that the network does not support."""
    found = topology(patch_size, spacing)
    if _is_supported(patch_size, found):
        return
    levels = len(found.strides)
    reason = (
        f"gives a network of {counted(levels, 'level')}; at least {MIN_LEVELS} are needed"
        if levels < MIN_LEVELS
        else f"is not a multiple of {size_text(found.reduction)}"
    )
    smaller, larger = fit_patch_size(patch_size, spacing), _enlarged(patch_size, spacing)
    raise unsupported_patch_size(patch_size, reason, (smaller, larger))


def fit_patch_size(patch_size: Size, spacing: Spacing) -> Size:
    """Largest supported patch size of the same depth no larger than the one given.

    If the network would be too shallow, the finest axes are first raised to 32 voxels. This always suffices, since
    these axes are halved together and so remain the finest for three levels.
    """
    found = topology(patch_size, spacing)
    if len(found.strides) < MIN_LEVELS:
        return fit_patch_size(_raised(patch_size, spacing), spacing)
    # Rounding down does not change the topology, since the sizes of all levels are rounded down as well.
    return _triple([n // step * step for n, step in zip(patch_size, found.reduction, strict=True)])


def _enlarged(patch_size: Size, spacing: Spacing) -> Size:
    found = topology(patch_size, spacing)
    while not _is_supported(patch_size, found):
        shallow = len(found.strides) < MIN_LEVELS
        size = _raised(patch_size, spacing) if shallow else patch_size
        # A larger patch may be halved once more and then needs a larger multiple.
        found = topology(size, spacing)
        patch_size = _triple([math.ceil(n / step) * step for n, step in zip(size, found.reduction, strict=True)])
        found = topology(patch_size, spacing)
    return patch_size


def _raised(patch_size: Size, spacing: Spacing) -> Size:
    enough = MIN_SIZE_TO_HALVE * 2 ** (MIN_LEVELS - 2)
    fine = [length <= MAX_SPACING_RATIO * min(spacing) for length in spacing]
    return _triple([max(n, enough) if is_fine else n for n, is_fine in zip(patch_size, fine, strict=True)])


def _is_supported(patch_size: Size, found: Topology) -> bool:
    divisible = all(n % step == 0 for n, step in zip(patch_size, found.reduction, strict=True))
    return divisible and len(found.strides) >= MIN_LEVELS


def _triple(values: list[int]) -> Size:
    x, y, z = values
    return x, y, z
