"""Scaling of class probabilities: by one temperature, by one curve for all classes, or by a curve for each class."""

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
    """Maps probabilities p to softmax(slope · log p - bend · (log p)² + offset), voxel by voxel.

    With equal slopes alone it is temperature scaling, with temperature 1/slope (Guo et al., 2017, "On Calibration of
    Modern Neural Networks"); slopes and offsets for each class are vector scaling of log-probabilities (Kull et al.,
    2019, "Beyond temperature scaling"). A bend lets nearly certain voxels be scaled otherwise than doubtful ones.
    Probabilities of exactly 0 stay 0, so voxels outside the foreground crop stay background.

    Attributes:
        slopes: One per class, positive.
        bends: One per class, not negative, so that larger probabilities stay larger.
        offsets: One per class.
    """

    slopes: tuple[float, ...]
    bends: tuple[float, ...]
    offsets: tuple[float, ...]

    @classmethod
    def of_temperature(cls, temperature: float, n_classes: int) -> Scaling:
        """The scaling of all classes by one temperature; above 1, probabilities become less extreme."""
        return cls((1 / temperature,) * n_classes, (0.0,) * n_classes, (0.0,) * n_classes)

    @property
    def shared(self) -> bool:
        """Whether all classes are scaled alike, so that the most probable one stays so."""
        return len(set(self.slopes)) == 1 and len(set(self.bends)) == 1 and not any(self.offsets)

    @property
    def temperature(self) -> float | None:
        """The temperature of all classes; None if they have a bend or are scaled differently."""
        return 1 / self.slopes[0] if self.shared and not any(self.bends) else None

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        """Return scaled probabilities with the type of those given."""
        broadcast = (-1, *(1 for _ in probabilities.shape[1:]))
        slopes, bends, offsets = (
            _like(values, probabilities).reshape(broadcast) for values in (self.slopes, self.bends, self.offsets)
        )
        logs: Probabilities = np.log(np.maximum(probabilities, np.finfo(probabilities.dtype).tiny))
        logits: Probabilities = logs * (slopes - bends * logs) + offsets
        logits[probabilities == 0] = -np.inf
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
