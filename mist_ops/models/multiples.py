"""Patch sizes of networks of fixed depth, which halve all axes whatever the spacing.

Each edge must be a multiple of the network's total stride, and more than one voxel must be left at the bottleneck,
where the norms cannot normalize a single voxel.
"""

from __future__ import annotations

import math

from mist_ops.models import size_text, unsupported_patch_size
from mist_ops.types import Size, Spacing


def check_patch_size(patch_size: Size, spacing: Spacing, *, multiple: int) -> None:
    """Raise ``ConfigError`` for a patch size that the network does not support."""
    divides = all(n > 0 and n % multiple == 0 for n in patch_size)
    if divides and _several_left(patch_size, multiple):
        return
    reason = (
        "leaves a single voxel at the bottleneck"
        if divides
        else f"is not a multiple of {size_text((multiple, multiple, multiple))}"
    )
    smaller = fit_patch_size(patch_size, spacing, multiple=multiple)
    larger = _widened(_triple([math.ceil(n / multiple) * multiple for n in patch_size]), spacing, multiple)
    raise unsupported_patch_size(patch_size, reason, (smaller, larger))


def fit_patch_size(patch_size: Size, spacing: Spacing, *, multiple: int) -> Size:
    """Largest supported patch size no larger than the one given, with edges of at least one multiple.

    If a single voxel would be left at the bottleneck, the edge along the finest axis is doubled.
    """
    return _widened(_triple([max(n // multiple, 1) * multiple for n in patch_size]), spacing, multiple)


def _widened(patch_size: Size, spacing: Spacing, multiple: int) -> Size:
    edges = [max(n, multiple) for n in patch_size]
    if not _several_left(_triple(edges), multiple):
        edges[spacing.index(min(spacing))] *= 2
    return _triple(edges)


def _several_left(patch_size: Size, multiple: int) -> bool:
    return math.prod(n // multiple for n in patch_size) > 1


def _triple(values: list[int]) -> Size:
    x, y, z = values
    return x, y, z
