"""Soft Dice (Milletari et al., 3DV 2016) with squared terms, with and without cross-entropy."""

from __future__ import annotations

from jaxtyping import Float
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn.functional import cross_entropy

from mist_ops.losses import Loss
from mist_ops.losses.objective import Prediction
from mist_ops.registry import LOSSES

_EPSILON = 1e-6


def dice(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``sum (t - p)^2 / (sum t^2 + sum p^2 + 1e-6)`` over samples and classes.

    A class absent from the patch has a loss near 1 unless its probability is almost zero everywhere.
    """
    loss = DiceLoss(
        include_background=prediction.include_background, squared_pred=True, smooth_nr=_EPSILON, smooth_dr=_EPSILON
    )
    value: Tensor = loss(prediction.probabilities, prediction.truth)
    return value


def dice_ce(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``dice`` and the cross-entropy over all classes."""
    return 0.5 * dice(prediction) + 0.5 * cross_entropy(prediction.logits, prediction.truth)


LOSSES.register("dice")(Loss(dice))
LOSSES.register("dice_ce")(Loss(dice_ce))
