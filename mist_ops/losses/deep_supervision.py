"""Deep supervision (Lee et al., AISTATS 2015): losses at coarser resolutions, each with half the weight of the last."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def head_weights(heads: int) -> list[float]:
    """Weights of the heads, finest first: each half of the previous one; they sum to 1."""
    powers = [0.5**level for level in range(heads)]
    return [power / sum(powers) for power in powers]


def subsample(target: Tensor, size: Sequence[int]) -> Tensor:
    """Keep every n-th voxel of a target ``(batch, channel, x, y, z)`` to get a spatial size.

    This is nearest-neighbor resampling, so class indices stay valid.

    Raises:
        ValueError: The size of the target is not a multiple of ``size``.
    """
    steps = [whole // part for whole, part in zip(target.shape[2:], size, strict=True)]
    if [part * step for part, step in zip(size, steps, strict=True)] != list(target.shape[2:]):
        raise ValueError(f"A head of size {tuple(size)} does not divide a target of size {tuple(target.shape[2:])}.")
    x, y, z = steps
    return target[:, :, ::x, ::y, ::z]
