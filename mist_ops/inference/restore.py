"""From probabilities on the preprocessed grid to a label map on the grid of the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike

from mist_ops.imaging.geometry import CaseGeometry, Geometry, Reorientation
from mist_ops.imaging.labels import to_labels
from mist_ops.imaging.resample import resample_onto
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
    return restore_slabs([(Slab(0, 0, probabilities.shape[1]), probabilities)], geometry, labels)


def restore_slabs(
    slabs: Iterable[tuple[Slab, ArrayLike]],
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
        probabilities = np.asarray(volumes)
        expected = (len(labels), *slab.size_in(geometry.preprocessed.size))
        if probabilities.shape != expected:
            raise ValueError(f"the probabilities have the shape {probabilities.shape} and not {expected}")
        planes = _planes_between(done, slab, geometry.preprocessed, grid)
        source, target = _part(geometry.preprocessed, slab), _part(grid, planes)
        kept = [view[_index(planes)] for view in views] if views else None
        indices[_index(planes)] = _likeliest(probabilities, source, target, kept)
        done = planes.stop
        del volumes, probabilities  # before the next slab is computed
    restored = to_labels(indices, labels)
    if reorientation is None:
        return restored
    whole = np.zeros(geometry.original.size, dtype=restored.dtype)
    whole[geometry.box.slices if geometry.box else ...] = reorientation.undo(restored)
    return whole


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
    probabilities: Probabilities, source: Geometry, target: Geometry, kept: Sequence[np.ndarray] | None = None
) -> LabelMap:
    """Index of the most probable class at each voxel of ``target``; probabilities are written to ``kept`` if given."""
    best = resample_onto(probabilities[:1], source, target)[0].copy()
    if kept:
        kept[0][...] = best
    indices = np.zeros(target.size, dtype=np.uint8)
    for index in range(1, len(probabilities)):
        candidate = resample_onto(probabilities[index : index + 1], source, target)[0]
        if kept:
            kept[index][...] = candidate
        indices[candidate > best + _TIE] = index
        np.maximum(best, candidate, out=best)
    return indices
