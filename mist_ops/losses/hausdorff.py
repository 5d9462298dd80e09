"""Hausdorff loss with one-sided distance maps (Karimi and Salcudean, IEEE TMI 2020)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mist_ops.losses import Loss
from mist_ops.losses.objective import Prediction
from mist_ops.registry import LOSSES


def hausdorff(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``(t - p)^2 d^2`` over the labels, with the distance maps of the truth."""
    truth, probabilities = prediction.foreground
    return ((truth - probabilities) ** 2 * prediction.distances**2).mean()


LOSSES.register("hdos")(Loss(hausdorff, needs={"dtm"}, blended_with="dice_ce"))
