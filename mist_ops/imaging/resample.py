"""Intensities, classes and probabilities from one grid to another.

Every rule is separable, so a rule is a matrix of weights per axis, ``(samples, voxels)``, and resampling is three
matrix products. The centres of the first voxels of the two grids coincide. There are two sets of rules:

* ``reference`` repeats MIST 2.3: cubic B-spline for intensities, linear for classes, nearest neighbor along the
  coarse axis of an anisotropic grid. Samples half a voxel or more behind the last voxel are zero.
* ``accurate`` continues the border instead, and where the target is coarser it also averages over what a wider voxel
  covers, so that nothing falls between the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Shaped, UInt8
from scipy import ndimage

from mist_ops.imaging.geometry import Geometry
from mist_ops.types import Image, LabelMap, Mask, Spacing

Rules: TypeAlias = Literal["reference", "accurate"]
Positions: TypeAlias = Float64[np.ndarray, " sample"]
Weights: TypeAlias = Float[np.ndarray, "sample voxel"]
Kernel: TypeAlias = Callable[[Positions, int], Weights]
Operators: TypeAlias = Sequence[Float[np.ndarray, "_ _"]]
Values: TypeAlias = Shaped[np.ndarray, "x y z"]
Resampled: TypeAlias = Float32[np.ndarray, "new_x new_y new_z"]
Slices: TypeAlias = tuple[slice, ...]

# A grid is anisotropic where its widest spacing is more than this times its narrowest.
_ANISOTROPY = 3.0

# Points per voxel of width at which an average is taken.
_POINTS_PER_VOXEL = 8

# Shares are float32: two that are closer than this are a tie.
_TIE = 1e-6


def resample_image(image: Image, spacing: Spacing, target_spacing: Spacing, rules: Rules) -> Resampled:
    """Intensities at another spacing; the very image if the spacings are equal."""
    if np.allclose(spacing, target_spacing):
        return image
    return _apply(_operators(_cubic, image, spacing, target_spacing, rules), image)


def resample_mask(mask: Mask, spacing: Spacing, target_spacing: Spacing) -> Bool[np.ndarray, "new_x new_y new_z"]:
    """The nearest voxel of a mask at each sample of another spacing, borders continued."""
    if np.allclose(spacing, target_spacing):
        return mask
    nearest = [operator.argmax(axis=1) for operator in _operators(_nearest, mask, spacing, target_spacing, "accurate")]
    return mask[np.ix_(*nearest)]


def resample_classes(
    classes: LabelMap, n_classes: int, spacing: Spacing, target_spacing: Spacing, rules: Rules
) -> UInt8[np.ndarray, "new_x new_y new_z"]:
    """Class indices at another spacing: a sample goes to the class with the largest share in it.

    A tie goes to the earlier class. Each class is computed in its own surroundings only.

    Args:
        classes: Indices below ``n_classes``, which is at most 256.
        n_classes: Number of classes, background included.
        spacing: Of ``classes``, in mm.
        target_spacing: In mm.
        rules: See the head of this module.
    """
    if np.allclose(spacing, target_spacing):
        return classes.astype(np.uint8)
    operators = _operators(_linear, classes, spacing, target_spacing, rules)
    result = np.zeros([len(operator) for operator in operators], dtype=np.uint8)
    boxes = ndimage.find_objects(classes, max_label=n_classes - 1)
    reached = {index: _reach(operators, box) for index, box in enumerate(boxes, start=1) if box is not None}
    if not reached:
        return result
    everywhere = _hull(list(reached.values()))
    best = np.zeros(result.shape, dtype=np.float32)
    best[everywhere] = _share(operators, classes, 0, everywhere)
    for index, samples in reached.items():
        share = _share(operators, classes, index, samples)
        wins = share > best[samples] + _TIE
        best[samples][wins] = share[wins]
        result[samples][wins] = index
    return result


def resample_onto(
    probabilities: Float32[np.ndarray, "class x y z"], source: Geometry, target: Geometry
) -> Float32[np.ndarray, "class new_x new_y new_z"]:
    """Probabilities on another grid with the same directions, wherever it begins: linear, borders continued.

    Raises:
        ValueError: The directions differ; the caller has to bring both grids to canonical order first.
    """
    if not np.allclose(source.direction, target.direction, atol=1e-3):
        raise ValueError(f"the grids run in different directions: {source.direction} and {target.direction}")
    if source == target:
        return probabilities
    begin = source.axes.T @ np.subtract(target.origin, source.origin)
    operators = [
        _linear(((offset + np.arange(samples) * step) / spacing).clip(0, voxels - 1), voxels).astype(np.float32)
        for offset, samples, step, spacing, voxels in zip(
            begin, target.size, target.spacing, source.spacing, source.size, strict=True
        )
    ]
    result = np.empty((len(probabilities), *target.size), dtype=np.float32)
    for index, volume in enumerate(probabilities):
        result[index] = _apply(operators, volume)
    return result


def _operators(kernel: Kernel, volume: Values, spacing: Spacing, target_spacing: Spacing, rules: Rules) -> Operators:
    grid = Geometry(volume.shape, spacing)
    anisotropic = max(spacing) / min(spacing) > _ANISOTROPY
    coarse = int(np.argmax(spacing)) if anisotropic else None
    steps = np.divide(target_spacing, spacing)
    return [
        _operator(_nearest if axis == coarse else kernel, voxels, float(step), samples, rules)
        for axis, (voxels, step, samples) in enumerate(
            zip(grid.size, steps, grid.resampled(target_spacing).size, strict=True)
        )
    ]


def _operator(kernel: Kernel, voxels: int, step: float, samples: int, rules: Rules) -> Weights:
    """Weights of ``samples`` positions that are ``step`` voxels apart; float64 where MIST's digits are wanted."""
    positions = np.arange(samples) * step
    if math.isclose(step, 1.0, rel_tol=1e-5):
        return np.eye(voxels, dtype=np.float32)
    if rules == "reference":
        weights = kernel(positions, voxels)
        weights[positions >= voxels - 0.5] = 0.0
        return weights
    # A voxel is already the mean over its own width, of variance 1/12. To become that of a wider one, step^2/12, it
    # takes a box of this width, which vanishes with the difference between the two spacings.
    width = math.sqrt(max(0.0, step**2 - 1.0))
    points = math.ceil(width * _POINTS_PER_VOXEL) or 1
    offsets = ((np.arange(points) + 0.5) / points - 0.5) * width
    spread = (positions[:, None] + offsets).clip(0, voxels - 1)
    weights = kernel(spread.ravel(), voxels).reshape(samples, points, voxels).mean(axis=1)
    return np.asarray(weights, dtype=np.float32)


def _nearest(positions: Positions, voxels: int) -> Weights:
    """Halves round up."""
    indices = np.floor(positions + 0.5).astype(int).clip(0, voxels - 1)
    weights: Weights = np.eye(voxels)[indices]
    return weights


def _linear(positions: Positions, voxels: int) -> Weights:
    lower = np.floor(positions).astype(int).clip(0, voxels - 1)
    upper = (lower + 1).clip(0, voxels - 1)
    unit, beyond = np.eye(voxels), (positions - lower)[:, None]
    weights: Weights = (1.0 - beyond) * unit[lower] + beyond * unit[upper]
    return weights


def _cubic(positions: Positions, voxels: int) -> Weights:
    """Interpolating cubic B-spline with mirrored ends (Unser, 1999)."""
    columns = [ndimage.map_coordinates(unit, [positions], order=3, mode="mirror") for unit in np.eye(voxels)]
    return np.stack(columns, axis=1)


def _apply(operators: Operators, volume: Values) -> Resampled:
    along_x, along_y, along_z = operators
    # A flipped view would keep numpy from using BLAS.
    volume = np.ascontiguousarray(volume, dtype=np.result_type(*operators))
    result = np.tensordot(along_x, np.matmul(along_y, np.matmul(volume, along_z.T)), axes=1)
    return np.asarray(result, dtype=np.float32)


def _reach(operators: Operators, box: Slices) -> Slices:
    """The samples on which the voxels of a box have an influence."""
    return tuple(_span(operator[:, voxels].sum(axis=1)) for operator, voxels in zip(operators, box, strict=True))


def _share(operators: Operators, classes: LabelMap, index: int, samples: Slices) -> Resampled:
    """The share of a class in each of some samples."""
    rows = [operator[chosen] for operator, chosen in zip(operators, samples, strict=True)]
    box = tuple(_span(row.sum(axis=0)) for row in rows)
    inside = [row[:, voxels] for row, voxels in zip(rows, box, strict=True)]
    return _apply(inside, classes[box] == index)


def _span(used: np.ndarray) -> slice:
    """From the first to the last that is used; empty if none is."""
    found = np.flatnonzero(used)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def _hull(spans: Sequence[Slices]) -> Slices:
    """The smallest slices around several; empty ones do not count."""
    filled = ([span for span in along if span.stop > span.start] for along in zip(*spans, strict=True))
    return tuple(
        slice(min((span.start for span in along), default=0), max((span.stop for span in along), default=0))
        for along in filled
    )
