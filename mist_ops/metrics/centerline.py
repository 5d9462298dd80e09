"""Centerline metrics of tubular structures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import skimage

from mist_ops.imaging.components import components
from mist_ops.metrics import Metric
from mist_ops.metrics.pair import MaskPair
from mist_ops.registry import METRICS
from mist_ops.types import Mask


def cldice(pair: MaskPair) -> float:
    """Harmonic mean of the shares of each centerline inside the other mask; NaN if a mask is empty.

    Shit et al.: clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation. CVPR 2021.
    Counts voxels; the spacing is ignored.
    """
    shares = _inside(pair.prediction, pair.truth), _inside(pair.truth, pair.prediction)
    return 2 * math.prod(shares) / sum(shares) if sum(shares) else 0.0


def centerlines(mask: Mask) -> Mask:
    """Skeleton of a mask (Lee, Kashyap, Chu, 1994), with at least one voxel of every component.

    The skeletonization of scikit-image removes straight vessels with an even diameter in voxels. Such a component is
    first thinned by one voxel along each axis; one that then disappears is its own centerline.
    """
    found = _skeleton(mask)
    for thinned in (lambda lost: _skeleton(_thinner(lost)), lambda lost: lost):
        found |= _of_lost(mask, found, thinned)
    return found


def _skeleton(mask: Mask) -> Mask:
    skeleton: Mask = skimage.morphology.skeletonize(mask)
    return skeleton


def _of_lost(mask: Mask, found: Mask, thinned: Callable[[Mask], Mask]) -> Mask:
    """Apply ``thinned`` to the components of a mask without a voxel in ``found``."""
    pieces = components(mask)
    reached = np.zeros(len(pieces) + 1, dtype=bool)
    reached[pieces.map[found]] = True
    lost: Mask = mask & ~reached[pieces.map]
    return thinned(lost) if lost.any() else lost


def _thinner(mask: Mask) -> Mask:
    """Voxels whose next neighbors along all axes are in the mask too."""
    for axis in range(3):
        following = np.zeros_like(mask)
        np.moveaxis(following, axis, 0)[:-1] = np.moveaxis(mask, axis, 0)[1:]
        mask = mask & following
    return mask


def _inside(mask: Mask, other: Mask) -> float:
    """Share of a mask's centerlines inside the other mask."""
    lines = centerlines(mask)
    voxels = int(np.count_nonzero(lines))
    return int(np.count_nonzero(lines & other)) / voxels if voxels else math.nan


METRICS.register("cldice")(Metric(cldice, best=1.0, worst=0.0, unit="", higher_is_better=True))
