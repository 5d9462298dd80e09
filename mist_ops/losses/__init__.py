"""Loss functions of logits, probabilities and one-hot truth, a module per paper."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """An entry of ``LOSSES``.

    Attributes:
        function: Maps ``objective.Prediction`` (logits, probabilities, one-hot truth, and the ``needs``) to a scalar.
        needs: Which of ``"dtm"`` and ``"spacing"`` it reads.
        blended_with: Name of the loss with weight alpha in a composite loss, where this one has ``1 - alpha``; alpha
            may change over the epochs. None for a loss that is not composite.
        native: Whether coarser outputs are compared with a truth subsampled to their resolution, which is cheaper.
            Otherwise they are upsampled to full resolution first.
    """

    function: Callable[..., Tensor]
    needs: Set[str] = frozenset()
    blended_with: str | None = None
    native: bool = True
