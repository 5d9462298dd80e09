"""What training minimizes: one module per paper, each a function of logits, probabilities and one-hot truth."""

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
        blended_with: Name of the loss that takes the weight alpha beside this one's ``1 - alpha``, where alpha may
            change over the epochs; None for a loss that stands alone.
        native: Whether coarser outputs are compared with a truth thinned out to their own resolution, which is
            cheaper. Otherwise they are enlarged to full resolution first.
    """

    function: Callable[..., Tensor]
    needs: Set[str] = frozenset()
    blended_with: str | None = None
    native: bool = True
