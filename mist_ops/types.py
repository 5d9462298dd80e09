"""Array types and axis conventions.

Arrays in canonical orientation are ``(x, y, z)`` in LPS voxel order (the index grows towards Left, Posterior,
Superior), with the channel last on disk and in ``imaging``. Tensors are ``(batch, channel, x, y, z)``. Spacings (mm)
and patch sizes (voxels) are in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Integer, Num

Size: TypeAlias = tuple[int, int, int]
"""Voxels along x, y, z."""

Spacing: TypeAlias = tuple[float, float, float]
"""Distance between voxel centers along x, y, z, in mm."""

Volume: TypeAlias = Num[np.ndarray, "x y z"]
Image: TypeAlias = Float32[np.ndarray, "x y z"]
Channels: TypeAlias = Float32[np.ndarray, "x y z channel"]
LabelMap: TypeAlias = Integer[np.ndarray, "x y z"]
Mask: TypeAlias = Bool[np.ndarray, "x y z"]

Json: TypeAlias = dict[str, Any]


def by(lengths: Iterable[int] | Iterable[float]) -> str:
    """Format a size or a spacing: ``64x64x32``."""
    return "x".join(f"{length:g}" if isinstance(length, float) else str(length) for length in lengths)


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels: ``start`` is inside it, ``stop`` is the first voxel outside."""

    start: Size
    stop: Size

    @property
    def size(self) -> Size:
        """Voxels along each axis."""
        x, y, z = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices that crop an ``(x, y, z)`` array to the box."""
        x, y, z = (slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))
        return x, y, z

    @classmethod
    def whole(cls, size: Size) -> Box:
        """The box of a whole volume."""
        return cls((0, 0, 0), size)
