"""Windows of a mirrored volume, and the sums of their logits, all in coordinates of the volume itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn.functional import pad

from mist_ops.inference.carrying import Carried, box_of
from mist_ops.inference.flips import Axes, flip
from mist_ops.inference.tiles import Division, Spans, Tile
from mist_ops.types import Box, Size

Start = tuple[int, int, int]
"""The first voxel of a window."""

_AT_ONCE = 2**21
"""Values that are added or exponentiated at once: few enough for the cache of a CPU, and enough for a GPU."""


@dataclass
class Turn:
    """A pass over a volume: one model on one of its flips.

    Attributes:
        division: The tiles of the volume.
        axes: Axes that are mirrored, counted from the end.
        carried: Sums that later tiles continue.
    """

    division: Division
    axes: Axes
    carried: Carried

    def due(self, tile: Tile) -> list[Start]:
        """The windows to compute for a tile."""
        return self.division.starts(tile, self._mirrored)

    def sums(self, tile: Tile, space: Float[Tensor, "channel voxel"]) -> Sums:
        """Sums to which the windows of ``due`` are added, in ``space``: those of earlier tiles, and zeros."""
        spans = self.division.summed(tile, self._mirrored)
        box = box_of(spans)
        # A system takes longer to provide new memory than the windows to be added.
        values = space.view(-1)[: len(space) * prod(box.size)].view(len(space), *box.size).zero_()
        self.carried.fill(values, spans)
        return Sums(spans, box, values)

    def keep(self, sums: Sums) -> None:
        """Keep the sums that later tiles continue."""
        self.carried.keep(sums.values, sums.spans)

    @property
    def _mirrored(self) -> tuple[bool, bool, bool]:
        return -3 in self.axes, -2 in self.axes, -1 in self.axes


@dataclass(frozen=True)
class Sums:
    """Weighted sums of logits, and the sum of the weights as a last channel, over the voxels of ``box``."""

    spans: Spans
    box: Box
    values: Tensor

    def add(
        self, logits: Float[Tensor, "class x y z"], weights: Float[Tensor, "x y z"], start: Start, axes: Axes
    ) -> None:
        """Add the logits of a mirrored window; what is outside the box is ignored."""
        inside, own = [], []
        for first, voxels, begin, stop in zip(start, weights.shape, self.box.start, self.box.stop, strict=True):
            from_, to = max(first, begin), min(first + voxels, stop)
            inside.append(slice(from_ - begin, to - begin))
            own.append(slice(from_ - first, to - first))
        (x, y, z), (i, j, k) = inside, own
        sums, step = self.values[:, x, y, z], max(1, _AT_ONCE // weights.numel())
        for first in range(0, len(logits), step):
            some = flip(logits[first : first + step], axes)[:, i, j, k]
            # BF16 logits lose digits when windows are summed.
            sums[first : first + len(some)].addcmul_(some.float(), weights[i, j, k])
        sums[-1] += weights[i, j, k]

    def add_probabilities(self, total: Float[Tensor, "class x y z"]) -> None:
        """Add the softmax of the mean logits of a tile to ``total``."""
        x, y, z = (slice(0, span.cut - span.begin) for span in self.spans)
        own = self.values[:, x, y, z]
        planes = max(1, _AT_ONCE // prod((len(own), *own.shape[2:])))
        for first in range(0, own.shape[1], planes):
            some = own[:, first : first + planes]
            total[:, first : first + planes] += (some[:-1] / some[-1]).softmax(0)


def cut(
    image: Float[Tensor, "1 channel x y z"], start: Start, patch: Size, axes: Axes
) -> Float[Tensor, "1 channel i j k"]:
    """A window of an image, mirrored along some axes; voxels outside the image are zero."""
    padding: list[int] = []
    part = image
    for axis, (first, voxels) in enumerate(zip(start, patch, strict=True)):
        size = image.shape[2 + axis]
        from_, to = max(first, 0), min(first + voxels, size)
        part = part.narrow(2 + axis, from_, to - from_)
        padding = [from_ - first, first + voxels - to, *padding]
    return flip(pad(part, padding) if any(padding) else part, axes)


def importance(patch: Size, mode: str, place: torch.device) -> Float[Tensor, "x y z"]:
    """The weight of each voxel of a window, the same when mirrored; those of MONAI."""
    weights: Tensor = compute_importance_map(patch, mode=mode, sigma_scale=0.125, device=place, dtype=torch.float32)
    return weights
