"""Slabs: predict a volume that is too large for memory in parts, with the same windows as the whole volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai.data.utils import dense_patch_slices

from mist_ops.types import Size


@dataclass(frozen=True)
class Slab:
    """The planes from ``start`` to ``stop`` (exclusive) of a volume, along axis 0, 1 or 2."""

    axis: int
    start: int
    stop: int

    @property
    def thickness(self) -> int:
        """Number of planes."""
        return self.stop - self.start

    def mirrored(self, planes: int) -> Slab:
        """The slab in the mirrored volume, given its number of planes."""
        return Slab(self.axis, planes - self.stop, planes - self.start)

    def size_in(self, size: Size) -> Size:
        """Size of the slab in a volume of this size."""
        x, y, z = (self.thickness if axis == self.axis else n for axis, n in enumerate(size))
        return x, y, z


def reach(slab: Slab, planes: int, patch: int, overlap: float) -> Slab:
    """The smallest slab that contains all windows of the whole volume that overlap with the given one.

    Its own windows have the same positions as in the whole volume, so stitching gives the same values.
    """
    if planes <= patch:
        return Slab(slab.axis, 0, planes)
    windows = [int(window.start) for (window,) in dense_patch_slices((planes,), (patch,), (_step(patch, overlap),))]
    touching = [start for start in windows if start + patch > slab.start and start < slab.stop]
    return Slab(slab.axis, touching[0], touching[-1] + patch)


def divide(size: Size, patch: Size, overlap: float, n_classes: int, budget: int) -> list[Slab]:
    """Divide the longest axis into as few slabs as keep ``slab_bytes`` within a budget, or into the thinnest ones.

    Slabs end where windows begin, so that few windows are computed twice.
    """
    axis = max(range(3), key=size.__getitem__)
    planes, step = size[axis], _step(patch[axis], overlap)
    slabs = [Slab(axis, 0, planes)]
    for count in range(2, max(planes - patch[axis], 0) // step + 2):
        if slab_bytes(slabs, size, patch, overlap, n_classes) <= budget:
            break
        ends = [*(round(planes * number / count / step) * step for number in range(1, count)), planes]
        slabs = [Slab(axis, start, stop) for start, stop in zip([0, *ends], ends, strict=False) if start < stop]
    return slabs


def slab_bytes(slabs: Sequence[Slab], size: Size, patch: Size, overlap: float, n_classes: int) -> int:
    """Memory of the largest slab in bytes: its summed probabilities, and logits stitched over its reach."""
    plane = math.prod(size) // size[slabs[0].axis]
    return max(4 * n_classes * plane * planes for planes in _planes_in_memory(slabs, size, patch, overlap))


def _planes_in_memory(slabs: Sequence[Slab], size: Size, patch: Size, overlap: float) -> list[int]:
    axis = slabs[0].axis
    seen = [
        max(reach(turned, size[axis], patch[axis], overlap).thickness for turned in (slab, slab.mirrored(size[axis])))
        for slab in slabs
    ]
    return [slab.thickness + planes for slab, planes in zip(slabs, seen, strict=True)]


def _step(patch: int, overlap: float) -> int:
    return max(1, int(patch * (1 - overlap)))
