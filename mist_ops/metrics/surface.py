"""Metrics of the distances between two surfaces.

An element of a surface counts by its area, so that a jagged corner does not outweigh a flat face. Distances are
between the corners of voxels, without interpolation. With one mask empty they are infinite.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from mist_ops.metrics import Metric
from mist_ops.metrics.pair import Distances, MaskPair
from mist_ops.metrics.surfels import Areas
from mist_ops.registry import METRICS


Tolerance = Annotated[float, Field(ge=0)]
"""A distance in mm that does not count as an error."""

SLACK = 1e-6
"""Part of the tolerance by which a distance may exceed it: headers hold spacings in single precision."""


def haus95(pair: MaskPair) -> float:
    """The distance in mm within which 95 % of each surface lies from the other: the larger of the two directions.

    Huttenlocher et al.: Comparing Images Using the Hausdorff Distance. IEEE TPAMI 1993;15(9):850-863. Weighted by area
    as in Nikolov et al., J Med Internet Res 2021;23(7):e26151.
    """
    return max(
        _percentile(pair.truth_distances, pair.truth_surface.areas, 0.95),
        _percentile(pair.prediction_distances, pair.prediction_surface.areas, 0.95),
    )


def haus100(pair: MaskPair) -> float:
    """The Hausdorff distance in mm: the largest from any place of one surface to the other (Huttenlocher et al.)."""
    return float(max(pair.truth_distances.max(initial=0), pair.prediction_distances.max(initial=0)))


def avg_surf(pair: MaskPair) -> float:
    """The mean distance in mm between the surfaces, over the area of both together."""
    truth, prediction = pair.truth_surface.areas, pair.prediction_surface.areas
    total = np.dot(pair.truth_distances, truth) + np.dot(pair.prediction_distances, prediction)
    return float(total / (truth.sum() + prediction.sum()))


def surf_dice(pair: MaskPair, tolerance: Tolerance = 1.0) -> float:
    """The part of both surfaces' area that lies within a tolerance of the other surface.

    Nikolov et al.: Deep Learning to Achieve Clinically Applicable Segmentation of Head and Neck Anatomy for
    Radiotherapy. J Med Internet Res 2021;23(7):e26151.

    Args:
        pair: The masks.
        tolerance: In mm. A distance may exceed it by a millionth, so that a voxel of 0.8 mm is within 0.8 mm.
    """
    truth, prediction = pair.truth_surface.areas, pair.prediction_surface.areas
    limit = tolerance * (1 + SLACK)
    close = truth[pair.truth_distances <= limit].sum() + prediction[pair.prediction_distances <= limit].sum()
    return float(close / (truth.sum() + prediction.sum()))


def _percentile(distances: Distances, areas: Areas, fraction: float) -> float:
    """The least distance that is not exceeded on a fraction of the area; infinite if there is none."""
    if not len(distances):
        return math.inf
    order = np.lexsort((areas, distances))
    covered = np.cumsum(areas[order]) / np.sum(areas)
    # The last sum may round to below 1.
    first = min(int(np.searchsorted(covered, fraction)), len(distances) - 1)
    return float(distances[order[first]])


for _name, _distance in {"haus95": haus95, "haus100": haus100, "avg_surf": avg_surf}.items():
    METRICS.register(_name)(Metric(_distance, best=0.0, worst=math.inf, unit="mm", higher_is_better=False))

METRICS.register("surf_dice")(Metric(surf_dice, best=1.0, worst=0.0, unit="", higher_is_better=True))
