"""Boundary loss (Kervadec et al., Medical Image Analysis 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mist_ops.losses import Loss
from mist_ops.losses.objective import Prediction
from mist_ops.registry import LOSSES


def boundary(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of distance map times probability over the labels, negative where the probability is inside the truth."""
    _, probabilities = prediction.foreground
    return (prediction.distances * probabilities).mean()


LOSSES.register("bl")(Loss(boundary, needs={"dtm"}, blended_with="dice_ce"))
