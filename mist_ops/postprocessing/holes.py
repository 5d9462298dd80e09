"""Transforms that fill holes."""

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
        ge=0, le=65535, description="New label of the voxels of holes; 0 fills nothing and only removes other labels."
    ),
]
Overwrite = Annotated[bool, Field(description="Overwrite other labels inside a hole.")]


def fill_holes_with_label(
    region: Region, fill_holes_label: FillLabel = 0, overwrite_labels: Overwrite = False
) -> LabelMap:
    """Fill the holes of a region with a label: voxels without a path across faces to the border of the image.

    Only the background of a hole is filled, unless ``overwrite_labels`` is set. Voxels at the border of the image are
    never part of a hole.
    """
    holes = find_holes(region.mask)
    if not overwrite_labels:
        holes &= region.labels == 0
    if not holes.any():
        return region.labels
    return region.relabeled(holes, fill_holes_label)


def find_holes(mask: Mask) -> Mask:
    """The voxels that a mask encloses in three dimensions."""
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
        "Fill holes with a label.",
        idle_without=("fill_holes_label", "overwrite_labels"),
    )
)
