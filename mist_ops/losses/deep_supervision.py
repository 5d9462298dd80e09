"""Deep supervision (Lee et al., AISTATS 2015): coarser outputs are trained too, each weighing half the one before."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def head_weights(heads: int) -> list[float]:
    """Weights of the heads, finest first: each half the one before, together 1."""
    powers = [0.5**level for level in range(heads)]
    return [power / sum(powers) for power in powers]


def thin_out(target: Tensor, size: Sequence[int]) -> Tensor:
    """Keep every n-th voxel of a target ``(batch, channel, x, y, z)``, so that ``size`` is left.

    This is nearest-neighbour resampling, which keeps class indices what they are.

    Raises:
        ValueError: The target's size is no multiple of ``size``.
    """
    steps = [whole // left for whole, left in zip(target.shape[2:], size, strict=True)]
    if [left * step for left, step in zip(size, steps, strict=True)] != list(target.shape[2:]):
        raise ValueError(f"A head of size {tuple(size)} does not divide a target of size {tuple(target.shape[2:])}.")
    x, y, z = steps
    return target[:, :, ::x, ::y, ::z]
