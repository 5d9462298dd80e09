"""Changes to a predicted mask: functions of a ``Region``, filed with what must be known about them.

A transform is one function of one region. Which labels make a region, alone or together, and in which order transforms
follow one another is a strategy's, in ``strategy``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mist_ops.types import LabelMap, Mask, Spacing


@dataclass(frozen=True)
class Region:
    """The voxels that a transform works on, in their box and one voxel around it as far as the image goes.

    So a face of the box holds no voxel of ``mask``, unless it is a face of the image.

    Attributes:
        labels: Everything in the box; not to be written to.
        mask: The label, or the labels taken together, that the transform is for.
        spacing: In mm.
    """

    labels: LabelMap
    mask: Mask
    spacing: Spacing

    @property
    def voxel_volume(self) -> float:
        """In mm³."""
        return math.prod(self.spacing)

    def relabeled(self, where: Mask, label: int) -> LabelMap:
        """The labels of the box with another one in some voxels, in a type that holds it."""
        labels = self.labels.astype(np.promote_types(self.labels.dtype, np.min_scalar_type(label)))
        labels[where] = label
        return labels


@dataclass(frozen=True)
class Transform:
    """An entry of ``TRANSFORMS``.

    The parameters of ``function`` after the region are those that a strategy may set; their annotations, with
    pydantic's ``Field`` for ranges and descriptions, are what it is checked against.

    Attributes:
        function: ``function(region, **params)`` returns the new labels of the box, or ``region.labels`` itself where
            nothing changes. Nothing beyond the box can change.
        description: What it does, for those who write strategies.
        per_label_only: Whether labels cannot be taken together.
        alternatives: Pairs of parameters of which a step may give one.
        idle_without: Parameters without any of which it changes nothing; a step that sets none is warned of.
    """

    function: Callable[..., LabelMap]
    description: str
    per_label_only: bool = False
    alternatives: tuple[tuple[str, str], ...] = ()
    idle_without: tuple[str, ...] = ()
