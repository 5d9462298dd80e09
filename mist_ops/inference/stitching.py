"""Windows of a mirrored volume, and the sums of their logits, all in coordinates of the volume itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from jaxtyping import Float
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn.functional import pad

from mist_ops.inference.flips import Axes, flip
from mist_ops.inference.slabs import Slab, Windows
from mist_ops.types import Size

Start = tuple[int, int, int]
"""The first voxel of a window."""


@dataclass
class Turn:
    """A pass over a volume: one model on one of its flips.

    Attributes:
        windows: How windows cover the volume.
        axes: Axes that are mirrored, counted from the end.
        kept: Sums of the planes that follow the last slab, over the windows up to ``done``.
        done: Windows along the axis of the slabs are summed that begin before this plane.
    """

    windows: Windows
    axes: Axes
    kept: Tensor | None = field(default=None, repr=False)
    done: int | None = None

    def due(self, slab: Slab) -> list[Start]:
        """The windows that overlap with a slab and are not in the kept sums, in order along its axis."""
        along: list[Sequence[int]] = [self.windows.starts(axis, axis - 3 in self.axes) for axis in range(3)]
        patch = self.windows.patch[slab.axis]
        along[slab.axis] = [
            start
            for start in along[slab.axis]
            if start < slab.stop and (start + patch > slab.start if self.done is None else start >= self.done)
        ]
        return sorted(product(along[0], along[1], along[2]), key=lambda start: start[slab.axis])

    def sums(self, slab: Slab, n_classes: int, place: torch.device) -> Sums:
        """Sums to which the windows of ``due`` are added: what was kept, and zeros."""
        mirrored = slab.axis - 3 in self.axes
        starts = [start[slab.axis] for start in self.due(slab)]
        first = slab.start if self.done is not None else max(0, min(starts))
        seen = Slab(slab.axis, first, self.windows.begun(slab, mirrored))
        values = torch.zeros((n_classes + 1, *seen.size_in(self.windows.size)), device=place)
        if self.kept is not None:
            values.narrow(1 + slab.axis, 0, self.kept.shape[1 + slab.axis]).copy_(self.kept)
            self.kept = None
        return Sums(seen, values)

    def keep(self, slab: Slab, sums: Sums) -> None:
        """Keep the sums of the planes that follow a slab, for the next one."""
        after = sums.seen.stop - slab.stop
        self.kept = sums.values.narrow(1 + slab.axis, slab.stop - sums.seen.start, after).clone() if after else None
        self.done = slab.stop


@dataclass(frozen=True)
class Sums:
    """Weighted sums of logits, and the sum of the weights as a last channel, over the planes of ``seen``."""

    seen: Slab
    values: Tensor

    def add(self, logits: Float[Tensor, "class x y z"], weights: Float[Tensor, "x y z"], start: Start) -> None:
        """Add the logits of a window, which are overwritten; what is outside the volume is ignored."""
        inside, own = [], []
        for axis, first in enumerate(start):
            begin = self.seen.start if axis == self.seen.axis else 0
            stop = begin + self.values.shape[1 + axis]
            from_, to = max(first, begin), min(first + logits.shape[1 + axis], stop)
            inside.append(slice(from_ - begin, to - begin))
            own.append(slice(from_ - first, to - first))
        (x, y, z), (i, j, k) = inside, own
        self.values[:-1, x, y, z] += logits.mul_(weights)[:, i, j, k]
        self.values[-1, x, y, z] += weights[i, j, k]

    def probabilities(self, slab: Slab) -> Float[Tensor, "class x y z"]:
        """Softmax of the mean logits of a slab; the sums of its planes are overwritten."""
        own = self.values.narrow(1 + slab.axis, slab.start - self.seen.start, slab.thickness)
        logits = own[:-1].div_(own[-1])
        # torch.softmax allocates a second volume of all classes.
        logits.sub_(logits.amax(0)).exp_()
        return logits.div_(logits.sum(0))


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
