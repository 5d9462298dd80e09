"""Connected components of a mask, one by one or several together, as pairs that metrics take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np

from mist_ops.imaging.components import ComponentMap, Components
from mist_ops.imaging.foreground import union_box
from mist_ops.metrics.pair import MaskPair
from mist_ops.metrics.surfels import Surface, surface
from mist_ops.types import Box, Mask, Spacing


@dataclass(frozen=True, eq=False)
class Region:
    """One or more components of a mask, in their common bounding box."""

    map: ComponentMap
    members: tuple[int, ...]
    box: Box
    voxels: int
    spacing: Spacing

    def mask(self, box: Box) -> Mask:
        """Its voxels within a box."""
        near = self.map[box.slices]
        found: Mask = near == self.members[0] if len(self.members) == 1 else np.isin(near, self.members)
        return found

    @cached_property
    def surface(self) -> Surface:
        """Its surface elements."""
        found = surface(self.mask(self.box), self.spacing)
        return Surface(found.corners + self.box.start, found.areas)


class RegionPair(MaskPair):
    """A lesion and the components that match it, each in its own box.

    A prediction that covers the whole brain matches every lesion in it. Masks in the common box and the surface of the
    prediction would then be computed and kept for each lesion.
    """

    def __init__(self, truth: Region, prediction: Region, diagonal: float) -> None:
        self.regions = truth, prediction
        self.spacing, self.diagonal = truth.spacing, diagonal
        self.memory = {}

    @cached_property
    def truth(self) -> Mask:  # type: ignore[override]
        """The lesion in the common box."""
        return self.regions[0].mask(self._box)

    @cached_property
    def prediction(self) -> Mask:  # type: ignore[override]
        """The components that match it in the common box."""
        return self.regions[1].mask(self._box)

    @property
    def _box(self) -> Box:
        return union_box(*(region.box for region in self.regions))

    @cached_property
    def truth_voxels(self) -> int:
        """Number of voxels of the lesion."""
        return self.regions[0].voxels

    @cached_property
    def prediction_voxels(self) -> int:
        """Number of voxels of the components that match it."""
        return self.regions[1].voxels

    @cached_property
    def shared_voxels(self) -> int:
        """Number of voxels in both."""
        truth, prediction = self.regions
        return int(np.count_nonzero(truth.mask(truth.box) & prediction.mask(truth.box)))

    @cached_property
    def truth_surface(self) -> Surface:
        """Surface elements of the lesion."""
        return self.regions[0].surface

    @cached_property
    def prediction_surface(self) -> Surface:
        """Surface elements of the components that match it."""
        return self.regions[1].surface


@dataclass(frozen=True)
class Regions:
    """The components of a mask as regions."""

    components: Components
    spacing: Spacing
    known: dict[tuple[int, ...], Region] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.components)

    def volume(self, index: int) -> float:
        """Volume of a component in mm³."""
        return int(self.components.voxels[index - 1]) * math.prod(self.spacing)

    def region(self, members: Sequence[int]) -> Region:
        """Components together; equal members give the same object, so that its surface is computed once."""
        key = tuple(members)
        if key not in self.known:
            box = reduce(union_box, (self.components.boxes[index - 1] for index in key))
            voxels = int(sum(self.components.voxels[index - 1] for index in key))
            self.known[key] = Region(self.components.map, key, box, voxels, self.spacing)
        return self.known[key]
