"""What counts as a lesion, and what as detected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """Settings of lesion matching.

    Attributes:
        connectivity: Neighbors that connect a component: 18 by faces and edges, or 26 by corners too.
        min_volume: Minimum volume in mm³ of a lesion that counts.
        exclusive: Exclude a lesion of exactly the minimum volume.
        dilation: Voxels by which a lesion is dilated, over faces and edges, to find the components that match it.
        consolidation: Voxels by which the truth is dilated before its components are labeled; lesions that then touch
            are one.
        penalty: Distance in mm of a missed lesion or a false positive; the diagonal of the whole image if None.
        empty_is_worst: Score the worst value if exactly one mask is empty, whatever the volumes.
        tolerance: Tolerance in mm of the surface Dice.
    """

    connectivity: Literal[18, 26]
    min_volume: float
    exclusive: bool
    dilation: int
    consolidation: int
    penalty: float | None
    empty_is_worst: bool
    tolerance: float

    def counts(self, volume: float) -> bool:
        """Whether a lesion of a volume in mm³ counts."""
        return volume > self.min_volume if self.exclusive else volume >= self.min_volume
