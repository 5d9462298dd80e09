"""Values that tiles hand over to later tiles, in memory or in temporary files.

Tiles follow each other along three axes. What a tile hands over along the innermost axis goes to the next tile; along
an outer one, to tiles of the next row or layer, so it is kept in pieces, one for each tile of the axes inside.
"""

from __future__ import annotations

import errno
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mist_ops.inference.tiles import Spans
from mist_ops.types import Box, Size


class Stored(NamedTuple):
    """An array of float32 in a file, from ``offset`` on."""

    offset: int
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return 4 * math.prod(self.shape)


@dataclass
class Scratch:
    """A temporary file of arrays."""

    stream: IO[bytes]
    size: int = 0

    def write(self, values: Float[Tensor, "n x y z"], earlier: Stored | None) -> Stored:
        """Write an array, in the place of an earlier one if it fits there.

        Raises:
            OSError: The disk is full.
        """
        shape = tuple(values.shape)
        stored = Stored(self.size if earlier is None else earlier.offset, shape)
        if earlier is not None and earlier.bytes < stored.bytes:
            stored = Stored(self.size, shape)
        self.size = max(self.size, stored.offset + stored.bytes)
        self.stream.seek(stored.offset)
        try:
            for one in values:  # no copy of all of them
                self.stream.write(memoryview(one.contiguous().numpy()).cast("B"))
            self.stream.flush()
        except OSError as error:
            # A temporary file has no name that an error could give.
            raise OSError(error.errno or errno.EIO, error.strerror, tempfile.gettempdir()) from error
        return stored

    def read(self, stored: Stored) -> Tensor:
        """Map an array of the file. Only what is used is read, and takes memory until the array is discarded."""
        return torch.from_numpy(np.memmap(self.stream, np.float32, "c", stored.offset, stored.shape))


@contextmanager
def scratch(wanted: bool) -> Iterator[Scratch | None]:
    """A temporary file in the folder of the system, ``TMPDIR``; None if it is not wanted."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryFile() as stream:
        yield Scratch(stream)


class Carried:
    """Values that later tiles continue.

    Args:
        order: Axes of the tiles, the outermost first.
        disk: Where values along the two outer axes are kept; in memory if None.
    """

    def __init__(self, order: Size, disk: Scratch | None = None) -> None:
        self._order = order
        self._disk = disk
        self._pieces: tuple[dict[Size, tuple[Box, Tensor | Stored]], ...] = ({}, {}, {})

    def fill(self, values: Float[Tensor, "n x y z"], spans: Spans) -> None:
        """Copy the values of earlier tiles to their place in those of a tile."""
        along, inside = [(span.begin, span.lead) for span in spans], [(span.lead, span.end) for span in spans]
        for level, axis in enumerate(self._order):
            if spans[axis].begin == spans[axis].lead:
                continue
            wanted = self._part(level, spans, along, inside)
            for box, piece in self._pieces[level].values():
                common = _intersection(box, wanted)
                if common is not None:
                    kept = self._disk.read(piece) if self._disk and isinstance(piece, Stored) else piece
                    assert isinstance(kept, Tensor)
                    values[_index(common, box_of(spans))] = kept[_index(common, box)]

    def keep(self, values: Float[Tensor, "n x y z"], spans: Spans) -> None:
        """Keep copies of the values of a tile that later ones continue."""
        along, inside = [(span.cut, span.end) for span in spans], [(span.begin, span.cut) for span in spans]
        for level, axis in enumerate(self._order):
            if spans[axis].cut == spans[axis].end:
                continue
            box = self._part(level, spans, along, inside)
            part = values[_index(box, box_of(spans))]
            x, y, z = (spans[a].begin if a in self._order[level + 1 :] else 0 for a in range(3))
            _, earlier = self._pieces[level].pop((x, y, z), (None, None))
            if self._disk and axis != self._order[-1]:
                kept: Tensor | Stored = self._disk.write(part, earlier if isinstance(earlier, Stored) else None)
            elif isinstance(earlier, Tensor) and earlier.shape == part.shape:
                kept = earlier.copy_(part)
            else:
                del earlier  # before the copy
                kept = part.clone()
            self._pieces[level][x, y, z] = box, kept

    def _part(
        self, level: int, spans: Spans, along: Sequence[tuple[int, int]], inside: Sequence[tuple[int, int]]
    ) -> Box:
        """What belongs to a level: all of the axes outside, and a part of its own axis and of those inside."""
        chosen = [(span.begin, span.end) for span in spans]
        chosen[self._order[level]] = along[self._order[level]]
        for inner in self._order[level + 1 :]:
            chosen[inner] = inside[inner]
        (x, i), (y, j), (z, k) = chosen
        return Box((x, y, z), (i, j, k))


def box_of(spans: Spans) -> Box:
    """All voxels of a tile that are computed."""
    x, y, z = spans
    return Box((x.begin, y.begin, z.begin), (x.end, y.end, z.end))


def _intersection(one: Box, other: Box) -> Box | None:
    x, y, z = (max(pair) for pair in zip(one.start, other.start, strict=True))
    i, j, k = (min(pair) for pair in zip(one.stop, other.stop, strict=True))
    return Box((x, y, z), (i, j, k)) if x < i and y < j and z < k else None


def _index(box: Box, whole: Box) -> tuple[slice, ...]:
    """Where a box is in an array of a larger one."""
    begins = zip(box.start, box.stop, whole.start, strict=True)
    return (slice(None), *(slice(start - first, stop - first) for start, stop, first in begins))
