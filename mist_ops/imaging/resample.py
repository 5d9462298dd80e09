"""Resampling of intensities, classes and probabilities.

Interpolation is separable: a matrix of weights ``(samples, voxels)`` per axis, applied by three matrix products. The
centers of the first voxels of both grids coincide. There are two sets of rules:

* ``reference`` reproduces MIST 2.3: cubic B-spline for intensities, linear for classes, nearest neighbor along the
  coarse axis of an anisotropic grid. Samples half a voxel or more beyond the last voxel are zero.
* ``accurate`` extends the border instead and, for a coarser target, averages over the width of a target voxel, so that
  no detail falls between samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import scipy
from jaxtyping import Bool, Float, Float32, Float64, Integer, Shaped, UInt8

from mist_ops.imaging.components import components, label_boxes
from mist_ops.imaging.geometry import Geometry
from mist_ops.types import Image, LabelMap, Mask, Spacing

Rules: TypeAlias = Literal["reference", "accurate"]
Positions: TypeAlias = Float64[np.ndarray, " sample"]
Weights: TypeAlias = Float[np.ndarray, "sample voxel"]
Kernel: TypeAlias = Callable[[Positions, int], Weights]
Operators: TypeAlias = Sequence[Float[np.ndarray, "_ _"]]
Values: TypeAlias = Shaped[np.ndarray, "x y z"]
Resampled: TypeAlias = Float32[np.ndarray, "new_x new_y new_z"]
Samples: TypeAlias = UInt8[np.ndarray, "new_x new_y new_z"]
Slices: TypeAlias = tuple[slice, ...]


class Neighbors(NamedTuple):
    """For each sample along an axis, the voxels on both sides and the weight of the upper one."""

    lower: Integer[np.ndarray, " sample"]
    upper: Integer[np.ndarray, " sample"]
    beyond: Positions


# A grid is anisotropic if its largest spacing is more than this times its smallest.
_ANISOTROPY = 3.0

# Intensities below this cannot overflow float32 in a sum of weighted voxels.
_SAFE = 1e30

# Points per voxel of width in an average.
_POINTS_PER_VOXEL = 8

# Shares are float32: a difference below this is a tie.
_TIE = 1e-6


def resample_image(image: Image, spacing: Spacing, target_spacing: Spacing, rules: Rules) -> Resampled:
    """Intensities at another spacing; the same array if the spacings are equal."""
    if np.allclose(spacing, target_spacing):
        return image
    operators = _operators(_cubic, image, spacing, target_spacing, rules)
    if max(-image.min(), image.max()) < _SAFE:
        return _apply(operators, image)
    # The spline overshoots, which may leave the range of float32.
    most = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        resampled = _apply([operator.astype(np.float64) for operator in operators], image)
    clipped: Resampled = np.clip(resampled, -most, most)
    return clipped


def resample_mask(mask: Mask, spacing: Spacing, target_spacing: Spacing) -> Bool[np.ndarray, "new_x new_y new_z"]:
    """A mask at another spacing: nearest neighbor, border extended."""
    if np.allclose(spacing, target_spacing):
        return mask
    nearest = [operator.argmax(axis=1) for operator in _operators(_nearest, mask, spacing, target_spacing, "accurate")]
    return mask[np.ix_(*nearest)]


def resample_classes(
    classes: LabelMap,
    n_classes: int,
    spacing: Spacing,
    target_spacing: Spacing,
    rules: Rules,
    keep_small: bool = False,
) -> Samples:
    """Class indices at another spacing: each sample becomes the class with the largest interpolated share.

    Ties go to the lower index. Each class is only computed around its bounding box.

    Args:
        classes: Indices below ``n_classes``, which is at most 256.
        n_classes: Number of classes, background included.
        spacing: Spacing of ``classes``, in mm.
        target_spacing: Spacing of the result, in mm.
        rules: See the module docstring.
        keep_small: Let each component of a class that would lose more than half of its volume keep it: it gets the
            samples that it covers most, and at least one.
    """
    if np.allclose(spacing, target_spacing):
        return classes.astype(np.uint8)
    operators = _operators(_linear, classes, spacing, target_spacing, rules)
    result = np.zeros([len(operator) for operator in operators], dtype=np.uint8)
    boxes = scipy.ndimage.find_objects(classes, max_label=n_classes - 1)
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
    if keep_small:
        _keep_small(result, classes, spacing, target_spacing)
    return result


@dataclass(frozen=True)
class _Component:
    """A component of a class that would lose more than half of its volume, in samples, which may be less than one."""

    index: int
    volume: float
    samples: Slices
    share: Resampled


def _keep_small(result: Samples, classes: LabelMap, spacing: Spacing, target_spacing: Spacing) -> None:
    """Give components that are too small for the samples those that they cover most, the smallest component last."""
    # An average over a sample sees every voxel, which an interpolation between samples does not.
    operators = _operators(_linear, classes, spacing, target_spacing, "accurate")
    taken = np.zeros(result.shape, dtype=bool)
    lost = _lost(result, classes, operators, math.prod(spacing) / math.prod(target_spacing))
    for component in sorted(lost, key=lambda one: one.volume, reverse=True):
        # Samples of another such component only if there are no others.
        share = component.share - taken[component.samples]
        order = np.argsort(-share, axis=None, kind="stable")[: max(1, round(component.volume))]
        chosen = np.unravel_index(order, share.shape)
        result[component.samples][chosen] = component.index
        taken[component.samples][chosen] = True


def _lost(result: Samples, classes: LabelMap, operators: Operators, samples_per_voxel: float) -> Iterator[_Component]:
    for index in label_boxes(classes):
        found = components(classes == index)
        for number, (box, voxels) in enumerate(zip(found.boxes, found.voxels.tolist(), strict=True), start=1):
            samples = _reach(operators, box.slices)
            inside = [op[rows, voxels] for op, rows, voxels in zip(operators, samples, box.slices, strict=True)]
            share, volume = _apply(inside, found.map[box.slices] == number), voxels * samples_per_voxel
            held = np.count_nonzero(share[result[samples] == index] > _TIE)
            if share.size and held < volume / 2:
                yield _Component(index, volume, samples, share)


def neighbors(source: Geometry, target: Geometry) -> list[Neighbors]:
    """Linear interpolation on another grid with the same directions, border extended, for each axis.

    Raises:
        ValueError: The directions differ; bring both grids to canonical order first.
    """
    if not np.allclose(source.direction, target.direction, atol=1e-3):
        raise ValueError(f"the grids have different directions: {source.direction} and {target.direction}")
    begin = source.axes.T @ np.subtract(target.origin, source.origin)
    return [
        _neighbors(((offset + np.arange(samples) * step) / spacing).clip(0, voxels - 1), voxels)
        for offset, samples, step, spacing, voxels in zip(
            begin, target.size, target.spacing, source.spacing, source.size, strict=True
        )
    ]


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
    """Weights of ``samples`` positions that are ``step`` voxels apart; float64 for the digits of the reference."""
    positions = np.arange(samples) * step
    if math.isclose(step, 1.0, rel_tol=1e-5):
        return np.eye(voxels, dtype=np.float32)
    if rules == "reference":
        weights = kernel(positions, voxels)
        weights[positions >= voxels - 0.5] = 0.0
        return weights
    # A voxel averages over its own width, a box filter of variance 1/12; a target voxel has variance step^2/12. The box
    # of this width adds the difference.
    width = math.sqrt(max(0.0, step**2 - 1.0))
    points = math.ceil(width * _POINTS_PER_VOXEL) or 1
    offsets = ((np.arange(points) + 0.5) / points - 0.5) * width
    spread = (positions[:, None] + offsets).clip(0, voxels - 1)
    weights = kernel(spread.ravel(), voxels).reshape(samples, points, voxels).mean(axis=1)
    return np.asarray(weights, dtype=np.float32)


def _nearest(positions: Positions, voxels: int) -> Weights:
    """Nearest neighbor; halves are rounded up."""
    indices = np.floor(positions + 0.5).astype(int).clip(0, voxels - 1)
    weights: Weights = np.eye(voxels)[indices]
    return weights


def _neighbors(positions: Positions, voxels: int) -> Neighbors:
    lower = np.floor(positions).astype(np.int64).clip(0, voxels - 1)
    return Neighbors(lower, (lower + 1).clip(0, voxels - 1), positions - lower)


def _linear(positions: Positions, voxels: int) -> Weights:
    lower, upper, beyond = _neighbors(positions, voxels)
    unit, beyond = np.eye(voxels), beyond[:, None]
    weights: Weights = (1.0 - beyond) * unit[lower] + beyond * unit[upper]
    return weights


def _cubic(positions: Positions, voxels: int) -> Weights:
    """Interpolating cubic B-spline, mirrored at the border (Unser, 1999)."""
    columns = [scipy.ndimage.map_coordinates(unit, [positions], order=3, mode="mirror") for unit in np.eye(voxels)]
    return np.stack(columns, axis=1)


def _apply(operators: Operators, volume: Values) -> Resampled:
    along_x, along_y, along_z = operators
    # NumPy does not use BLAS for flipped views.
    volume = np.ascontiguousarray(volume, dtype=np.result_type(*operators))
    result = np.tensordot(along_x, np.matmul(along_y, np.matmul(volume, along_z.T)), axes=1)
    return np.asarray(result, dtype=np.float32)


def _reach(operators: Operators, box: Slices) -> Slices:
    """The samples that depend on the voxels of a box."""
    return tuple(_span(operator[:, voxels].sum(axis=1)) for operator, voxels in zip(operators, box, strict=True))


def _share(operators: Operators, classes: LabelMap, index: int, samples: Slices) -> Resampled:
    """The share of a class in the given samples."""
    rows = [operator[chosen] for operator, chosen in zip(operators, samples, strict=True)]
    box = tuple(_span(row.sum(axis=0)) for row in rows)
    inside = [row[:, voxels] for row, voxels in zip(rows, box, strict=True)]
    return _apply(inside, classes[box] == index)


def _span(used: np.ndarray) -> slice:
    """Slice from the first to the last nonzero entry; empty if there is none."""
    found = np.flatnonzero(used)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def _hull(spans: Sequence[Slices]) -> Slices:
    """The smallest slices that contain all given ones; empty ones are ignored."""
    filled = ([span for span in along if span.stop > span.start] for along in zip(*spans, strict=True))
    return tuple(
        slice(min((span.start for span in along), default=0), max((span.stop for span in along), default=0))
        for along in filled
    )
