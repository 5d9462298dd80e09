"""How certain networks are of their masks, while a volume is predicted tile by tile."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mist_ops.types import Box, Size


class Certainty:
    """Sums the probabilities of each network, and gathers the mask that they predict together.

    The certainty of a class is the Dice coefficient that its mask would have if the probabilities were true:
    ``2 sum(p in mask) / (sum(p) + voxels of mask)``. It is that of each network alone (averaged over its flips), and
    then the mean of all. So it means the same for one network, which predicts the patients it was not trained on, as
    for several, which predict new patients.

    Attributes:
        classes: The predicted class of each voxel.
    """

    def __init__(self, size: Size) -> None:
        self.classes: UInt8[np.ndarray, "x y z"] = np.zeros(size, dtype=np.uint8)
        self._sums: dict[int, Tensor] = {}

    def alone(self, network: int, probabilities: Tensor) -> None:
        """Add the probabilities of a network in a tile, class first."""
        likeliest = probabilities.argmax(0)
        sums = []
        for index, volume in enumerate(probabilities):
            mask = likeliest == index
            sums.append(torch.stack([(volume * mask).sum(), volume.sum(), mask.sum()]).double())
        before = self._sums.get(network)
        now = torch.stack(sums).cpu()
        self._sums[network] = now if before is None else before + now

    def together(self, box: Box, probabilities: Tensor) -> None:
        """Add the probabilities of all networks in a tile, class first."""
        self.classes[box.slices] = probabilities.argmax(0).to(torch.uint8).cpu().numpy()

    def of_classes(self) -> dict[int, float]:
        """The certainty of each class but the background; NaN for a class that no network predicts."""
        shared, probable, voxels = torch.stack(list(self._sums.values())).unbind(-1)
        certainty = (2 * shared / (probable + voxels)).masked_fill(voxels == 0, torch.nan).nanmean(0)
        return {index: float(value) for index, value in enumerate(certainty) if index}
