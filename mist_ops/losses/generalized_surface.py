"""Generalized surface loss (Celaya et al., arXiv:2302.03868)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mist_ops.losses import Loss
from mist_ops.losses.objective import Prediction
from mist_ops.registry import LOSSES

_EPSILON = 1e-6
_SPACE = (2, 3, 4)


def generalized_surface(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``1 - sum (d (1 - (t + p)))^2 / (sum d^2 + 1e-6)`` over samples and labels."""
    truth, probabilities = prediction.foreground
    distances = prediction.distances
    matched = ((distances * (1 - (truth + probabilities))) ** 2).sum(_SPACE)
    return (1 - matched / ((distances**2).sum(_SPACE) + _EPSILON)).mean()


LOSSES.register("gsl")(Loss(generalized_surface, needs={"dtm"}, blended_with="dice_ce"))
