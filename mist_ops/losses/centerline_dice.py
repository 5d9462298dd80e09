"""Centerline Dice loss (Shit et al., CVPR 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mist_ops.losses import Loss
from mist_ops.losses.morphology import skeleton
from mist_ops.losses.objective import Prediction
from mist_ops.registry import LOSSES

_ITERATIONS = 10
_SMOOTH = 1.0
_SPACE = (2, 3, 4)


def centerline_dice(prediction: Prediction) -> Float[Tensor, ""]:
    """One minus the harmonic mean of topology precision and sensitivity, averaged over samples and labels.

    A label that is absent and not predicted has loss 0.
    """
    truth, probabilities = prediction.foreground
    precision = _inside(skeleton(probabilities, _ITERATIONS), truth)
    sensitivity = _inside(skeleton(truth, _ITERATIONS), probabilities)
    return 1 - (2 * precision * sensitivity / (precision + sensitivity)).mean()


def _inside(centerlines: Tensor, masks: Tensor) -> Tensor:
    """Fraction of each centerline inside the mask."""
    return ((centerlines * masks).sum(_SPACE) + _SMOOTH) / (centerlines.sum(_SPACE) + _SMOOTH)


# Not native: subsampling would remove vessels that are one or two voxels wide.
LOSSES.register("cldice")(Loss(centerline_dice, blended_with="dice_ce", native=False))
