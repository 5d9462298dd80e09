"""Training objective: a loss applied to the outputs of a network.

Everything that losses share is here: softmax, one-hot truth, background, composite losses and deep supervision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.functional import interpolate

from mist_ops.losses import Loss
from mist_ops.losses.deep_supervision import head_weights, subsample
from mist_ops.registry import LOSSES
from mist_ops.types import Spacing


@dataclass(frozen=True)
class Prediction:
    """Input of a loss.

    Attributes:
        outputs: Output of the network, in its precision.
        classes: Class indices at the same resolution.
        dtm: Signed distance map per class, if the loss needs one.
        spacing: Voxel spacing in mm, if the loss needs it.
        include_background: Whether overlap terms include class 0. Cross-entropy always does.
    """

    outputs: Float[Tensor, "batch class x y z"]
    classes: Integer[Tensor, "batch 1 x y z"]
    dtm: Float[Tensor, "batch class x y z"] | None = None
    spacing: Spacing | None = None
    include_background: bool = True

    @property
    def logits(self) -> Float[Tensor, "batch class x y z"]:
        """Output of the network, as FP32."""
        return self.outputs.float()

    @property
    def probabilities(self) -> Float[Tensor, "batch class x y z"]:
        """Softmax over the classes."""
        return self.logits.softmax(dim=1)

    @property
    def truth(self) -> Float[Tensor, "batch class x y z"]:
        """One-hot truth."""
        return one_hot(self.classes, self.outputs.shape[1])

    @property
    def foreground(self) -> tuple[Float[Tensor, "batch label x y z"], Float[Tensor, "batch label x y z"]]:
        """Truth and probabilities without the background, which boundary and topology terms ignore."""
        return self.truth[:, 1:], self.probabilities[:, 1:]

    @property
    def distances(self) -> Float[Tensor, "batch label x y z"]:
        """Distance maps without the background."""
        assert self.dtm is not None
        return self.dtm[:, 1:]


@dataclass(frozen=True)
class Objective:
    """A loss with the settings of a study; see ``make_objective``."""

    loss: Loss
    spacing: Spacing | None = None
    include_background: bool = True

    def __call__(
        self,
        outputs: Sequence[Float[Tensor, "batch class ..."]],
        classes: Integer[Tensor, "batch 1 x y z"],
        dtm: Float[Tensor, "batch class x y z"] | None = None,
        alpha: float = 0.5,
    ) -> Float[Tensor, ""]:
        """Return the weighted mean of the loss over the outputs.

        Args:
            outputs: Logits per head, finest first.
            classes: Class indices at the resolution of the first head.
            dtm: Signed distance maps at that resolution.
            alpha: Weight of the ``blended_with`` term of a composite loss; its own term has ``1 - alpha``.
        """
        if classes.shape != (outputs[0].shape[0], 1, *outputs[0].shape[2:]):
            raise ValueError(f"Logits {tuple(outputs[0].shape)} and classes {tuple(classes.shape)} do not match.")
        if "dtm" in self.loss.needs and dtm is None:
            raise ValueError("This loss needs distance maps (dtm), but the batch has none.")
        total = torch.zeros((), device=classes.device)
        for weight, logits in zip(head_weights(len(outputs)), outputs, strict=True):
            total = total + weight * self._at(logits, classes, dtm, alpha)
        return total

    def _at(self, logits: Tensor, classes: Tensor, dtm: Tensor | None, alpha: float) -> Tensor:
        """Loss of one output, which may be coarser than the truth."""
        if not self.loss.native and logits.shape[2:] != classes.shape[2:]:
            logits = interpolate(logits.float(), size=classes.shape[2:], mode="trilinear")
        size = logits.shape[2:]
        distances = None if dtm is None or "dtm" not in self.loss.needs else subsample(dtm, size)
        prediction = _prediction(logits, subsample(classes, size), distances, self.spacing, self.include_background)
        return _blended(self.loss, prediction, alpha)


def _blended(loss: Loss, prediction: Prediction, alpha: float) -> Tensor:
    """Value of a possibly composite loss; terms with weight 0 are not computed."""
    if loss.blended_with is None:
        own: Tensor = loss.function(prediction)
        return own
    terms = []
    if alpha > 0:
        terms.append(alpha * _blended(LOSSES[loss.blended_with], prediction, alpha))
    if alpha < 1:
        terms.append((1 - alpha) * loss.function(prediction))
    return torch.stack(terms).sum()


def make_objective(name: str, *, spacing: Spacing | None = None, include_background: bool = True) -> Objective:
    """Return the objective for a loss.

    Args:
        name: Name in ``LOSSES``.
        spacing: Voxel spacing in mm; some losses need it.
        include_background: Whether overlap terms include class 0.

    Raises:
        ConfigError: The loss is unknown.
    """
    loss = LOSSES[name]
    if "spacing" in loss.needs and spacing is None:
        raise ValueError(f"Loss '{name}' needs the spacing of the patches.")
    return Objective(loss, spacing, include_background)


def validation_loss(logits: Float[Tensor, "batch class x y z"], classes: Integer[Tensor, "batch 1 x y z"]) -> Tensor:
    """Soft Dice loss of whole volumes without the background, which selects the best weights."""
    return make_objective("dice", include_background=False)([logits], classes)


def _prediction(
    logits: Tensor, classes: Tensor, dtm: Tensor | None, spacing: Spacing | None, include_background: bool
) -> Prediction:
    if logits.shape[1] < 2:
        raise ValueError(f"A softmax needs at least two classes; got {logits.shape[1]}.")
    return Prediction(logits, classes, dtm, spacing, include_background)


def one_hot(classes: Integer[Tensor, "batch 1 x y z"], count: int) -> Float[Tensor, "batch class x y z"]:
    """Convert class indices to one-hot, without a scatter, which is not deterministic on a GPU."""
    return (classes == torch.arange(count, device=classes.device).reshape(1, -1, 1, 1, 1)).float()
