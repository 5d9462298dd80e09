"""Surface-dilation Dice losses: overlap of the boundaries of truth and prediction, dilated by a tolerance.

``volumetric_sddl`` blends it with ``dice_ce``, ``vessel_sddl`` with ``cldice``, itself a blend with ``dice_ce``.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from mist_ops.losses import Loss
from mist_ops.losses.morphology import boundary, dilated
from mist_ops.losses.objective import Prediction
from mist_ops.registry import LOSSES
from mist_ops.types import Size, Spacing

_EPSILON = 1e-6
_SAFETY = 1.25
_SPACE = (2, 3, 4)


def surface_dilation(prediction: Prediction) -> Float[Tensor, ""]:
    """One minus the soft Dice of the dilated boundaries, averaged over samples and labels.

    The tolerance is 1.25 times the longest edge of a voxel. Boundaries are dilated by it, in mm, along each axis.
    """
    assert prediction.spacing is not None
    kernel = dilation_kernel(prediction.spacing)
    truth, probabilities = (dilated(boundary(volumes), kernel) for volumes in prediction.foreground)
    overlap = 2 * (truth * probabilities).sum(_SPACE)
    return 1 - (overlap / (truth.sum(_SPACE) + probabilities.sum(_SPACE) + _EPSILON)).mean()


def dilation_kernel(spacing: Spacing) -> Size:
    """Edges in voxels of the box that covers the tolerance on both sides along x, y and z."""
    tolerance = _SAFETY * max(spacing)
    x, y, z = (2 * math.ceil(tolerance / length) + 1 for length in spacing)
    return x, y, z


# Not native: at coarser resolutions the tolerance would be two or four times as wide.
LOSSES.register("volumetric_sddl")(Loss(surface_dilation, needs={"spacing"}, blended_with="dice_ce", native=False))
LOSSES.register("vessel_sddl")(Loss(surface_dilation, needs={"spacing"}, blended_with="cldice", native=False))
