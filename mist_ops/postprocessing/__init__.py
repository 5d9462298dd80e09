"""Transforms of predicted masks: functions of a ``Region``.

A strategy (see ``strategy``) defines the labels that make a region, alone or together, and the order of the transforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mist_ops.types import LabelMap, Mask, Spacing


@dataclass(frozen=True)
class Region:
    """The voxels that a transform works on, in their bounding box with a margin of one voxel, clipped to the image.

    A face of the box holds no voxel of ``mask`` unless it is a face of the image.

    Attributes:
        labels: All labels in the box; read-only.
        mask: The label, or the labels taken together, to transform.
        spacing: Voxel spacing in mm.
    """

    labels: LabelMap
    mask: Mask
    spacing: Spacing

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return math.prod(self.spacing)

    def relabeled(self, where: Mask, label: int) -> LabelMap:
        """The labels of the box with some voxels set to ``label``, in a type that holds it."""
        labels = self.labels.astype(np.promote_types(self.labels.dtype, np.min_scalar_type(label)))
        labels[where] = label
        return labels


@dataclass(frozen=True)
class Transform:
    """An entry of ``TRANSFORMS``.

    The parameters of ``function`` after the region are those that a strategy may set; their annotations, with
    pydantic's ``Field`` for ranges and descriptions, validate the strategy.

    Attributes:
        function: ``function(region, **params)`` returns the new labels of the box, or ``region.labels`` itself if
            nothing changes. Voxels outside the box cannot change.
        description: What it does, for authors of strategies.
        per_label_only: Labels cannot be taken together.
        alternatives: Pairs of parameters that exclude each other.
        idle_without: Parameters of which at least one must be set to change anything; a step that sets none logs a
            warning.
    """

    function: Callable[..., LabelMap]
    description: str
    per_label_only: bool = False
    alternatives: tuple[tuple[str, str], ...] = ()
    idle_without: tuple[str, ...] = ()
