"""Tiles: predict a volume that is too large for memory in parts, with the same windows as the whole volume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple, TypeAlias, get_args

from monai.data.utils import dense_patch_slices

from mist_ops.types import Box, Size

Tile: TypeAlias = tuple[int, int, int]
"""The number of a tile along each axis."""

Ends: TypeAlias = tuple[int, ...]
"""Where the tiles along an axis end; the last one ends with the volume."""

Place: TypeAlias = Literal["memory", "disk", "nowhere"]
"""Where sums of windows that reach into later tiles are kept. On disk, those for the next tile are still in memory."""


class Span(NamedTuple):
    """The values that a tile computes along an axis: some continue earlier tiles, some are continued by later ones.

    Attributes:
        begin: The first.
        lead: The first that no earlier tile has values of.
        cut: The first that later tiles continue.
        end: After the last.
    """

    begin: int
    lead: int
    cut: int
    end: int


Spans: TypeAlias = tuple[Span, Span, Span]


@dataclass(frozen=True)
class Windows:
    """How a volume is covered by windows.

    Attributes:
        size: Of the volume.
        patch: Size of a window.
        overlap: Share of a window that overlaps with the next one.
        turns: Passes over the volume: one for each model and flip.
        mirrored: Whether some of them mirror the volume.
    """

    size: Size
    patch: Size
    overlap: float
    turns: int = 1
    mirrored: bool = False

    def starts(self, axis: int, mirrored: bool = False) -> tuple[int, ...]:
        """First voxel of each window along an axis, in ascending order; negative where the volume is padded.

        With ``mirrored``, the windows of the mirrored volume, in coordinates of the volume itself.
        """
        return _starts(self.size[axis], self.patch[axis], self.overlap, mirrored)

    def begun(self, axis: int, stop: int, mirrored: bool) -> int:
        """Where the last window ends that begins before ``stop``."""
        last = max(start for start in self.starts(axis, mirrored) if start < stop)
        return max(stop, min(last + self.patch[axis], self.size[axis]))

    @property
    def kinds(self) -> set[bool]:
        """Whether an axis is mirrored: in some turns, or in none."""
        return {False, self.mirrored}


@dataclass(frozen=True)
class Division:
    """The tiles of a volume.

    Attributes:
        windows: How windows cover the volume.
        ends: Along each axis.
        sums: Where sums that later tiles continue are kept. If nowhere, windows that reach into several tiles are
            computed for each of them.
    """

    windows: Windows
    ends: tuple[Ends, Ends, Ends]
    sums: Place

    @property
    def order(self) -> tuple[int, int, int]:
        """Axes, the one along which tiles follow each other last. It is the longest, so that little is kept."""
        x, y, z = sorted(range(3), key=lambda axis: (len(self.ends[axis]) > 1, self.windows.size[axis]))
        return x, y, z

    def tiles(self) -> Iterator[Tile]:
        """All tiles in order."""
        order = self.order
        for numbers in product(*(range(len(self.ends[axis])) for axis in order)):
            x, y, z = (numbers[order.index(axis)] for axis in range(3))
            yield x, y, z

    def box(self, tile: Tile) -> Box:
        """The voxels of a tile."""
        (x, i), (y, j), (z, k) = (_own(ends, number) for ends, number in zip(self.ends, tile, strict=True))
        return Box((x, y, z), (i, j, k))

    def starts(self, tile: Tile, mirrored: Sequence[bool]) -> list[Size]:
        """The windows to compute for a tile, given the axes that are mirrored."""
        along = []
        for axis, (ends, number) in enumerate(zip(self.ends, tile, strict=True)):
            begin, stop = _own(ends, number)
            first = begin if self.sums != "nowhere" else begin - self.windows.patch[axis] + 1
            starts = self.windows.starts(axis, mirrored[axis])
            along.append([start for start in starts if start < stop and (start >= first or number == 0)])
        return list(product(along[0], along[1], along[2]))

    def summed(self, tile: Tile, mirrored: Sequence[bool]) -> Spans:
        """The voxels whose sums are computed for a tile."""
        spans = []
        for axis, (ends, number) in enumerate(zip(self.ends, tile, strict=True)):
            begin, stop = _own(ends, number)
            if self.sums == "nowhere":
                spans.append(Span(begin, begin, stop, stop))
                continue
            end = self.windows.begun(axis, stop, mirrored[axis])
            spans.append(Span(begin, self.windows.begun(axis, begin, mirrored[axis]) if number else begin, stop, end))
        return spans[0], spans[1], spans[2]

    def bordered(self, tile: Tile) -> Spans:
        """A tile and the last planes of the previous ones, for interpolation."""
        spans = []
        for ends, number in zip(self.ends, tile, strict=True):
            begin, stop = _own(ends, number)
            last = number == len(ends) - 1
            spans.append(Span(begin - 1 if number else 0, begin, stop if last else stop - 1, stop))
        return spans[0], spans[1], spans[2]

    def most_summed(self) -> int:
        """Voxels of the largest tile and of the windows that begin in it, if their sums are kept."""
        return math.prod(one.own if self.sums == "nowhere" else one.seen for one in self._along())

    def bytes_needed(self, n_classes: int) -> int:
        """Memory of the largest tile: its probabilities, the sums of a turn, and what is kept for later tiles."""
        along = self._along()
        own = [one.own + (one.tiles > 1) for one in along]
        borders = sum(self._handed_over(own, [int(one.tiles > 1) for one in along]))
        kept = sum(self._kept()[{"memory": 0, "disk": 2, "nowhere": 3}[self.sums] :])
        # Sums have a channel of weights besides the classes.
        sums = self.most_summed() + self.windows.turns * kept
        return 4 * (n_classes * (math.prod(own) + borders) + (n_classes + 1) * sums)

    def bytes_on_disk(self, n_classes: int) -> int:
        """Size of the temporary files."""
        return 4 * (n_classes + 1) * self.windows.turns * sum(self._kept()[:2]) if self.sums == "disk" else 0

    def cost(self) -> int:
        """What divisions with sums in the same place are compared by: tiles, voxels written, or windows computed."""
        along = self._along()
        if self.sums == "memory":
            return math.prod(one.tiles for one in along)
        if self.sums == "nowhere":
            return math.prod(one.windows for one in along)
        kept, (outer, inner, _) = self._kept(), (along[axis].tiles for axis in self.order)
        return kept[0] * (outer - 1) + kept[1] * (inner - 1) * outer

    def _along(self) -> list[_Along]:
        return [_along(self.windows, axis, ends) for axis, ends in enumerate(self.ends)]

    def _kept(self) -> list[int]:
        """Voxels of a turn that are kept along each axis, in order."""
        along = self._along()
        return self._handed_over([one.seen for one in along], [one.kept for one in along])

    def _handed_over(self, computed: Sequence[int], kept: Sequence[int]) -> list[int]:
        """Voxels that are kept along each axis, in order: of its tile outside, and of the whole volume inside."""
        handed, (x, y, z), size = [], self.order, self.windows.size
        for axis, outside, inside in ((x, (), (y, z)), (y, (x,), (z,)), (z, (x, y), ())):
            handed.append(kept[axis] * math.prod(computed[a] for a in outside) * math.prod(size[a] for a in inside))
        return handed


def divide(windows: Windows, n_classes: int, budget: int, disk: int = 0) -> Division:
    """Divide a volume so that memory is within a budget, or as near to it as possible.

    Sums are kept in memory if that fits, else on disk, else nowhere; in each case in the cheapest way.

    Args:
        windows: How windows cover the volume.
        n_classes: Number of classes.
        budget: Bytes of memory.
        disk: Bytes of temporary files.
    """
    along_x, along_y, along_z = (_divisions(windows, axis) for axis in range(3))
    possible = [
        Division(windows, ends, sums) for sums in get_args(Place) for ends in product(along_x, along_y, along_z)
    ]

    def preference(division: Division) -> tuple[int, int, int, int]:
        needed = division.bytes_needed(n_classes)
        return max(budget, needed), get_args(Place).index(division.sums), division.cost(), needed

    return min((one for one in possible if one.bytes_on_disk(n_classes) <= disk), key=preference)


class _Along(NamedTuple):
    """The tiles along an axis: the most voxels of one, with those that its windows see, and that are kept of them."""

    tiles: int
    own: int
    seen: int
    kept: int
    windows: int
    """To compute, if sums are not kept."""


@lru_cache(10_000)
def _along(windows: Windows, axis: int, ends: Ends) -> _Along:
    own = [_own(ends, number) for number in range(len(ends))]
    begun = [max(windows.begun(axis, stop, kind) for kind in windows.kinds) for _, stop in own]
    starts, patch = windows.starts(axis), windows.patch[axis]
    return _Along(
        len(ends),
        max(stop - start for start, stop in own),
        max(end - start for (start, _), end in zip(own, begun, strict=True)),
        max(end - stop for (_, stop), end in zip(own, begun, strict=True)),
        sum(sum(start - patch < first < stop for first in starts) for start, stop in own),
    )


def _own(ends: Ends, number: int) -> tuple[int, int]:
    return (ends[number - 1] if number else 0), ends[number]


def _divisions(windows: Windows, axis: int) -> list[Ends]:
    """One tile along an axis, two, and so on; they end where windows begin, so that few windows reach into the next."""
    size, step = windows.size[axis], _step(windows.patch[axis], windows.overlap)
    most = math.ceil(size / step) if size > windows.patch[axis] else 1
    counts = {min(most, count) for count in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, most)}
    found = {
        tuple(sorted({*(round(size * number / count / step) * step for number in range(1, count)), size} - {0}))
        for count in counts
    }
    return sorted(found, key=len)


@lru_cache  # asked for each tile of each division
def _starts(voxels: int, patch: int, overlap: float, mirrored: bool) -> tuple[int, ...]:
    if voxels <= patch:
        before = (patch - voxels) // 2
        return (voxels - patch + before if mirrored else -before,)
    slices = dense_patch_slices((voxels,), (patch,), (_step(patch, overlap),))
    starts = [int(window.start) for (window,) in slices]
    return tuple(sorted(voxels - patch - start for start in starts) if mirrored else starts)


def _step(patch: int, overlap: float) -> int:
    return max(1, int(patch * (1 - overlap)))
