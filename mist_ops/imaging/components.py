"""Connected components of masks: where the pieces of a label lie, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Int64, UInt
from scipy import ndimage

from mist_ops.types import LabelMap, Mask

Connectivity = Literal[6, 18, 26]
"""Neighbors of a voxel: those across a face; across an edge as well; across a corner as well."""

ComponentMap = UInt[np.ndarray, "x y z"]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Components:
    """The pieces of a mask, numbered from 1 in the order of their first voxels.

    Attributes:
        map: The number of the component that each voxel belongs to; 0 outside the mask.
        voxels: Voxels of each component; entry ``i`` is that of component ``i + 1``.
    """

    map: ComponentMap
    voxels: Int64[np.ndarray, " component"]

    def __len__(self) -> int:
        return len(self.voxels)

    @cached_property
    def boxes(self) -> list[Slices]:
        """The box of each component, in the order of ``voxels``."""
        found = ndimage.find_objects(self.map, max_label=len(self)) if len(self) else []
        return [(box[0], box[1], box[2]) for box in found]


def components(mask: Mask, connectivity: Connectivity = 26) -> Components:
    """Find the components of a mask; none of an empty one."""
    # cc3d scans the axis of its Fortran order first; seen transposed, an array in C order is numbered in C order.
    found, number = cc3d.connected_components(np.ascontiguousarray(mask).T, connectivity=connectivity, return_N=True)
    return described(found.T, number)


def described(found: ComponentMap, number: int) -> Components:
    """Measure the components of a map that numbers them from 1 to ``number``."""
    # Most labels are in one piece, and counting that takes a hundredth of the time of counting by number.
    voxels = np.bincount(found[found != 0])[1:] if number > 1 else [np.count_nonzero(found)] * number
    return Components(found, np.asarray(voxels, dtype=np.int64))


def label_boxes(labels: LabelMap) -> dict[int, Slices]:
    """The box of each label above 0, by label in ascending order.

    Only where a label begins or ends along x can it reach its box, which is a small share of the voxels: on a CT of
    6 million voxels and 31 labels this takes 4 ms instead of the 16 ms of ``scipy.ndimage.find_objects``.
    """
    rows = np.ascontiguousarray(labels).reshape(len(labels), -1)
    ends, changes = rows != 0, rows[1:] != rows[:-1]
    ends[1:-1] &= changes[1:] | changes[:-1]
    where = np.flatnonzero(ends)
    if not where.size:
        return {}
    found = rows.ravel()[where]
    order = np.argsort(found, kind="stable")
    found, where = found[order], where[order]
    first = np.flatnonzero(np.concatenate([[True], found[1:] != found[:-1]]))
    x, y, z = (_spans(coordinates, first) for coordinates in np.unravel_index(where, labels.shape))
    return dict(zip(found[first].tolist(), zip(x, y, z, strict=True), strict=True))


def _spans(coordinates: Int64[np.ndarray, " voxel"], first: Int64[np.ndarray, " label"]) -> list[slice]:
    lowest, highest = (reduce(coordinates, first).tolist() for reduce in (np.minimum.reduceat, np.maximum.reduceat))
    return [slice(low, high + 1) for low, high in zip(lowest, highest, strict=True)]


def grown(box: Slices, margin: int, size: tuple[int, ...]) -> Slices:
    """A box with a margin on every side, as far as the array goes."""
    x, y, z = (
        slice(max(0, span.start - margin), min(voxels, span.stop + margin))
        for span, voxels in zip(box, size, strict=True)
    )
    return x, y, z
