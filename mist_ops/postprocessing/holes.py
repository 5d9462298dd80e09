"""Transforms of what a region encloses."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from mist_ops.imaging.components import components
from mist_ops.postprocessing import Region, Transform
from mist_ops.registry import TRANSFORMS
from mist_ops.types import LabelMap, Mask

FillLabel = Annotated[
    int,
    Field(
        ge=0, le=65535, description="Label that the voxels of holes get; 0 fills none, and only clears labels there."
    ),
]
Overwrite = Annotated[bool, Field(description="Whether other labels that lie in a hole are overwritten as well.")]


def fill_holes_with_label(
    region: Region, fill_holes_label: FillLabel = 0, overwrite_labels: Overwrite = False
) -> LabelMap:
    """Give the holes of a region a label: all voxels from which no path across faces leads around it out of the image.

    A voxel at the border of the image is in no hole. Of a hole only the background is filled, unless other labels are
    to be overwritten.
    """
    holes = find_holes(region.mask)
    if not overwrite_labels:
        holes &= region.labels == 0
    if not holes.any():
        return region.labels
    return region.relabeled(holes, fill_holes_label)


def find_holes(mask: Mask) -> Mask:
    """The voxels outside a mask that it encloses in three dimensions; none of an empty mask."""
    outside = components(~mask, connectivity=6)
    enclosed = np.ones(len(outside) + 1, dtype=bool)
    enclosed[0] = False
    for axis in range(3):
        for end in (0, -1):
            enclosed[outside.map.take(end, axis)] = False
    holes: Mask = enclosed[outside.map] if enclosed.any() else np.zeros_like(mask)
    return holes


TRANSFORMS.register("fill_holes_with_label")(
    Transform(
        fill_holes_with_label,
        "Fill the holes with a label.",
        idle_without=("fill_holes_label", "overwrite_labels"),
    )
)
