"""Connected components of masks: where the pieces of a label lie, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Int64, UInt
from scipy import ndimage

from mist_ops.types import Mask

Connectivity = Literal[6, 18, 26]
"""Neighbors of a voxel: those across a face; across an edge as well; across a corner as well."""

EDGES = ndimage.generate_binary_structure(3, 2)
"""The neighborhood of 18, for dilation."""

ComponentMap = UInt[np.ndarray, "x y z"]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Components:
    """The pieces of a mask, numbered from 1 in the order of their first voxels.

    Attributes:
        map: The number of the component that each voxel belongs to; 0 outside the mask.
        voxels: Voxels of each component; entry ``i`` is that of component ``i + 1``.
        boxes: The box of each component, likewise.
    """

    map: ComponentMap
    voxels: Int64[np.ndarray, " component"]
    boxes: list[Slices]

    def __len__(self) -> int:
        return len(self.boxes)


def components(mask: Mask, connectivity: Connectivity = 26) -> Components:
    """Find the components of a mask; none of an empty one."""
    # cc3d scans the axis of its Fortran order first; seen transposed, an array in C order is numbered in C order.
    found = cc3d.connected_components(np.ascontiguousarray(mask).T, connectivity=connectivity).T
    return described(found, int(found.max(initial=0)))


def described(found: ComponentMap, number: int) -> Components:
    """Measure the components of a map that numbers them from 1 to ``number``."""
    if not number:
        return Components(found, np.zeros(0, dtype=np.int64), [])
    facts = cc3d.statistics(found, no_slice_conversion=False)
    boxes = [(box[0], box[1], box[2]) for box in facts["bounding_boxes"][1:]]
    return Components(found, facts["voxel_counts"][1:].astype(np.int64), boxes)


def grown(box: Slices, margin: int, size: tuple[int, ...]) -> Slices:
    """A box with a margin on every side, as far as the array goes."""
    x, y, z = (
        slice(max(0, span.start - margin), min(voxels, span.stop + margin))
        for span, voxels in zip(box, size, strict=True)
    )
    return x, y, z


def dilated(mask: Mask, iterations: int) -> Mask:
    """A mask with its 18-neighbors added so many times, within the array; as it is for 0."""
    # SciPy takes 0 for "until nothing changes".
    return ndimage.binary_dilation(mask, EDGES, iterations) if iterations else mask
