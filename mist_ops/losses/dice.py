"""Soft Dice (Milletari et al., 3DV 2016) with squared terms, with and without cross-entropy."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mist_ops.losses import Loss
from mist_ops.losses.objective import Prediction
from mist_ops.registry import LOSSES

_EPSILON = 1e-6
_SPATIAL = (2, 3, 4)


def dice(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``sum (t - p)^2 / (sum t^2 + sum p^2 + 1e-6)`` over samples and classes.

    A class absent from the patch has a loss near 1 unless its probability is almost zero everywhere.
    """
    members, probabilities = prediction.members, prediction.probabilities
    if not prediction.include_background:
        members, probabilities = members[:, 1:], probabilities[:, 1:]
    # As sums of products, which keep less for the gradient than the squared differences.
    both = (members * probabilities).sum(dim=_SPATIAL)
    squares = members.sum(dim=_SPATIAL) + probabilities.square().sum(dim=_SPATIAL)
    return (1.0 - (2.0 * both + _EPSILON) / (squares + _EPSILON)).mean()


def dice_ce(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``dice`` and the cross-entropy over all classes."""
    agreement = (prediction.members * prediction.log_probabilities).sum(dim=1).mean()
    return 0.5 * dice(prediction) - 0.5 * agreement


LOSSES.register("dice")(Loss(dice))
LOSSES.register("dice_ce")(Loss(dice_ce))
