"""Slabs: predict a volume that is too large for memory in parts, with the same windows as the whole volume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from monai.data.utils import dense_patch_slices

from mist_ops.types import Size

_WORTH_KEEPING = 1.25
"""Where no division fits, sums are kept if they need at most this much more than windows computed twice."""


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

    def size_in(self, size: Size) -> Size:
        """Size of the slab in a volume of this size."""
        x, y, z = (self.thickness if axis == self.axis else n for axis, n in enumerate(size))
        return x, y, z


@dataclass(frozen=True)
class Windows:
    """How a volume is covered by windows.

    Attributes:
        size: Of the volume.
        patch: Size of a window.
        overlap: Share of a window that overlaps with the next one.
        turns: Passes over the volume: one for each model and flip.
        mirrored: Whether some of them mirror the volume.
    """

    size: Size
    patch: Size
    overlap: float
    turns: int = 1
    mirrored: bool = False

    def starts(self, axis: int, mirrored: bool = False) -> tuple[int, ...]:
        """First voxel of each window along an axis, in ascending order; negative where the volume is padded.

        With ``mirrored``, the windows of the mirrored volume, in coordinates of the volume itself.
        """
        return _starts(self.size[axis], self.patch[axis], self.overlap, mirrored)

    def begun(self, slab: Slab, mirrored: bool) -> int:
        """Where the last window ends that begins before the end of a slab."""
        planes, patch = self.size[slab.axis], self.patch[slab.axis]
        last = max(start for start in self.starts(slab.axis, mirrored) if start < slab.stop)
        return max(slab.stop, min(last + patch, planes))


@dataclass(frozen=True)
class Division:
    """The slabs of a volume.

    Attributes:
        slabs: In order, along one axis.
        kept: Whether the sums of windows that reach into the next slab are kept for it; otherwise these windows are
            computed twice.
    """

    slabs: Sequence[Slab]
    kept: bool

    def bytes_needed(self, windows: Windows, n_classes: int) -> int:
        """Memory of the largest slab: its probabilities, logits stitched around it, and kept sums."""
        axis = self.slabs[0].axis
        plane = 4 * math.prod(windows.size) // windows.size[axis]
        kinds = {False, windows.mirrored}
        beyond = [max(windows.begun(slab, kind) for kind in kinds) - slab.stop for slab in self.slabs]
        needed = []
        for slab, after in zip(self.slabs, beyond, strict=True):
            before = 0 if self.kept else slab.start - min(_first_touching(windows, slab, kind) for kind in kinds)
            kept = windows.turns * max(beyond) if self.kept and len(self.slabs) > 1 else 0
            # Sums have a plane of weights besides the classes.
            sums = (before + slab.thickness + after + kept) * (n_classes + 1)
            needed.append(plane * (sums + slab.thickness * n_classes))
        return max(needed)


def divide(windows: Windows, n_classes: int, budget: int) -> Division:
    """Divide the longest axis into as few slabs as keep memory within a budget, or as near to it as possible.

    Sums are kept from slab to slab if that fits, too; or if nothing fits, and it takes little more.
    """
    least = Division([], kept=True), math.inf
    for kept in (True, False):
        for slabs in _divisions(windows):
            division = Division(slabs, kept)
            needed = division.bytes_needed(windows, n_classes)
            if needed <= budget:
                return division
            cost = needed if kept else _WORTH_KEEPING * needed
            if cost < least[1]:
                least = division, cost
    return least[0]


def _divisions(windows: Windows) -> Iterator[list[Slab]]:
    """One slab, two, and so on; they end where windows begin, so that few windows reach into the next one."""
    axis = max(range(3), key=windows.size.__getitem__)
    planes, step = windows.size[axis], _step(windows.patch[axis], windows.overlap)
    most = math.ceil(planes / step) if planes > windows.patch[axis] else 1
    for count in range(1, most + 1):
        ends = [*(round(planes * number / count / step) * step for number in range(1, count)), planes]
        yield [Slab(axis, start, stop) for start, stop in zip([0, *ends], ends, strict=False) if start < stop]


def _first_touching(windows: Windows, slab: Slab, mirrored: bool) -> int:
    patch = windows.patch[slab.axis]
    return max(0, min(start for start in windows.starts(slab.axis, mirrored) if start + patch > slab.start))


@lru_cache  # asked for each slab of each division
def _starts(voxels: int, patch: int, overlap: float, mirrored: bool) -> tuple[int, ...]:
    if voxels <= patch:
        before = (patch - voxels) // 2
        return (voxels - patch + before if mirrored else -before,)
    slices = dense_patch_slices((voxels,), (patch,), (_step(patch, overlap),))
    starts = [int(window.start) for (window,) in slices]
    return tuple(sorted(voxels - patch - start for start in starts) if mirrored else starts)


def _step(patch: int, overlap: float) -> int:
    return max(1, int(patch * (1 - overlap)))
