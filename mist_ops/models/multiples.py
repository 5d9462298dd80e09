"""Which patches a network takes that halves all its axes alike, whatever the spacing.

Shared by the families of a fixed depth: each edge must be a multiple of the network's reduction, and more than one
voxel must be left at the bottleneck, for the norms there have nothing to normalize in a single one.
"""

from __future__ import annotations

import math

from mist_ops.errors import ConfigError
from mist_ops.types import Size, Spacing


def check_patch_size(patch_size: Size, spacing: Spacing, *, multiple: int) -> None:
    """Raise ``ConfigError`` for a patch that the network cannot take, naming the nearest ones that it can."""
    divides = all(n > 0 and n % multiple == 0 for n in patch_size)
    if divides and _several_left(patch_size, multiple):
        return
    reason = "leaves one voxel at the bottleneck" if divides else f"is no multiple of {_words((multiple,) * 3)}"
    smaller = fit_patch_size(patch_size, spacing, multiple=multiple)
    larger = _widened(_triple([math.ceil(n / multiple) * multiple for n in patch_size]), spacing, multiple)
    allowed = " or ".join(dict.fromkeys((_words(smaller), _words(larger))))
    raise ConfigError(f"The patch size {_words(patch_size)} {reason}. Use {allowed}.")


def fit_patch_size(patch_size: Size, spacing: Spacing, *, multiple: int) -> Size:
    """The largest legal patch inside the one given, of which an edge below the multiple is raised to it.

    Where a single voxel would be left at the bottleneck, the edge along the finest axis is doubled.
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


def _words(size: Size) -> str:
    return "x".join(map(str, size))
