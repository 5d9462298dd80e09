"""Connected components of masks, and bounding boxes of labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Int64, UInt

from mist_ops.types import Box, LabelMap, Mask, Size

Connectivity = Literal[6, 18, 26]
"""Neighbors of a voxel: across faces (6), faces and edges (18), or faces, edges and corners (26)."""

ComponentMap = UInt[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Components:
    """The components of a mask, numbered from 1 in the order of their first voxels.

    Attributes:
        map: Number of the component of each voxel; 0 outside the mask.
        voxels: Size of each component in voxels; entry ``i`` belongs to component ``i + 1``.
    """

    map: ComponentMap
    voxels: Int64[np.ndarray, " component"]

    def __len__(self) -> int:
        return len(self.voxels)

    @cached_property
    def boxes(self) -> list[Box]:
        """Bounding box of each component, in the order of ``voxels``."""
        return list(label_boxes(self.map).values())


def components(mask: Mask, connectivity: Connectivity = 26) -> Components:
    """Label the connected components of a mask."""
    # cc3d scans the axis of its Fortran order first; seen transposed, an array in C order is numbered in C order.
    found, number = cc3d.connected_components(np.ascontiguousarray(mask).T, connectivity=connectivity, return_N=True)
    return measure_components(found.T, number)


def measure_components(found: ComponentMap, number: int) -> Components:
    """Measure the components of a map that numbers them from 1 to ``number``."""
    # Most labels have one component, which ``count_nonzero`` counts 100 times faster than ``bincount``.
    voxels = np.bincount(found[found != 0])[1:] if number > 1 else [np.count_nonzero(found)] * number
    return Components(found, np.asarray(voxels, dtype=np.int64))


def label_boxes(labels: LabelMap) -> dict[int, Box]:
    """Bounding box of each label above 0, by label in ascending order.

    Only the first and last voxels of a label along x are compared, a small share of all: on a CT of 6 million voxels
    and 31 labels this takes 4 ms, and ``scipy.ndimage.find_objects`` 16 ms.
    """
    if not labels.size:
        return {}
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
    low, high = zip(*(_ends(coordinates, first) for coordinates in np.unravel_index(where, labels.shape)), strict=True)
    boxes = (Box(*ends) for ends in zip(zip(*low, strict=True), zip(*high, strict=True), strict=True))
    return dict(zip(found[first].tolist(), boxes, strict=True))


def _ends(coordinates: Int64[np.ndarray, " voxel"], first: Int64[np.ndarray, " label"]) -> tuple[list[int], list[int]]:
    """Start and stop of each label along an axis."""
    return np.minimum.reduceat(coordinates, first).tolist(), (np.maximum.reduceat(coordinates, first) + 1).tolist()


def grown(box: Box, margin: int, size: Size) -> Box:
    """A box with a margin on every side, clipped to the array."""
    x, y, z = (max(0, start - margin) for start in box.start)
    end_x, end_y, end_z = (min(voxels, stop + margin) for stop, voxels in zip(box.stop, size, strict=True))
    return Box((x, y, z), (end_x, end_y, end_z))
