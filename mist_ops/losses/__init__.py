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
        composite: Whether it is blended with ``dice_ce`` by a weight alpha that may change over the epochs.
    """

    function: Callable[..., Tensor]
    needs: Set[str] = frozenset()
    composite: bool = False
