"""Soft Dice (Milletari et al., 3DV 2016) with squared terms, with and without cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from mist_ops.losses import Loss
from mist_ops.losses.objective import Prediction, one_hot
from mist_ops.registry import LOSSES

_EPSILON = 1e-6
_SPATIAL = (2, 3, 4)


def dice(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``sum (t - p)^2 / (sum t^2 + sum p^2 + 1e-6)`` over samples and classes.

    A class absent from the patch has a loss near 1 unless its probability is almost zero everywhere.
    """
    return _Overlap.loss(prediction, dice=1.0, cross_entropy=0.0)


def dice_ce(prediction: Prediction) -> Float[Tensor, ""]:
    """Mean of ``dice`` and the cross-entropy over all classes."""
    return _Overlap.loss(prediction, dice=0.5, cross_entropy=0.5)


class _Overlap(torch.autograd.Function):
    """Weighted sum of Dice and cross-entropy.

    Its gradient is computed from the logits and two numbers per class. Autograd would keep softmax, logarithm and
    products: 1.1 GiB for two patches of 64 voxels cubed and 118 classes.
    """

    @classmethod
    def loss(cls, prediction: Prediction, dice: float, cross_entropy: float) -> Tensor:
        first = 0 if prediction.include_background else 1
        arguments = (prediction.outputs, prediction.classes, first, dice, cross_entropy)
        value: Tensor = cls.apply(*arguments)  # type: ignore[no-untyped-call]
        return value

    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "batch class x y z"],
        classes: Integer[Tensor, "batch 1 x y z"],
        first: int,
        dice: float,
        cross_entropy: float,
    ) -> Tensor:
        """Return the loss; ``first`` is the first class of Dice."""
        truth = one_hot(classes, logits.shape[1])
        logarithm = _single(logits).log_softmax(dim=1)
        entropy = -logarithm.gather(1, classes.long()).mean()
        probabilities = logarithm.exp_()
        total = truth.sum(dim=_SPATIAL) + probabilities.square().sum(dim=_SPATIAL) + _EPSILON
        overlap = 2.0 * truth.mul_(probabilities).sum(dim=_SPATIAL) + _EPSILON
        ctx.save_for_backward(logits, classes, overlap, total)
        ctx.settings = first, dice, cross_entropy
        return dice * (1.0 - overlap / total)[:, first:].mean() + cross_entropy * entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient with respect to the logits."""
        logits, classes, overlap, total = ctx.saved_tensors
        first, dice, cross_entropy = ctx.settings
        truth, probabilities = one_hot(classes, logits.shape[1]), _single(logits).softmax(dim=1)
        # Of Dice with respect to a probability p of a class with truth t: by_p p - by_t t.
        scale = torch.full_like(total, 2.0 * dice / total[:, first:].numel())
        scale[:, :first] = 0.0
        by_t, by_p = ((scale * factor)[..., None, None, None] for factor in (1.0 / total, overlap / total**2))
        slope = (probabilities * by_p).addcmul_(truth, by_t, value=-1.0)
        slope.sub_((slope * probabilities).sum(dim=1, keepdim=True)).mul_(probabilities)
        share = cross_entropy / classes.numel()
        slope.add_(probabilities, alpha=share).sub_(truth, alpha=share)
        return slope.mul_(gradient).to(logits.dtype), None, None, None, None


def _single(logits: Tensor) -> Tensor:
    """The logits in at least single precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


LOSSES.register("dice")(Loss(dice))
LOSSES.register("dice_ce")(Loss(dice_ce))
