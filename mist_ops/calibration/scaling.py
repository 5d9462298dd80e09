"""Scaling of class probabilities: one temperature for all classes, or a slope and an offset for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Probabilities = Float[np.ndarray, "class *voxels"]

_AT_ONCE = 2**20
"""Values that are scaled at once: few enough for the cache of a CPU."""


@dataclass(frozen=True)
class Scaling:
    """Maps probabilities p to softmax(slope · log p + offset), voxel by voxel.

    With equal slopes and no offsets it is temperature scaling, with temperature 1/slope (Guo et al., 2017, "On
    Calibration of Modern Neural Networks"), else vector scaling of log-probabilities (Kull et al., 2019, "Beyond
    temperature scaling"). Probabilities of exactly 0 stay 0, so voxels outside the foreground crop stay background.

    Attributes:
        slopes: One per class, positive.
        offsets: One per class.
    """

    slopes: tuple[float, ...]
    offsets: tuple[float, ...]

    @classmethod
    def of_temperature(cls, temperature: float, n_classes: int) -> Scaling:
        """The scaling of all classes by one temperature; above 1, probabilities become less extreme."""
        return cls((1 / temperature,) * n_classes, (0.0,) * n_classes)

    @property
    def temperature(self) -> float | None:
        """The temperature of all classes; None if classes are scaled differently."""
        same = len(set(self.slopes)) == 1 and not any(self.offsets)
        return 1 / self.slopes[0] if same else None

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        """Return scaled probabilities with the type of those given."""
        with np.errstate(divide="ignore"):  # of log(0)
            logits: Probabilities = np.log(probabilities)
        broadcast = (-1, *(1 for _ in probabilities.shape[1:]))
        logits *= _like(self.slopes, probabilities).reshape(broadcast)
        logits += _like(self.offsets, probabilities).reshape(broadcast)
        logits -= logits.max(axis=0)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        return logits

    def apply(self, probabilities: Float[np.ndarray, "class x y z"]) -> None:
        """Scale probabilities in place, slab by slab, as for an array in a file that does not fit into memory."""
        values = max(1, probabilities[:, 0].size)
        planes = max(1, _AT_ONCE // values)
        for first in range(0, probabilities.shape[1], planes):
            slab = probabilities[:, first : first + planes]
            slab[...] = self(np.array(slab))


def _like(values: Sequence[float], array: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=array.dtype)
