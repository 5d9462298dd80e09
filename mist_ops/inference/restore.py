"""From probabilities on the preprocessed grid to a label map on the grid of the files.

Probabilities are interpolated where they are, on a GPU or in main memory, tile by tile and class by class. Only class
indices of one byte are copied from a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from mist_ops.imaging.geometry import CaseGeometry, Geometry, Reorientation
from mist_ops.imaging.labels import to_labels
from mist_ops.imaging.resample import neighbors
from mist_ops.types import Box, LabelMap

Probabilities: TypeAlias = Float32[np.ndarray, "class i j k"]
"""On the preprocessed grid, whose size differs from that of the files."""

# Interpolation weights are float32; for probabilities closer than this, the earlier class wins.
_TIE = 1e-6
# Origins are computed in floating point; planes closer than this coincide.
_ROUNDING = 1e-6


def restore(probabilities: Probabilities, geometry: CaseGeometry, labels: Sequence[int]) -> LabelMap:
    """Restore a prediction that is in memory as a whole; see ``restore_tiles``."""
    whole = torch.from_numpy(np.ascontiguousarray(probabilities))
    return restore_tiles([(Box.whole(geometry.preprocessed.size), whole)], geometry, labels)


def restore_tiles(
    tiles: Iterable[tuple[Box, Tensor]],
    geometry: CaseGeometry,
    labels: Sequence[int],
    restored_probabilities: Probabilities | None = None,
) -> LabelMap:
    """Return the dataset labels of a prediction on the original grid, in the orientation of the files.

    Probabilities are interpolated, not labels, with the true positions of both grids, so that nothing is shifted. Only
    two classes of a tile are in memory at full resolution at a time. Voxels outside the foreground crop get label 0.

    Args:
        tiles: Probabilities of each class on ``geometry.preprocessed``, tile by tile. A tile begins with the last plane
            of the previous one along each axis.
        geometry: The grids of the case.
        labels: The dataset label of each class.
        restored_probabilities: If given, an array on ``geometry.original`` that the probabilities are written to;
            voxels outside the foreground crop are not changed.

    Raises:
        ValueError: The shape of the probabilities does not match geometry and labels.
    """
    unchanged = geometry.preprocessed == geometry.original
    grid, reorientation = (geometry.original, None) if unchanged else geometry.canonical()
    views = (
        None if restored_probabilities is None else _canonical_views(restored_probabilities, geometry, reorientation)
    )
    indices = np.zeros(grid.size, dtype=np.uint8)
    for box, volumes in tiles:
        expected = (len(labels), *box.size)
        if volumes.shape != expected:
            raise ValueError(f"the probabilities have the shape {tuple(volumes.shape)} and not {expected}")
        within = _between(box, geometry.preprocessed, grid)
        kept = [view[within.slices] for view in views] if views else None
        found = _likeliest(volumes, geometry.preprocessed.cropped(box), grid.cropped(within), kept)
        indices[within.slices] = found.cpu().numpy()
        del volumes  # before the next tile is computed
    restored = to_labels(indices, labels)
    if reorientation is None:
        return restored
    whole = np.zeros(geometry.original.size, dtype=restored.dtype)
    whole[geometry.box.slices if geometry.box else ...] = reorientation.undo(restored)
    return whole


def resample_onto(volume: Float32[Tensor, "x y z"], source: Geometry, target: Geometry) -> Float32[Tensor, "i j k"]:
    """Probabilities of a class on another grid with the same directions: linear, border extended.

    Raises:
        ValueError: The directions differ; bring both grids to canonical order first.
    """
    if source == target:
        return volume
    for axis, (lower, upper, beyond) in reversed(list(enumerate(neighbors(source, target)))):
        if np.array_equal(lower, np.arange(volume.shape[axis])) and not beyond.any():
            continue
        # Not as a matrix product, which a GPU would compute in TF32.
        below, above = (
            volume.index_select(axis, torch.from_numpy(index).to(volume.device)) for index in (lower, upper)
        )
        weights = torch.from_numpy(beyond.astype(np.float32)).reshape([-1 if dim == axis else 1 for dim in range(3)])
        volume = below.lerp_(above, weights.to(volume.device))
    return volume


def _between(box: Box, source: Geometry, target: Geometry) -> Box:
    """The voxels of ``target`` whose neighbors in ``source`` are all in a tile, and not all in earlier ones."""
    starts, stops = [], []
    begin = source.axes.T @ np.subtract(target.origin, source.origin)
    for axis, (offset, planes) in enumerate(zip(begin.tolist(), source.size, strict=True)):
        positions = (offset + np.arange(target.size[axis]) * target.spacing[axis]) / source.spacing[axis]
        last = [box.start[axis] + _ROUNDING, box.stop[axis] - 1 + _ROUNDING]
        start, stop = np.searchsorted(positions, last, side="right").tolist()
        starts.append(start if box.start[axis] else 0)
        stops.append(stop if box.stop[axis] < planes else target.size[axis])
    (x, y, z), (i, j, k) = starts, stops
    return Box((x, y, z), (i, j, k))


def _canonical_views(
    restored: Probabilities, geometry: CaseGeometry, reorientation: Reorientation | None
) -> list[np.ndarray]:
    """Views on each class, cropped and in canonical orientation."""
    if reorientation is None:
        return list(restored)
    box = geometry.box.slices if geometry.box else ...
    return [reorientation.apply(volume[box]) for volume in restored]


def _likeliest(
    probabilities: Tensor, source: Geometry, target: Geometry, kept: Sequence[np.ndarray] | None = None
) -> UInt8[Tensor, "i j k"]:
    """Index of the most probable class at each voxel of ``target``; probabilities are written to ``kept`` if given."""
    best: Tensor | None = None
    indices = torch.zeros(target.size, dtype=torch.uint8, device=probabilities.device)
    for index, volume in enumerate(probabilities):
        candidate = resample_onto(volume, source, target)
        if kept:
            kept[index][...] = candidate.cpu().numpy()
        if best is None:
            best = candidate.clone()
            continue
        indices.masked_fill_(candidate > best + _TIE, index)
        torch.maximum(best, candidate, out=best)
    return indices
