"""How deep a U-Net goes and along which axes it halves, and so which patches it can take.

Shared by every family whose kernels and strides follow the patch and the spacing: nnU-Net's rule (Isensee et al.,
Nature Methods 2021), which halves an axis only while its voxels are not much longer than those of the finest axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mist_ops.errors import ConfigError
from mist_ops.types import Size, Spacing

MAX_HALVINGS = 5
MIN_SIZE_TO_HALVE = 8
MAX_SPACING_RATIO = 2.0
MIN_LEVELS = 4
"""The full resolution, two with deep supervision, and the bottleneck."""


@dataclass(frozen=True)
class Topology:
    """Kernels and strides of each level, from the full resolution (stride 1) down to the bottleneck."""

    kernels: tuple[Size, ...]
    strides: tuple[Size, ...]

    @property
    def reduction(self) -> Size:
        """By how much each axis shrinks down to the bottleneck; a patch must be a multiple of it."""
        x, y, z = (math.prod(axis) for axis in zip(*self.strides, strict=True))
        return x, y, z


def topology(patch_size: Size, spacing: Spacing) -> Topology:
    """Kernels and strides for a patch (voxels) with a spacing (mm).

    At each level an axis takes part if its voxels are at most twice as long as those of the finest axis: its kernel is
    then 3, otherwise 1. It is halved if it takes part and has 8 voxels left. After five halvings, or when no axis can
    be halved, the bottleneck is reached.
    """
    size, voxel = list(patch_size), list(spacing)
    kernels: list[Size] = []
    strides: list[Size] = [(1, 1, 1)]
    for _ in range(MAX_HALVINGS):
        near = [length / min(voxel) <= MAX_SPACING_RATIO for length in voxel]
        stride = [2 if takes_part and n >= MIN_SIZE_TO_HALVE else 1 for takes_part, n in zip(near, size, strict=True)]
        if max(stride) == 1:
            break
        kernels.append(_triple([3 if takes_part else 1 for takes_part in near]))
        strides.append(_triple(stride))
        size = [n // step for n, step in zip(size, stride, strict=True)]
        voxel = [length * step for length, step in zip(voxel, stride, strict=True)]
    return Topology((*kernels, (3, 3, 3)), tuple(strides))


def check_patch_size(patch_size: Size, spacing: Spacing) -> None:
    """Raise ``ConfigError`` for a patch that the network cannot take, naming the nearest ones that it can."""
    wanted = topology(patch_size, spacing)
    if _is_legal(patch_size, wanted):
        return
    smaller, larger = fit_patch_size(patch_size, spacing), _enlarged(patch_size, spacing)
    reason = (
        f"gives a network of {len(wanted.strides)} levels, but it needs {MIN_LEVELS}"
        if len(wanted.strides) < MIN_LEVELS
        else f"is no multiple of {_words(wanted.reduction)}"
    )
    allowed = " or ".join(dict.fromkeys((_words(smaller), _words(larger))))
    raise ConfigError(f"The patch size {_words(patch_size)} {reason}. Use {allowed}.")


def fit_patch_size(patch_size: Size, spacing: Spacing) -> Size:
    """The largest legal patch of the same depth that lies inside the one given.

    Where the network would be too shallow, the finest axes are first raised to 32 voxels, which always suffices: those
    axes are halved together and so stay the finest for three levels, whatever the others do.
    """
    found = topology(patch_size, spacing)
    if len(found.strides) < MIN_LEVELS:
        return fit_patch_size(_raised(patch_size, spacing), spacing)
    # Rounding down changes no size that the rule looks at, for the sizes of all levels are rounded down as well.
    return _triple([n // step * step for n, step in zip(patch_size, found.reduction, strict=True)])


def _enlarged(patch_size: Size, spacing: Spacing) -> Size:
    found = topology(patch_size, spacing)
    while not _is_legal(patch_size, found):
        shallow = len(found.strides) < MIN_LEVELS
        size = _raised(patch_size, spacing) if shallow else patch_size
        # A larger patch may be halved once more, and then needs a larger multiple.
        found = topology(size, spacing)
        patch_size = _triple([math.ceil(n / step) * step for n, step in zip(size, found.reduction, strict=True)])
        found = topology(patch_size, spacing)
    return patch_size


def _raised(patch_size: Size, spacing: Spacing) -> Size:
    enough = MIN_SIZE_TO_HALVE * 2 ** (MIN_LEVELS - 2)
    fine = [length <= MAX_SPACING_RATIO * min(spacing) for length in spacing]
    return _triple([max(n, enough) if is_fine else n for n, is_fine in zip(patch_size, fine, strict=True)])


def _is_legal(patch_size: Size, found: Topology) -> bool:
    divisible = all(n % step == 0 for n, step in zip(patch_size, found.reduction, strict=True))
    return divisible and len(found.strides) >= MIN_LEVELS


def _triple(values: list[int]) -> Size:
    x, y, z = values
    return x, y, z


def _words(size: Size) -> str:
    return "x".join(map(str, size))
