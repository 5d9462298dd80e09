"""From probabilities on the preprocessed grid to a label map on the grid of the files.

Probabilities are interpolated where they are, on a GPU or in main memory, slab by slab and class by class. Only class
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
from mist_ops.inference.slabs import Slab
from mist_ops.types import Box, LabelMap

Probabilities: TypeAlias = Float32[np.ndarray, "class i j k"]
"""On the preprocessed grid, whose size differs from that of the files."""

# Interpolation weights are float32; for probabilities closer than this, the earlier class wins.
_TIE = 1e-6
# Origins are computed in floating point; planes closer than this coincide.
_ROUNDING = 1e-6


def restore(probabilities: Probabilities, geometry: CaseGeometry, labels: Sequence[int]) -> LabelMap:
    """Restore a prediction that is in memory as a whole; see ``restore_slabs``."""
    whole = torch.from_numpy(np.ascontiguousarray(probabilities))
    return restore_slabs([(Slab(0, 0, len(whole[0])), whole)], geometry, labels)


def restore_slabs(
    slabs: Iterable[tuple[Slab, Tensor]],
    geometry: CaseGeometry,
    labels: Sequence[int],
    restored_probabilities: Probabilities | None = None,
) -> LabelMap:
    """Return the dataset labels of a prediction on the original grid, in the orientation of the files.

    Probabilities are interpolated, not labels, with the true positions of both grids, so that nothing is shifted. Only
    two classes of a slab are in memory at full resolution at a time. Voxels outside the foreground crop get label 0.

    Args:
        slabs: Probabilities of each class on ``geometry.preprocessed``, slab after slab, each but the first beginning
            with the last plane of the previous one.
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
    indices, done = np.zeros(grid.size, dtype=np.uint8), 0
    for slab, volumes in slabs:
        expected = (len(labels), *slab.size_in(geometry.preprocessed.size))
        if volumes.shape != expected:
            raise ValueError(f"the probabilities have the shape {tuple(volumes.shape)} and not {expected}")
        planes = _planes_between(done, slab, geometry.preprocessed, grid)
        source, target = _part(geometry.preprocessed, slab), _part(grid, planes)
        kept = [view[_index(planes)] for view in views] if views else None
        indices[_index(planes)] = _likeliest(volumes, source, target, kept).cpu().numpy()
        done = planes.stop
        del volumes  # before the next slab is computed
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


def _planes_between(done: int, slab: Slab, source: Geometry, target: Geometry) -> Slab:
    """The planes of ``target``, from ``done`` on, whose neighbors in ``source`` are all in the slab."""
    axis, planes = slab.axis, target.size[slab.axis]
    if slab.stop == source.size[axis]:
        return Slab(axis, done, planes)
    begin = float((source.axes.T @ np.subtract(target.origin, source.origin))[axis])
    positions = (begin + np.arange(planes) * target.spacing[axis]) / source.spacing[axis]
    reached = int(np.searchsorted(positions, slab.stop - 1 + _ROUNDING, side="right"))
    return Slab(axis, done, max(done, reached))


def _part(grid: Geometry, slab: Slab) -> Geometry:
    start, stop = [0, 0, 0], list(grid.size)
    start[slab.axis], stop[slab.axis] = slab.start, slab.stop
    return grid.cropped(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))


def _index(slab: Slab) -> tuple[slice, ...]:
    return (*[slice(None)] * slab.axis, slice(slab.start, slab.stop))


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
